//! Captures, read by Wireshark's own programs.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use portwatch_tests::{Captured, Event, Lab, Pcapng, Run, finish, program};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn a_capture_tells_of_each_packet_when_where_which_way_and_whose() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("run.pcapng");
    let Some(capture) = Pcapng::open(&path) else { return };
    let address = lab.right.v4(PORT);
    let mut server = lab.right.actor(&[&format!("listen tcp {address}"), "stay"]);
    server.answer();
    let portwatch = lab.right.portwatch(&["watch", "--pcap", text(&path), "--sample", "1"]);
    let is_found = |event: &Event| event.is_listener("listener-found", PORT, lab.right.netns());
    portwatch.expect("the listener", is_found);

    server.tell("serve 1");
    let client =
        lab.left.perform(&[&format!("connect tcp {address}"), "roundtrips 5 100", "close"]);
    server.answer();
    portwatch.expect("the end of the flow", |event| event.is_flow("flow-ended", client.address()));
    let run = portwatch.stop();

    let packets = capture.packets();
    assert_eq!(seen(&packets), sampled(&run));
    let in_all = run.counted(PORT, "ingress").packets + run.counted(PORT, "egress").packets;
    assert_eq!(packets.len() as u64, in_all, "every packet is sampled, the first too");
    assert!(packets.iter().any(|packet| packet.tcp_flags == "0x0002"), "no SYN: {packets:?}");
    for packet in &packets {
        assert_eq!(packet.interface, Lab::DEVICE);
        let is_out = packet.source_port == PORT.to_string();
        assert_eq!(packet.direction, if is_out { "0x00000002" } else { "0x00000001" });
        assert_eq!(packet.dropped, "");
        assert!(packet.comments.contains("community_id=1:"), "{packet:?}");
    }
    // Who accepts is known once the handshake is over.
    let comment = format!("PID: {}\\nCmd: {ACTOR}\\nArgs: {ACTOR} listen tcp", server.pid());
    let last = packets.last().expect("a packet");
    assert!(last.comments.starts_with(&comment), "{last:?}");
    assert!(last.comments.contains(";ParentPID: "), "{last:?}");
    assert!(last.comments.contains(" verdict=unknown "), "{last:?}");
    let info = capture.info();
    for said in [
        "Name = veth0",
        &format!("Description = network namespace {}, interface ", lab.right.netns()),
        "Time precision = nanoseconds",
        "Filter string = (tcp or udp) and (port 3516)",
        "Capture hardware:    x86_64",
        "Capture application: portwatch ",
        run.ended().text("portwatch.run_id"),
        "Number of stat entries = 1",
    ] {
        assert!(info.contains(said), "no {said} in {info}");
    }
    let statistics = capture.statistics();
    for (name, count) in [
        ("Received Packets", in_all),
        ("Dropped Packets", 0),
        ("Accepted Packets", in_all),
        ("Packets Dropped by OS", 0),
        ("Packets Delivered to the User", in_all),
    ] {
        assert!(statistics.contains(&format!("{name} = {count}")), "{statistics:?}");
    }
    assert_eq!(sink(&run), (in_all, 0));
    assert_mode(&path);
    let checked = capture.check_sum();
    assert_eq!((checked.code, &*checked.stdout), (Some(0), "run.pcapng: OK\n"));
    run.assert_sound();
}

#[test]
fn of_payload_no_more_is_written_than_was_asked_for() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    for (payload, captured) in [("none", "28"), ("masked", "28"), ("full", "128")] {
        let path = directory.path().join(payload);
        let Some(capture) = Pcapng::open(&path) else { return };
        let options = ["watch", "--payload", payload, "--pcap", text(&path)];
        let portwatch = lab.right.portwatch(&options);

        lab.left.perform(&[&format!("sendto {} 300", lab.right.v4(PORT))]);
        portwatch.expect("a sample", |event| event.is("packet-sampled"));
        portwatch.stop().assert_sound();

        let packets = capture.packets();
        let lengths: Vec<_> = packets.iter().map(|it| (&*it.length, &*it.captured)).collect();
        assert_eq!(lengths, [("328", captured)], "{payload}");
    }
}

#[test]
fn a_capture_in_several_files_keeps_the_last_each_whole_by_itself() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("ring.pcapng");
    let options = ["watch", "--sample", "1", "--pcap", text(&path)];
    let rotation = ["--pcap-size", "64KiB", "--pcap-files", "2"];
    let portwatch = lab.right.portwatch(&[options.as_slice(), &rotation].concat());
    let address = lab.right.v4(PORT);
    let mut server = lab.right.actor(&[&format!("bind udp {address}"), "serve 600"]);
    server.answer();

    lab.left.perform(&[&format!("connect udp {address}"), "roundtrips 600 100"]);
    server.finish(1);
    let run = portwatch.stop();

    let files = files_in(directory.path());
    let captures: Vec<&PathBuf> =
        files.iter().filter(|file| file.extension().is_some_and(|it| it == "pcapng")).collect();
    assert_eq!((captures.len(), files.len()), (2, 4), "{files:?}");
    let mut packets = Vec::new();
    for path in captures {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(name.starts_with("ring_0"), "{name}");
        assert!(!name.starts_with("ring_00001_"), "{name} is an old one");
        let Some(capture) = Pcapng::open(path) else { return };
        assert!(capture.info().contains("Number of stat entries = 1"), "{name}");
        assert_eq!(capture.check_sum().code, Some(0), "{name}");
        assert!(fs::metadata(path).expect("look at a capture").len() <= 64 << 10, "{name}");
        assert_mode(path);
        packets.extend(capture.packets());
    }
    // The last ones of the run, and none twice.
    let (kept, sampled) = (seen(&packets), sampled(&run));
    assert_eq!(kept.len(), packets.len());
    assert!(kept.len() > 100 && kept.is_subset(&sampled), "{} packets", kept.len());
    assert_eq!(kept.last(), sampled.last());
    let (delivered, lost) = sink(&run);
    assert_eq!((delivered, lost), (sampled.len() as u64, 0));
    run.assert_sound();
}

#[test]
fn a_new_file_begins_when_its_time_has_come() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("hourly");
    let options = ["watch", "--pcap", text(&path), "--pcap-interval", "1s", "--interval", "100ms"];
    let portwatch = lab.right.portwatch(&options);

    lab.left.perform(&[&format!("sendto {} 9", lab.right.v4(PORT))]);
    let first = portwatch.expect("a sample", |event| event.is("packet-sampled"));
    // Counters come also when nothing passes; those of a second later close the file.
    let later =
        |event: &Event| event.is("counters") && seconds(event).saturating_sub(seconds(&first)) >= 2;
    portwatch.expect("counters of two seconds later", later);
    portwatch.stop().assert_sound();

    let files = files_in(directory.path());
    let names: Vec<_> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names[0].starts_with("hourly_00001_") && names[0].ends_with('Z'), "{names:?}");
    assert!(names[2].starts_with("hourly_00002_") && names[2].ends_with('Z'), "{names:?}");
    let packets = [&files[0], &files[2]].map(|file| Some(Pcapng::open(file)?.packets().len()));
    assert_eq!(packets, [Some(1), Some(0)]);
}

#[test]
fn a_capture_on_stdout_is_read_while_it_goes_on_and_ends_with_its_reader() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let Some(_readable) = Pcapng::open(directory.path()) else { return };
    let fields = Pcapng::fields();
    let fields: Vec<String> = fields.iter().map(|field| format!("'{field}'")).collect();
    // It sends as long as portwatch runs: tshark takes two packets of a capture that has no end.
    let script = format!(
        "'{}' watch --no-policy --pcap - --sample 1 --ready-fd 3 3>ready 2>text & \
         watch=$!; read _ <ready; \
         while kill -0 $watch 2>/dev/null; do '{ACTOR}' 'sendto {} 9' >/dev/null; done & \
         wait $watch; echo $? >code",
        program().display(),
        host.v4(PORT)
    );
    let script = format!(
        "cd '{}' && mkfifo ready && {{ {script}; }} | tshark -l -c 2 -i - {} 2>/dev/null; cat code text",
        directory.path().display(),
        fields.join(" ")
    );

    let finished = finish(host.command("sh").args(["-c", &script]));

    let lines: Vec<&str> = finished.stdout.lines().collect();
    let packets: Vec<Captured> = lines.iter().take(2).map(|line| Captured::parse(line)).collect();
    for packet in &packets {
        assert_eq!((&*packet.interface, &*packet.captured), ("lo", "28"), "{finished:?}");
        assert!(packet.comments.contains("portwatch: "), "{finished:?}");
    }
    assert_eq!(lines.get(2), Some(&"0"), "the exit code: {finished:?}");
    let said = lines.get(3..).unwrap_or_default().join("\n");
    assert!(said.contains("RUN") && said.contains("output closed"), "{finished:?}");
}

#[test]
fn a_capture_that_cannot_be_written_is_said_counted_and_ends_nothing() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let script = format!(
        "'{}' watch --no-policy --pcap - -i lo --for 3s --ready-fd 3 3>&1 >/dev/full",
        program().display()
    );
    let script = format!(
        "{{ {script}; echo $? >&2; }} | {{ read _; '{ACTOR}' 'sendto {} 9'; }}",
        host.v4(PORT)
    );

    let finished = finish(host.command("sh").args(["-c", &script]));

    let said = &finished.stderr;
    assert!(said.contains("writing to stdout: No space left on device"), "{said}");
    assert!(said.contains("FLOW+"), "the rest goes on: {said}");
    assert!(said.contains("not written to pcap"), "{said}");
    assert_eq!(said.lines().last(), Some("5"), "{said}");
}

#[test]
fn a_full_disk_leaves_a_capture_that_can_be_read() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let script = format!(
        "mount -t tmpfs -o size=64k none '{0}' && cd '{0}' && \
         '{1}' watch --no-policy --pcap run.pcapng --sample 1 --payload full --format json -- \
         '{ACTOR}' 'connect udp {2}' 'send 2000 500' >/dev/null 2>&1; code=$?; \
         tshark -r run.pcapng 2>/dev/null | wc -l; capinfos run.pcapng >/dev/null && echo whole; echo $code",
        directory.path().display(),
        program().display(),
        host.v4(PORT)
    );
    let mut server = host.actor(&[&format!("bind udp {}", host.v4(PORT)), "stay"]);
    server.answer();
    let mut unshare = host.command("unshare");

    let finished = finish(unshare.args(["--mount", "sh", "-c", &script]));

    let lines: Vec<&str> = finished.stdout.lines().collect();
    let packets: u32 = lines[0].trim().parse().expect("a number of packets");
    assert!(packets > 20, "{finished:?}");
    assert_eq!(lines[1..], ["whole", "5"], "{finished:?}");
}

#[test]
fn a_replay_captures_what_the_watch_did() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let [live, again, recording] =
        ["live.pcapng", "again.pcapng", "run.pwrec"].map(|name| directory.path().join(name));
    let (Some(first), Some(second)) = (Pcapng::open(&live), Pcapng::open(&again)) else { return };
    let options = ["watch", "--pcap", text(&live), "--record", text(&recording)];
    let portwatch = lab.right.portwatch(&options);

    lab.left.perform(&[&format!("sendto {} 300", lab.right.v4(PORT))]);
    portwatch.expect("a sample", |event| event.is("packet-sampled"));
    portwatch.stop().assert_sound();
    let mut replay = std::process::Command::new(program());
    let replay = finish(replay.args(["replay", text(&recording), "--pcap", text(&again)]));

    assert_eq!(replay.code, Some(0), "{}", replay.stderr);
    assert_eq!(second.packets(), first.packets());
    assert_eq!(second.packets().len(), 1);
}

#[test]
fn what_cannot_be_captured_is_refused_before_anything_is_attached() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let there = directory.path().join("there");
    fs::write(&there, "mine").expect("write a file");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("/nowhere", &link).expect("make a link");
    let is_there = "is there already; write to a new file";
    for (options, problem) in [
        (vec!["--pcap", text(&there)], is_there),
        (vec!["--pcap", text(&link)], is_there),
        (vec!["--pcap", "x", "--sample", "0"], "'--sample 0' turns that off"),
        (vec!["--pcap", "x", "--pcap-files", "2"], "needs '--pcap-size' or '--pcap-interval'"),
        (vec!["--pcap", "-", "--pcap-size", "1MiB"], "stdout is one file"),
        (vec!["--pcap", "-", "--format", "json"], "to have events as JSON"),
        (vec!["--pcap", "-", "--", "true"], "where a command would write as well"),
        (vec!["--pcap", "/nowhere/x"], "/nowhere: No such file or directory"),
    ] {
        let finished = host.finish_portwatch(&[&["watch"], options.as_slice()].concat());

        assert_eq!(finished.code, Some(2), "{options:?}: {finished:?}");
        assert!(finished.stderr.contains(problem), "{options:?}: {finished:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{options:?}: {finished:?}");
    }
    assert_eq!(fs::read(&there).expect("read a file"), b"mine");
    assert_eq!(files_in(directory.path()).len(), 2);
}

#[test]
fn wireshark_lists_portwatch_and_captures_through_it() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let folder = "/usr/lib/x86_64-linux-gnu/wireshark/extcap";
    let Some(_readable) = Pcapng::open(Path::new(folder)) else { return };
    if !Path::new(folder).is_dir() {
        return portwatch_tests::skip("Wireshark has no extcap folder here");
    }
    let directory = tempfile::tempdir().expect("make a directory");
    let fields: Vec<String> = Pcapng::fields().iter().map(|field| format!("'{field}'")).collect();
    // Nobody else sees this folder. tshark takes two packets of a capture that has no end.
    let script = format!(
        "mount --bind '{0}' {folder} && '{1}' extcap --install && tshark -D 2>/dev/null; \
         while [ -d '{0}' ] && [ ! -e '{0}/over' ]; do '{ACTOR}' 'sendto {2} 9' >/dev/null; done & \
         tshark -i portwatch -l -c 2 {3} 2>/dev/null; touch '{0}/over'",
        directory.path().display(),
        program().display(),
        host.v4(PORT),
        fields.join(" "),
    );
    let mut unshare = host.command("unshare");

    let finished = finish(unshare.args(["--mount", "sh", "-c", &script]));

    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert!(lines.iter().any(|line| line.ends_with(". portwatch (port 3516)")), "{finished:?}");
    for packet in lines.iter().rev().take(2).map(|line| Captured::parse(line)) {
        assert_eq!((&*packet.interface, &*packet.captured), ("lo", "28"), "{finished:?}");
        assert!(packet.comments.contains("portwatch: "), "{finished:?}");
    }
}

#[test]
fn the_script_for_wireshark_asks_portwatch() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/extcap/portwatch");
    let directory = program().parent().expect("a directory").to_owned();

    let mut ask = host.command(script);
    ask.env("PATH", format!("{}:/usr/bin:/bin", directory.display()));
    let answer = finish(ask.args(["--extcap-interfaces", "--extcap-version=4.0"]));

    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.stdout.contains("interface {value=portwatch}"), "{answer:?}");
}

/// Time, length and direction of packets.
fn seen(packets: &[Captured]) -> BTreeSet<(String, u64)> {
    let number = |text: &str| text.parse().expect("a length");
    packets.iter().map(|packet| (packet.time.clone(), number(&packet.length))).collect()
}

/// The same of what was reported.
fn sampled(run: &Run) -> BTreeSet<(String, u64)> {
    let samples = run.of("packet-sampled");
    samples
        .map(|event| {
            let time = event.text("@timestamp");
            let digits =
                time.split_once('.').map_or("", |(_, digits)| digits.trim_end_matches('Z'));
            let time = format!("{}.{digits:0<9}", seconds(event));
            (time, event.number("portwatch.sample.length"))
        })
        .collect()
}

/// Seconds since the epoch of a time such as `2026-11-29T07:26:49.5Z`.
fn seconds(event: &Event) -> u64 {
    let digits = event.text("@timestamp").split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = digits.filter_map(|digits| digits.parse().ok()).collect();
    let [year, month, day, hour, minute, second, ..] = numbers[..] else { panic!("{event}") };
    // Years begin in March: then the day that some lack is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1;
    (days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second
}

/// Packets that the capture has and has not, by the last counters.
fn sink(run: &Run) -> (u64, u64) {
    let sinks = run.ended().list("portwatch.counters.sinks");
    let pcap = sinks.iter().find(|sink| sink["name"] == "pcap").expect("the capture's counts");
    let count = |key: &str| pcap[key].as_u64().expect("a count");
    (count("delivered"), count("lost"))
}

#[track_caller]
fn assert_mode(path: &Path) {
    let metadata = fs::metadata(path).expect("look at a capture");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{}", path.display());
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("list a directory");
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("read a directory").path()).collect();
    files.sort();
    files
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}
