//! Interfaces by the hundred that come, are renamed, move away and go, while there is traffic.

#![cfg(test)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use portwatch_tests::{Count, Event, Guests, Lab, Portwatch, tcx_programs};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const PAIRS: usize = 100;

#[test]
fn two_hundred_devices_leave_nothing_behind() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let before = Guests::on(&lab.right, Lab::DEVICE);
    for mode in ["tcx", "clsact"] {
        if mode == "tcx" && tcx_programs(&lab.right, Lab::DEVICE).is_none() {
            continue;
        }
        let portwatch = lab.right.portwatch(&["watch", "--attach", mode]);
        let address = lab.right.v4(PORT);
        let mut server = lab.right.actor(&[&format!("bind udp {address}"), "serve 20000"]);
        server.answer();
        let mut client = lab.left.actor(&[&format!("connect udp {address}"), "stay"]);
        client.answer();
        client.tell("roundtrips 20000 100");

        // Once to warm up: what is allocated for the first interfaces is kept.
        come_and_go(&lab, &portwatch, 0);
        let (descriptors, memory) = (portwatch.descriptors(), portwatch.memory());
        come_and_go(&lab, &portwatch, 1);
        let (grown, more_memory) = (portwatch.descriptors(), portwatch.memory());
        assert_eq!(client.answer(), "exchanged 20000");
        server.finish(1);
        let run = portwatch.stop();

        assert_eq!(grown, descriptors, "{mode}");
        assert!(more_memory <= memory + (8 << 20), "{memory} bytes, then {more_memory}");
        for round in 0..2 {
            for action in ["interface-attached", "interface-detached"] {
                let prefix = format!("pw{round}");
                let of_round =
                    |event: &&Event| event.text("portwatch.interface.name").starts_with(&prefix);
                assert_eq!(run.of(action).filter(of_round).count(), 2 * PAIRS, "{mode} {action}");
            }
        }
        assert_eq!(run.counted(PORT, "ingress"), Count::of(20_000, 128), "{mode}");
        assert_eq!(run.of("finding").filter(|event| is_gap(event)).count(), 0, "{mode}");
        assert_eq!(Guests::on(&lab.right, Lab::DEVICE), before, "{mode}");
        run.assert_sound();
    }
}

#[test]
fn a_device_that_is_renamed_at_once_or_moves_away_and_back_is_observed_where_it_is() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let portwatch = lab.right.portwatch(&["watch"]);
    let batch = |lines: &str| ip_batch(lab.right.name(), lines);

    for round in 0..20 {
        // As container runtimes do: made, renamed, moved into the container.
        batch(&format!(
            "link add tmp{round} type veth peer name gone{round}\n\
             link set tmp{round} name eth{round}\n\
             link set gone{round} netns {}\n\
             link set eth{round} up\n",
            lab.left.name()
        ));
    }
    for round in 0..20 {
        let (attached, name) = ("interface-attached", format!("eth{round}"));
        // Attached under the name it had when it was seen; later events have the new one.
        batch(&format!("link del eth{round}\n"));
        portwatch.expect(&format!("{attached} for {name}"), |event| {
            event.is("interface-detached") && event.text("portwatch.interface.name") == name
        });
    }
    let run = portwatch.stop();

    let ifindexes = |action| {
        let mut all: Vec<u64> =
            run.of(action).map(|event| event.number("portwatch.interface.ifindex")).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(ifindexes("interface-attached"), ifindexes("interface-detached"));
    run.assert_sound();
}

/// Makes pairs of devices, has them all observed, and removes them all.
fn come_and_go(lab: &Lab, portwatch: &Portwatch, round: usize) {
    let pairs = |line: &dyn Fn(usize) -> String| (0..PAIRS).map(line).collect::<String>();
    let name = lab.right.name();
    ip_batch(
        name,
        &pairs(&|pair| format!("link add pw{round}a{pair} type veth peer name pw{round}b{pair}\n")),
    );
    let last = PAIRS - 1;
    for side in ["a", "b"] {
        let last = format!("pw{round}{side}{last}");
        portwatch.expect(&format!("{last} attached"), |event| {
            event.is("interface-attached") && event.text("portwatch.interface.name") == last
        });
    }
    ip_batch(name, &pairs(&|pair| format!("link del pw{round}a{pair}\n")));
    for side in ["a", "b"] {
        let last = format!("pw{round}{side}{last}");
        portwatch.expect(&format!("{last} detached"), |event| {
            event.is("interface-detached") && event.text("portwatch.interface.name") == last
        });
    }
}

/// One process for all of it: two hundred would take longer than what is tested.
fn ip_batch(namespace: &str, lines: &str) {
    let mut ip = Command::new("ip")
        .args(["-netns", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("start ip");
    let mut stdin = ip.stdin.take().expect("write to ip");
    stdin.write_all(lines.as_bytes()).expect("write to ip");
    drop(stdin);
    assert!(ip.wait().expect("wait for ip").success(), "{lines}");
}

fn is_gap(event: &Event) -> bool {
    event.text("portwatch.finding.kind") == "coverage-gap"
}
