//! Runs gone through again, from recordings that are whole, cut off, damaged, or made to do harm.

use proptest::prelude::*;

use super::*;
use crate::output::ecs::Encoder;
use crate::pipeline::Payload;
use crate::recording::MAGIC;
use crate::recording::tests::{framed, header, inputs, record};

#[test]
fn a_replay_reports_what_the_run_did_byte_for_byte() {
    let inputs = inputs();
    let live = live(&inputs);

    let (replayed, end) = replay(&record(Payload::Full, &inputs));

    assert!(matches!(end, Ok(End::Complete(_))), "{end:?}");
    // Start, listener, finding, sample, flow, counters, end of the flow, of the listener and of the run.
    assert!(live.len() >= 8, "{live:#?}");
    assert_eq!(documents(&replayed), documents(&live));
}

#[test]
fn a_recording_that_is_cut_off_begins_and_ends_and_reports_what_came_before() {
    let recorded = record(Payload::Full, &inputs());
    let start = Reader::new(&recorded[..]).unwrap().offset();
    for length in usize::try_from(start).unwrap()..recorded.len() {
        let (reports, end) = replay(&recorded[..length]);

        assert!(matches!(end, Ok(End::CutOff(_))), "{end:?}");
        assert_is_a_run(&reports);
        let Some(Body::RunEnded(ended)) = reports.last().map(|report| &report.body) else {
            panic!("no end");
        };
        assert_eq!(ended.reason, "recording ends here");
        let before = live(&inputs()[..whole_inputs(&recorded[..length])]);
        assert!(reports.starts_with(&before), "{reports:#?}\n{before:#?}");
    }
}

#[test]
fn where_a_recording_makes_no_sense_what_came_before_is_reported() {
    let mut recorded = record(Payload::Full, &inputs()[..12]);
    let offset = recorded.len() as u64;
    recorded.extend(framed(b"\xc0"));

    let (reports, end) = replay(&recorded);

    assert_eq!(end.unwrap_err().offset, offset);
    assert_is_a_run(&reports);
    assert!(reports.len() > 3, "{reports:#?}");
}

#[test]
fn a_run_neither_starts_twice_nor_after_its_first_news() {
    let inputs = inputs();
    let (before, start) = (&inputs[0], &inputs[1]);
    let news = inputs.iter().find(|input| matches!(input, Input::Counters { .. })).unwrap();
    let refused = |inputs: &[&Input<'static>]| {
        let inputs: Vec<_> = inputs.iter().map(|input| (*input).clone()).collect();
        let (reports, end) = replay(&record(Payload::Full, &inputs));
        assert_is_a_run(&reports);
        end.unwrap_err().problem
    };

    assert_eq!(refused(&[before, start, news, start]), "a second start");
    assert_eq!(refused(&[before, news, start]), "news before the start");
}

#[test]
fn another_policy_can_be_tried() {
    let text = "version = 1\n[[listener]]\nid = \"any\"\nport = 3516\n";
    let policy = Policy::parse("p".as_ref(), text).unwrap();
    let recorded = record(Payload::Masked, &inputs());

    let findings = |policy| {
        let mut reader = Reader::new(&recorded[..]).unwrap();
        let mut replay = Replay::new(&reader, policy).unwrap();
        match replay.all(&mut reader, |_| true) {
            Ok(End::Complete(ended)) => ended.findings,
            end => panic!("{end:?}"),
        }
    };

    assert_eq!((findings(None), findings(Some(policy))), (1, 0));
}

#[test]
fn who_has_had_enough_ends_the_replay() {
    let recorded = record(Payload::Masked, &inputs());
    let mut reader = Reader::new(&recorded[..]).unwrap();
    let mut replay = Replay::new(&reader, None).unwrap();

    let end = replay.all(&mut reader, |_| false);

    assert!(matches!(end, Ok(End::Unwanted)), "{end:?}");
}

proptest! {
    /// Bytes of the recording changed at will, with checksums that fit again: what is in the frames
    /// reaches the core.
    #[test]
    fn whatever_a_recording_holds_it_becomes_a_run_or_is_refused(
        changes in prop::collection::vec((0_usize..4096, any::<u8>()), 1..12),
    ) {
        let recorded = record(Payload::Full, &inputs());
        let mut damaged = MAGIC.to_vec();
        let mut rest = &recorded[MAGIC.len()..];
        let mut is_header = true;
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
            let (frame, others) = rest.split_at(12 + length);
            if is_header {
                damaged.extend(frame);
            } else {
                let mut content = frame[12..].to_vec();
                for (at, byte) in &changes {
                    let at = at * 7919 % (content.len() * 4);
                    if let Some(changed) = content.get_mut(at) {
                        *changed = *byte;
                    }
                }
                damaged.extend(framed(&content));
            }
            (rest, is_header) = (others, false);
        }

        let (reports, _end) = replay(&damaged);

        assert_is_a_run(&reports);
        documents(&reports);
    }

    #[test]
    fn any_bytes_behind_a_header_are_refused_and_the_run_ends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut recorded = record(Payload::Full, &inputs()[..2]);
        recorded.extend(bytes);

        assert_is_a_run(&replay(&recorded).0);
    }
}

/// What a run reports that is told this.
fn live(inputs: &[Input<'_>]) -> Vec<Report> {
    let mut pipeline = Pipeline::new(header(Payload::Full).settings(None).unwrap());
    for input in inputs {
        pipeline.apply(input.clone());
    }
    pipeline.take_reports()
}

/// Inputs that are there as a whole.
fn whole_inputs(recorded: &[u8]) -> usize {
    let mut reader = Reader::new(recorded).unwrap();
    let mut count = 0;
    while matches!(reader.read(), Ok(Next::Input(_))) {
        count += 1;
    }
    count
}

fn replay(recorded: &[u8]) -> (Vec<Report>, Result<End, Fault>) {
    let mut reader = Reader::new(recorded).unwrap();
    let mut replay = Replay::new(&reader, None).unwrap();
    let mut reports = Vec::new();
    let end = replay.all(&mut reader, |report| {
        reports.push(report);
        true
    });
    (reports, end)
}

/// It starts, it ends, each once.
#[track_caller]
fn assert_is_a_run(reports: &[Report]) {
    let of_run: Vec<usize> = reports
        .iter()
        .enumerate()
        .filter(|(_, report)| matches!(report.body, Body::RunStarted(_) | Body::RunEnded(_)))
        .map(|(index, _)| index)
        .collect();
    assert_eq!(of_run, [0, reports.len() - 1], "{reports:#?}");
    assert!(matches!(reports[0].body, Body::RunStarted(_)));
}

fn documents(reports: &[Report]) -> String {
    let mut encoder = Encoder::new(header(Payload::Masked).origin.run);
    let mut bytes = Vec::new();
    for report in reports {
        encoder.encode(report, &mut bytes).unwrap();
    }
    String::from_utf8(bytes).unwrap()
}

/// Recordings of real runs, and the documents that came of them.
#[test]
fn golden_recordings_are_replayed_as_they_were() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/recordings");
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pwrec") {
            continue;
        }
        count += 1;
        let recorded = std::fs::read(&path).unwrap();
        let run = Reader::new(&recorded[..]).unwrap().header().origin.run.clone();
        let (reports, end) = replay(&recorded);
        assert!(matches!(end, Ok(End::Complete(_))), "{}: {end:?}", path.display());
        let mut encoder = Encoder::new(run);
        let mut bytes = Vec::new();
        for report in &reports {
            encoder.encode(report, &mut bytes).unwrap();
        }

        let expected = path.with_extension("jsonl");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&expected, &bytes).unwrap();
        }
        let expected = std::fs::read(&expected).unwrap();
        assert!(bytes == expected, "{}: events differ; UPDATE=1 writes them anew", path.display());
    }
    assert!(count > 0, "no recording in {}", directory.display());
}
