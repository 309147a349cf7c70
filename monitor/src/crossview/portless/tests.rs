//! Made-up descriptors, and what `packet_diag` says of them.

use zerocopy::FromZeros as _;

use super::*;
use crate::filter::Instruction;

#[test]
fn who_can_see_the_port_is_told_of_with_all_who_hold_it() {
    let [first, second] = [7, 8].map(|tgid| SocketView { tgid, ..view(libc::AF_PACKET, 3) });
    let all = PacketSocket { protocol: 3, ifindex: 2, ..listed() };

    let found = sockets(&[first, second, first], &holder, &[place(all)], &ports());

    let [(socket, holders)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(holders.iter().map(|task| task.pid).collect::<Vec<_>>(), [7, 8]);
    let expected = PortlessSocket {
        kind: PortlessKind::Packet,
        protocol: "all".to_owned(),
        netns: netns(),
        interface: Some("eth0".to_owned()),
        cookie: 99,
        filter: None,
    };
    assert_eq!(*socket, expected);
}

#[test]
fn who_cannot_see_the_port_is_not_told_of() {
    let nothing = Instruction { code: 6, jump_true: 0, jump_false: 0, k: 0 };
    let filter = Filter { instructions: vec![nothing] };
    let deaf = PacketSocket { filter: Some(filter), protocol: 3, ..listed() };
    let arp = PacketSocket { protocol: 0x0806, ..listed() };
    let filtered = SocketView { filter_length: 1, ..view(libc::AF_PACKET, 3) };
    let icmp = SocketView { protocol: 1, ..view(libc::AF_INET, 3) };
    let tcp = SocketView { protocol: 6, kind: 1, ..view(libc::AF_INET, 1) };
    let table =
        [(filtered, deaf), (view(libc::AF_PACKET, 3), arp), (icmp, listed()), (tcp, listed())];
    for (view, listed) in table {
        assert_eq!(sockets(&[view], &holder, &[place(listed)], &ports()), []);
    }
}

#[test]
fn a_filter_that_the_kernel_does_not_show_cannot_be_judged() {
    let raw = SocketView { protocol: 6, filter_length: 9, ..view(libc::AF_INET, 3) };
    let program = SocketView { filter_program: 12, ..view(libc::AF_XDP, 3) };

    let found = sockets(&[raw], &holder, &[], &ports());
    let other = sockets(&[program], &holder, &[], &ports());

    let filters = [&found, &other].map(|it| it[0].0.filter.clone().unwrap());
    assert_eq!(filters.each_ref().map(|it| it.reach), [Reach::Unknown; 2]);
    assert_eq!(filters.each_ref().map(|it| (it.length, it.program)), [(9, None), (0, Some(12))]);
    assert_eq!(found[0].0.protocol, "tcp");
}

fn view(family: i32, kind: u16) -> SocketView {
    let family = u16::try_from(family).unwrap();
    SocketView { cookie: 99, netns: 5, tgid: 7, family, kind, ..SocketView::new_zeroed() }
}

fn listed() -> PacketSocket {
    PacketSocket { cookie: 99, inode: 1, protocol: 3, ifindex: 0, filter: None }
}

fn place(socket: PacketSocket) -> Place {
    let interfaces = BTreeMap::from([(2, "eth0".to_owned())]);
    Place { netns: netns(), packet_sockets: vec![socket], interfaces }
}

fn netns() -> Netns {
    Netns { inode: 5, name: None }
}

fn ports() -> PortSet {
    "3516".parse().unwrap()
}

fn holder(view: &SocketView) -> Task {
    Task { pid: view.tgid, ..Task::default() }
}
