//! What one view of the host shows and another does not, once it has lasted: who hides, and from whom.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::attribution::ProcessKey;
use crate::owner::{Attribution, Evidence, Owner, Role};
use crate::pipeline::findings::Ground;
use crate::pipeline::indicators::{self, Case};
use crate::pipeline::listeners::PATIENCE_NS;
use crate::pipeline::{Pipeline, evidence, judgement, next_steps};
use crate::report::{Finding, FindingKind, Severity, Technique};
use crate::views::{Comparison, Disagreement, Explanation, Subject, Suspicions};

/// Disagreements, and those that wait to be reported.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    suspicions: Suspicions,
    /// Since when, and with the process it is about.
    waiting: Vec<(Disagreement, Option<ProcessKey>, u64)>,
}

impl Pipeline {
    /// Takes in what came of a look at the host by several views.
    pub(super) fn compared(&mut self, comparison: &Comparison, now_ns: u64) {
        for (cookie, explanation) in &comparison.explanations {
            self.explain_listener(*cookie, explanation, now_ns);
        }
        let (lasted, over) = self.hidden.suspicions.take_in(comparison);
        for disagreement in lasted {
            let process = disagreement.task.as_ref().map(|task| {
                let key = self.known.processes.present(task.pid, now_ns);
                if disagreement.in_proc {
                    self.known.processes.hides(key, &task.name);
                }
                key
            });
            self.hidden.waiting.push((disagreement, process, now_ns));
        }
        for subject in over {
            let why = "All views of this host agree again, or what they disagreed about is gone.";
            self.resolve_others(ground(&subject), &[], why, now_ns);
        }
    }

    /// Who has a listener that nobody has a descriptor of.
    fn explain_listener(&mut self, cookie: u64, explanation: &Explanation, now_ns: u64) {
        match explanation {
            Explanation::Kernel(reason) => self.known.sockets.is_kernels(cookie, reason),
            Explanation::Registered(task) => {
                let process = self.known.processes.present(task.pid, now_ns);
                self.known.sockets.registered_by(cookie, process);
            }
        }
    }

    /// Views disagree, which may be a race: another look will tell.
    pub fn is_suspicious(&self) -> bool {
        self.hidden.suspicions.are_open()
    }

    /// Somebody listens in our own network namespace and nobody is known to hold that, or has a connection
    /// that a thread of the kernel uses: its tables tell whether it is the kernel.
    pub fn has_unexplained_socket(&self) -> bool {
        self.known.sockets.open().any(|socket| {
            let mut owners = socket.owners.iter();
            socket.netns.as_ref().is_some_and(|netns| netns.inode == self.own_netns())
                && socket.kernel.is_none()
                && if socket.listens {
                    !owners.any(|owner| owner.role == Role::Holder)
                } else {
                    owners.any(|owner| self.is_kernel_thread(owner.process))
                }
        })
    }

    fn is_kernel_thread(&self, process: ProcessKey) -> bool {
        self.known.processes.get(process).is_some_and(|(process, _)| process.is_kernel_thread())
    }

    /// Reports what has lasted, with what is known of its process by now or in a moment.
    pub(super) fn report_hidden(&mut self, now_ns: u64, all: bool) {
        for (disagreement, process, since_ns) in std::mem::take(&mut self.hidden.waiting) {
            let waited = all || now_ns.saturating_sub(since_ns) >= PATIENCE_NS;
            if waited || process.is_none_or(|key| self.known.processes.is_settled(key)) {
                self.report_disagreement(disagreement, process, now_ns);
            } else {
                self.hidden.waiting.push((disagreement, process, since_ns));
            }
        }
    }

    fn report_disagreement(
        &mut self,
        disagreement: Disagreement,
        process: Option<ProcessKey>,
        now_ns: u64,
    ) {
        let Disagreement { subject, in_proc, message, views, .. } = disagreement;
        let owner =
            process.and_then(|key| self.known.processes.get(key)).map(|(process, exited)| {
                let process = Arc::clone(process);
                Owner {
                    side: None,
                    role: Role::Holder,
                    evidence: Evidence::Observed,
                    exited,
                    replaced: false,
                    process,
                }
            });
        let (cookie, base) = match subject {
            Subject::Socket(.., cookie) | Subject::Descriptor(.., cookie) => {
                (cookie, Severity::Critical)
            }
            Subject::Process(..) | Subject::Port(..) => (0, Severity::Critical),
            Subject::Unheld(_, cookie) => (cookie, Severity::High),
        };
        let socket = self.known.sockets.get(cookie).filter(|socket| socket.listens);
        let listener = socket.and_then(|socket| self.listener_report(socket, now_ns));
        let kind = if in_proc { FindingKind::HiddenOwner } else { FindingKind::ViewMismatch };
        let now_unix_ns = self.clock.unix_ns(now_ns);
        let who = Attribution::of_processes(String::new(), Vec::from_iter(owner));
        let (indicators, mut techniques) =
            indicators::all(&Case::of(&who, now_unix_ns, self.own_netns()));
        let is_covered = views.iter().any(|view| view.says.contains("mounted over"));
        techniques
            .insert(0, if is_covered { &Technique::BIND_MOUNTS } else { &Technique::ROOTKIT });
        let owner = who.principal();
        let program = owner.map(|owner| judgement::program(&owner.process)).unwrap_or_default();
        let about = format!("{}|{program}", self.subject_in_words(&subject));
        let finding = Finding {
            indicators: indicators.clone(),
            evidence: owner.map(|it| evidence::of_owner(it, now_unix_ns)).unwrap_or_default(),
            views,
            next_steps: owner.map(|it| next_steps::of_process(&it.process)).unwrap_or_default(),
            techniques,
            listener: listener.map(|(listener, _)| Box::new(listener)),
            ..Finding::new(kind, &about, indicators::severity(base, &indicators), message)
        };
        self.find(finding, ground(&subject), now_ns);
    }

    /// What it is about, as far as that is the same after a restart.
    fn subject_in_words(&self, subject: &Subject) -> String {
        let of_socket = |cookie| {
            let local = self.known.sockets.get(cookie).and_then(|socket| socket.local);
            local.map(|local| local.to_string()).unwrap_or_default()
        };
        match subject {
            Subject::Socket(_, transport, local, remote, _) => {
                let remote = remote.map(|remote| remote.to_string()).unwrap_or_default();
                format!("socket {} {local} {remote}", transport.name())
            }
            Subject::Descriptor(_, _, cookie) => format!("descriptor {}", of_socket(*cookie)),
            Subject::Process(..) => "process".to_owned(),
            Subject::Unheld(_, cookie) => format!("unheld {}", of_socket(*cookie)),
            Subject::Port(_, transport, port) => format!("port {} {port}", transport.name()),
        }
    }
}

fn ground(subject: &Subject) -> Ground {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    Ground::Views(hasher.finish())
}
