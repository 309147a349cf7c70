//! Made-up descriptors, and what `packet_diag` says of them.

use zerocopy::FromZeros as _;

use super::*;
use crate::filter::Instruction;

#[test]
fn who_can_see_the_port_is_told_of_with_all_who_hold_it() {
    let [first, second] = [7, 8].map(|tgid| SocketView { tgid, ..view(libc::AF_PACKET, 3) });
    let all = PacketSocket { protocol: 3, ifindex: 2, ..listed() };

    let (found, _) =
        sockets(&[first, second, first], &holder, &[place(all)], &ports(), &all_of_them);

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
        let told = sockets(&[view], &holder, &[place(listed)], &ports(), &all_of_them);
        assert_eq!(told, (Vec::new(), 0));
    }
}

#[test]
fn a_filter_that_the_kernel_does_not_show_cannot_be_judged() {
    let raw = SocketView { protocol: 6, filter_length: 9, ..view(libc::AF_INET, 3) };
    let program = SocketView { filter_program: 12, ..view(libc::AF_XDP, 3) };

    let (found, _) = sockets(&[raw], &holder, &[], &ports(), &all_of_them);
    let (other, _) = sockets(&[program], &holder, &[], &ports(), &all_of_them);

    let filters = [&found, &other].map(|it| it[0].0.filter.clone().unwrap());
    assert_eq!(filters.each_ref().map(|it| it.reach), [Reach::Unknown; 2]);
    assert_eq!(filters.each_ref().map(|it| (it.length, it.program)), [(9, None), (0, Some(12))]);
    assert_eq!(found[0].0.protocol, "tcp");
}

#[test]
fn nobody_hides_behind_a_crowd_of_sockets() {
    let decoy = |cookie| SocketView { cookie, ..view(libc::AF_XDP, 3) };
    let mut views: Vec<_> = (0..).take(MAX_SOCKETS + 5).map(decoy).collect();
    // Whose filter is not shown: less is known of it than of one without.
    for view in &mut views {
        view.filter_program = 12;
    }
    views.push(SocketView { cookie: 1 << 40, ..view(libc::AF_XDP, 3) });

    let (found, more) = sockets(&views, &holder, &[], &ports(), &all_of_them);
    let is_news = |socket: &PortlessSocket| found.iter().all(|(it, _)| it.cookie != socket.cookie);
    let (rest, none_left) = sockets(&views, &holder, &[], &ports(), &is_news);

    assert_eq!((found.len(), more, rest.len(), none_left), (MAX_SOCKETS, 6, 6, 0));
    assert_eq!(found[0].0.cookie, 1 << 40);
}

fn all_of_them(_: &PortlessSocket) -> bool {
    true
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
