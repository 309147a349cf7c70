//! `policy explain`: rule by rule and key by key, why something is expected or not.

use super::check::Seen;
use super::print;
use crate::cli::{self, Format, Subject};
use crate::clock::{self, Clock};
use crate::crossview::Wanted;
use crate::escape;
use crate::failure::{self, Failure};
use crate::host::identity::Identity;
use crate::output::rules::{self, Explained, Explanation};
use crate::output::text::{self, Look};
use crate::owner::Attribution;
use crate::policy::{ClientView, ListenerView, Policy};
use crate::report::ListenerReport;
use crate::scan;
use crate::session::policy::PolicyFile;

/// Looks and explains; the exit code.
pub(super) async fn run(
    args: cli::ExplainPolicy,
    identity: &Identity,
    look: &Look,
) -> Result<u8, Failure> {
    let file = PolicyFile::of(&args.common);
    let (policy, in_force) = file.open()?;
    if in_force.is_none() {
        return Err(Failure::Usage(format!("{}; name one with --policy", file.absence())));
    }
    let ports = args.common.ports();
    let mut looking = scan::Look::begin(Wanted::of(&ports), policy.clone(), identity)?;
    looking.complete(in_force.clone()).await;
    let seen = Seen::of(looking.take_reports());
    let explained = explain(args.subject, &policy, &seen);
    if let (true, Some(subject)) = (explained.is_empty(), args.subject) {
        return Err(Failure::Usage(nothing(subject, &ports.to_string(), &seen)));
    }
    let file = in_force.map(|report| report.file).unwrap_or_default();
    let explanation = Explanation { file, ports: ports.to_string(), explained };
    Ok(match args.common.format {
        Format::Text => print(&text::explanation(&explanation, look), failure::DONE),
        Format::Json => print(&rules::explanation(&explanation), failure::DONE),
    })
}

fn explain(subject: Option<Subject>, policy: &Policy, seen: &Seen) -> Vec<Explained> {
    let today = Clock::of_host().date(clock::boot_ns());
    let listeners = seen.listeners.iter().filter(|it| is_meant(subject, it)).map(|listener| {
        let answers = policy.explain(&ListenerView::from(listener), today);
        Explained::Listener(Box::new(listener.clone()), answers)
    });
    let clients = seen.flows.iter().filter_map(|flow| {
        let Some(Subject::Pid(pid)) = subject else { return None };
        let client = ClientView::of(flow).filter(|_| has(&flow.attribution, pid))?;
        let answers = policy.explain_client(&client, today);
        Some(Explained::Client(Box::new(flow.clone()), answers))
    });
    listeners.chain(clients).collect()
}

fn is_meant(subject: Option<Subject>, listener: &ListenerReport) -> bool {
    match subject {
        None => true,
        Some(Subject::Pid(pid)) => has(&listener.attribution, pid),
        Some(Subject::Address(address)) => {
            (listener.local.ip, listener.local.port) == (address.ip(), address.port())
        }
    }
}

fn has(attribution: &Attribution, pid: u32) -> bool {
    attribution.owners.iter().any(|owner| owner.process.pid == pid)
}

/// What there is instead, in one line.
fn nothing(subject: Subject, ports: &str, seen: &Seen) -> String {
    let what = match subject {
        Subject::Pid(pid) => format!("pid {pid} has nothing to do with port {ports}"),
        Subject::Address(address) => format!("nothing listens on {address}"),
    };
    let listener = |it: &ListenerReport| {
        let owner = it.attribution.principal().map(|owner| {
            format!(" {}[{}]", escape::escape(&owner.process.name), owner.process.pid)
        });
        format!("{} {}{}", it.transport.name(), it.local, owner.unwrap_or_default())
    };
    match seen.listeners.iter().take(5).map(listener).collect::<Vec<_>>() {
        there if there.is_empty() => format!("{what}; nothing listens there (other ports: --port)"),
        there => format!("{what}; there are {} (other ports: --port)", there.join(", ")),
    }
}
