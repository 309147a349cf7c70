//! Made-up looks at a made-up host: each disagreement, and each race that is none.

use std::net::Ipv4Addr;

use super::*;
use crate::endpoint::Family;
use crate::host::nfs::Server;
use crate::host::sockets::State;

const NETNS: u64 = 4_026_531_840;

/// Lets a table list nothing.
type Hide = fn(&mut Tables);

#[test]
fn views_that_agree_are_not_told_of() {
    let comparison = look(&[listener(1)]).compare();

    assert_eq!(comparison.disagreements, []);
    assert_eq!(comparison.explanations, []);
}

#[test]
fn a_socket_that_one_table_does_not_list_is_told_with_what_each_says() {
    let hide: [(Hide, &str, bool); 3] = [
        (|it| it.sock_diag = Some(Vec::new()), view::SOCK_DIAG, false),
        (|it| it.iterators = Some(Vec::new()), view::TABLES, false),
        (|it| it.proc_net = Some(Vec::new()), view::PROC_NET, true),
    ];
    for (hide, name, in_proc) in hide {
        let mut look = look(&[listener(1)]);
        hide(&mut look.tables[0]);

        let disagreement = only(&look);

        let says = |it: &str| disagreement.views.iter().find(|view| view.name == it).unwrap();
        assert_eq!(says(name).says, "does not list it");
        assert_eq!(says(view::DESCRIPTORS).says, "pid 42 (server) has it as descriptor 3");
        assert_eq!(disagreement.views.len(), 4);
        assert_eq!(disagreement.in_proc, in_proc);
        assert!(disagreement.message.contains(name), "{}", disagreement.message);
    }
}

#[test]
fn a_socket_that_only_its_descriptor_betrays_is_told_of() {
    let mut look = look(&[listener(1)]);
    let tables = &mut look.tables[0];
    (tables.sock_diag, tables.iterators, tables.proc_net) =
        (Some(Vec::new()), Some(Vec::new()), Some(Vec::new()));

    let disagreement = only(&look);

    assert!(!disagreement.in_proc);
    assert!(disagreement.message.contains("tcp 127.0.0.1:3516 (LISTEN)"));
}

#[test]
fn a_view_that_is_not_to_be_had_lacks_nothing() {
    let mut look = look(&[listener(1)]);
    let tables = &mut look.tables[0];
    (tables.iterators, tables.proc_net) = (None, None);

    assert_eq!(look.compare().disagreements, []);
}

#[test]
fn what_comes_and_goes_is_in_some_tables_only() {
    let closing = Socket { state: State::TimeWait, ..listener(1) };
    let mut look = look(&[]);
    look.tables[0].sock_diag = Some(vec![closing.clone()]);
    look.tables[0].proc_net = Some(vec![Socket { cookie: 0, ..closing }]);

    assert_eq!(look.compare().disagreements, []);
}

#[test]
fn a_connection_that_closes_between_two_tables_is_no_disagreement() {
    let mut look = look(&[]);
    look.tables[0].sock_diag = Some(vec![Socket { state: State::Established, ..listener(1) }]);
    look.tables[0].iterators = Some(vec![Socket { state: State::FinWait1, ..listener(1) }]);

    assert_eq!(look.compare().disagreements, []);
}

#[test]
fn a_descriptor_that_proc_does_not_show_is_told_once_for_a_process() {
    let mut look = look(&[listener(1)]);
    let descriptors = look.descriptors.as_mut().unwrap();
    descriptors[0].shown = Shown::No("has no 3 in 42/fd".to_owned());
    descriptors.push(Descriptor { fd: 4, ..descriptors[0].clone() });

    let disagreement = only(&look);

    assert!(disagreement.in_proc);
    assert_eq!(
        disagreement.message,
        "server (pid 42) holds a socket tcp 127.0.0.1:3516, and /proc does not show it."
    );
    let says: Vec<_> = disagreement.views.iter().map(|view| (&*view.name, &*view.says)).collect();
    assert_eq!(
        says,
        [(view::DESCRIPTORS, "pid 42 has it as descriptor 3"), (view::PROC, "has no 3 in 42/fd")]
    );
}

#[test]
fn a_process_that_proc_hides_is_told_of() {
    let mut look = look(&[]);
    look.processes = Some(vec![(task(), "does not list 42, although its directory opens".into())]);

    let disagreement = only(&look);

    assert_eq!(disagreement.message, "server (pid 42) is a process that /proc hides.");
    assert_eq!(disagreement.subject, Subject::Process(42, 7));
}

#[test]
fn a_process_that_hides_with_its_socket_is_told_of_once() {
    let mut look = look(&[listener(1)]);
    look.descriptors.as_mut().unwrap()[0].shown = Shown::No("has no directory 42".to_owned());
    look.processes = Some(vec![(task(), "has no directory 42".to_owned())]);

    assert_eq!(only(&look).subject, Subject::Descriptor(42, 7, 1));
}

#[test]
fn a_listener_that_nobody_holds_is_told_of_unless_it_is_explained() {
    let mut nobody = look(&[listener(1)]);
    nobody.descriptors = Some(Vec::new());
    assert_eq!(nobody.adrift(), BTreeSet::from([11]));
    let disagreement = only(&nobody);
    assert_eq!(disagreement.subject, Subject::Unheld(NETNS, 1));

    nobody.adrift.carriers.insert(99);
    let says = &only(&nobody).views.last().unwrap().says.clone();
    assert!(says.contains("descriptors wait in one of pid 99"), "{says}");

    nobody.adrift.registered = vec![(11, 55)];
    let registered = nobody.compare();
    assert_eq!(registered.disagreements, []);
    let registrar = Task { pid: 55, ..Task::default() };
    assert_eq!(registered.explanations, [(1, Explanation::Registered(registrar))]);
}

#[test]
fn a_listener_that_nobody_holds_may_be_what_nobody_can_tell() {
    let mut unknown = look(&[listener(1)]);
    unknown.descriptors = Some(Vec::new());
    unknown.tables[0].iterators = None;
    assert_eq!(unknown.compare().disagreements, []);

    let mut unknown = look(&[listener(1)]);
    unknown.descriptors = None;
    assert_eq!(unknown.compare().disagreements, []);
}

#[test]
fn the_kernels_own_socket_is_explained_by_the_device_that_uses_its_port() {
    let socket = Socket { transport: Transport::Udp, state: State::Close, ..listener(1) };
    let tunnel = |kind: &str, port| Tunnel { name: "t0".to_owned(), kind: kind.to_owned(), port };
    let table = [
        (vec![tunnel("vxlan", Some(3516))], "the kernel made it: vxlan device t0 uses UDP 3516"),
        (
            vec![tunnel("vxlan", Some(4789)), tunnel("wireguard", None)],
            "the kernel made it; here it has wireguard device t0, whose port is not told",
        ),
        (
            vec![tunnel("vxlan", Some(4789))],
            "the kernel made it for itself, as NFS, SMB and tunnels do",
        ),
    ];
    for (tunnels, expected) in table {
        let mut look = look(std::slice::from_ref(&socket));
        look.descriptors = Some(Vec::new());
        look.tables[0].kernel_made = BTreeSet::from([1]);
        look.tables[0].tunnels = tunnels;

        let comparison = look.compare();

        assert_eq!(comparison.disagreements, []);
        assert_eq!(look.adrift(), BTreeSet::new());
        assert_eq!(comparison.explanations, [(1, Explanation::Kernel(expected.to_owned()))]);
    }
}

#[test]
fn what_the_nfs_server_was_given_is_the_kernels() {
    let mut look = look(&[listener(1), listener(2)]);
    look.descriptors = Some(Vec::new());
    let (ours, others) = ((Transport::Tcp, 3516), (Transport::Udp, 3516));

    // One of two is listed: nobody can tell which.
    look.tables[0].nfs = vec![ours, others];
    assert_eq!(look.compare().disagreements.len(), 2);
    assert_eq!(look.adrift().len(), 2);
    look.tables[0].nfs = vec![ours, ours];
    let comparison = look.compare();

    let reason = "the kernel's NFS server has it: /proc/fs/nfsd/portlist lists tcp 3516";
    let explained = Explanation::Kernel(reason.to_owned());
    assert_eq!(comparison.explanations, [(1, explained.clone()), (2, explained)]);
    assert_eq!((comparison.disagreements, look.adrift()), (Vec::new(), BTreeSet::new()));
}

#[test]
fn what_a_process_holds_is_not_the_nfs_servers() {
    let mut look = look(&[listener(1)]);
    look.tables[0].nfs = vec![(Transport::Tcp, 3516)];

    assert_eq!(look.compare().explanations, []);
}

#[test]
fn the_kernels_own_socket_is_explained_by_the_list_of_the_nfs_server() {
    let mut look = look(&[listener(1)]);
    look.descriptors = Some(Vec::new());
    look.tables[0].kernel_made = BTreeSet::from([1]);
    look.tables[0].nfs = vec![(Transport::Tcp, 3516)];

    let reason = "the kernel's NFS server has it: /proc/fs/nfsd/portlist lists tcp 3516";
    assert_eq!(look.compare().explanations, [(1, Explanation::Kernel(reason.to_owned()))]);
}

#[test]
fn a_connection_that_the_kernel_made_is_of_whoever_has_that_server_by_its_list() {
    let server = Endpoint::new([10, 0, 0, 2].into(), 3516);
    let elsewhere = Endpoint::new([10, 0, 0, 3].into(), 3516);
    let other_port = Endpoint { port: 3517, ..server };
    let nobody_tells = "the kernel made it for itself, as NFS, SMB and tunnels do";
    let table = [
        (
            vec![elsewhere, server],
            "the kernel's NFS client has it: /proc/net/nfsfs/servers lists 10.0.0.2:3516 (NFS 4)",
        ),
        (vec![elsewhere, other_port], nobody_tells),
        (vec![], nobody_tells),
    ];
    for (servers, expected) in table {
        let mut look = kernels(&[connection(1, server)]);
        look.tables[0].nfs_servers =
            servers.into_iter().map(|at| Server { at, version: 4 }).collect();

        let comparison = look.compare();

        assert_eq!(comparison.explanations, [(1, Explanation::Kernel(expected.to_owned()))]);
        assert_eq!((comparison.disagreements, look.adrift()), (Vec::new(), BTreeSet::new()));
    }
}

#[test]
fn what_the_server_of_nfs_accepted_is_the_servers_by_its_list() {
    let mut look = kernels(&[connection(1, Endpoint::new([10, 0, 0, 1].into(), 700))]);
    look.tables[0].nfs = vec![(Transport::Tcp, 3516)];

    let reason = "the kernel's NFS server has it: /proc/fs/nfsd/portlist lists tcp 3516";
    assert_eq!(look.compare().explanations, [(1, Explanation::Kernel(reason.to_owned()))]);
}

#[test]
fn a_connection_to_a_server_of_the_nfs_client_is_not_its_own_by_that_alone() {
    let server = Endpoint::new([10, 0, 0, 2].into(), 3516);
    let listed = |mut look: Look| {
        look.tables[0].nfs_servers = vec![Server { at: server, version: 4 }];
        look
    };
    let mine = connection(1, server);
    // A process has it, made by itself or by the kernel for it.
    let held_one = listed(look(std::slice::from_ref(&mine)));
    let held_and_marked = Look { descriptors: held_one.descriptors.clone(), ..kernels_of(&mine) };
    // Nobody has it, but the kernel did not make it for itself.
    let unmarked = Look { descriptors: Some(Vec::new()), ..held_one.clone() };
    // The kernel did not tell who made it, or who has it.
    let mut untold = listed(kernels_of(&mine));
    (untold.tables[0].iterators, untold.tables[0].kernel_made) = (None, BTreeSet::new());
    let unlooked = Look { descriptors: None, ..listed(kernels_of(&mine)) };
    // Over, or not accepted yet.
    let closing = listed(kernels_of(&Socket { inode: 0, ..mine.clone() }));
    // Of a socket of Multipath TCP that a process has.
    let of_multipath = Descriptor { socket: None, cookie: 9, is_multipath: true, ..held(&mine) };
    let multipath = Look { descriptors: Some(vec![of_multipath]), ..kernels_of(&mine) };

    let looks =
        [held_one, listed(held_and_marked), unmarked, untold, unlooked, closing, listed(multipath)];
    for (number, look) in looks.iter().enumerate() {
        let of_kernel = |it: &(u64, Explanation)| matches!(it, (_, Explanation::Kernel(_)));
        let comparison = look.compare();

        assert!(!comparison.explanations.iter().any(of_kernel), "{number}: {comparison:?}");
    }
}

#[test]
fn the_kernels_socket_for_a_multipath_socket_is_of_who_has_that() {
    let mut look = look(&[listener(1)]);
    look.tables[0].kernel_made = BTreeSet::from([1]);
    let held = held(&listener(1));
    let of_other_cookie = Descriptor { socket: None, cookie: 9, is_multipath: true, ..held };
    look.descriptors = Some(vec![of_other_cookie]);

    let comparison = look.compare();

    assert_eq!(comparison.disagreements, []);
    assert_eq!(comparison.explanations, [(1, Explanation::Registered(task()))]);
}

#[test]
fn a_port_that_nobody_can_bind_and_no_view_has_a_socket_on_is_told_of() {
    let mut taken = look(&[listener(1)]);
    taken.tables[0].taken = BTreeSet::from([(Transport::Tcp, 3516), (Transport::Udp, 3516)]);

    let disagreement = only(&taken);

    assert_eq!(disagreement.subject, Subject::Port(NETNS, Transport::Udp, 3516));
    let says: Vec<_> = disagreement.views.iter().map(|it| (&*it.name, &*it.says)).collect();
    let nothing = "no udp socket on port 3516";
    assert_eq!(
        says,
        [
            (view::BIND, "udp port 3516 is in use"),
            (view::SOCK_DIAG, nothing),
            (view::TABLES, nothing),
            (view::PROC_NET, nothing),
        ]
    );
}

#[test]
fn a_port_is_rightly_taken_by_whatever_is_on_it() {
    let leftover = Socket { state: State::TimeWait, ..listener(1) };
    let bound = Socket { state: State::Close, ..listener(2) };
    let mut closing = look(&[]);
    closing.tables[0].sock_diag = Some(vec![leftover]);
    let mut only_bound = look(&[]);
    only_bound.descriptors = Some(vec![held(&bound)]);
    for mut look in [closing, only_bound] {
        look.tables[0].taken = BTreeSet::from([(Transport::Tcp, 3516)]);

        assert_eq!(look.compare().disagreements, []);
    }
}

#[test]
fn only_what_disagrees_in_three_looks_in_a_row_is_told_and_only_once() {
    let agree = look(&[listener(1)]);
    let mut disagree = look(&[listener(1)]);
    disagree.tables[0].sock_diag = Some(Vec::new());
    let mut suspicions = Suspicions::default();
    let mut told = |look: &Look| suspicions.take_in(&look.compare()).0.len();

    assert_eq!([&disagree, &disagree, &agree, &disagree].map(&mut told), [0; 4]);
    assert_eq!([&disagree, &disagree, &disagree].map(&mut told), [0, 1, 0]);
    assert!(!suspicions.are_open());
}

#[test]
fn what_was_told_is_over_once_three_looks_in_a_row_agree() {
    let agree = look(&[listener(1)]);
    let mut disagree = look(&[listener(1)]);
    disagree.tables[0].sock_diag = Some(Vec::new());
    let mut suspicions = Suspicions::default();
    let mut over = |look: &Look| suspicions.take_in(&look.compare()).1.len();

    assert_eq!([&disagree, &disagree, &disagree, &agree, &disagree].map(&mut over), [0; 5]);
    assert_eq!([&agree, &agree, &agree, &agree].map(&mut over), [0, 0, 1, 0]);
}

#[test]
fn a_look_that_leaves_something_out_ends_no_suspicion_of_it() {
    let mut disagree = look(&[listener(1)]);
    disagree.tables[0].sock_diag = Some(Vec::new());
    let without_tables = Look { tables: Vec::new(), ..look(&[listener(1)]) };
    let mut suspicions = Suspicions::default();
    let mut told = |look: &Look| suspicions.take_in(&look.compare()).0.len();

    let looks = [&disagree, &without_tables, &disagree, &without_tables, &disagree];

    assert_eq!(looks.map(&mut told), [0, 0, 0, 0, 1]);
}

#[test]
fn another_process_of_the_same_pid_is_suspected_anew() {
    let hidden = |start_ns| Look {
        processes: Some(vec![(Task { start_ns, ..task() }, "does not list it".to_owned())]),
        ..look(&[])
    };
    let mut suspicions = Suspicions::default();

    let told = [1, 1, 2, 2].map(|start| suspicions.take_in(&hidden(start).compare()).0.len());

    assert_eq!(told, [0; 4]);
}

/// A look in which every view has these sockets, each held by one process.
fn look(sockets: &[Socket]) -> Look {
    let without_cookies = sockets.iter().map(|it| Socket { cookie: 0, ..it.clone() }).collect();
    let without_inodes = sockets.iter().map(|it| Socket { inode: 0, ..it.clone() }).collect();
    let tables = Tables {
        netns: Netns { inode: NETNS, name: None },
        sock_diag: Some(sockets.to_vec()),
        proc_net: Some(without_cookies),
        iterators: Some(without_inodes),
        kernel_made: BTreeSet::new(),
        tunnels: Vec::new(),
        nfs: Vec::new(),
        nfs_servers: Vec::new(),
        taken: BTreeSet::new(),
    };
    Look {
        tables: vec![tables],
        descriptors: Some(sockets.iter().map(held).collect()),
        processes: Some(Vec::new()),
        adrift: Adrift::default(),
    }
}

/// A look in which the kernel has made these sockets for itself.
fn kernels(sockets: &[Socket]) -> Look {
    let mut look = look(sockets);
    look.descriptors = Some(Vec::new());
    look.tables[0].kernel_made = sockets.iter().map(|it| it.cookie).collect();
    look
}

fn kernels_of(socket: &Socket) -> Look {
    kernels(std::slice::from_ref(socket))
}

fn held(socket: &Socket) -> Descriptor {
    Descriptor {
        socket: Some(socket.clone()),
        inode: socket.inode,
        is_multipath: false,
        what: format!("socket {} {}", socket.transport.name(), socket.local),
        cookie: socket.cookie,
        task: task(),
        fd: 3,
        shown: Shown::Yes,
    }
}

fn task() -> Task {
    Task { pid: 42, start_ns: 7, name: "server".to_owned() }
}

fn listener(cookie: u64) -> Socket {
    Socket {
        cookie,
        inode: cookie + 10,
        uid: 0,
        cgroup_id: None,
        unit: None,
        transport: Transport::Tcp,
        state: State::Listen,
        family: Family::Ipv4,
        local: Endpoint::new(Ipv4Addr::LOCALHOST.into(), 3516),
        remote: None,
        interface: 0,
        netns: NETNS,
    }
}

/// One from the port of a listener to there.
fn connection(cookie: u64, remote: Endpoint) -> Socket {
    Socket { state: State::Established, remote: Some(remote), ..listener(cookie) }
}

/// The only disagreement of a look.
fn only(look: &Look) -> Disagreement {
    match look.compare().disagreements.as_slice() {
        [only] => only.clone(),
        several => panic!("{several:#?}"),
    }
}
