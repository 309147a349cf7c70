//! `--pin`: counting goes on without portwatch, and the next one continues with it.

#![cfg(test)]

use std::process::Command;

use portwatch_tests::{
    Actor, Count, Event, Finished, Host, Lab, Nft, Portwatch, Run, finish, program, tcx_programs,
};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn counting_goes_on_while_no_portwatch_runs_and_the_next_one_has_it_all() {
    let Some((lab, bpffs)) = lab_with_bpffs() else { return };
    let Some(nft) = Nft::on(&lab.right, Lab::DEVICE, PORT) else { return };
    let address = lab.right.v4(PORT);
    let mut server = lab.right.actor(&[&format!("bind udp {address}"), "serve 1000000"]);
    server.answer();
    let mut client = lab.left.actor(&[&format!("connect udp {address}"), "stay"]);
    let source = client.answer().split_whitespace().last().unwrap().parse().unwrap();

    let killed = bpffs.portwatch(&["watch", "--pin"]);
    client.ask("roundtrips 100 100");
    killed.kill();
    client.ask("roundtrips 200 100");
    exchange(&lab, 40);
    let stopped = bpffs.portwatch(&["watch", "--pin"]);
    client.ask("roundtrips 30 100");
    let stopped = stopped.stop();
    client.ask("roundtrips 4 100");
    let last = bpffs.portwatch(&["watch", "--pin"]).stop();

    let each_way = |count| [Count::of(count, 128); 2];
    let both = |run: &Run| ["ingress", "egress"].map(|direction| run.counted(PORT, direction));
    assert_eq!(both(&stopped), each_way(370));
    assert_eq!(both(&last), each_way(374));
    assert_eq!([nft.ingress(), nft.egress()], each_way(374));
    for (run, packets) in [(&stopped, 330), (&last, 334)] {
        assert_eq!(run.events[0].at("portwatch.run.resumed"), true);
        // Who opened a flow that is older than the run is inferred: either end may be the source.
        let is_it = |flow: &&Event| {
            ["source", "destination"].map(|it| flow.endpoint(it)).contains(&Some(source))
        };
        let flow: Vec<_> = run.of("flow-ended").filter(is_it).collect();
        let [flow] = *flow else { panic!("{} flows", flow.len()) };
        assert_eq!(
            ["source.packets", "destination.packets"].map(|it| flow.number(it)),
            [packets; 2]
        );
        run.assert_sound();
    }
    assert!(last.stderr.iter().any(|line| line.contains("portwatch detach")), "{:?}", last.stderr);
}

#[test]
fn not_one_packet_passes_by_while_the_next_one_takes_over() {
    let Some((lab, bpffs)) = lab_with_bpffs() else { return };
    let Some(nft) = Nft::on(&lab.right, Lab::DEVICE, PORT) else { return };
    let address = lab.right.v4(PORT);
    let mut server = lab.right.actor(&[&format!("bind udp {address}"), "serve 100000000"]);
    server.answer();
    let mut client = lab.left.actor(&[&format!("connect udp {address}"), "stay"]);
    client.answer();
    bpffs.portwatch(&["watch", "--pin"]).kill();

    // More than anybody can: they talk until they are killed.
    client.tell("roundtrips 100000000 100");
    let portwatch = bpffs.portwatch(&["watch", "--pin"]);
    drop((client, server));
    let run = portwatch.stop();

    let counted = ["ingress", "egress"].map(|direction| run.counted(PORT, direction));
    assert_eq!(counted, [nft.ingress(), nft.egress()]);
    assert!(counted[0].packets > 1000, "nobody talked meanwhile: {counted:?}");
    run.assert_sound();
}

#[test]
fn flows_that_an_earlier_run_reported_are_counted_apart() {
    let Some((lab, bpffs)) = lab_with_bpffs() else { return };
    let small = ["watch", "--pin", "--flow-table", "64KiB"];

    let first = bpffs.portwatch(&small);
    send_from_many(&lab, 3000);
    let first = first.stop();
    send_from_many(&lab, 100);
    let second = bpffs.portwatch(&small);
    send_from_many(&lab, 10);
    let second = second.stop();

    let earlier = second.ended().list("portwatch.counters.earlier");
    assert!(earlier.iter().map(Count::read).sum::<Count>().packets > 1000, "{}", second.ended());
    assert_eq!(first.counted(PORT, "ingress").packets, 3000);
    assert_eq!(second.counted(PORT, "ingress").packets, 3110);
    first.assert_sound();
    second.assert_sound();
}

#[test]
fn interfaces_that_come_and_go_are_pinned_and_let_go_of() {
    let Some((lab, bpffs)) = lab_with_bpffs() else { return };
    let is_of = |action: &'static str, name: &'static str| {
        move |event: &Event| event.is(action) && event.text("portwatch.interface.name") == name
    };
    let first = bpffs.portwatch(&["watch", "--pin"]);

    lab.plug_in("late0");
    first.expect("the late interface", is_of("interface-attached", "late0"));
    lab.plug_in("brief0");
    first.expect("the brief interface", is_of("interface-attached", "brief0"));
    lab.right.ip("link del brief0");
    first.expect("the end of it", is_of("interface-detached", "brief0"));
    first.kill();
    let pins = bpffs.run("ls", &["/sys/fs/bpf/portwatch", "-R"]).stdout;
    let both = tcx_programs(&lab.right, "late0");
    let only = bpffs.portwatch(&["watch", "--pin", "-i", Lab::DEVICE]).stop();

    // lo, veth0 and late0, in and out; and the hooks at the root of all cgroups.
    let attached = only.events[0].list("portwatch.run.attached");
    let hooks = attached.iter().filter(|it| it["mode"] == "cgroup").count();
    assert_eq!(pins.matches("link-").count(), 6 + hooks, "{pins}");
    assert_eq!(both.map(|programs| programs.len()), Some(2));
    assert_eq!(tcx_programs(&lab.right, "late0"), Some(Vec::new()));
    assert_eq!(tcx_programs(&lab.right, Lab::DEVICE).map(|it| it.len()), Some(2));
    assert_eq!(only.events[0].at("portwatch.run.resumed"), true);
}

#[test]
fn other_settings_start_anew_and_say_so() {
    let Some((lab, bpffs)) = lab_with_bpffs() else { return };
    bpffs.portwatch(&["watch", "--pin"]).kill();
    send_from_many(&lab, 10);

    let run = bpffs.portwatch(&["watch", "--pin", "--snaplen", "64", "-p", "3516,3517"]).stop();

    let said = "counting starts anew: what was pinned has another ports, snaplen";
    let degraded = run.events[0].list("portwatch.run.degraded");
    assert!(degraded.iter().any(|line| line == said), "{degraded:?}");
    assert!(run.stderr.iter().any(|line| line.contains(said)), "{:?}", run.stderr);
    assert_eq!(run.counted(PORT, "ingress"), Count::default());
    assert!(run.events[0].at("portwatch.run.resumed").is_null());
    run.assert_sound();
}

#[test]
fn detach_removes_everything_of_ours_once_nobody_uses_it() {
    let Some((lab, bpffs)) = lab_with_bpffs() else { return };
    let portwatch = bpffs.portwatch(&["watch", "--pin"]);

    let in_use = bpffs.run_portwatch(&["detach"]);
    let second = bpffs.run_portwatch(&["watch", "--pin", "--for", "1ms"]);
    portwatch.stop().assert_sound();
    let left = tcx_programs(&lab.right, Lab::DEVICE);
    let detached = bpffs.run_portwatch(&["detach"]);
    let again = bpffs.run_portwatch(&["detach"]);

    for refused in [&in_use, &second] {
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.contains("another `portwatch watch --pin`"), "{refused:?}");
    }
    assert_eq!(left.map(|programs| programs.len()), Some(2));
    assert_eq!((detached.code, &*detached.stdout), (Some(0), "detached in 1 network namespace\n"));
    assert_eq!((again.code, &*again.stdout), (Some(0), "nothing was pinned\n"));
    assert_eq!(tcx_programs(&lab.right, Lab::DEVICE), Some(Vec::new()));
    assert!(!bpffs.run("ls", &["/sys/fs/bpf"]).stdout.contains("portwatch"));
}

#[test]
fn what_others_could_have_put_there_is_refused_and_stays() {
    let Some((_lab, bpffs)) = lab_with_bpffs() else { return };
    let directory = "/sys/fs/bpf/portwatch";
    let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "mkdir", directory];
    assert_eq!(bpffs.run("setpriv", &as_nobody).code, Some(0));

    for args in [&["watch", "--pin"][..], &["detach"]] {
        let refused = bpffs.run_portwatch(args);

        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.contains("belongs to user 65534"), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    }

    assert!(bpffs.run("ls", &["/sys/fs/bpf"]).stdout.contains("portwatch"));
}

#[test]
fn without_a_bpf_file_system_the_remedy_is_said() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };

    let refused = host.finish_portwatch(&["watch", "--pin"]);

    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("mount -t bpf bpf /sys/fs/bpf"), "{refused:?}");
}

/// A mount namespace that has a BPF file system of its own, in the network namespace of a host.
struct Bpffs {
    /// Keeps it.
    keeper: Actor,
}

impl Bpffs {
    fn of(host: &Host) -> Self {
        let line = "mount -t bpf bpf /sys/fs/bpf && echo mounted && exec cat";
        let mut keeper = Actor::start(host.command("sh").args(["-c", line]));
        assert_eq!(keeper.answer(), "mounted");
        Self { keeper }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-n", "-t", &self.keeper.pid().to_string(), "--"]).arg(program);
        command
    }

    fn portwatch(&self, args: &[&str]) -> Portwatch {
        Portwatch::start(self.command(program()), args)
    }

    fn run_portwatch(&self, args: &[&str]) -> Finished {
        finish(self.command(program()).args(args))
    }

    fn run(&self, program: &str, args: &[&str]) -> Finished {
        finish(self.command(program).args(args))
    }
}

/// Two hosts, where the right one can pin; `None`, noted as skipped, without the rights or TCX.
fn lab_with_bpffs() -> Option<(Lab, Bpffs)> {
    let lab = Lab::two_hosts(ACTOR)?;
    let _none = tcx_programs(&lab.right, Lab::DEVICE)?;
    let bpffs = Bpffs::of(&lab.right);
    Some((lab, bpffs))
}

/// Sends datagrams of 128 IP bytes from left to right and back, to a server that is there.
fn exchange(lab: &Lab, count: u64) {
    let connect = format!("connect udp {}", lab.right.v4(PORT));
    lab.left.perform(&[&connect, &format!("roundtrips {count} 100")]);
}

/// Sends one datagram from each of so many sockets, which nobody answers.
fn send_from_many(lab: &Lab, count: u64) {
    let address = lab.right.v4(PORT);
    let mut receiver = lab.right.actor(&[&format!("bind udp {address}"), "stay"]);
    receiver.answer();
    lab.left.perform(&[&format!("spread {address} {count}")]);
}
