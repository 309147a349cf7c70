//! Any conversation at all, in segments of any order: there is one bounded answer to what it looks like,
//! and what is shown of it is what was sent or blanked.

#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use monitor::app::{Confidence, Conversation, Protocol, Segment, Speaker};
use monitor::endpoint::Transport;

/// Of an IPv4 and a TCP header without options.
const HEADERS: usize = 40;

/// One segment: who sends it, its sequence number, and the rest up to the length.
fn segment<'a>(rest: &mut &'a [u8]) -> Option<(Speaker, u16, &'a [u8])> {
    let ([flags, high, low, length], behind) = rest.split_first_chunk::<4>()?;
    let length = usize::from(*length) + usize::from(flags >> 1 & 7) * 256;
    let (payload, next) = behind.split_at(length.min(behind.len()));
    *rest = next;
    let speaker = if flags & 1 == 0 { Speaker::Source } else { Speaker::Destination };
    Some((speaker, u16::from_be_bytes([*high, *low]), payload))
}

fuzz_target!(|input: &[u8]| {
    let Some((settings, mut rest)) = input.split_first() else { return };
    let transport = if settings & 1 == 0 { Transport::Tcp } else { Transport::Udp };
    let is_from_start = settings & 2 == 0;
    let mut conversation = Conversation::new(transport, is_from_start);
    while let Some((speaker, sequence, payload)) = segment(&mut rest) {
        let mut packet = vec![0; HEADERS];
        packet[0] = 0x45;
        packet[26..28].copy_from_slice(&sequence.to_be_bytes());
        packet[32] = 0x50;
        packet.extend_from_slice(payload);
        let Some(segment) = Segment::of(&packet, HEADERS, packet.len(), transport) else { continue };
        conversation.take(speaker, &segment);
        let shown = conversation.masked(speaker, &segment).bytes;
        assert!(shown.len() <= payload.len());
        assert!(shown.iter().zip(payload).all(|(shown, sent)| *shown == 0 || shown == sent));
        if let Some(likeness) = conversation.likeness() {
            let is_opaque = likeness.protocol == Protocol::Opaque;
            assert_eq!(likeness.confidence.is_none(), is_opaque);
            assert_eq!(likeness.measure.is_some(), is_opaque);
            assert!(is_from_start || likeness.confidence < Some(Confidence::Certain));
            assert!(likeness.details.len() <= 10);
            assert!(likeness.details.iter().all(|detail| detail.len() <= 1200));
            black_box(likeness.summary());
        }
    }
});
