//! The services of the kernel's load balancer (IPVS), which answers for an address without a socket.

mod connections;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::endpoint::{Endpoint, Transport};
use crate::host::conntrack::Tuple;

pub use connections::Connections;

/// A service, and where it sends connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// TCP or UDP.
    pub transport: Transport,
    /// Its address and port.
    pub address: Endpoint,
    /// Its scheduler: `rr`, `wlc`, …
    pub scheduler: String,
    /// The servers behind it.
    pub servers: Vec<Endpoint>,
}

/// The services on a port in the calling thread's network namespace; none where IPVS is not there.
pub fn services(transport: Transport, port: u16) -> io::Result<Vec<Service>> {
    let is_on_it =
        |service: &Service| service.transport == transport && service.address.port == port;
    Ok(parse(&read()?).into_iter().filter(is_on_it).collect())
}

/// Whether a connection may be one to a service in the calling thread's network namespace.
pub fn may_balance(tuple: Tuple) -> io::Result<bool> {
    read().map(|table| concerns(&table, tuple))
}

fn read() -> io::Result<String> {
    match fs::read_to_string("/proc/thread-self/net/ip_vs") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        table => table,
    }
}

/// A service that is known by the marks of packets may have any address.
fn concerns(table: &str, tuple: Tuple) -> bool {
    let ends = [tuple.ends.source, tuple.ends.destination];
    let is_end = |service: &Service| {
        ends.iter().any(|end| {
            let Service { address, servers, .. } = service;
            let is_service = address.ip == end.ip && [0, end.port].contains(&address.port);
            is_service || servers.contains(end)
        })
    };
    let of_transport = |service: &Service| service.transport == tuple.transport;
    table.lines().take(LINES).any(|line| line.starts_with("FWM"))
        || parse(table).iter().any(|service| of_transport(service) && is_end(service))
}

/// `TCP  0A600001:0DBC wlc` and below it `  -> 0AF40003:1F90      Masq    1      0          0`.
fn parse(table: &str) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for line in table.lines().take(LINES) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match *words.as_slice() {
            ["->", server, ..] => {
                if let (Some(service), Some(server)) = (services.last_mut(), endpoint(server)) {
                    service.servers.push(server);
                }
            }
            [transport @ ("TCP" | "UDP"), address, scheduler, ..] => {
                let transport = if transport == "TCP" { Transport::Tcp } else { Transport::Udp };
                if let Some(address) = endpoint(address) {
                    let scheduler = scheduler.to_owned();
                    let servers = Vec::new();
                    services.push(Service { transport, address, scheduler, servers });
                }
            }
            _ => {}
        }
    }
    services
}

/// `0A600001:0DBC`, `[fd00:0000:…:0001]:0DBC`.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (address, port) = text.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip: IpAddr = match address.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into(),
        None if address.len() == 8 => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?).into(),
        None => return None,
    };
    Some(Endpoint::new(ip, port))
}

/// Lines read at most.
const LINES: usize = 262_144;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::conntrack::Ends;

    /// As `net/netfilter/ipvs/ip_vs_ctl.c` writes it.
    const TABLE: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:0DBC wlc
  -> 0AF40003:1F90      Masq    1      0          0
  -> 0AF40004:1F90      Masq    1      0          0
UDP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0035 rr persistent 10800
  -> garbage
FWM  00000001 rr
";

    #[test]
    fn services_are_read_with_the_servers_behind_them() {
        let services = parse(TABLE);

        let told: Vec<_> = services
            .iter()
            .map(|it| (it.transport, it.address.to_string(), &*it.scheduler, it.servers.len()))
            .collect();
        assert_eq!(
            told,
            [
                (Transport::Tcp, "10.96.0.1:3516".to_owned(), "wlc", 2),
                (Transport::Udp, "[fd00::1]:53".to_owned(), "rr", 0),
            ]
        );
        assert_eq!(services[0].servers[1].to_string(), "10.244.0.4:8080");
    }

    #[test]
    fn only_what_may_be_sent_to_a_service_or_a_server_concerns_the_load_balancer() {
        let without_marks = TABLE.replace("FWM  00000001 rr\n", "");
        let concerns_in = |table: &str, transport, to: &str| {
            let to: std::net::SocketAddr = to.parse().unwrap();
            let destination = Endpoint::new(to.ip(), to.port());
            let source = Endpoint::new([10, 0, 0, 9].into(), 50_000);
            concerns(table, Tuple { transport, ends: Ends { source, destination } })
        };
        let tcp = |to| concerns_in(&without_marks, Transport::Tcp, to);

        assert!(tcp("10.96.0.1:3516") && tcp("10.244.0.4:8080"));
        assert!(!tcp("10.96.0.1:3517") && !tcp("10.96.0.2:3516") && !tcp("[fd00::1]:53"));
        assert!(concerns_in(&without_marks, Transport::Udp, "[fd00::1]:53"));
        assert!(concerns_in(TABLE, Transport::Tcp, "10.96.0.2:3516"));
        assert!(!concerns_in("", Transport::Tcp, "10.96.0.1:3516"));
        let all_ports = TABLE.replace(":0DBC", ":0000").replace("FWM", "");
        assert!(concerns_in(&all_ports, Transport::Tcp, "10.96.0.1:3517"));
    }
}
