//! Looks things up on the host, off the task that owns the pipeline: `/proc` blocks, and hashing an
//! executable and searching for its package take long.
//!
//! Three threads, each behind a bounded queue: identities are read at once, since the process may be
//! gone in a millisecond; executables wait their turn; rules and translations of addresses are asked of the
//! kernel. A full queue answers that it is full.

mod network;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;

use crate::attribution::{ProcessKey, Request};
use crate::clock;
use crate::crossview::{self, Told};
use crate::endpoint::{Endpoint, Netns, SocketKind};
use crate::explanation::Explanation;
use crate::flow::FlowId;
use crate::host::cgroup::Hierarchy;
use crate::host::conntrack::Translated;
use crate::host::descriptor;
use crate::host::identity::Identity;
use crate::host::netns::{self, Mark};
use crate::host::process::Reader;
use crate::host::serving::Place;
use crate::host::shown::takes_signals;
use crate::kernel::programs::Programs;
use crate::kernel::views;
use crate::owner::{Container, Packaging, Process, Seen};
use crate::ports::PortSet;
use crate::privilege::{self, Thread, Work};
use crate::views::Comparison;

/// Requests that wait for one of the threads.
const QUEUE: usize = 4096;

/// The same for what is asked of the kernel about the network.
const NETWORK_QUEUE: usize = 128;

/// What came of a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What `/proc` says of a process.
    Identified {
        /// Whom it is about.
        key: ProcessKey,
        /// What is known.
        process: Arc<Process>,
        /// When it was read, nanoseconds of `CLOCK_BOOTTIME`.
        at_ns: u64,
    },
    /// The hash of what it runs, or why there is none.
    Hashed {
        /// Whom it is about.
        key: ProcessKey,
        /// Lower-case hex, or a line for [`Process::missing`].
        hash: Result<String, String>,
    },
    /// The package of what it runs.
    Packaged {
        /// Whom it is about.
        key: ProcessKey,
        /// What is known of it, or a line for [`Process::missing`].
        packaging: Box<Result<Packaging, String>>,
    },
    /// What its runtime says of the container of a process.
    Contained {
        /// Whom it is about.
        key: ProcessKey,
        /// What is known of it, with a line for [`Process::missing`] if that is not all; or that line.
        container: Box<Result<(Container, Option<String>), String>>,
    },
    /// The network namespaces of the host, and how records name them.
    Namespaces(Vec<(Netns, Mark)>),
    /// What kind of socket it is, if that can be told.
    Recognised {
        /// Whom it is about.
        cookie: u64,
        /// The kind.
        kind: Option<SocketKind>,
    },
    /// What became of processes.
    Fates {
        /// Those that are no longer there.
        exited: Vec<ProcessKey>,
        /// Those that are not what they were, as they are now.
        changed: Vec<(ProcessKey, Arc<Process>)>,
        /// When that was looked at, nanoseconds of `CLOCK_BOOTTIME`.
        at_ns: u64,
    },
    /// What a flow is called on the other side of a translation.
    Translated {
        /// Whom it is about.
        flow: FlowId,
        /// The other side, and where its destination is; `None`: it is not translated, as far as is known.
        there: Option<(Translated, Option<Place>)>,
    },
    /// What else than a socket can answer for a port.
    Explained {
        /// Whom it is about.
        number: u64,
        /// What was found out.
        explanation: Explanation,
    },
    /// Where a process passes on what comes for a port; `None`: it has no connection to there.
    Relayed {
        /// Whom it is about.
        key: ProcessKey,
        /// Where it said.
        to: Option<Endpoint>,
    },
    /// A look at the host by several views.
    Compared(Box<Comparison>),
}

/// A process that was alive when last seen, with pid and start.
type Alive = (ProcessKey, u32, u64);

/// A question about what a process runs, or what it runs in.
type Executable = (Question, ProcessKey, Arc<Process>);

/// What to find out.
#[derive(Clone, Copy, Debug)]
enum Question {
    Hash,
    Package,
    Container,
}

enum Job {
    Identify { key: ProcessKey, pid: u32, seen: Seen },
    Recognise { cookie: u64, pid: u32, fd: u32 },
    Namespaces,
    Fates { alive: Vec<Alive>, owners: Vec<(ProcessKey, Arc<Process>)> },
    Compare(Told, Option<OwnTables>),
}

/// What it takes to look at the sockets of our own network namespace by every view.
#[derive(Debug)]
pub struct OwnTables {
    /// The kernel's tables, where it tells.
    pub iterators: Option<views::Tables>,
    /// The watched ports.
    pub ports: PortSet,
}

/// What is known beforehand of where to look.
#[derive(Debug)]
pub struct Places {
    /// A port that socket hooks watch, where they are attached.
    pub watched: Option<u16>,
    /// The hierarchy of cgroups, where it can be opened.
    pub cgroups: Option<Hierarchy>,
}

/// The threads.
#[derive(Debug)]
pub struct Lookup {
    identities: SyncSender<Job>,
    executables: SyncSender<Executable>,
    network: SyncSender<network::Job>,
}

impl Lookup {
    /// Starts the threads, which end when the value is dropped. Answers come out of the receiver.
    ///
    /// Each keeps no more than it needs for its part of the `work`.
    pub fn start(
        host: &Identity,
        work: Work,
        Places { watched, cgroups }: Places,
        programs: Programs,
    ) -> Result<(Self, mpsc::Receiver<Answer>)> {
        let reader = Arc::new(Reader::new(host).with_cgroups(cgroups));
        let (answers, receiver) = mpsc::channel(QUEUE);
        let (identities, jobs) = sync_channel(QUEUE);
        let (executables, processes) = sync_channel(QUEUE);
        let (network, questions) = sync_channel(NETWORK_QUEUE);
        let (examiner, examined) = (Arc::clone(&reader), answers.clone());
        let asked = answers.clone();
        privilege::spawn("pw-identities".to_owned(), Thread::Identities, work, move || {
            identify(&reader, &jobs, &answers, watched);
        })
        .context("starting a thread")?;
        privilege::spawn("pw-hashes".to_owned(), Thread::Hashes, work, move || {
            examine(&examiner, &processes, &examined);
        })
        .context("starting a thread")?;
        privilege::spawn("pw-network".to_owned(), Thread::Network, work, move || {
            network::answer(&questions, &asked, &programs);
        })
        .context("starting a thread")?;
        Ok((Self { identities, executables, network }, receiver))
    }

    /// Asks. `process` is what is known of the process whose executable the question is about. Where
    /// the queue is full, the answer that says so is returned at once.
    pub fn ask(&self, request: Request, process: Option<Arc<Process>>) -> Option<Answer> {
        match request {
            Request::Identify { key, pid, seen } => {
                let job = Job::Identify { key, pid, seen };
                self.identities.try_send(job).is_err().then(|| {
                    let missing = vec!["not looked up: too many processes at once".to_owned()];
                    let process = Process { pid, missing, ..Process::default() };
                    Answer::Identified { key, process: Arc::new(process), at_ns: seen.at_ns }
                })
            }
            Request::Hash { key } => self.examine(Question::Hash, key, process),
            Request::Package { key } => self.examine(Question::Package, key, process),
            Request::Container { key } => self.examine(Question::Container, key, process),
            Request::Recognise { cookie, pid, fd } => {
                let job = Job::Recognise { cookie, pid, fd };
                let full = self.identities.try_send(job).is_err();
                full.then_some(Answer::Recognised { cookie, kind: None })
            }
            Request::Namespaces => {
                // When the queue is full, the next unknown cookie asks again.
                self.identities
                    .try_send(Job::Namespaces)
                    .is_err()
                    .then(|| Answer::Namespaces(Vec::new()))
            }
            Request::Translate { flow, tuple, netns } => {
                let job = network::Job::Translate { flow, tuple, netns };
                let full = self.network.try_send(job).is_err();
                full.then_some(Answer::Translated { flow, there: None })
            }
            Request::Relay { key, pid, start_ticks, transport, to } => {
                let process = (pid, start_ticks);
                let job = network::Job::Relay { key, process, transport, to };
                let full = self.network.try_send(job).is_err();
                full.then_some(Answer::Relayed { key, to: None })
            }
            Request::Explain { number, transport, answered, netns } => {
                let job = network::Job::Explain { number, transport, answered, netns };
                let full = self.network.try_send(job).is_err();
                full.then(|| Answer::Explained { number, explanation: Explanation::default() })
            }
        }
    }

    /// The answer where the queue is full, or there is no such process.
    fn examine(
        &self,
        question: Question,
        key: ProcessKey,
        process: Option<Arc<Process>>,
    ) -> Option<Answer> {
        let asked =
            process.map(|process| self.executables.try_send((question, key, process)).is_ok());
        (asked != Some(true)).then(|| question.refused(key))
    }

    /// Asks to hold against `/proc` what the kernel told, and the tables of sockets against each other.
    pub fn ask_to_compare(&self, told: Told, own: Option<OwnTables>) {
        if self.identities.try_send(Job::Compare(told, own)).is_err() {
            tracing::debug!("too busy to hold views of this host against each other; later");
        }
    }

    /// Asks which of the first have exited, and which of the others are not what they were.
    pub fn ask_for_fates(&self, alive: Vec<Alive>, owners: Vec<(ProcessKey, Arc<Process>)>) {
        if self.identities.try_send(Job::Fates { alive, owners }).is_err() {
            tracing::debug!("too busy to look what became of processes; later");
        }
    }
}

fn compare(told: Told, own: Option<OwnTables>) -> Comparison {
    let tables = own.and_then(|own| crossview::own_tables(own.iterators, &own.ports).ok());
    told.compare(tables.into_iter().collect(), &mut Vec::new())
}

fn identify(
    reader: &Reader,
    jobs: &Receiver<Job>,
    answers: &mpsc::Sender<Answer>,
    watched: Option<u16>,
) {
    for job in jobs {
        let answer = match job {
            Job::Identify { key, pid, seen } => {
                let process = reader.read_seen(pid, seen);
                Answer::Identified { key, process, at_ns: clock::boot_ns() }
            }
            Job::Recognise { cookie, pid, fd } => {
                Answer::Recognised { cookie, kind: descriptor::kind_of(pid, fd) }
            }
            Job::Compare(told, own) => Answer::Compared(Box::new(compare(told, own))),
            Job::Namespaces => Answer::Namespaces(namespaces(watched)),
            Job::Fates { alive, owners } => {
                let exited = alive.into_iter().filter(|(_, pid, start)| !is_alive(*pid, *start));
                let changed = owners.into_iter().filter_map(|(key, known)| {
                    let found = reader.read(known.pid, None);
                    let is_it = found.start_ticks == known.start_ticks;
                    (is_it && !found.is_as(&known)).then_some((key, found))
                });
                Answer::Fates {
                    exited: exited.map(|(key, _, _)| key).collect(),
                    changed: changed.collect(),
                    at_ns: clock::boot_ns(),
                }
            }
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

impl Question {
    fn answer(self, reader: &Reader, key: ProcessKey, process: &Process) -> Answer {
        match self {
            Self::Hash => Answer::Hashed { key, hash: reader.hash(process) },
            Self::Package => {
                Answer::Packaged { key, packaging: Box::new(reader.packaging(process)) }
            }
            Self::Container => {
                Answer::Contained { key, container: Box::new(reader.container(process)) }
            }
        }
    }

    /// The answer that there are too many of them.
    fn refused(self, key: ProcessKey) -> Answer {
        let why = |what: &str| format!("{what}: too many at once");
        match self {
            Self::Hash => Answer::Hashed { key, hash: Err(why("sha256")) },
            Self::Package => Answer::Packaged { key, packaging: Box::new(Err(why("package"))) },
            Self::Container => {
                Answer::Contained { key, container: Box::new(Err(why("container"))) }
            }
        }
    }
}

/// Answers about hashes before the others, whoever asked first: searching a package database and
/// asking a runtime take longer than most hashes do.
fn examine(reader: &Reader, questions: &Receiver<Executable>, answers: &mpsc::Sender<Answer>) {
    let mut later: VecDeque<Executable> = VecDeque::new();
    loop {
        let next = if later.is_empty() {
            questions.recv().map_err(TryRecvError::from)
        } else {
            questions.try_recv()
        };
        let answer = match next {
            Ok((question @ Question::Hash, key, process)) => question.answer(reader, key, &process),
            Ok(question) if later.len() < QUEUE => {
                later.push_back(question);
                continue;
            }
            Ok((question, key, _)) => question.refused(key),
            Err(TryRecvError::Empty) => {
                let Some((question, key, process)) = later.pop_front() else { continue };
                question.answer(reader, key, &process)
            }
            Err(TryRecvError::Disconnected) => return,
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

/// All network namespaces, and how records name them.
fn namespaces(watched: Option<u16>) -> Vec<(Netns, Mark)> {
    match netns::enumerate(watched) {
        Ok(namespaces) => namespaces
            .found
            .into_iter()
            .map(|namespace| (namespace.netns, namespace.mark))
            .collect(),
        Err(error) => {
            tracing::warn!("network namespaces cannot be listed: {error}");
            Vec::new()
        }
    }
}

/// The process with this pid is still the one that started then. One that `/proc` does not show is there as
/// long as it takes signals.
pub(crate) fn is_alive(pid: u32, start_ticks: u64) -> bool {
    let process = i32::try_from(pid).ok().and_then(|pid| procfs::process::Process::new(pid).ok());
    match process.and_then(|process| process.stat().ok()) {
        Some(stat) => stat.starttime == start_ticks && !matches!(stat.state, 'Z' | 'X'),
        None => takes_signals(pid),
    }
}
