//! Text for people: a line per event in tcpdump's order, a table for a scan, a summary at the end.
//!
//! Every line of an event starts with the time, every line that continues one with spaces. What
//! was chosen by others is escaped on its way into a [`Line`], and nowhere else.

mod amount;
mod check;
mod finding;
mod hexdump;
mod line;
mod network;
mod portless;
mod probes;
mod program;
mod rules;
mod run;
mod scan;
mod summary;
#[cfg(test)]
mod tests;
mod who;

use std::io;
use std::os::fd::AsFd;

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use crate::report::{Body, Report};

use self::line::{Ink, Line};
use self::probes::Probes;

pub use self::check::checks;
pub use self::rules::{explanation, review};
pub use self::scan::scan;
pub use self::summary::summary;

/// How text is to look.
#[derive(Clone, Debug)]
pub struct Look {
    /// With colours.
    pub colour: bool,
    /// Columns of the terminal; `None` where there is none and nothing is cut.
    pub width: Option<usize>,
    /// Times are shown in this zone.
    pub zone: TimeZone,
}

impl Look {
    /// Without colours, without cuts, in UTC: for files and tests.
    pub const fn plain() -> Self {
        Self { colour: false, width: None, zone: TimeZone::UTC }
    }

    /// What suits standard output, in the time zone of this host.
    ///
    /// `ColorChoice::Auto` goes by the terminal, `NO_COLOR`, `CLICOLOR` and `CLICOLOR_FORCE`.
    pub fn of_stdout(colour: ColorChoice) -> Self {
        Self::of(&io::stdout(), colour)
    }

    /// The same for standard error.
    pub fn of_stderr(colour: ColorChoice) -> Self {
        Self::of(&io::stderr(), colour)
    }

    fn of<S: RawStream + AsFd>(stream: &S, colour: ColorChoice) -> Self {
        let colour = match colour {
            ColorChoice::Auto => AutoStream::choice(stream),
            chosen => chosen,
        };
        Self {
            colour: !matches!(colour, ColorChoice::Never),
            width: rustix::termios::tcgetwinsize(stream)
                .ok()
                .map(|size| usize::from(size.ws_col))
                // Serial consoles do not know their width and say 0.
                .filter(|&columns| columns > 0),
            zone: TimeZone::try_system().unwrap_or(TimeZone::UTC),
        }
    }

    fn time(&self, unix_ns: i64) -> ZonedDateTime {
        // The years 1677 to 2262 are all that 64 bits can say, and jiff knows them all.
        let time = Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or_default();
        time.to_zoned_datetime(self.zone.clone())
    }
}

/// Writes reports as lines.
#[derive(Clone, Debug)]
pub struct Encoder {
    look: Look,
    /// Date of the line before: lines show the time only.
    date: Option<Date>,
    probes: Probes,
}

impl Encoder {
    /// An encoder for lines that look like this.
    pub fn new(look: Look) -> Self {
        Self { look, date: None, probes: Probes::default() }
    }

    /// Appends the lines of `report` to `out`.
    pub fn encode(&mut self, report: &Report, out: &mut Vec<u8>) {
        let is_hidden = match &report.body {
            Body::Flow(change, flow) => self.probes.hides(*change, flow),
            Body::Sample(sample) => self.probes.hides_sample(sample),
            _ => false,
        };
        if is_hidden {
            return;
        }
        let time = self.look.time(report.time_unix_ns);
        if self.date != Some(time.date()) {
            self.date = Some(time.date());
            let mut line = self.event(&time, "DAY", Ink::Faint);
            line.put(Ink::Faint, &time.strftime("%A %F %:z").to_string());
            line.end(out);
        }
        if matches!(report.body, Body::Counters(_) | Body::RunEnded(_)) {
            for told in self.probes.take() {
                probes::probes(self.event(&time, "PROBES", Ink::Notable), &told, out);
            }
        }
        match &report.body {
            Body::RunStarted(run) => run::started(self.event(&time, "RUN", Ink::Strong), run, out),
            Body::RunEnded(run) => run::ended(self.event(&time, "END", Ink::Strong), run, out),
            Body::Listener(change, listener) => {
                let label = network::listener_label(*change);
                network::listener(self.event(&time, label, Ink::Strong), listener, out);
            }
            Body::Flow(change, flow) => {
                let label = network::flow_label(*change);
                network::flow(self.event(&time, label, Ink::Plain), *change, flow, out);
            }
            Body::Sample(sample) => {
                network::sample(self.event(&time, "PACKET", Ink::Plain), sample, out);
            }
            Body::Portless(report) => {
                portless::portless(self.event(&time, "SOCKET", Ink::Strong), report, out);
            }
            Body::Finding(finding) => {
                let ink = finding::ink(finding);
                finding::block(self.event(&time, finding::label(finding), ink), finding, out);
            }
            Body::Interface(change, interface) => {
                let label = run::interface_label(*change);
                run::interface(self.event(&time, label, Ink::Plain), interface, out);
            }
            Body::Policy(change) => {
                run::policy(self.event(&time, "POLICY", Ink::Strong), change, out);
            }
            Body::Counters(counters) => {
                run::counters(self.event(&time, "COUNTERS", Ink::Plain), counters, out);
            }
            Body::Check(report) => {
                check::check(self.event(&time, "CHECK", Ink::Plain), report, out);
            }
        }
    }

    /// The start of an event's line: when, and what happened.
    fn event(&self, time: &ZonedDateTime, label: &str, ink: Ink) -> Line<'_> {
        let mut line = Line::new(&self.look);
        line.put(Ink::Faint, &time.strftime("%T%.3f").to_string());
        line.put(Ink::Plain, " ");
        line.put(ink, &format!("{label:<9}"));
        line.put(Ink::Plain, " ");
        line
    }
}
