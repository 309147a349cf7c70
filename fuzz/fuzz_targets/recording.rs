//! Any bytes at all, as a recording: it is replayed as far as it makes sense, to documents and to lines.
//! Checksums are put right first, since what they guard is what is to be reached.

#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::output::{ecs, text};
use monitor::recording::{MAX_FRAME, Reader};
use monitor::replay::Replay;
use monitor::report::Body;

/// Kind, length, checksum.
const PREFIX: usize = 12;
const MAGIC: usize = 8;

fuzz_target!(|recording: &[u8]| {
    let recording = with_checksums(recording.to_vec());
    let Ok(mut reader) = Reader::new(recording.as_slice()) else { return };
    let Ok(mut replay) = Replay::new(&reader, None) else { return };
    let mut documents = ecs::Encoder::new(reader.header().origin.run.clone());
    let mut lines = text::Encoder::new(text::Look::plain());
    let (mut document, mut line) = (Vec::new(), Vec::new());
    let (mut reports, mut ends) = (0, 0);
    let _end = replay.all(&mut reader, |report| {
        document.clear();
        line.clear();
        documents.encode(&report, &mut document).unwrap();
        lines.encode(&report, &mut line);
        assert_eq!(document.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(!line.iter().any(|byte| *byte < b' ' && *byte != b'\n'), "a raw control character");
        assert_eq!(reports == 0, matches!(report.body, Body::RunStarted(_)), "who comes first");
        reports += 1;
        ends += usize::from(matches!(report.body, Body::RunEnded(_)));
        true
    });
    assert!(reports >= 2 && ends == 1, "{reports} reports, {ends} ends");
});

fn with_checksums(mut recording: Vec<u8>) -> Vec<u8> {
    let mut at = MAGIC;
    while let Some(prefix) = recording.get(at..at + PREFIX) {
        let kind: [u8; 4] = prefix[..4].try_into().unwrap();
        let length = u32::from_le_bytes(prefix[4..8].try_into().unwrap()) as usize;
        let content = at + PREFIX..at + PREFIX + length.min(MAX_FRAME);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&kind);
        hasher.update(recording.get(content.clone()).unwrap_or_default());
        recording[at + 8..at + PREFIX].copy_from_slice(&hasher.finalize().to_le_bytes());
        at = content.end;
    }
    recording
}
