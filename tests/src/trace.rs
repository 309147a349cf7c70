//! Captured conversations of real services, and what tshark takes them for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::frame::hexadecimal_file;
use crate::lab::{Host, Lab};
use crate::process::{is_installed, succeed};

/// A capture of conversations with one service.
#[derive(Debug)]
pub struct Trace {
    name: String,
    frames: Vec<Vec<u8>>,
    conversations: Vec<Conversation>,
}

/// One of the conversations.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conversation {
    transport: &'static str,
    client_port: u16,
    protocol: &'static str,
    fields: BTreeMap<&'static str, String>,
}

/// A service: the beginning of the names of its captures, what portwatch calls the protocol, and by which
/// dissector of tshark and which field of it the same is told. Some no dissector knows.
struct Service {
    name: &'static str,
    protocol: &'static str,
    dissector: Option<(&'static str, &'static str)>,
}

const fn known(name: &'static str, dissector: &'static str, field: &'static str) -> Service {
    Service { name, protocol: name, dissector: Some((dissector, field)) }
}

const fn unknown(name: &'static str) -> Service {
    Service { name, protocol: name, dissector: None }
}

const SERVICES: [Service; 22] = [
    Service { protocol: "http", ..known("http2", "http2", "http2.type") },
    known("http", "http", "http.request.method"),
    known("tls", "tls", "tls.handshake.type"),
    known("websocket", "http", "websocket.opcode"),
    known("ssh", "ssh", "ssh.protocol"),
    known("smtp", "smtp", "smtp.response.code"),
    known("ftp", "ftp", "ftp.response.code"),
    known("vnc", "vnc", "vnc.server_proto_ver"),
    known("smb", "nbss", "smb2.cmd"),
    known("mysql", "mysql", "mysql.version"),
    known("postgresql", "pgsql", "pgsql.type"),
    known("redis", "resp", "resp.array.length"),
    known("mqtt", "mqtt", "mqtt.msgtype"),
    known("dns", "dns", "dns.qry.name"),
    known("snmp", "snmp", "snmp.data"),
    known("tftp", "tftp", "tftp.opcode"),
    known("syslog", "syslog", "syslog.level"),
    known("socks", "socks", "socks.version"),
    unknown("vpcd"),
    unknown("pcsc-lite"),
    unknown("iso7816"),
    unknown("shell"),
];

const OPAQUE: Service = unknown("opaque");

/// What tells more than the protocol.
const MORE: [&str; 3] =
    ["tls.handshake.ja3", "tls.handshake.extensions_server_name", "http.request.method"];

impl Trace {
    /// All captures of a directory; `None`, noted as skipped, without tshark.
    pub fn all(directory: &Path) -> Option<Vec<Self>> {
        if !is_installed("tshark") {
            return None;
        }
        let entries = fs::read_dir(directory).expect("list captures");
        let paths = entries.map(|entry| entry.expect("list captures").path());
        let mut paths: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|it| it == "pcap")).collect();
        paths.sort();
        let mut traces: Vec<Self> = paths.iter().map(|path| Self::read(path)).collect();
        dissect(&mut traces);
        Some(traces)
    }

    /// The name of the capture.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its conversations in which something was said.
    pub fn conversations(&self) -> &[Conversation] {
        &self.conversations
    }

    /// Sends its frames over the cable that begins at a host.
    pub fn inject(&self, host: &Host) {
        let file = hexadecimal_file(self.frames.iter().map(Vec::as_slice));
        host.perform(&[&format!("inject {} {}", Lab::DEVICE, file.path().display())]);
    }

    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(path).expect("read a capture");
        let mut frames = Vec::new();
        let mut rest = bytes.get(FILE_HEADER..).expect("find the header of a capture");
        while let Some((header, behind)) = rest.split_first_chunk::<16>() {
            let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = *header;
            let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).expect("fit a length");
            let (frame, next) = behind.split_at(length);
            frames.push(frame.to_vec());
            rest = next;
        }
        Self { name, frames, conversations: Vec::new() }
    }

    fn service(&self) -> &'static Service {
        SERVICES.iter().find(|service| self.name.starts_with(service.name)).unwrap_or(&OPAQUE)
    }

    /// Ports of the clients, by transport.
    fn clients(&self) -> Vec<(&'static str, u16)> {
        let mut clients: Vec<_> =
            self.frames.iter().filter_map(|frame| said_something(frame)).collect();
        clients.sort_unstable();
        clients.dedup();
        clients
    }
}

impl Conversation {
    /// What its client is called: transport and port.
    pub fn client(&self) -> (String, u16) {
        (self.transport.to_owned(), self.client_port)
    }

    /// What it is: `none` where tshark does not find in it what the service speaks.
    pub const fn protocol(&self) -> &str {
        self.protocol
    }

    /// The first value of a field of tshark; empty where there is none.
    pub fn text(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

/// Has tshark tell of all conversations at once: it takes a second to start.
fn dissect(traces: &mut [Trace]) {
    let file = NamedTempFile::new().expect("make a file for captures");
    fs::write(file.path(), one_capture(traces)).expect("write captures");
    let mut tshark = Command::new("tshark");
    tshark.arg("-n").arg("-r").arg(file.path()).args(["-T", "fields", "-E", "separator=|"]);
    tshark.args(["-E", "occurrence=f", "-e", "tcp.srcport", "-e", "tcp.dstport"]);
    tshark.args(["-e", "udp.srcport", "-e", "udp.dstport"]);
    let mut fields: Vec<&str> = MORE.to_vec();
    for (trace, port) in traces.iter().zip(SERVER_PORTS) {
        let Some((dissector, field)) = trace.service().dissector else { continue };
        if !fields.contains(&field) {
            fields.push(field);
        }
        let transports: BTreeSet<&str> = trace.clients().iter().map(|(it, _)| *it).collect();
        for transport in transports {
            tshark.args(["-d", &format!("{transport}.port=={port},{dissector}")]);
        }
    }
    for field in &fields {
        tshark.args(["-e", field]);
    }
    let mut found: BTreeMap<(&str, u16), BTreeMap<&str, String>> = BTreeMap::new();
    for line in succeed(&mut tshark).lines() {
        let values: Vec<&str> = line.split('|').collect();
        let (ports, values) = values.split_at(4);
        let number = |text: &&str| text.parse::<u16>().ok().filter(|it| !SERVER_PORTS.contains(it));
        let client = ports.iter().enumerate().find_map(|(at, text)| Some((at, number(text)?)));
        let Some((at, port)) = client else { continue };
        let of_client = found.entry((if at < 2 { "tcp" } else { "udp" }, port)).or_default();
        for (field, value) in fields.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            of_client.entry(field).or_insert_with(|| (*value).to_owned());
        }
    }
    for trace in traces {
        let service = trace.service();
        let conversation = |(transport, client_port): (&'static str, u16)| {
            let fields = found.get(&(transport, client_port)).cloned().unwrap_or_default();
            let is_told = service.dissector.is_none_or(|(_, field)| fields.contains_key(field));
            let fields = MORE.iter().filter_map(|it| Some((*it, fields.get(it)?.clone())));
            let protocol = if is_told { service.protocol } else { "none" };
            Conversation { transport, client_port, protocol, fields: fields.collect() }
        };
        trace.conversations = trace.clients().into_iter().map(conversation).collect();
    }
}

/// All frames in one file, in which each service has a port of its own: by that tshark is told who
/// speaks what.
fn one_capture(traces: &[Trace]) -> Vec<u8> {
    const ETHERNET: u32 = 1;
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65_535, ETHERNET] {
        bytes.extend_from_slice(&u32::to_le_bytes(word));
    }
    let ports = traces.iter().zip(SERVER_PORTS);
    for (frame, port) in ports.flat_map(|(it, port)| it.frames.iter().map(move |it| (it, port))) {
        let length = u32::try_from(frame.len()).expect("fit a length").to_le_bytes();
        bytes.extend([[0; 4], [0; 4], length, length].concat());
        bytes.extend(with_server_port(frame, port));
    }
    bytes
}

/// The frame with another port of the server.
fn with_server_port(frame: &[u8], port: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let ports = 14 + usize::from(frame.get(14).map_or(0, |byte| byte & 0xf)) * 4;
    for at in [ports, ports + 2] {
        let place = frame.get_mut(at..at + 2).expect("find a port");
        if *place == PORT.to_be_bytes() {
            place.copy_from_slice(&port.to_be_bytes());
        }
    }
    frame
}

/// Transport and port of the client, if the frame has payload.
fn said_something(frame: &[u8]) -> Option<(&'static str, u16)> {
    let ip = frame.get(14..)?;
    let header = usize::from(ip.first()? & 0xf) * 4;
    let length = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let transport = ip.get(header..length)?;
    let (name, payload) = match ip.get(9)? {
        6 => ("tcp", usize::from(transport.get(12)? >> 4) * 4),
        _ => ("udp", 8),
    };
    let port = |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
    let client = [port(0)?, port(2)?].into_iter().find(|port| *port != PORT)?;
    (transport.len() > payload).then_some((name, client))
}

const FILE_HEADER: usize = 24;
const PORT: u16 = 3516;
/// Below those that clients get, and nobody's to tshark.
const SERVER_PORTS: std::ops::Range<u16> = 23_000..23_100;
