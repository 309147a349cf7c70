//! The connections that IPVS sends on to servers, and what they are called there.
//!
//! A packet to a service is translated as by conntrack, which need not know of it. Which way a packet goes is not
//! in the table: answers of servers that are reached by tunnel or by route alone do not come back this way.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::endpoint::{Endpoint, Transport};
use crate::host::conntrack::{Ends, Translated, Translator, Tuple};

/// The connections of a network namespace, as they were read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Connections(Vec<Connection>);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Connection {
    transport: Transport,
    client: Endpoint,
    /// Where the client sends to.
    service: Endpoint,
    /// Where that is sent on to.
    server: Endpoint,
}

impl Connections {
    /// Those of the calling thread's namespace, as many as are read; none where IPVS is not there.
    pub fn read() -> io::Result<Self> {
        match File::open("/proc/thread-self/net/ip_vs_conn") {
            Ok(file) => Ok(Self::parse(BufReader::new(file.take(BYTES)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// What is no line of a connection is passed over.
    fn parse(table: impl io::BufRead) -> Self {
        let lines = table.split(b'\n').map_while(Result::ok).take(LINES);
        Self(lines.filter_map(|line| Connection::parse(&line)).collect())
    }

    /// The connection on the other side of the translation, if it is one of these.
    pub fn translate(&self, tuple: Tuple) -> Option<Translated> {
        let Ends { source, destination } = tuple.ends;
        for (client, other) in [(source, destination), (destination, source)] {
            let is_it = |it: &&Connection| {
                it.transport == tuple.transport
                    && it.client == client
                    && (it.service == other || it.server == other)
            };
            let Some(it) = self.0.iter().find(is_it) else { continue };
            let was_asked_before = it.service == other;
            let there = if was_asked_before { it.server } else { it.service };
            if there == other {
                return None;
            }
            let ends = if client == source {
                Ends { source, destination: there }
            } else {
                Ends { source: there, destination }
            };
            return Some(Translated { ends, was_asked_before, by: Translator::Ipvs });
        }
        None
    }
}

impl Connection {
    /// `TCP 0A000009 C350 0A600001 0DBC 0AF40003 1F90 ESTABLISHED     899`, as `net/netfilter/ipvs/ip_vs_conn.c`
    /// writes it: client, service, server.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let transport = match words.next()? {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            _ => return None,
        };
        let mut end = || {
            let (ip, port) = (words.next()?, words.next()?);
            Some(Endpoint::new(address(ip)?, u16::from_str_radix(port, 16).ok()?))
        };
        let (client, service, server) = (end()?, end()?, end()?);
        // Without a port it is the template of a client's later connections. A line that was cut has no state.
        words.next().filter(|_| client.port != 0)?;
        Some(Self { transport, client, service, server })
    }
}

/// `0A000009`, `fd00:0000:0000:0000:0000:0000:0000:0001`, with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    if text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?).into());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse::<Ipv6Addr>().ok().map(IpAddr::from)
}

/// Connections read at most, and bytes of their table.
const LINES: usize = 1 << 16;
const BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A000009 C350 0A600001 0DBC 0AF40003 1F90 ESTABLISHED     899
UDP fd00:0000:0000:0000:0000:0000:0000:0009 C350 fd00:0000:0000:0000:0000:0000:0000:0001 0DBC fd00:0000:0000:0000:0000:0000:0000:0003 1F90 UDP             299
TCP 0A000009 0000 0A600001 0DBC 0AF40004 1F90 NONE            299
TCP 0A00000A C350 0A600001 0DBC 0A600001 0DBC ESTABLISHED     899 sip call-id
";

    #[test]
    fn each_side_of_a_connection_leads_to_the_other() {
        let there = |source: &str, destination: &str| {
            let ends = Ends { source: end(source), destination: end(destination) };
            let there = read(TABLE).translate(Tuple { transport: Transport::Tcp, ends })?;
            assert_eq!(there.by, Translator::Ipvs);
            let Ends { source, destination } = there.ends;
            Some((source.to_string(), destination.to_string(), there.was_asked_before))
        };
        let told = |source: &str, destination: &str, before| {
            Some((source.to_owned(), destination.to_owned(), before))
        };
        let (client, service, server) = ("10.0.0.9:50000", "10.96.0.1:3516", "10.244.0.3:8080");

        assert_eq!(there(client, service), told(client, server, true));
        assert_eq!(there(service, client), told(server, client, true));
        assert_eq!(there(client, server), told(client, service, false));
        assert_eq!(there(server, client), told(service, client, false));
        assert_eq!(there("10.0.0.9:50001", service), None);
        assert_eq!(there(client, "10.96.0.1:3517"), None);
        // A server that has the address of the service itself: nothing is translated.
        assert_eq!(there("10.0.0.10:50000", service), None);
    }

    #[test]
    fn transports_and_families_are_told_apart_and_templates_are_no_connections() {
        let Connections(connections) = read(TABLE);

        assert_eq!(connections.len(), 3);
        let Connection { transport, client, service, server } = connections[1];
        assert_eq!(transport, Transport::Udp);
        let told = [client, service, server].map(|end| end.to_string());
        assert_eq!(told, ["[fd00::9]:50000", "[fd00::1]:3516", "[fd00::3]:8080"]);
        let ends = Ends { source: client, destination: service };
        let as_tcp = Tuple { transport: Transport::Tcp, ends };
        assert_eq!(read(TABLE).translate(as_tcp), None);
    }

    #[test]
    fn whatever_is_in_the_table_nothing_is_made_up() {
        let line = TABLE.lines().nth(1).unwrap();
        let upto_state = line.find("ESTABLISHED").unwrap();

        for length in 0..line.len() {
            let found = Connections::parse(&line.as_bytes()[..length]).0;
            assert_eq!(found.len(), usize::from(length > upto_state), "{length} bytes");
        }
        for hostile in [
            "TCP +A000009 C350 0A600001 0DBC 0AF40003 1F90 NONE 1",
            "TCP 0A000009 1C350 0A600001 0DBC 0AF40003 1F90 NONE 1",
            "TCP 0A000009 C350 0A600001 0DBC [fd00::1 1F90 NONE 1",
            "SCTP 0A000009 C350 0A600001 0DBC 0AF40003 1F90 NONE 1",
            "TCP \u{1b}[2J C350 0A600001 0DBC 0AF40003 1F90 NONE 1",
        ] {
            assert_eq!(read(hostile).0, [], "{hostile}");
        }
        let not_text = [b"\xff\xfe\n".as_slice(), TABLE.as_bytes()].concat();
        assert_eq!(Connections::parse(not_text.as_slice()).0.len(), 3);
    }

    #[test]
    fn a_table_without_end_is_read_to_a_limit() {
        let endless = TABLE.lines().nth(1).unwrap().to_owned() + "\n";
        let table = BufReader::new(io::repeat(b'x').take(BYTES));

        assert_eq!(read(&endless.repeat(LINES + 9)).0.len(), LINES);
        assert_eq!(Connections::parse(table).0, []);
    }

    fn read(table: &str) -> Connections {
        Connections::parse(table.as_bytes())
    }

    fn end(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    }
}
