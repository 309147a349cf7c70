//! What a scan found, as a table in the manner of `ss`, then the findings.
//!
//! A connection between two processes of this host has a row for each end. Sockets that see or send packets
//! of the port without being on it are there as well.

mod table;

use std::sync::Arc;

use crate::endpoint::{Direction, Endpoint, Transport};
use crate::owner::{Attribution, Owner};
use crate::report::{Body, FlowReport, ListenerReport, PortlessReport, Report, RunStarted};

use super::Look;
use super::finding;
use super::line::{Ink, Line};
use super::network::{local, socket_unit, verdict};
use super::portless::{filter, place};
use super::program;
use super::run::not_seen;
use super::who::{in_a_word, mark, of_side, other_processes, part, part_ink, user};

use self::table::{Cell, Row, table};

/// Renders the reports of a scan; other reports than these are left out.
pub fn scan(reports: &[Arc<Report>], look: &Look) -> String {
    let mut out = Vec::new();
    let rows: Vec<Row> = reports.iter().flat_map(|report| rows(report)).collect();
    if rows.is_empty() {
        let mut line = Line::new(look);
        line.put(Ink::Plain, "nothing listens and nothing is connected");
        line.end(&mut out);
    } else {
        table(&rows, look, &mut out);
    }
    for report in reports {
        match &report.body {
            Body::RunStarted(RunStarted { degraded, .. }) => {
                not_seen(&Line::new(look), degraded, &mut out);
            }
            Body::Finding(finding) => {
                out.push(b'\n');
                let mut line = Line::new(look);
                line.put(finding::ink(finding), finding::label(finding));
                line.column(0);
                finding::block(line, finding, &mut out);
            }
            _ => {}
        }
    }
    // Only text went in.
    String::from_utf8(out).unwrap_or_default()
}

fn rows(report: &Report) -> Vec<Row> {
    match &report.body {
        Body::Listener(_, listener) => vec![listener_row(listener)],
        Body::Flow(_, flow) => flow_rows(flow),
        Body::Portless(portless) => vec![portless_row(portless)],
        _ => Vec::new(),
    }
}

fn listener_row(listener: &ListenerReport) -> Row {
    let owner = listener.attribution.principal();
    let owners: Vec<&Owner> = listener.attribution.owners.iter().collect();
    let state = match listener.transport {
        Transport::Tcp => "LISTEN",
        Transport::Udp => "UNCONN",
    };
    let [process, part, user, mut unit, exe, package] = who(&listener.attribution, owner, &owners);
    if let Some(socket) = socket_unit(listener) {
        let separator = if unit.1.is_empty() { "" } else { ", " };
        unit.1 = format!("{}{separator}{socket}", unit.1);
    }
    [
        plain(listener.transport.name()),
        plain(state),
        plain(&local(listener)),
        plain("*"),
        plain(&listener.netns.as_ref().map(ToString::to_string).unwrap_or_default()),
        process,
        part,
        user,
        unit,
        exe,
        package,
        verdict(&listener.verdict),
    ]
}

fn portless_row(portless: &PortlessReport) -> Row {
    let PortlessReport { socket, attribution } = portless;
    let owners: Vec<&Owner> = attribution.owners.iter().collect();
    let [process, part, user, unit, exe, package] =
        who(attribution, attribution.principal(), &owners);
    [
        plain(socket.kind.short_name()),
        plain(""),
        plain(&place(socket)),
        plain(""),
        plain(&socket.netns.to_string()),
        process,
        part,
        user,
        unit,
        exe,
        package,
        (Ink::Notable, filter(socket.filter.as_ref())),
    ]
}

/// A row for each end that is on this host, as `ss` has.
fn flow_rows(flow: &FlowReport) -> Vec<Row> {
    let here = |source: bool| of_side(&flow.attribution, source).next().is_some();
    let row = |source: bool| {
        let (local, remote) =
            if source { (flow.source, flow.destination) } else { (flow.destination, flow.source) };
        flow_row(flow, local, remote, source)
    };
    match (here(true), here(false)) {
        (true, true) => vec![row(true), row(false)],
        (false, false) => vec![row(flow.direction == Direction::Egress)],
        (source, _) => vec![row(source)],
    }
}

fn flow_row(flow: &FlowReport, local: Endpoint, remote: Endpoint, source: bool) -> Row {
    let owners: Vec<&Owner> = of_side(&flow.attribution, source).collect();
    let [process, part, user, unit, exe, package] =
        who(&flow.attribution, owners.first().copied(), &owners);
    [
        plain(flow.transport.name()),
        plain(flow.state.unwrap_or_default()),
        plain(&local.to_string()),
        plain(&remote.to_string()),
        plain(&flow.netns.as_ref().map(ToString::to_string).unwrap_or_default()),
        process,
        part,
        user,
        unit,
        exe,
        package,
        plain(""),
    ]
}

/// PROCESS, ROLE, USER, UNIT, EXE, PACKAGE.
fn who(attribution: &Attribution, owner: Option<&Owner>, owners: &[&Owner]) -> [Cell; 6] {
    let Some(owner) = owner else {
        let nobody = format!("({})", in_a_word(attribution.ownership));
        return [(Ink::Notable, nobody), plain(""), plain(""), plain(""), plain(""), plain("")];
    };
    let process = &*owner.process;
    let more = match other_processes(owner, owners) {
        0 => String::new(),
        others => format!(" +{others}"),
    };
    let name = &process.name;
    [
        (Ink::Name, format!("{name}[{}]{}{more}", process.pid, mark(owner.evidence))),
        (part_ink(owner), part(owner)),
        plain(&user(process).unwrap_or_default()),
        plain(process.unit.as_deref().unwrap_or_default()),
        (program::ink(process), program::path(process)),
        program::origin(process).unwrap_or((Ink::Plain, String::new())),
    ]
}

fn plain(text: &str) -> Cell {
    (Ink::Plain, text.to_owned())
}
