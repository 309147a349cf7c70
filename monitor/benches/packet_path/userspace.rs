//! User space alone: made-up records through the whole pipeline, to documents that nobody keeps.

use std::fs::File;

use anyhow::{Context as _, Result};
use monitor::clock::boot_ns;
use monitor::output::ecs::RunIdentity;
use monitor::output::{Output, Style};
use monitor::pipeline::{Input, Pipeline};
use monitor::report::{Body, FlowChange};
use monitor_ebpf::packet::tcp;
use zerocopy::IntoBytes as _;

use crate::Effort;
use crate::clock::Stopwatch;
use crate::report::Row;
use crate::scene;
use crate::spread::Spread;

/// Connections and samples in one measurement.
const CONNECTIONS: u32 = 20_000;
const SAMPLES: u32 = 50_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Samples, and connections from their first packet to their end.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let (mut samples, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        samples.push(self::samples(SAMPLES)?);
        connections.push(self::connections(CONNECTIONS)?);
    }
    let rate = |times: &[Time], events| {
        let each = times.iter().map(|time| events / time.passed / 1e3).collect();
        Spread::of(each)
    };
    let cost = |times: &[Time], events| {
        Spread::of(times.iter().map(|time| time.used / events * 1e6).collect())
    };
    // A connection is a record, a reading, a credit, a start and an end.
    let (many, few) = (f64::from(SAMPLES), f64::from(CONNECTIONS));
    Ok(vec![
        Row::new("samples a second, from record to JSON", "k/s", rate(&samples, many)),
        Row::new("CPU for each sample", "µs", cost(&samples, many)),
        Row::new("connections a second, from record to JSON", "k/s", rate(&connections, few)),
        Row::new("CPU for each connection", "µs", cost(&connections, few)),
    ])
}

/// Seconds that something took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    /// For everybody.
    pub(crate) passed: f64,
    /// Of CPUs, by this process.
    pub(crate) used: f64,
}

impl Time {
    fn of(act: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (passed, used) = (Stopwatch::of_everybody(), Stopwatch::of_process());
        act()?;
        Ok(Self { passed: passed.elapsed().as_secs_f64(), used: used.elapsed().as_secs_f64() })
    }
}

/// So many samples of one connection.
pub(crate) fn samples(count: u32) -> Result<Time> {
    let mut pipeline = scene::pipeline(1)?;
    let output = output()?;
    let record = scene::sample(0)?;
    Time::of(|| {
        for _ in 0..count {
            let bytes = record.as_slice().into();
            pipeline.apply(Input::Record { bytes, now_ns: boot_ns() });
            deliver(&mut pipeline, &output);
        }
        output.drain();
        Ok(())
    })
}

/// So many connections to one listener: each begins, is counted, and ends.
pub(crate) fn connections(count: u32) -> Result<Time> {
    let mut pipeline = scene::pipeline(usize::try_from(count)?)?;
    scene::listen(&mut pipeline);
    let output = output()?;
    let begin_ns = boot_ns();
    Time::of(|| {
        for number in 0..count {
            let record = scene::begins(number, 1);
            let bytes = record.as_bytes().into();
            pipeline.apply(Input::Record { bytes, now_ns: begin_ns });
        }
        for number in 0..count {
            let reading = scene::counted(number, 1, 10, tcp::SYN | tcp::RST);
            let readings = std::slice::from_ref(&reading).into();
            pipeline.apply(Input::Readings { readings, now_ns: begin_ns });
        }
        pipeline.apply(Input::TableRead { now_ns: begin_ns });
        deliver(&mut pipeline, &output);
        // What is under way has arrived by then; reports come a part at a time.
        let mut now_ns = begin_ns + 5 * SECOND_NS;
        let mut ended = 0;
        while ended < count {
            ended += deliver(&mut pipeline, &output);
            now_ns += SECOND_NS;
            pipeline.apply(Input::Tick { now_ns });
        }
        output.drain();
        Ok(())
    })
}

/// Hands on what is reported: how many flows ended. Nothing is lost on the way: this is about what can
/// be done, not about what is done in time.
fn deliver(pipeline: &mut Pipeline, output: &Output) -> u32 {
    let mut ended = 0;
    for report in pipeline.take_reports() {
        ended += u32::from(matches!(report.body, Body::Flow(FlowChange::Ended(_), _)));
        output.send_last(report);
    }
    ended
}

fn output() -> Result<Output> {
    let sink = File::options().write(true).open("/dev/null").context("opening /dev/null")?;
    let identity = RunIdentity {
        host_name: "bench".to_owned(),
        host_id: String::new(),
        run_id: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Output::file("bench", sink, Style::Json(identity))
}
