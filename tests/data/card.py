# Plays the smart card of a virtual reader (vpcd): tells it that it is there and answers commands, until
# its standard input is closed. The first line it prints is the address it connected from.
import select
import socket
import struct
import sys

ATR = bytes.fromhex("3B9F958131FE9F006646530510003171DF000000000002")


def receive(length):
    received = b""
    while len(received) < length:
        ready, _, _ = select.select([reader, sys.stdin], [], [])
        if sys.stdin in ready:
            sys.exit()
        part = reader.recv(length - len(received))
        if not part:
            sys.exit()
        received += part
    return received


def send(message):
    reader.sendall(struct.pack(">H", len(message)) + message)


reader = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected %s:%d" % reader.getsockname(), flush=True)
while True:
    (length,) = struct.unpack(">H", receive(2))
    message = receive(length)
    if length == 1 and message[0] in (0, 1, 2):
        continue
    if length == 1 and message[0] == 4:
        send(ATR)
        print("told what card it is", flush=True)
        continue
    send(bytes.fromhex("9000" if message[1] == 0xA4 else "6A82"))
