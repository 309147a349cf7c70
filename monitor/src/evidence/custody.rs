//! Who preserved it, where, when and with what: the head of the manifest.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::manifest::{Header, Host, Operator, Tool};
use crate::cli::{self, Selection};
use crate::escape::text_from_bytes;
use crate::host::executable;
use crate::host::identity::Identity;
use crate::host::process::Reader;
use crate::output::ecs::RunIdentity;

/// A case that is worked on.
#[derive(Debug)]
pub(super) struct Case(Header);

impl Case {
    /// Notes what is asked, by whom, on which host.
    pub(super) fn open(
        args: &cli::Evidence,
        identity: &Identity,
        run: &RunIdentity,
        started: String,
    ) -> Self {
        let arguments = std::env::args_os().skip(1);
        let arguments = arguments.map(|it| text_from_bytes(it.as_bytes()).into_owned());
        let system = rustix::system::uname();
        let text = |part: &CStr| text_from_bytes(part.to_bytes()).into_owned();
        Self(Header {
            portwatch: Tool { version: run.version.clone(), sha256: None },
            run_id: run.run_id.clone(),
            host: Host {
                name: identity.name.clone(),
                machine_id: identity.machine_id.clone(),
                boot_id: identity.boot_id.clone(),
                kernel: format!("{} {}", text(system.release()), text(system.machine())),
            },
            arguments: arguments.collect(),
            ports: args.common().ports().to_string(),
            selection: selection(args.selection()),
            by: operator(identity),
            started,
            ended: String::new(),
        })
    }

    /// With the hash of this program, which takes a moment.
    pub(super) fn close(self) -> Header {
        let Self(mut header) = self;
        header.portwatch.sha256 = executable::sha256_of(Path::new("/proc/self/exe")).ok();
        header
    }
}

fn selection(selection: Selection) -> String {
    match selection {
        Selection::Ports => "everybody on the ports".to_owned(),
        Selection::Pid(pid) => format!("process {pid}"),
        Selection::Listener(address) => format!("who listens on {address}"),
        Selection::Flow(one, other) => format!("both ends of {one} and {other}"),
    }
}

fn operator(identity: &Identity) -> Operator {
    let process = Reader::new(identity).read(std::process::id(), None);
    let login = process.context.login.as_ref();
    Operator {
        uid: process.uid,
        user: process.user.clone(),
        login: login.map(|login| login.user.clone().unwrap_or_else(|| login.uid.to_string())),
        terminal: process.context.terminal.map(|terminal| terminal.to_string()),
        parents: process.ancestors.iter().map(|it| format!("{}[{}]", it.name, it.pid)).collect(),
    }
}
