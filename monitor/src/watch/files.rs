//! The files that a watch writes besides its events: made first of all, so that what cannot be written is
//! said before anything is attached.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli;
use crate::clock::{self, Clock};
use crate::descriptor;
use crate::escape;
use crate::failure::Failure;
use crate::pcap::{Heading, Pcap, Target};
use crate::pipeline::{Pipeline, Settings};
use crate::recording::{Header, Origin, Recorder, Recording};

/// Files that are there, and empty.
#[derive(Debug)]
pub(super) struct Files {
    origin: Origin,
    /// For `--record`.
    record: Option<File>,
    /// For `--pcap`.
    pcap: Option<Target>,
    made: Vec<PathBuf>,
}

/// The core, and who is told what goes in and comes out beside the output.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) pipeline: Pipeline,
    /// With `--record`.
    pub(super) recording: Option<Recording>,
    /// With `--pcap`.
    pub(super) pcap: Option<Pcap>,
}

impl Files {
    /// Makes those that were asked for.
    pub(super) fn make(args: &cli::Watch, origin: Origin) -> Result<Self, Failure> {
        let mut files = Self { origin, record: None, pcap: None, made: Vec::new() };
        files.record = args.record.as_deref().map(|path| files.add(path)).transpose()?;
        let now_unix_ns = Clock::of_host().unix_ns(clock::boot_ns());
        let target = args.pcap.target(now_unix_ns).map_err(Failure::Usage);
        files.pcap = target.inspect_err(|_failure| remove(&files.made))?;
        if let Some(Target::Files(pcap)) = &files.pcap {
            files.made.extend(pcap.made());
        }
        Ok(files)
    }

    fn add(&mut self, path: &Path) -> Result<File, Failure> {
        let file = descriptor::create(path).map_err(|error| {
            let problem = match error.kind() {
                ErrorKind::AlreadyExists => "is there already; write to a new file".to_owned(),
                _ => error.to_string(),
            };
            Failure::Usage(format!("{}: {problem}", escape::quote(&path.to_string_lossy())))
        });
        if file.is_ok() {
            self.made.push(path.to_owned());
        }
        file
    }

    /// The core, which is recorded from its first input on if that was asked for.
    pub(super) fn core(self, settings: Settings) -> Result<Core> {
        let pcap =
            self.pcap.map(|target| Pcap::start(target, Heading::of(&self.origin, &settings)));
        let pcap = pcap.transpose()?;
        let header = Header::of(self.origin, &settings);
        let mut pipeline = Pipeline::new(settings);
        let Some(file) = self.record else {
            return Ok(Core { pipeline, recording: None, pcap });
        };
        let (recorder, recording) = Recorder::start(file, &header)?;
        pipeline.tap(Box::new(recorder));
        Ok(Core { pipeline, recording: Some(recording), pcap })
    }

    /// What was made: to be removed should the watch not begin.
    pub(super) fn made(&self) -> Vec<PathBuf> {
        self.made.clone()
    }
}

/// Removes what has nothing in it.
pub(super) fn remove(made: &[PathBuf]) {
    for path in made {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::debug!("{}: {error}", escape::escape(&path.to_string_lossy()));
        }
    }
}
