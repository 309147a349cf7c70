//! `portwatch replay`: tells the core again what it was told in a recorded run.
//!
//! Takes no privileges and asks the host for nothing: times, names and answers are those of the
//! recording. Whatever is in the file, the first event is `run-started` and the last one `run-ended`.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::path::Path;
use std::sync::Arc;

use crate::cli::{self, Format};
use crate::clock::{self, Clock};
use crate::escape;
use crate::failure::{self, Failure};
use crate::output::text::{self, Look};
use crate::output::{Output, Style};
use crate::pcap::{Heading, Pcap};
use crate::pipeline::{Input, Payload, Pipeline, Settings};
use crate::policy::Policy;
use crate::recording::{Fault, Header, Next, Reader};
use crate::report::{Body, Report, RunEnded, RunStarted};

/// `event.reason` of a run that was not recorded to its end.
const CUT_OFF: &str = "recording ends here";

/// Replays; the exit code.
pub fn run(args: &cli::Replay, look: Look) -> Result<u8, Failure> {
    let name = escape::escape_bytes(args.file.as_os_str().as_encoded_bytes());
    let usage = |problem: String| Failure::Usage(format!("{name}: {problem}"));
    let policy = args.policy.as_deref().map(load).transpose()?;
    let file = open(&args.file).map_err(|error| usage(error.to_string()))?;
    let mut reader = Reader::new(file).map_err(|fault| usage(said(&fault)))?;
    let mut settings = reader.header().settings(policy).map_err(&usage)?;
    settings.names_ends = args.pcap.is_wanted();
    let mut pcap = capture(args, reader.header(), &settings)?;
    let mut replay = Replay::of(reader.header(), settings);
    let style = match args.format {
        Format::Text => Style::Lines(look),
        Format::Json => Style::Json(reader.header().origin.run.clone()),
    };
    let is_piped = args.pcap.is_to_stdout();
    let output = if is_piped { Output::stderr(style)? } else { Output::stdout(style)? };
    let end = replay.all(&mut reader, |report| {
        let report = Arc::new(report);
        if let Some(pcap) = &mut pcap {
            pcap.send_last(&report);
        }
        output.send_last(report);
        !output.is_closed() && !pcap.as_ref().is_some_and(Pcap::is_closed)
    });
    output.drain();
    if let Some(pcap) = &pcap {
        pcap.close();
    }
    match end {
        Err(fault) => return Err(usage(said(&fault))),
        Ok(End::Complete(ended)) => say(&text::summary(&ended)),
        Ok(End::CutOff(why)) => {
            say(&format!(
                "portwatch: {name}: {}: what came before is reported",
                escape::escape(&why)
            ));
        }
        Ok(End::Unwanted) => {}
    }
    let has_failed = output.has_failed() || pcap.as_ref().is_some_and(Pcap::has_failed);
    Ok(if has_failed { failure::OUTPUT_FAILED } else { failure::DONE })
}

/// Begins the capture, if one is asked for.
fn capture(
    args: &cli::Replay,
    header: &Header,
    settings: &Settings,
) -> Result<Option<Pcap>, Failure> {
    if !args.pcap.is_wanted() {
        return Ok(None);
    }
    let problem = if header.payload() == Payload::None {
        "the recording has no bytes of packets: it was made with '--payload none'"
    } else if args.pcap.is_to_stdout() && args.format == Format::Json {
        cli::Pcap::NO_JSON
    } else {
        let now_unix_ns = Clock::of_host().unix_ns(clock::boot_ns());
        let target = args.pcap.target(now_unix_ns).map_err(Failure::Usage)?;
        let heading = Heading::of(&header.origin, settings);
        return Ok(target.map(|target| Pcap::start(target, heading)).transpose()?);
    };
    Err(Failure::Usage(problem.to_owned()))
}

fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(BufReader::new(File::open(path)?)))
}

fn load(path: &Path) -> Result<Policy, Failure> {
    Policy::load(path).map_err(|error| Failure::Usage(error.to_string()))
}

/// In one line, whatever the file has made the message say.
fn said(fault: &Fault) -> String {
    escape::escape(&fault.to_string()).into_owned()
}

fn say(line: &str) {
    if writeln!(io::stderr(), "{line}").is_err() {
        tracing::debug!("nobody reads stderr");
    }
}

/// How a replay ended.
#[derive(Debug)]
pub enum End {
    /// As the run did.
    Complete(Box<RunEnded>),
    /// The recording ends before the run, and why.
    CutOff(String),
    /// Nobody wants more reports.
    Unwanted,
}

/// A recorded run that is gone through again.
#[derive(Debug)]
pub struct Replay {
    pipeline: Pipeline,
    ports: String,
    has_started: bool,
    /// The latest time that an input had.
    now_ns: u64,
    ended: Option<Box<RunEnded>>,
}

impl Replay {
    /// The core as it was when the recorded run began; `policy` is used instead of that run's.
    pub fn new<R: Read>(reader: &Reader<R>, policy: Option<Policy>) -> Result<Self, String> {
        Ok(Self::of(reader.header(), reader.header().settings(policy)?))
    }

    fn of(header: &Header, settings: Settings) -> Self {
        Self {
            pipeline: Pipeline::new(settings),
            ports: header.ports().to_owned(),
            has_started: false,
            now_ns: 0,
            ended: None,
        }
    }

    /// Goes through the whole recording; `report` takes each report and says whether it wants more.
    ///
    /// Also where the recording makes no sense any more, what was going on is ended first.
    pub fn all<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        mut report: impl FnMut(Report) -> bool,
    ) -> Result<End, Fault> {
        loop {
            let offset = reader.offset();
            let next = match reader.read() {
                Ok(Next::Input(input)) => self.take(input),
                Ok(Next::End) => {
                    return Ok(self.ended.take().map_or(End::Unwanted, End::Complete));
                }
                Ok(Next::CutOff(why)) => {
                    self.end(&mut report);
                    return Ok(End::CutOff(why));
                }
                Err(fault) => Err(fault.problem),
            };
            if let Err(problem) = next {
                self.end(&mut report);
                return Err(Fault { offset, problem });
            }
            if !self.hand_over(&mut report) {
                return Ok(End::Unwanted);
            }
        }
    }

    /// Takes in one input, unless none such can come now.
    fn take(&mut self, input: Input<'_>) -> Result<(), String> {
        match input {
            Input::Started { .. } if self.has_started => return Err("a second start".to_owned()),
            Input::Started { .. } => self.has_started = true,
            _ => {}
        }
        self.now_ns = self.now_ns.max(input.time_ns().unwrap_or(0));
        self.pipeline.apply(input);
        // What the core is told before it starts is what was there, of which nothing is reported yet.
        if !self.has_started && !self.pipeline.take_reports().is_empty() {
            return Err("news before the start".to_owned());
        }
        // Nobody is asked for anything: the answers are in the recording.
        self.pipeline.take_up_requests();
        drop(self.pipeline.take_requests());
        drop(self.pipeline.take_strangers());
        drop(self.pipeline.take_expired());
        self.pipeline.take_unreported();
        Ok(())
    }

    /// False: nobody wants more.
    fn hand_over(&mut self, report: &mut impl FnMut(Report) -> bool) -> bool {
        let mut is_wanted = true;
        for next in self.pipeline.take_reports() {
            if let Body::RunEnded(ended) = &next.body {
                self.ended = Some(ended.clone());
            }
            is_wanted = report(next);
        }
        is_wanted
    }

    /// Ends a run whose end was not recorded.
    fn end(&mut self, report: &mut impl FnMut(Report) -> bool) {
        let now_ns = self.now_ns;
        if !self.has_started {
            let started = RunStarted {
                command: "watch".into(),
                ports: self.ports.clone(),
                interfaces: Vec::new(),
                attached: Vec::new(),
                resumed: false,
                payload: None,
                policy: None,
                degraded: vec!["the recording ends before the run had started".to_owned()],
            };
            self.pipeline.apply(Input::Started { started, now_ns });
        }
        if self.ended.is_some() {
            return;
        }
        loop {
            self.pipeline.apply(Input::Finish { now_ns });
            self.pipeline.take_unreported();
            if !self.hand_over(report) || self.pipeline.is_finished() {
                break;
            }
        }
        let reason = CUT_OFF.to_owned();
        self.pipeline.apply(Input::Ended { reason, counts: None, now_ns });
        self.hand_over(report);
    }
}

#[cfg(test)]
mod tests;
