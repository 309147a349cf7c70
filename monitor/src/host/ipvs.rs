//! The services of the kernel's load balancer (IPVS), which answers for an address without a socket.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::endpoint::{Endpoint, Transport};

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
    match fs::read_to_string("/proc/thread-self/net/ip_vs") {
        Ok(table) => Ok(parse(&table)
            .into_iter()
            .filter(|service| service.transport == transport && service.address.port == port)
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
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
}
