//! What is shown of payloads with `--payload masked`.

use super::*;

#[test]
fn a_pin_is_blanked_wherever_segments_are_cut() {
    let told = Told::of(
        Transport::Tcp,
        &[
            (SERVER, b"\x00\x01"),
            (SERVER, b"\x04"),
            (CLIENT, b"\x00\x03\x3b\x80\x01"),
            (SERVER, b"\x00\x09"),
            (SERVER, b"\x00\x20\x00"),
            (SERVER, b"\x80\x04\x31\x32"),
            (SERVER, b"\x33\x34"),
            (CLIENT, b"\x00\x04\xca\xfe\x90\x00"),
        ],
    );

    assert_eq!(told.shown[4], b"");
    assert_eq!(told.shown[5], b"");
    assert_eq!(told.shown[6], b"");
    assert_eq!(told.shown[7], b"\x00\x04\x00\x00\x90\x00");
    assert_eq!(told.likeness().details, ["ATR 3B8001", "VERIFY", "9000 (success)"]);
}

#[test]
fn a_command_in_one_piece_shows_its_header() {
    let told = Told::of(
        Transport::Tcp,
        &[
            (SERVER, b"\x00\x01\x04"),
            (CLIENT, b"\x00\x03\x3b\x80\x01"),
            (SERVER, b"\x00\x09\x00\x20\x00\x80\x041234"),
        ],
    );

    assert_eq!(told.shown[2], b"\x00\x09\x00\x20\x00\x80\x04");
}

#[test]
fn of_http_the_names_are_shown_and_the_values_are_not() {
    let request = b"POST http://eve:pw@host/a;sid=S1/b?user=eve&token=T0p&S3cr3#F HTTP/1.1\r\n\
        Host: host\r\nCookie: id=C00kie\r\n folded\r\nno colon here\r\nAuthorization: Basic x\r\n\r\nbody";
    let response = b"HTTP/1.1 200 OK\r\nSet-Cookie: id=C00kie\r\n\r\nsecret";

    let told = Told::of(Transport::Tcp, &[(CLIENT, request), (SERVER, response)]);

    let shown = |index: usize| {
        let blanked = told.shown[index].iter().map(|byte| if *byte == 0 { b'*' } else { *byte });
        String::from_utf8(blanked.collect()).unwrap()
    };
    let lines: Vec<String> = shown(0).lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "POST **************host/a;******/b?user=***&token=***&*****#* HTTP/1.1");
    assert_eq!(lines[1], "Host:*****");
    assert_eq!(lines[2], "Cookie:**********");
    assert_eq!(lines[3], "*******");
    assert_eq!(lines[4], "*************");
    assert_eq!(lines[5], "Authorization:********");
    assert_eq!(lines.len(), 7);
    assert_eq!(shown(1), "HTTP/1.1 200 OK\r\nSet-Cookie:**********\r\n\r\n");
}

#[test]
fn nothing_is_shown_of_what_is_not_understood() {
    let told = Told::of(Transport::Tcp, &[(CLIENT, b"login eve secret\n"), (SERVER, b"welcome\n")]);

    assert_eq!(told.shown, [b"", b""]);
}

#[test]
fn nothing_is_shown_behind_a_gap() {
    let mut conversation = Conversation::new(Transport::Tcp, true);
    let first = testing::tcp(100, 1, b"GET / HTTP/1.1\r\n");
    let later = testing::tcp(500, 1, b"GET /secret HTTP/1.1\r\n");

    let shown = [first, later].map(|packet| {
        let segment = Segment::of(&packet, 40, packet.len(), Transport::Tcp).unwrap();
        conversation.take(CLIENT, &segment);
        conversation.masked(CLIENT, &segment).bytes
    });

    assert_eq!(shown, [b"GET / HTTP/1.1\r\n".to_vec(), Vec::new()]);
}

#[test]
fn a_retransmission_that_says_something_else_is_not_shown() {
    let mut conversation = Conversation::new(Transport::Tcp, true);
    let mut show = |payload: &[u8]| {
        let packet = testing::tcp(100, 1, payload);
        let segment = Segment::of(&packet, 40, packet.len(), Transport::Tcp).unwrap();
        conversation.take(CLIENT, &segment);
        conversation.masked(CLIENT, &segment).bytes
    };

    show(b"GET / HTTP/1.1\r\n");

    assert_eq!(show(b"PIN:1234567890\r\n"), b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\r\n");
}
