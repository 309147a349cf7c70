//! Matches and targets of iptables in rules of nftables: `iptables-nft` keeps them as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Action;
use super::decode::{Expression, Ports};
use crate::endpoint::Transport;

/// `-p tcp --dport …`: `struct xt_tcp` and `struct xt_udp`, which begin alike.
pub(super) fn ports(name: &str, info: &[u8]) -> Option<Expression> {
    // Behind the ports of TCP there are option and two masks of flags.
    let (transport, flags_at) = match name {
        "tcp" => (Transport::Tcp, 11),
        "udp" => (Transport::Udp, 8),
        _ => return None,
    };
    let port = |offset: usize| Some(u16::from_ne_bytes(*info.get(offset..)?.first_chunk()?));
    let flags = *info.get(flags_at)?;
    let source = Ports { first: port(0)?, last: port(2)?, is_outside: flags & 1 != 0 };
    let destination = Ports { first: port(4)?, last: port(6)?, is_outside: flags & 2 != 0 };
    Some(Expression::XtPorts { transport, source, destination })
}

/// `-j DNAT`, `-j REDIRECT`, `-j TPROXY`.
pub(super) fn action(name: &str, revision: u32, info: &[u8]) -> Option<Expression> {
    let action = match name {
        "DNAT" | "REDIRECT" => {
            let (ip, ports) = range(revision, info)?;
            if name == "DNAT" {
                Action::Dnat { ip, port: ports.map(|(first, _)| first) }
            } else {
                Action::Redirect { ports }
            }
        }
        "TPROXY" => tproxy(revision, info)?,
        _ => return None,
    };
    Some(Expression::XtAction { name: name.to_owned(), action })
}

/// Address and ports of a translation, as far as it has them.
type Range = (Option<IpAddr>, Option<(u16, u16)>);

/// `struct nf_nat_ipv4_multi_range_compat` of the first revision, whose addresses are IPv4, else
/// `struct nf_nat_range` and what came after it, which begin alike.
fn range(revision: u32, info: &[u8]) -> Option<Range> {
    let is_first = revision == 0 && info.len() < 40;
    let (flags, address, proto) = if is_first { (4, 8, 16) } else { (0, 4, 36) };
    let word = |offset: usize| info.get(offset..)?.first_chunk::<4>();
    let port = |offset: usize| Some(u16::from_be_bytes(*info.get(offset..)?.first_chunk()?));
    let flags = u32::from_ne_bytes(*word(flags)?);
    let v6 = info.get(address..).and_then(<[u8]>::first_chunk::<16>);
    let v4 = || Some(IpAddr::from(Ipv4Addr::from(*word(address)?)));
    let ip = match v6.filter(|_| !is_first) {
        // `union nf_inet_addr`: of an IPv4 address only the first word is used.
        Some([_, _, _, _, rest @ ..]) if rest.iter().all(|byte| *byte == 0) => v4(),
        Some(v6) => Some(IpAddr::from(Ipv6Addr::from(*v6))),
        None => v4(),
    };
    let ports = (flags & NF_NAT_RANGE_PROTO_SPECIFIED != 0)
        .then(|| Some((port(proto)?, port(proto.saturating_add(2))?)));
    Some((ip.filter(|_| flags & NF_NAT_RANGE_MAP_IPS != 0), ports.flatten()))
}

/// `struct xt_tproxy_target_info` and `…_v1`: two marks, address, port.
fn tproxy(revision: u32, info: &[u8]) -> Option<Action> {
    let (ip, port_at) = if revision == 0 {
        (IpAddr::from(Ipv4Addr::from(*info.get(8..)?.first_chunk::<4>()?)), 12)
    } else {
        let address = *info.get(8..)?.first_chunk::<16>()?;
        let [a, b, c, d, rest @ ..] = address;
        let is_v4 = rest.iter().all(|byte| *byte == 0);
        (if is_v4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(address).into() }, 24)
    };
    let port = u16::from_be_bytes(*info.get(port_at..)?.first_chunk()?);
    Some(Action::Tproxy {
        ip: Some(ip).filter(|ip| !ip.is_unspecified()),
        port: Some(port).filter(|port| *port != 0),
    })
}

/// `include/uapi/linux/netfilter/nf_nat.h`.
const NF_NAT_RANGE_MAP_IPS: u32 = 1;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_of_a_match_are_those_of_its_transport() {
        let ranges = [0_u16, 0xffff, 3516, 3520].map(u16::to_ne_bytes).concat();
        let tcp = [&*ranges, &[0, 0, 0, 2]].concat();
        let udp = [&*ranges, &[0]].concat();

        let all = Ports { first: 0, last: 0xffff, is_outside: false };
        let some = Ports { first: 3516, last: 3520, is_outside: false };
        let others = Ports { is_outside: true, ..some };
        let expression = |transport, destination| {
            Some(Expression::XtPorts { transport, source: all, destination })
        };
        assert_eq!(ports("tcp", &tcp), expression(Transport::Tcp, others));
        assert_eq!(ports("udp", &udp), expression(Transport::Udp, some));
        assert_eq!(ports("sctp", &udp), None);
        assert!((0..9).all(|length| ports("udp", &udp[..length]).is_none()));
    }

    #[test]
    fn a_target_of_either_form_has_its_address_and_port() {
        let port = 22_u16.to_be_bytes();
        let first =
            [&1_u32.to_ne_bytes()[..], &3_u32.to_ne_bytes(), &[10, 0, 3, 2], &[10, 0, 3, 2]];
        let first = [&first.concat()[..], &port, &port].concat();
        let v4 = [&[10, 0, 3, 2][..], &[0; 12]].concat();
        let later = [&3_u32.to_ne_bytes()[..], &v4, &v4, &port, &port, &[0; 4]].concat();

        let dnat = Action::Dnat { ip: Some([10, 0, 3, 2].into()), port: Some(22) };
        for (revision, info) in [(0, &first), (2, &later)] {
            let Some(Expression::XtAction { action, .. }) = action("DNAT", revision, info) else {
                panic!("revision {revision} is not read");
            };
            assert_eq!(action, dnat);
        }
        let Some(Expression::XtAction { action, .. }) = action("REDIRECT", 0, &first) else {
            panic!("not read");
        };
        assert_eq!(action, Action::Redirect { ports: Some((22, 22)) });
    }

    #[test]
    fn a_transparent_proxy_without_an_address_is_at_any() {
        let info = [&[0; 8][..], &[0; 16], &50_080_u16.to_be_bytes()].concat();

        let Some(Expression::XtAction { action, .. }) = action("TPROXY", 1, &info) else {
            panic!("not read");
        };

        assert_eq!(action, Action::Tproxy { ip: None, port: Some(50_080) });
    }
}
