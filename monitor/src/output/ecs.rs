//! The Elastic Common Schema: one report is one nested document on one line.
//!
//! docs/events.md says what each field means; its examples are the golden documents of this module.

mod app;
mod check;
mod class;
mod counters;
mod document;
mod finding;
mod identity;
pub(super) mod json;
mod network;
mod ownership;
mod policy;
mod portless;
mod run;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::Serializer;

use crate::report::{Body, Report};

use self::document::Document;
use self::json::Visible;

/// Version of the schema that the documents follow.
pub const VERSION: &str = "9.4.0";

/// What is the same in every document of a run. What is empty is left out.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RunIdentity {
    /// Name of this host.
    pub host_name: String,
    /// Identity of this host that outlives its name: the machine id.
    pub host_id: String,
    /// Identity of this run.
    pub run_id: String,
    /// Version of portwatch.
    pub version: String,
}

/// Writes reports as documents.
#[derive(Clone, Debug)]
pub struct Encoder {
    identity: RunIdentity,
    /// Documents so far. Numbered here, behind the queue: what is lost there leaves no gap.
    documents: u64,
}

impl Encoder {
    /// An encoder for the reports of one run.
    pub const fn new(identity: RunIdentity) -> Self {
        Self { identity, documents: 0 }
    }

    /// Appends the document of `report` to `out`, as one line.
    pub fn encode(&mut self, report: &Report, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let start = out.len();
        self.documents += 1;
        let written =
            self.document(report).serialize(&mut Serializer::with_formatter(&mut *out, Visible));
        if written.is_err() {
            out.truncate(start);
            self.documents -= 1;
            return written;
        }
        out.push(b'\n');
        Ok(())
    }

    fn document<'a>(&'a self, report: &'a Report) -> Document<'a> {
        let mut document = Document::new(&self.identity, self.documents, report);
        match &report.body {
            Body::RunStarted(run) => document.run_started(run),
            Body::RunEnded(run) => document.run_ended(run),
            Body::Listener(_, listener) => document.listener(listener),
            Body::Flow(change, flow) => document.flow(*change, flow),
            Body::Sample(sample) => document.sample(sample),
            Body::Portless(portless) => document.portless(portless),
            Body::Finding(finding) => document.finding(finding),
            Body::Interface(_, interface) => document.interface(interface),
            Body::Policy(change) => document.policy_change(change),
            Body::Counters(counters) => document.counters(counters),
            Body::Check(check) => document.check(check),
        }
        document
    }
}
