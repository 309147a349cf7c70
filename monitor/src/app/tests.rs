//! Likenesses on made-up conversations; those of real services are tested in `tests/`.

use proptest::prelude::*;

use super::testing::Told;
use super::*;
use crate::endpoint::Transport;

mod masking;
mod likenesses;

const CLIENT: Speaker = Speaker::Source;
const SERVER: Speaker = Speaker::Destination;

fn likeness(transport: Transport, messages: &[(Speaker, &[u8])]) -> Likeness {
    Told::of(transport, messages).likeness()
}

/// Beginnings that lead far into the classifier.
const BEGINNINGS: [&[u8]; 24] = [
    b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03",
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"SSH-2.0-x\r\n",
    b"RFB 003.008\n",
    b"\x00\x01\x04\x00\x01\x00",
    b"\x00\x05\x3b\x00\x00\x00\x00",
    b"\x00\x05\x00\xa4\x04\x00\x00",
    b"\x0c\x00\x00\x00\x11\x00\x00\x00\x04\x00\x00\x00",
    b"220 mail ESMTP\r\n",
    b"EHLO x\r\nSTARTTLS\r\n",
    b"\x03\x00\x00\x13\x0e\xe0",
    b"\x00\x00\x00\x40\xfeSMB",
    b"\x4a\x00\x00\x00\x0a8.0\x00",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x10\x20\x00\x04MQTT\x05",
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www",
    b"\xc3\x00\x00\x00\x01\x08",
    b"\x01\x00\x00\x00\x11\x11\x11\x11",
    b"\x00\x01file\x00octet\x00",
    b"<13>1 2026",
    b"\x30\x26\x02\x01\x01\x04\x06public\xa0",
];

proptest! {
    #[test]
    fn whatever_is_said_there_is_a_bounded_verdict(
        is_tcp in any::<bool>(),
        messages in prop::collection::vec(
            (any::<bool>(), 0..BEGINNINGS.len(), any::<bool>(),
             prop::collection::vec(any::<u8>(), 0..80)),
            0..10,
        ),
    ) {
        let transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
        let messages: Vec<(Speaker, Vec<u8>)> = messages
            .into_iter()
            .map(|(is_client, index, has_beginning, rest)| {
                let beginning = if has_beginning { BEGINNINGS[index] } else { &[] };
                (if is_client { CLIENT } else { SERVER }, [beginning, &rest].concat())
            })
            .filter(|(_, payload)| !payload.is_empty())
            .collect();
        let messages: Vec<(Speaker, &[u8])> =
            messages.iter().map(|(speaker, payload)| (*speaker, payload.as_slice())).collect();

        let told = Told::of(transport, &messages);

        prop_assert_eq!(told.conversation.likeness().is_some(), !messages.is_empty());
        if let Some(likeness) = told.conversation.likeness() {
            let is_opaque = likeness.protocol == Protocol::Opaque;
            prop_assert_eq!(likeness.confidence.is_none(), is_opaque);
            prop_assert_eq!(likeness.measure.is_some(), is_opaque);
            prop_assert_eq!(likeness.first_speaker, Some(messages[0].0));
            prop_assert!(likeness.details.len() <= 8);
            prop_assert!(likeness.details.iter().all(|detail| detail.len() <= 1100));
        }
        for ((_, sent), shown) in messages.iter().zip(&told.shown) {
            prop_assert!(shown.len() <= sent.len());
            prop_assert!(shown.iter().zip(*sent).all(|(shown, sent)| *shown == 0 || shown == sent));
        }
    }

    #[test]
    fn from_its_middle_on_nothing_is_certain(
        beginning in 0..BEGINNINGS.len(),
        answer in 0..BEGINNINGS.len(),
    ) {
        let mut conversation = Conversation::new(Transport::Tcp, false);
        for (speaker, index) in [(CLIENT, beginning), (SERVER, answer)] {
            let packet = testing::tcp(7, 9, BEGINNINGS[index]);
            let segment = Segment::of(&packet, 40, packet.len(), Transport::Tcp).unwrap();
            conversation.take(speaker, &segment);
        }

        let likeness = conversation.likeness().unwrap();
        prop_assert!(likeness.confidence < Some(Confidence::Certain));
        prop_assert_eq!(likeness.first_speaker, None);
    }
}
