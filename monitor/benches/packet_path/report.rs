//! The numbers as a table for people and as JSON for programs.

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::quiet::{self, Told};
use crate::spread::Spread;

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: u32,
    portwatch: &'static str,
    kernel: String,
    processor: String,
    cpus: usize,
    quick: bool,
    /// Average number of threads that wanted to run in the minute before: more than about one is
    /// other work, which disturbs.
    load_before: f64,
    load_after: f64,
    quiet: Told,
    rows: Vec<Row>,
}

/// One number.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// `None` where it could not be measured; `what` then says why.
    #[serde(flatten)]
    pub(crate) spread: Option<Spread>,
    /// The most it may be.
    pub(crate) bar: Option<f64>,
    /// Whether the bar holds.
    met: Option<bool>,
}

impl Row {
    /// A number that has no bar to hold.
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, spread: Option<Spread>) -> Self {
        Self { what: what.into(), unit, spread, bar: None, met: None }
    }

    /// The same, with the most it may be.
    pub(crate) fn at_most(self, bar: f64) -> Self {
        let met = self.spread.map(|spread| spread.median <= bar);
        Self { bar: Some(bar), met, ..self }
    }

    const fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        }
    }
}

impl Report {
    /// An empty report that knows its host.
    pub(crate) fn start(quick: bool) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let value = |line: &str| line.split_once(':').map(|(_name, value)| value.trim().to_owned());
        let mut models = cpuinfo.lines().filter(|line| line.starts_with("model name"));
        Ok(Self {
            schema: 1,
            portwatch: env!("CARGO_PKG_VERSION"),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            // Not every architecture names the model.
            processor: models.find_map(value).unwrap_or_default(),
            cpus: std::thread::available_parallelism().context("counting CPUs")?.get(),
            quick,
            load_before: load()?,
            load_after: 0.0,
            quiet: quiet::told(),
            rows: Vec::new(),
        })
    }

    /// Adds numbers.
    pub(crate) fn add(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    /// Notes how busy and how quiet the host was meanwhile.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.load_after = load()?;
        self.quiet = quiet::told();
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, processor, cpus, load_before, load_after, quiet, .. } = self;
        writeln!(f, "Linux {kernel}, {cpus} CPUs, {processor}")?;
        writeln!(f, "load average {load_before} before, {load_after} after")?;
        let Told { taken, again, loud } = quiet;
        writeln!(
            f,
            "of {taken} measurements that ask for quiet, {again} were taken again, {loud} had none"
        )?;
        if self.quick {
            writeln!(f, "--quick: too few measurements to quote")?;
        }
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
        writeln!(f, "\n{:width$}  {:>8}  {:>15}  unit   bar", "", "median", "p25–p75")?;
        for row in &self.rows {
            write!(f, "{:width$}", row.what)?;
            match &row.spread {
                Some(Spread { median, p25, p75, .. }) => {
                    let middle = format!("{p25:.1}–{p75:.1}");
                    write!(f, "  {median:>8.1}  {middle:>15}  {:<4}", row.unit)?;
                }
                None => write!(f, "  {:>8}  {:>15}  {:<4}", "–", "", row.unit)?,
            }
            match row.bar {
                Some(bar) => writeln!(f, "  ≤ {bar:<5} {}", row.verdict())?,
                None => writeln!(f)?,
            }
        }
        let missed = self.rows.iter().filter(|row| row.met == Some(false)).count();
        writeln!(f, "\nbars missed: {missed}")
    }
}

/// The load average of the last minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().with_context(|| format!("reading the load average {first:?}"))
}
