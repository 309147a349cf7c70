//! Lines of sockets without a port.

use crate::report::{PortlessFilter, PortlessReport, PortlessSocket};

use super::line::{Ink, Line};
use super::program;
use super::who;

/// `packet all on eth0  tcpdump[4242] root  /usr/bin/tcpdump (tcpdump)  its filter singles out …`.
pub(super) fn portless(mut line: Line<'_>, portless: &PortlessReport, out: &mut Vec<u8>) {
    let PortlessReport { socket, attribution } = portless;
    line.first_column(25);
    line.foreign(Ink::Plain, &format!("{} {}", socket.kind.name(), place(socket)));
    line.column(20);
    who::principal(&mut line, attribution);
    line.column(24);
    if let Some(owner) = attribution.principal() {
        line.foreign(program::ink(&owner.process), &program::path(&owner.process));
        if let Some((ink, origin)) = program::origin(&owner.process) {
            line.foreign(ink, &format!(" ({origin})"));
        }
    }
    line.column(0);
    line.put(Ink::Notable, &filter(socket.filter.as_ref()));
    if let Some(name) = &socket.netns.name {
        line.column(0);
        line.foreign(Ink::Faint, &format!("netns {name}"));
    }
    line.end(out);
}

/// `all on eth0`: what it receives, and where.
pub(super) fn place(socket: &PortlessSocket) -> String {
    match &socket.interface {
        Some(interface) => format!("{} on {interface}", socket.protocol),
        None => socket.protocol.clone(),
    }
}

/// What its filter does.
pub(super) fn filter(filter: Option<&PortlessFilter>) -> String {
    match filter {
        Some(filter) => format!("its filter {}", filter.reach.words()),
        None => "no filter".to_owned(),
    }
}
