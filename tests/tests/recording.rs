//! A watch that is recorded, and the recording replayed: the same events, byte for byte.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use portwatch_tests::{Finished, Lab, finish, program};

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;

#[test]
fn a_recorded_watch_is_replayed_byte_for_byte_by_who_may_nothing() {
    let Some(host) = Lab::loopback_only(ACTOR) else { return };
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("run.pwrec");
    let path = file.to_str().expect("a path that is text");
    let address = host.v4(PORT);
    let mut server = host.actor(&[&format!("listen tcp {address}"), "stay"]);
    server.answer();
    server.tell("serve 1");
    let talk = format!(
        "'{ACTOR}' 'connect tcp {address}' 'roundtrips 20 100' close 'sendto {address} 9' >/dev/null"
    );
    let options = ["watch", "--format", "json", "--record", path, "--", "sh", "-c", &talk];

    let watch = host.finish_portwatch(&options);
    let again = host.finish_portwatch(&options[..6]);
    let replay = replay_without_rights(path);

    assert_eq!(watch.code, Some(0), "{}", watch.stderr);
    for action in ["run-started", "listener-found", "flow-started", "flow-ended", "run-ended"] {
        assert!(watch.stdout.contains(&format!("\"action\":\"{action}\"")), "{}", watch.stdout);
    }
    assert_eq!(replay.stdout, watch.stdout);
    assert_eq!((replay.code, &replay.stderr), (Some(0), &watch.stderr));
    let metadata = fs::metadata(&file).expect("look at the recording");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!(again.code, Some(2));
    assert_eq!(again.stderr, format!("portwatch: {path}: is there already; write to a new file\n"));
}

/// Root without a single capability is nobody in particular, and may still read its own files.
fn replay_without_rights(path: &str) -> Finished {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(program());
    finish(setpriv.args(["replay", path, "--format", "json"]))
}
