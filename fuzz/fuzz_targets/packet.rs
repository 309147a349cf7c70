//! Any bytes at all, as a packet: what the parser finds lies inside, and both parsers find the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor_ebpf::bytes::Bytes;
use monitor_ebpf::packet::{Kind, Link, Part, glance, parse};
use monitor_ebpf::wire::aside;

/// Every port, the ports of tunnels excepted, so that tunnels are looked into as well.
fn watched(source: u16, destination: u16) -> Option<u16> {
    [destination, source].into_iter().find(|port| !matches!(port, 4789 | 6081))
}

fuzz_target!(|packet: &[u8]| {
    for link in [Link::Ethernet, Link::Bare] {
        let parsed = parse(&mut &packet[..], link, watched);
        let headers = parsed.headers;
        if matches!(parsed.kind, Kind::Flow | Kind::LaterFragment) {
            let ip = if headers.ipv6 { 40 } else { 20 };
            assert!(headers.network + ip <= headers.payload);
            assert!(headers.network + ip <= packet.len());
            let header = headers.payload - headers.network;
            assert!(headers.length == 0 || header <= headers.length as usize);
            assert_eq!(parsed.part == Part::Later, parsed.kind == Kind::LaterFragment);
        }
        match parsed.kind {
            Kind::Flow => {
                // Options need not be there, a TCP header's fixed part must.
                let fixed = if headers.udp { 8 } else { 20 };
                assert!(headers.network + 20 + fixed <= packet.len());
                assert_eq!(watched(headers.source_port, headers.destination_port), Some(headers.port));
            }
            Kind::Aside => assert!(parsed.reason < aside::COUNT),
            Kind::LaterFragment | Kind::IcmpError | Kind::Other => {}
        }
        let none = parse(&mut &packet[..], link, |_, _| None);
        assert_ne!(none.kind, Kind::Flow);

        if link == Link::Ethernet {
            let start = packet.as_ptr().expose_provenance();
            // SAFETY: `packet` lives until both have returned.
            let bytes = unsafe { Bytes::new(start, start + packet.len()) };
            if let Some(glanced) = glance(bytes, watched, |headers| headers).packet() {
                assert_eq!(glanced, parsed.packet());
                assert!(parsed.part == Part::Whole && !parsed.tunnelled);
            }
            if let Some(glanced) = glance(bytes, |_, _| None, |headers| headers).packet() {
                assert_eq!(glanced, none.packet());
            }
        }
    }
});
