//! Packets and conversations for tests.

use crate::endpoint::Transport;

use super::{Conversation, Likeness, Segment, Speaker};

/// An IPv4 packet with a TCP header that has these numbers.
pub(crate) fn tcp(sequence: u32, acknowledged: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0_u8; 40];
    packet[0] = 0x45;
    packet[9] = 6;
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[28..32].copy_from_slice(&acknowledged.to_be_bytes());
    packet[32] = 0x50;
    packet.extend_from_slice(payload);
    packet
}

/// An IPv4 packet with a UDP header.
pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0_u8; 28];
    packet[0] = 0x45;
    packet[9] = 17;
    packet.extend_from_slice(payload);
    packet
}

/// What a conversation of which both ends were seen looks like, message by message.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) conversation: Conversation,
    /// What is shown of each message with `--payload masked`.
    pub(crate) shown: Vec<Vec<u8>>,
}

impl Told {
    pub(crate) fn of(transport: Transport, messages: &[(Speaker, &[u8])]) -> Self {
        let mut conversation = Conversation::new(transport, true);
        let mut next = [1000_u32, 5000];
        let mut shown = Vec::new();
        for (speaker, payload) in messages {
            let (own, other) = match speaker {
                Speaker::Source => (0, 1),
                Speaker::Destination => (1, 0),
            };
            let packet = match transport {
                Transport::Tcp => tcp(next[own], next[other], payload),
                Transport::Udp => udp(payload),
            };
            let offset = packet.len() - payload.len();
            let segment = Segment::of(&packet, offset, packet.len(), transport).unwrap();
            conversation.take(*speaker, &segment);
            shown.push(conversation.masked(*speaker, &segment).bytes);
            next[own] = next[own].wrapping_add(u32::try_from(payload.len()).unwrap());
        }
        Self { conversation, shown }
    }

    pub(crate) fn likeness(&self) -> Likeness {
        self.conversation.likeness().cloned().expect("a likeness")
    }
}
