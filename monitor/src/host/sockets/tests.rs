//! Sockets of this process, found through the real `sock_diag`.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::host::netns::tests::Named;
use crate::host::netns::{enumerate, own, within};

#[test]
fn a_listening_socket_is_found_with_its_cookie() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();

    let sockets = list(&own().unwrap(), &|it| it == port).unwrap();

    let expected = Socket {
        cookie: rustix::net::sockopt::socket_cookie(&listener).unwrap(),
        inode: inode(&listener),
        uid: rustix::process::geteuid().as_raw(),
        transport: Transport::Tcp,
        state: State::Listen,
        family: Family::Ipv4,
        local: Endpoint::new(Ipv4Addr::LOCALHOST.into(), port),
        remote: None,
        interface: 0,
        netns: own().unwrap().netns.inode,
        cgroup_id: None,
        unit: None,
    };
    let sockets = without_cgroup(sockets);
    let found: Vec<_> = sockets.found.iter().filter(|it| it.inode == expected.inode).collect();
    assert!(expected.is_listener());
    assert_eq!((found, sockets.degraded), (vec![&expected], Vec::new()));
}

#[test]
fn the_cgroup_in_which_a_socket_was_made_is_told() {
    let Some(id) = own_cgroup() else { return };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();

    let sockets = list(&own().unwrap(), &|it| it == port).unwrap();

    let found = sockets.found.iter().find(|it| it.inode == inode(&listener)).unwrap();
    assert_eq!(found.cgroup_id, Some(id));
}

#[test]
fn what_no_process_has_is_said_to_have_none() {
    let listening = Socket { state: State::Listen, ..closed(State::Listen, 0) };
    let table = [
        (closed(State::TimeWait, 0), true),
        (closed(State::FinWait1, 0), true),
        (closed(State::LastAck, 0), true),
        (closed(State::FinWait1, 7), false),
        (closed(State::Established, 0), false),
        (closed(State::CloseWait, 0), false),
        (listening, false),
    ];
    for (socket, is_unowned) in table {
        assert_eq!(socket.unowned().is_some(), is_unowned, "{socket:?}");
    }
}

#[test]
fn both_ends_of_a_connection_are_found_and_neither_is_a_listener() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();

    let sockets = list(&own().unwrap(), &|it| it == address.port()).unwrap();

    let is_end =
        |it: &&Socket| it.transport == Transport::Tcp && it.inode != 0 && !it.is_listener();
    let ends: Vec<_> = sockets.found.iter().filter(is_end).collect();
    assert_eq!(ends.len(), 2);
    for (end, local) in [(&client, client.local_addr()), (&server, server.local_addr())] {
        let found = ends.iter().find(|it| it.inode == inode(end)).unwrap();
        assert_eq!(found.state, State::Established);
        assert_eq!(found.local.port, local.unwrap().port());
        assert_eq!(found.remote.unwrap().port, end.peer_addr().unwrap().port());
    }
}

#[test]
fn a_closed_connection_has_no_file() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (server, _) = listener.accept().unwrap();
    drop(server);
    drop(client);

    let sockets = list(&own().unwrap(), &|it| it == address.port()).unwrap();

    let mut of_tcp = sockets.found.iter().filter(|it| it.transport == Transport::Tcp);
    assert!(of_tcp.all(|it| it.state == State::Listen || it.inode == 0));
}

#[test]
fn a_dual_stack_socket_is_an_ipv6_socket_whose_peers_are_ipv4() {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (server, _) = listener.accept().unwrap();

    let sockets = list(&own().unwrap(), &|it| it == port).unwrap();

    let found = sockets.found.iter().find(|it| it.inode == inode(&server)).unwrap();
    assert_eq!(found.family, Family::Ipv6);
    assert_eq!(found.local, Endpoint::new(Ipv4Addr::LOCALHOST.into(), port));
}

#[test]
fn a_udp_socket_is_a_listener_until_it_is_connected() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    let find = || {
        let found = list(&own().unwrap(), &|it| it == port).unwrap().found;
        found.into_iter().filter(|it| it.inode == inode(&socket)).collect::<Vec<_>>()
    };

    let bound = find();
    socket.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
    let connected = find();

    assert_eq!((bound.len(), connected.len()), (1, 1));
    assert!(bound[0].is_listener() && bound[0].state == State::Close);
    assert!(!connected[0].is_listener() && connected[0].state == State::Established);
    assert_eq!(bound[0].cookie, connected[0].cookie);
}

#[test]
fn a_socket_of_another_namespace_is_found_only_there() {
    let Some(named) = Named::create("sockets") else { return };
    let namespaces = enumerate(None).unwrap();
    let namespace = named.among(&namespaces);
    let open = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let socket = within(namespace, open).unwrap();
    let port = socket.local_addr().unwrap().port();

    let there = list(namespace, &|it| it == port).unwrap();
    let here = list(&own().unwrap(), &|it| it == port).unwrap();

    assert_eq!(there.found.len(), 1);
    assert_eq!(there.found[0].netns, namespace.netns.inode);
    assert!(here.found.iter().all(|it| it.inode != inode(&socket)));
}

#[test]
fn the_tables_in_proc_tell_the_same_but_for_cookies() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let wanted = |it| it == port;
    let netns = own().unwrap().netns.inode;
    let select = Select { transport: Transport::Tcp, family: Family::Ipv6, netns, wanted: &wanted };

    let mut sockets = Sockets::default();
    select.fall_back(&io::Error::from_raw_os_error(libc::ENOENT), &mut sockets);

    let exact = list(&own().unwrap(), &wanted).unwrap().found;
    let exact = exact.into_iter().filter(|it| it.inode == inode(&listener));
    let exact: Vec<_> = exact.map(|it| Socket { cookie: 0, cgroup_id: None, ..it }).collect();
    assert_eq!(sockets.found, exact);
    assert_eq!(sockets.degraded.len(), 1);
    assert!(sockets.degraded[0].contains("without cookies"), "{:?}", sockets.degraded);
}

#[test]
fn hundreds_of_sockets_come_in_several_datagrams() {
    let Some(named) = Named::create("many") else { return };
    let namespaces = enumerate(None).unwrap();
    let namespace = named.among(&namespaces);
    let open = |_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let sockets: Vec<_> = within(namespace, || (0..400).map(open).collect()).unwrap();

    let found = list(namespace, &|_| true).unwrap().found;

    assert_eq!(found.len(), sockets.len());
}

#[test]
fn a_protocol_without_sock_diag_is_an_error_of_its_own() {
    let mut connection = Connection::open(NETLINK_SOCK_DIAG).unwrap();
    let request = SockDiagMessage::InetRequest(InetRequest {
        family: AF_INET,
        protocol: 250,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId::new_v4(),
    });

    let error = connection.dump(request, 1, |_| Ok(None::<()>)).unwrap_err();

    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

fn inode(socket: impl AsFd) -> u64 {
    let file = std::fs::File::from(socket.as_fd().try_clone_to_owned().unwrap());
    file.metadata().unwrap().ino()
}

fn closed(state: State, inode: u64) -> Socket {
    let local = Endpoint::new(Ipv4Addr::LOCALHOST.into(), 3516);
    Socket {
        cookie: 1,
        inode,
        uid: 0,
        transport: Transport::Tcp,
        state,
        family: Family::Ipv4,
        local,
        remote: Some(local),
        interface: 0,
        netns: 1,
        cgroup_id: None,
        unit: None,
    }
}

/// Which kernels tell the cgroup is not what is looked at.
fn without_cgroup(mut sockets: Sockets) -> Sockets {
    sockets.found.iter_mut().for_each(|socket| socket.cgroup_id = None);
    sockets
}

/// The id of the cgroup of this process, where its hierarchy is mounted.
fn own_cgroup() -> Option<u64> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| path.to_owned())
    })?;
    let lines = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = lines.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(std::fs::metadata(format!("{root}{own}")).ok()?.ino())
}
