//! One conversation of each protocol, and what must not be taken for it.

use super::*;
use Confidence::{Certain, Likely, Possible};

type Messages<'a> = &'a [(Speaker, &'a [u8])];

#[test]
fn each_protocol_is_recognised_by_both_sides_and_by_one() {
    let table: [(Protocol, Messages<'_>, Confidence); 30] = [
        (Protocol::Http, &[(CLIENT, GET), (SERVER, b"HTTP/1.1 200 OK\r\n")], Certain),
        (Protocol::Http, &[(CLIENT, GET)], Likely),
        (Protocol::Http, &[(CLIENT, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")], Certain),
        (Protocol::Websocket, &[(CLIENT, UPGRADE), (SERVER, b"HTTP/1.1 101 Go\r\n")], Certain),
        (Protocol::Http, &[(CLIENT, UPGRADE), (SERVER, b"HTTP/1.1 404 No\r\n")], Certain),
        (Protocol::Ssh, &[(SERVER, b"SSH-2.0-a\r\n"), (CLIENT, b"SSH-2.0-b\r\n")], Certain),
        (Protocol::Ssh, &[(SERVER, b"SSH-2.0-a\r\n")], Likely),
        (Protocol::Vnc, &[(SERVER, b"RFB 003.008\n"), (CLIENT, b"RFB 003.003\n")], Certain),
        (Protocol::Smtp, &[(SERVER, b"220 h\r\n"), (CLIENT, b"EHLO x\r\n")], Certain),
        (Protocol::Smtp, &[(SERVER, b"220 h ESMTP\r\n")], Likely),
        (Protocol::Ftp, &[(SERVER, b"220 h\r\n331 p\r\n"), (CLIENT, b"USER x\r\n")], Certain),
        (Protocol::Ftp, &[(SERVER, b"220 ProFTPD\r\n")], Likely),
        (Protocol::Vpcd, &[(SERVER, b"\0\x01\x04"), (CLIENT, b"\0\x02\x3b\0")], Certain),
        (Protocol::Vpcd, &[(SERVER, b"\0\x01\x00\0\x01\x01")], Likely),
        (Protocol::Vpcd, &[(SERVER, b"\0\x01\x04")], Possible),
        (Protocol::PcscLite, &[(CLIENT, PCSC), (SERVER, &PCSC_ANSWER)], Certain),
        (Protocol::Rdp, &[(CLIENT, RDP), (SERVER, b"\x03\0\0\x0b\x06\xd0\0\0\x12\x34\0")], Certain),
        (Protocol::Smb, &[(CLIENT, b"\0\0\0\x40\xfeSMB"), (SERVER, b"\0\0\0\x40\xfeSMB")], Certain),
        (Protocol::Postgresql, &[(CLIENT, b"\0\0\0\x08\x04\xd2\x16\x2f"), (SERVER, b"N")], Certain),
        (Protocol::Redis, &[(CLIENT, b"*1\r\n$4\r\nPING\r\n"), (SERVER, b"+PONG\r\n")], Certain),
        (Protocol::Mqtt, &[(CLIENT, MQTT), (SERVER, b"\x20\x02\0\0")], Certain),
        (Protocol::Socks, &[(CLIENT, b"\x05\x01\0"), (SERVER, b"\x05\0")], Likely),
        (
            Protocol::Socks,
            &[(CLIENT, b"\x05\x01\0"), (SERVER, b"\x05\0"), (CLIENT, SOCKS)],
            Certain,
        ),
        (Protocol::Iso7816, &[(CLIENT, SELECT), (SERVER, b"\x90\0")], Possible),
        (Protocol::Iso7816, &[(CLIENT, &TWO), (SERVER, b"\0\x02\x90\0\0\x02\x6a\x82")], Certain),
        (Protocol::Shell, &[(CLIENT, b"root@host:/# ")], Likely),
        (Protocol::Shell, &[(SERVER, b"uid=0(root) gid=0(root)\n"), (CLIENT, b"id\n")], Certain),
        (Protocol::Shell, &[(CLIENT, b"bash: no job control in this shell\n")], Certain),
        (Protocol::Syslog, &[(CLIENT, b"<34>Oct 11 22:14:15 h su: x")], Likely),
        (Protocol::Opaque, &[(CLIENT, b"\xde\xad\xbe\xef"), (SERVER, b"\xca\xfe")], Certain),
    ];
    for (protocol, messages, confidence) in table {
        let found = likeness(Transport::Tcp, messages);

        let expected = (protocol != Protocol::Opaque).then_some(confidence);
        assert_eq!((found.protocol, found.confidence), (protocol, expected), "{messages:?}");
    }
}

#[test]
fn each_protocol_of_datagrams_is_recognised() {
    let wireguard = [b"\x01\0\0\0abcd".as_slice(), &[7; 140]].concat();
    let response = [b"\x02\0\0\0efghabcd".as_slice(), &[7; 80]].concat();
    let quic = [b"\xc3\0\0\0\x01\x02ab\x02cd".as_slice(), &[7; 1190]].concat();
    let dns_answer = [b"\x12\x34\x81\x80".as_slice(), &DNS[4..]].concat();
    let table: [(Protocol, Messages<'_>, Confidence); 9] = [
        (Protocol::Dns, &[(CLIENT, DNS), (SERVER, &dns_answer)], Certain),
        (Protocol::Dns, &[(CLIENT, DNS)], Likely),
        (Protocol::Wireguard, &[(CLIENT, &wireguard), (SERVER, &response)], Certain),
        (Protocol::Wireguard, &[(CLIENT, &wireguard)], Likely),
        (Protocol::Quic, &[(CLIENT, &quic)], Likely),
        (Protocol::Quic, &[(CLIENT, &quic), (SERVER, b"\xc3\0\0\0\x01\x02cd\x02ef")], Certain),
        (Protocol::Tftp, &[(CLIENT, b"\0\x01boot.img\0octet\0")], Likely),
        (Protocol::Syslog, &[(CLIENT, b"<13>1 2026-11-29T00:00:00Z h a - - - x")], Likely),
        (Protocol::Snmp, &[(CLIENT, SNMP), (SERVER, SNMP)], Certain),
    ];
    for (protocol, messages, confidence) in table {
        let found = likeness(Transport::Udp, messages);

        assert_eq!(
            (found.protocol, found.confidence),
            (protocol, Some(confidence)),
            "{protocol:?}"
        );
    }
}

#[test]
fn who_speaks_first_is_told() {
    let banner =
        likeness(Transport::Tcp, &[(SERVER, b"SSH-2.0-a\r\n"), (CLIENT, b"SSH-2.0-b\r\n")]);
    let request = likeness(Transport::Tcp, &[(CLIENT, GET)]);

    assert_eq!(banner.first_speaker, Some(SERVER));
    assert_eq!(request.first_speaker, Some(CLIENT));
}

#[test]
fn a_virtual_card_may_be_asked_by_whoever_opened_the_connection() {
    let found = likeness(Transport::Tcp, &[(CLIENT, b"\0\x01\x04"), (SERVER, b"\0\x02\x3b\0")]);

    assert!(found.is(Protocol::Vpcd, Certain));
}

#[test]
fn commands_and_answers_of_a_card_are_named() {
    let found =
        likeness(Transport::Tcp, &[(CLIENT, &TWO), (SERVER, b"\0\x02\x90\0\0\x02\x63\xc2")]);

    let named = [
        "each behind two bytes of length",
        "SELECT A000000308 (PIV)",
        "VERIFY",
        "9000 (success)",
        "63C2 (2 tries left)",
    ];
    assert_eq!(found.details, named);
}

#[test]
fn opaque_bytes_are_measured() {
    let found = likeness(Transport::Tcp, &[(CLIENT, b"hello there"), (SERVER, b"hello\n")]);

    assert_eq!(found.summary(), "opaque (17 B, entropy 2.75 bits a byte, 100 % printable)");
}

#[test]
fn what_only_resembles_a_protocol_is_not_taken_for_it() {
    let table: [Messages<'_>; 9] = [
        &[(CLIENT, b"GET lost\r\n")],
        &[(CLIENT, b"SSH is great\r\n")],
        &[(CLIENT, b"\x16\x03\x01 no hello")],
        &[(SERVER, b"\0\x01\x04"), (CLIENT, b"no card")],
        &[(CLIENT, b"\x05\x01\0"), (SERVER, b"\x04\0")],
        &[(CLIENT, b"\x00\xa4\x04\x00\x05abc")],
        &[(CLIENT, b"<999>1 x")],
        &[(SERVER, b"price: 5$ or 6# each\n")],
        &[(SERVER, b"he wrote: bash: no job control in this shell\n")],
    ];
    for messages in table {
        let found = likeness(Transport::Tcp, messages);

        assert_eq!(found.protocol, Protocol::Opaque, "{messages:?}");
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n";
const PCSC: &[u8] = b"\x0c\0\0\0\x11\0\0\0\x04\0\0\0\x04\0\0\0\0\0\0\0";
const PCSC_ANSWER: [u8; 12] = [4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
const RDP: &[u8] = b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0";
const MQTT: &[u8] = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd";
const SOCKS: &[u8] = b"\x05\x01\0\x01\x7f\0\0\x01\0\x50";
const SELECT: &[u8] = b"\0\xa4\x04\0\x05\xa0\0\0\x03\x08";
const TWO: [u8; 23] = *b"\0\x0a\0\xa4\x04\0\x05\xa0\0\0\x03\x08\0\x09\0\x20\0\x80\x041234";
const DNS: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
const SNMP: &[u8] =
    b"\x30\x18\x02\x01\x01\x04\x06public\xa0\x0b\x02\x01\x07\x02\x01\0\x02\x01\0\x30\0";
