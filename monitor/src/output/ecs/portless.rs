//! Sockets without a port: `portwatch.portless.*`.

use serde::Serialize;

use crate::report::{PortlessFilter, PortlessReport, PortlessSocket};

use super::document::{Document, known};
use super::network::NetnsFields;

impl<'a> Document<'a> {
    /// A socket that gets or sends packets of a port without being on it.
    pub(super) fn portless(&mut self, portless: &'a PortlessReport) {
        let PortlessReport { socket, attribution } = portless;
        let PortlessSocket { kind, protocol, netns, interface, cookie, filter } = socket;
        self.portwatch.portless = Some(PortlessFields {
            kind: kind.name(),
            protocol: known(protocol),
            netns: NetnsFields::of(netns),
            interface: interface.as_deref(),
            cookie: *cookie,
            filter: filter.as_ref().map(FilterFields::of),
        });
        self.attribution(attribution);
    }
}

/// `portwatch.portless.*`.
#[derive(Debug, Serialize)]
pub(super) struct PortlessFields<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    netns: NetnsFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<&'a str>,
    cookie: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<FilterFields<'a>>,
}

/// `portwatch.portless.filter.*`.
#[derive(Debug, Serialize)]
struct FilterFields<'a> {
    reach: &'static str,
    length: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<u32>,
    payload: &'a [String],
    instructions: &'a [String],
}

impl<'a> FilterFields<'a> {
    fn of(filter: &'a PortlessFilter) -> Self {
        let PortlessFilter { reach, length, program, payload, instructions } = filter;
        Self { reach: reach.name(), length: *length, program: *program, payload, instructions }
    }
}
