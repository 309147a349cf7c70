//! Outputs against real files and pipes: fast, slow, full, and gone.

use std::io::{PipeReader, Read as _, pipe};
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::*;

#[test]
fn everything_that_was_queued_is_written_by_the_end_of_a_drain() {
    let (output, mut reader) = into_pipe(QUEUE);

    for report in examples::run() {
        output.send(report);
    }
    output.drain();

    assert_eq!(output.counts(), counts(in_a_run(), 0));
    drop(output);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count() as u64, in_a_run());
    assert!(text.ends_with("}\n"));
}

#[test]
fn a_report_is_written_at_once_when_nothing_else_waits() {
    let (output, mut reader) = into_pipe(QUEUE);

    output.send(examples::run().remove(0));

    // Blocks for ever if it is not.
    reader.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_slow_reader_loses_its_own_reports_but_never_the_last() {
    let (output, mut reader) = into_pipe(4);
    let report: Arc<Report> = Arc::new(examples::run().remove(3));

    // More than fits into the pipe, the batch and the queue together.
    let sent = 3_000;
    for _ in 0..sent {
        output.send(Arc::clone(&report));
    }
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    output.send_last(examples::run().pop().unwrap());
    output.drain();

    let [count]: [SinkCount; 1] = output.counts().try_into().unwrap();
    assert!(count.lost > 0);
    assert_eq!(count.delivered + count.lost, sent + 1);
    assert!(!output.has_failed());
    drop(output);
    let text = read.join().unwrap();
    assert_eq!(text.lines().count() as u64, count.delivered);
    assert!(text.lines().last().unwrap().contains("run-ended"));
}

#[tokio::test]
async fn a_reader_that_goes_away_is_a_normal_end() {
    let (output, reader) = into_pipe(QUEUE);
    drop(reader);

    output.send(examples::run().remove(0));
    tokio::time::timeout(Duration::from_secs(10), output.closed()).await.unwrap();

    output.send(examples::run().remove(1));
    output.drain();
    assert!(output.is_closed());
    assert!(!output.has_failed());
    assert_eq!(output.counts(), counts(0, 0));
}

#[test]
fn a_full_disk_is_a_failure_and_every_report_on_it_a_loss() {
    let file = File::options().write(true).open("/dev/full").unwrap();
    let output = Output::file("stdout", file, json()).unwrap();

    for report in examples::run() {
        output.send(report);
    }
    output.drain();

    assert!(output.has_failed());
    assert!(!output.is_closed());
    assert_eq!(output.counts(), counts(0, in_a_run()));
}

#[test]
fn a_table_is_written_once_everything_is_there() {
    let (reader, writer) = pipe().unwrap();
    let file = File::from(OwnedFd::from(writer));
    let output = Output::file("stdout", file, Style::Table(text::Look::plain())).unwrap();

    for report in examples::scan() {
        output.send(report);
    }
    output.drain();

    assert_eq!(output.counts(), counts(9, 0));
    drop(output);
    let table = io::read_to_string(reader).unwrap();
    let reports: Vec<_> = examples::scan().into_iter().map(Arc::new).collect();
    assert_eq!(table, text::scan(&reports, &text::Look::plain()));
}

fn into_pipe(queue: usize) -> (Output, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    let file = File::from(OwnedFd::from(writer));
    (Output::start("stdout".to_owned(), file, json(), queue).unwrap(), reader)
}

/// Reports of the run that is the example.
fn in_a_run() -> u64 {
    examples::run().len() as u64
}

fn json() -> Style {
    Style::Json(ecs::RunIdentity::default())
}

fn counts(delivered: u64, lost: u64) -> Vec<SinkCount> {
    vec![SinkCount { name: "stdout".to_owned(), delivered, lost }]
}
