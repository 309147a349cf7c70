//! Captured conversations of real services: what portwatch takes them for, held against tshark, and what
//! it lets out of them.
//!
//! The packets of `tests/data/captures` are sent once more over a cable, at the other end of which
//! portwatch watches.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use portwatch_tests::{Conversation, Event, Lab, Run, Trace};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");

#[test]
fn real_services_are_recognised_and_nothing_that_tshark_contradicts_is_certain() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(traces) = traces() else { return };
    let portwatch = lab.right.portwatch(&["watch", "-i", Lab::DEVICE]);

    for trace in &traces {
        trace.inject(&lab.left);
    }
    let run = portwatch.stop();

    let flows = flows(&run);
    let mut table = Vec::new();
    let (mut recognised, mut wrong) = (0, Vec::new());
    for trace in &traces {
        for conversation in trace.conversations() {
            let flow = flows.get(&conversation.client()).copied();
            let Some(flow) = flow else { panic!("no flow of {}: {conversation:?}", trace.name()) };
            let [found, confidence] =
                ["network.protocol", "portwatch.app.confidence"].map(|path| flow.text(path));
            let expected = conversation.protocol();
            let is_right = found == expected;
            recognised += usize::from(is_right);
            if !is_right && confidence == "certain" {
                wrong.push(format!("{} is no {found}: {conversation:?}", trace.name()));
            }
            let details = flow.at("portwatch.app.details");
            let row = format!("{expected:<11} {found:<11} {confidence:<9} {details}");
            table.push(format!("{:<13} {row}", trace.name()));
        }
    }
    println!("capture       tshark      portwatch\n{}", table.join("\n"));
    for conversation in traces.iter().flat_map(Trace::conversations) {
        assert_as_tshark(flows[&conversation.client()], conversation);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(table.len() > 50, "too few to tell anything");
    assert!(
        recognised * 100 >= table.len() * 95,
        "{recognised} of {}:\n{}",
        table.len(),
        table.join("\n")
    );
    run.assert_sound();
}

#[test]
fn no_pin_password_or_cookie_leaves_by_any_output() {
    let Some(lab) = Lab::two_hosts(ACTOR) else { return };
    let Some(traces) = traces() else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    for payload in ["masked", "full"] {
        let recording = directory.path().join(payload);
        let recording_path = recording.to_str().expect("a path that is text");
        let options = ["watch", "-i", Lab::DEVICE, "--sample", "1", "--snaplen", "1500"];
        let options = [options.as_slice(), &["--payload", payload]].concat();
        let capture = directory.path().join(format!("{payload}.pcapng"));
        let capture_path = capture.to_str().expect("a path that is text");
        let files = ["--record", recording_path, "--pcap", capture_path];
        let portwatch = lab.right.portwatch(&[options.as_slice(), &files].concat());
        let text = lab.right.portwatch_in_text(&options);

        for trace in &traces {
            trace.inject(&lab.left);
        }
        let (run, text) = (portwatch.stop(), text.stop());

        let said = |run: &Run| {
            run.events.iter().map(|event| event.document().to_string()).collect::<String>()
        };
        let mut bytes = said(&run).into_bytes();
        for sample in run.of("packet-sampled") {
            bytes.extend(sample.bytes("portwatch.sample.data"));
        }
        let recorded = fs::read(&recording).expect("read the recording");
        let captured = fs::read(&capture).expect("read the capture");
        if payload == "full" {
            // Else the test could not see one that is let out.
            assert_eq!(secrets_in(&bytes), SECRETS);
            assert_eq!(secrets_in(&recorded), SECRETS);
            assert_eq!(secrets_in(&captured), SECRETS);
        } else {
            assert_eq!(run.events[0].at("portwatch.run.payload"), "masked");
            for output in [bytes, said(&text).into_bytes(), recorded, captured] {
                let let_out = secrets_in(&output);
                assert!(let_out.is_empty(), "{let_out:?}");
            }
        }
    }
}

fn secrets_in(bytes: &[u8]) -> Vec<&'static str> {
    let is_in = |secret: &&str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
    SECRETS.into_iter().filter(is_in).collect()
}

/// What was typed, sent or carried when the captures were made.
const SECRETS: [&str; 10] = [
    // PINs of a VERIFY to a virtual card and to one behind a length. Of digits it takes so many: a few are
    // part of some time.
    "12345678",
    "P!N~",
    // A cookie, the Base64 of a user with a password, and a query.
    "C00kieSecret",
    "ZXZlOkJhc2ljU2VjcmV0",
    "QuerySecret",
    "BodySecret",
    "FtpSecret",
    "RedisSecret",
    "MqttSecret",
    "SnmpSecret",
];

/// The last report of each flow, by its client.
fn flows(run: &Run) -> BTreeMap<(String, u16), &Event> {
    let flows = run.of("flow-ended").map(|flow| {
        let port = flow.endpoint("source").map_or(0, |source| source.port());
        ((flow.text("network.transport").to_owned(), port), flow)
    });
    flows.collect()
}

/// Asserts what tshark tells about a handshake.
#[track_caller]
fn assert_as_tshark(flow: &Event, conversation: &Conversation) {
    for (ours, theirs) in [
        ("tls.client.ja3", "tls.handshake.ja3"),
        ("tls.client.server_name", "tls.handshake.extensions_server_name"),
        ("http.request.method", "http.request.method"),
    ] {
        let (found, expected) = (flow.text(ours), conversation.text(theirs));
        // What another protocol goes on with inside, one of the two may not look into.
        let is_its_own = ours.starts_with(conversation.protocol());
        let is_told = !found.is_empty() && !expected.is_empty();
        if is_its_own || is_told {
            assert_eq!(found, expected, "{ours} of {conversation:?}");
        }
    }
}

fn traces() -> Option<Vec<Trace>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/captures");
    Trace::all(&directory)
}
