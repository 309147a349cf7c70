"""Gives the service of a capture port 3516 in place of the port that it had while it was captured."""
import struct
import sys

OLD, NEW = 33516, 3516
path = sys.argv[1]
data = open(path, "rb").read()
out, at = bytearray(data[:24]), 24
while at < len(data):
    _, _, captured, _ = struct.unpack_from("<IIII", data, at)
    frame = bytearray(data[at + 16 : at + 16 + captured])
    ports = 14 + (frame[14] & 15) * 4
    for place in (ports, ports + 2):
        if struct.unpack_from(">H", frame, place)[0] == OLD:
            struct.pack_into(">H", frame, place, NEW)
    out += data[at : at + 16] + frame
    at += 16 + captured
open(path, "wb").write(out)
