//! The files that a watch writes besides its events: made first of all, so that what cannot be written is
//! said before anything is attached.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli;
use crate::descriptor;
use crate::escape;
use crate::failure::Failure;
use crate::pipeline::{Pipeline, Settings};
use crate::recording::{Header, Origin, Recorder, Recording};

/// Files that are there, and empty.
#[derive(Debug)]
pub(super) struct Files {
    origin: Origin,
    /// For `--record`.
    record: Option<File>,
    made: Vec<PathBuf>,
}

impl Files {
    /// Makes those that were asked for.
    pub(super) fn make(args: &cli::Watch, origin: Origin) -> Result<Self, Failure> {
        let mut files = Self { origin, record: None, made: Vec::new() };
        files.record = args.record.as_deref().map(|path| files.add(path)).transpose()?;
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
    pub(super) fn core(self, settings: Settings) -> Result<(Pipeline, Option<Recording>)> {
        let header = Header::of(self.origin, &settings);
        let mut pipeline = Pipeline::new(settings);
        let Some(file) = self.record else { return Ok((pipeline, None)) };
        let (recorder, recording) = Recorder::start(file, &header)?;
        pipeline.tap(Box::new(recorder));
        Ok((pipeline, Some(recording)))
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
