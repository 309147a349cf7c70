//! `portwatch watch`: attach, read, report, until told to stop.
//!
//! The only file with an event loop. It hands records, answers and the time to the pipeline, and the
//! pipeline's reports to the outputs; everything in between is in modules that know no clock.

mod command;
mod ending;
mod files;
mod holders;
mod options;
mod pace;
mod portless;
mod reload;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::cli;
use crate::clock;
use crate::crossview;
use crate::explanation::Standing;
use crate::failure::Failure;
use crate::host::cgroup::Hierarchy;
use crate::host::identity::Identity;
use crate::host::netns;
use crate::interfaces::{Change, Scope};
use crate::kernel::cgroup;
use crate::kernel::chain::Gap;
use crate::kernel::object::Object;
use crate::kernel::pin::Pins;
use crate::kernel::preflight::{self, Needs};
use crate::kernel::programs::Programs;
use crate::kernel::tracepoint::Tracepoints;
use crate::lookup::{Answer, Lookup, Places};
use crate::output::{Output, Style};
use crate::pcap::Pcap;
use crate::pipeline::{Input, Pipeline};
use crate::policy::Policy;
use crate::ports::PortSet;
use crate::privilege::{self, Thread};
use crate::recording::{Origin, Recording};
use crate::report::{Body, InterfaceReport, SinkCount};
use crate::session::policy::PolicyFile;
use crate::session::{self, Brought, Readers, Snapshot, attach_socket_hooks};
use crate::sys;
use crate::watch::reload::{Hangup, Hangups, InForce};

/// Time between two looks at the ring of packets and at what is due: 25 wake-ups a second.
const TICK: Duration = Duration::from_millis(40);
/// Time between two readings of the flow table, and between two looks while nothing happens.
const TABLE: Duration = Duration::from_millis(200);
/// So long after something has happened, something may be due any moment.
const LIVELY: Duration = Duration::from_secs(2);
/// Time between two looks at who has exited.
const FATES: Duration = Duration::from_secs(1);
/// As many of those go by between two looks at who holds the listeners, which reads every descriptor
/// of the host.
const FATES_PER_HOLDERS: u32 = 5;

/// As many between two looks at the tables of sockets by every view.
const FATES_PER_TABLES: u32 = 60;

/// After so many reports memory is given back to the kernel.
const BURST: u64 = 1000;

/// How often a moment is sought in which nothing is counted, before counters are compared.
const QUIET_TRIES: u32 = 100;

/// Everything that lives while portwatch watches.
struct Watch {
    args: cli::Watch,
    object: Object,
    tracepoints: Tracepoints,
    readers: Readers,
    sockets: AsyncFd<RingBuf<MapData>>,
    interfaces: AsyncFd<Scope>,
    /// With `--pin`: what is not gone when we are.
    pins: Option<Arc<Pins>>,
    lookup: Lookup,
    answers: mpsc::Receiver<Answer>,
    pipeline: Pipeline,
    in_force: InForce,
    output: Output,
    /// With `--record`.
    recording: Option<Recording>,
    /// With `--pcap`.
    pcap: Option<Pcap>,
    /// Nobody wants to be told how it went.
    is_quiet: bool,
    reported: u64,
    /// That many had been when memory was last given back.
    released_at: u64,
    fates_asked: u32,
    /// The last counters are of one moment.
    is_exact: bool,
    /// Interfaces have changed since it was last looked at what is in our way on them.
    gaps_due: bool,
    pace: pace::Pace,
    read: Read,
    /// Records or answers have come lately.
    lively_until: Instant,
    /// Reports that were lost when the counters were last reported.
    lost_told: u64,
}

/// When it was last looked at what is looked at again and again.
struct Read {
    /// The flow table.
    table: Instant,
    /// Sockets without a port.
    portless: Instant,
    /// Who has what nobody is left of: not before this.
    heirs: Instant,
}

/// Why the loop ended.
enum Stop {
    Interrupted,
    Duration,
    Count,
    OutputClosed,
    Command(std::process::ExitStatus),
}

/// Watches until something ends it; the exit code.
pub async fn run(
    args: cli::Watch,
    ready: Option<OwnedFd>,
    identity: &Identity,
    origin: Origin,
    style: Style,
) -> Result<u8, Failure> {
    let obstacles = preflight::obstacles(Needs::Watch);
    if !obstacles.is_empty() {
        return Err(Failure::Unobservable(obstacles));
    }
    options::check(&args)?;
    let file = PolicyFile::of(&args.common);
    let (policy, report) = file.open()?;
    let in_force = InForce { file, report };
    let signals = ending::Signals::new()?;
    let hangups = Hangups::new()?;
    let launch = command::Launch::prepare(&args.command)?;
    let files = files::Files::make(&args, origin)?;
    let made = files.made();
    let started = Watch::start(args, (policy, in_force), identity, files, style);
    let mut watch = started.inspect_err(|_error| files::remove(&made))?;
    let command = launch.map(command::Launch::start).transpose();
    if ready.is_some_and(|ready| rustix::io::write(&ready, b"\n").is_err()) {
        tracing::debug!("nobody reads the ready descriptor");
    }
    let stop = match command {
        Ok(command) => watch.watch(signals, hangups, command).await?,
        Err(refused) => {
            watch.end("the command cannot be run")?;
            tracing::error!("{}", refused.line);
            return Ok(refused.code);
        }
    };
    ending::end(watch, &stop)
}

impl Watch {
    /// Hooks first, then the snapshot: nothing falls between them. Between the two most rights are given
    /// up; from then on everything that is read may be hostile.
    fn start(
        args: cli::Watch,
        (policy, in_force): (Policy, InForce),
        identity: &Identity,
        files: files::Files,
        style: Style,
    ) -> Result<Self> {
        let own = netns::own().context("reading the own network namespace")?;
        let (netns, ports) = (own.netns, args.common.ports());
        let is_piped = args.pcap.is_to_stdout();
        let is_quiet = matches!(style, Style::Nothing);
        let kernel = options::kernel_settings(&args);
        let pins = args.pin.then(|| Pins::open(netns.inode).map(Arc::new)).transpose()?;
        let (mut object, resumed) = Object::load_or_resume(&kernel, pins.as_deref())?;
        let mut readers = Readers::new(&mut object, resumed)?;
        let mut sockets = object.socket_ring()?;
        crate::kernel::log::start(&mut object);
        let mut degraded = object.degraded().to_vec();
        let mut attached = attach_socket_hooks(&mut object, pins.as_deref(), &mut degraded)?;
        let mut interfaces =
            Scope::open(&options::wanted(&args), netns.clone(), pins.clone(), &mut object)?;
        let observed = interfaces.observed();
        anyhow::ensure!(!observed.is_empty(), "no interface can be observed");
        attached.extend(observed.iter().flat_map(classifiers));
        if let Some(pins) = &pins {
            interfaces.let_go_of_others()?;
            object.keep(&kernel, pins)?;
        }
        let cgroups = Hierarchy::new(cgroup::root()?);
        // While the names of programs can still be asked for.
        let (gaps, programs) = (interfaces.gaps()?, Programs::read());
        let work = options::work(&args, &mut object);
        degraded.extend(privilege::confine(work));
        let files::Core { mut pipeline, recording, pcap } =
            files.core(options::settings(&args, policy, readers.slots(), netns)?)?;
        let known = (&programs, &cgroups);
        let standing = snapshot(&mut object, &mut pipeline, &ports, known, &mut degraded)?;
        let mut tracepoints = Tracepoints::default();
        tracepoints.follow(&mut object, pipeline.anybody_listens());
        let places = Places { watched: ports.iter().next(), cgroups: Some(cgroups) };
        let (lookup, answers) = Lookup::start(identity, work, places, programs)?;
        privilege::reduce(Thread::Main, work);
        observed.iter().cloned().map(Input::Observed).for_each(|input| pipeline.apply(input));
        let found = (observed, attached, degraded);
        let started = options::started(&args, found, resumed, in_force.report.clone());
        let now_ns = clock::boot_ns();
        pipeline.apply(Input::Started { started, now_ns });
        if resumed {
            readers.read_all(&mut sockets, &mut pipeline, QUIET_TRIES)?;
        }
        tell_found(&mut pipeline, gaps, standing, now_ns);
        Ok(Self {
            args,
            object,
            tracepoints,
            readers,
            sockets: sys::readable(sockets)?,
            interfaces: sys::readable(interfaces)?,
            pins,
            lookup,
            answers,
            pipeline,
            in_force,
            output: if is_piped { Output::stderr(style)? } else { Output::stdout(style)? },
            recording,
            pcap,
            is_quiet,
            reported: 0,
            released_at: 0,
            fates_asked: 0,
            is_exact: false,
            gaps_due: false,
            pace: pace::Pace::new(),
            read: Read { table: Instant::now(), portless: Instant::now(), heirs: Instant::now() },
            lively_until: Instant::now() + LIVELY,
            lost_told: 0,
        })
    }

    /// The loop.
    async fn watch(
        &mut self,
        mut signals: ending::Signals,
        mut hangups: Hangups,
        mut command: Option<tokio::process::Child>,
    ) -> Result<Stop> {
        let mut tick = every(TICK);
        let mut table = every(TABLE);
        let mut fates = every(FATES);
        let mut counters = every(self.args.interval);
        sys::release_free_memory();
        sys::release_code();
        let started = Instant::now();
        let deadline = self.args.duration.and_then(|duration| started.checked_add(duration));
        loop {
            if let Some(stop) = self.deliver() {
                return Ok(stop);
            }
            tokio::select! {
                biased;
                () = signals.received() => return Ok(Stop::Interrupted),
                hangup = hangups.received() => match hangup {
                    Hangup::Reload => self.reload_policy(),
                    Hangup::TerminalGone => return Ok(Stop::Interrupted),
                },
                () = self.output.closed() => return Ok(Stop::OutputClosed),
                () = closed(self.pcap.as_ref()) => return Ok(Stop::OutputClosed),
                status = command::ended(&mut command) => return Ok(Stop::Command(status?)),
                () = ending::reached(deadline) => return Ok(Stop::Duration),
                ready = self.sockets.readable_mut() => {
                    ready?.clear_ready();
                    self.read_sockets(clock::boot_ns());
                    if self.pipeline.anybody_listens() {
                        self.tracepoints.follow(&mut self.object, true);
                    }
                    // Whoever opened the socket may be gone in a millisecond.
                    self.pipeline.take_up_requests();
                    session::ask(&mut self.pipeline, &self.lookup);
                }
                Some(answer) = self.answers.recv() => self.answered(answer)?,
                ready = self.interfaces.readable_mut() => {
                    let mut ready = ready?;
                    let changes = ready.get_inner_mut().changes(&mut self.object);
                    ready.clear_ready();
                    self.interfaces_changed(changes?);
                    // One end of a new veth pair may be in a namespace that is new as well.
                    self.follow_namespaces()?;
                }
                _ = tick.tick(), if self.is_lively() => self.tick()?,
                _ = table.tick() => {
                    if !self.is_lively() {
                        self.tick()?;
                    }
                    if self.pace.has_time() {
                        self.read_table()?;
                    }
                }
                _ = fates.tick() => self.ask_for_fates()?,
                _ = counters.tick() => self.report_counters()?,
            }
        }
    }

    fn tick(&mut self) -> Result<()> {
        let now_ns = clock::boot_ns();
        let is_more = !self.pace.has_time() || self.read_packets(now_ns) == Brought::Part;
        let is_behind = is_more || self.read.table.elapsed() > 2 * TABLE;
        self.pipeline.apply(Input::Behind(is_behind));
        // Usually empty: whoever writes there wakes us. What one reading left behind wakes nobody.
        self.read_sockets(now_ns);
        self.pipeline.apply(Input::Tick { now_ns });
        self.look_for_heirs()?;
        session::ask(&mut self.pipeline, &self.lookup);
        Ok(())
    }

    fn read_packets(&mut self, now_ns: u64) -> Brought {
        let brought = self.readers.read_packets(&mut self.pipeline, now_ns);
        if brought != Brought::Nothing {
            self.enliven();
        }
        brought
    }

    fn read_sockets(&mut self, now_ns: u64) {
        let brought = session::read_sockets(self.sockets.get_mut(), &mut self.pipeline, now_ns);
        if brought != Brought::Nothing {
            self.enliven();
        }
    }

    fn enliven(&mut self) {
        self.lively_until = Instant::now() + LIVELY;
    }

    /// Something may be due before the flow table is read next.
    fn is_lively(&self) -> bool {
        Instant::now() < self.lively_until
    }

    fn read_table(&mut self) -> Result<()> {
        if !self.readers.knows_earlier() {
            self.readers.read_all(self.sockets.get_mut(), &mut self.pipeline, 1)?;
        }
        // What the table shows is announced first.
        self.read_packets(clock::boot_ns());
        if self.readers.look_at_table(&mut self.pipeline, clock::boot_ns()) {
            self.read.table = Instant::now();
        }
        self.look_for_strangers()
    }

    /// Asks what became of processes; with each fifth answer, and when one has become another program,
    /// comes the time to ask who holds the listeners.
    fn ask_for_fates(&mut self) -> Result<()> {
        self.lookup.ask_for_fates(self.pipeline.alive(), self.pipeline.owners_of_listeners());
        self.pipeline.apply(Input::SocketsExpire { now_ns: clock::boot_ns() });
        for cookie in self.pipeline.take_expired() {
            self.object.forget_socket(cookie)?;
        }
        self.tracepoints.follow(&mut self.object, self.pipeline.anybody_listens());
        self.follow_namespaces()?;
        if self.gaps_due {
            self.look_for_gaps();
        }
        // Whoever reads the events is told soon that some are missing.
        if self.lost() > self.lost_told {
            self.report_counters()?;
        }
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> Result<()> {
        let fates = match &answer {
            Answer::Fates { changed, .. } => Some(!changed.is_empty()),
            _ => None,
        };
        if fates.is_none() {
            self.enliven();
        }
        if matches!(answer, Answer::Namespaces(_)) {
            self.follow_namespaces()?;
        }
        session::answer(&mut self.pipeline, answer);
        if let Some(has_changes) = fates {
            self.fates_asked += 1;
            let is_time = self.fates_asked.is_multiple_of(FATES_PER_HOLDERS);
            if is_time && self.reported.saturating_sub(self.released_at) >= BURST {
                // What a burst of reports took is not kept.
                sys::release_free_memory();
                self.released_at = self.reported;
            }
            // Only now: a pid whose process has exited is another process when it holds something.
            if is_time || has_changes || self.pipeline.is_suspicious() {
                self.look_for_holders()?;
            }
        }
        session::ask(&mut self.pipeline, &self.lookup);
        Ok(())
    }

    /// Looks for who holds the sockets of packets that no hook has told of.
    fn look_for_strangers(&mut self) -> Result<()> {
        let cookies = self.pipeline.take_strangers();
        if cookies.is_empty() || !crate::kernel::holders::is_available(&self.object) {
            return Ok(());
        }
        let held = self.object.holders_of_strangers(&cookies)?;
        let (sockets, held, now_ns) = (cookies.into(), held.into(), clock::boot_ns());
        self.pipeline.apply(Input::StrangersHeld { sockets, held, now_ns });
        session::ask(&mut self.pipeline, &self.lookup);
        Ok(())
    }

    /// Looks for namespaces that have come or gone, if all are observed.
    fn follow_namespaces(&mut self) -> Result<()> {
        let changes = self.interfaces.get_mut().follow_namespaces()?;
        self.interfaces_changed(changes);
        Ok(())
    }

    fn interfaces_changed(&mut self, changes: Vec<Change>) {
        self.gaps_due |= !changes.is_empty();
        let now_ns = clock::boot_ns();
        for (change, interface) in changes {
            self.pipeline.apply(Input::Interface { change, interface, now_ns });
        }
    }

    /// Looks at what is in our way on the interfaces. That it cannot be looked at ends no watch.
    fn look_for_gaps(&mut self) {
        self.gaps_due = false;
        match self.interfaces.get_mut().gaps() {
            Ok(gaps) => self.pipeline.apply(Input::Coverage { gaps, now_ns: clock::boot_ns() }),
            Err(error) => tracing::warn!("gaps in coverage are not looked for: {error:#}"),
        }
    }

    fn report_counters(&mut self) -> Result<()> {
        self.look_for_gaps();
        self.look_for_portless();
        let now_ns = clock::boot_ns();
        if self.pace.has_time() {
            self.read_packets(now_ns);
            self.readers.read_table(&mut self.pipeline, now_ns);
        }
        self.lost_told = self.lost();
        let (kernel, sinks) = (self.readers.counts()?, self.sinks());
        self.pipeline.apply(Input::Counters { kernel, sinks, now_ns });
        Ok(())
    }

    /// What became of what the outputs were given.
    fn sinks(&self) -> Vec<SinkCount> {
        let mut sinks = self.output.counts();
        sinks.extend(self.recording.as_ref().map(Recording::count));
        sinks.extend(self.pcap.as_ref().map(Pcap::count));
        sinks
    }

    /// Reports and packets that were lost so far.
    fn lost(&self) -> u64 {
        self.output.lost().saturating_add(self.pcap.as_ref().map_or(0, Pcap::lost))
    }

    /// Hands the reports made so far to the output.
    fn deliver(&mut self) -> Option<Stop> {
        self.output.lose(self.pipeline.take_unreported());
        for report in self.pipeline.take_reports() {
            let is_event = !matches!(report.body, Body::RunStarted(_));
            let report = Arc::new(report);
            if let Some(pcap) = &mut self.pcap {
                pcap.send(&report);
            }
            self.output.send(report);
            self.reported += u64::from(is_event);
        }
        if self.args.count.is_some_and(|count| self.reported >= count.get()) {
            return Some(Stop::Count);
        }
        let is_closed = self.output.is_closed() || self.pcap.as_ref().is_some_and(Pcap::is_closed);
        is_closed.then_some(Stop::OutputClosed)
    }
}

/// Waits until whoever reads the capture goes away; for ever if there is none.
async fn closed(pcap: Option<&Pcap>) {
    match pcap {
        Some(pcap) => pcap.closed().await,
        None => std::future::pending().await,
    }
}

/// Hands what is there already to the pipeline; gives what sends watched ports elsewhere.
fn snapshot(
    object: &mut Object,
    pipeline: &mut Pipeline,
    ports: &PortSet,
    (programs, cgroups): (&Programs, &Hierarchy),
    degraded: &mut Vec<String>,
) -> Result<Vec<Standing>> {
    let wanted = crossview::Wanted::hooked(ports);
    let (snapshot, standing) = Snapshot::take(wanted, programs, Some(cgroups), Some(object))?;
    snapshot.apply(Some(object), pipeline, degraded)?;
    Ok(standing)
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Tells what was found when portwatch looked first: what is in our way, and what redirects ports.
fn tell_found(pipeline: &mut Pipeline, gaps: Vec<Gap>, standing: Vec<Standing>, now_ns: u64) {
    pipeline.apply(Input::Coverage { gaps, now_ns });
    pipeline.apply(Input::Standing { found: standing, now_ns });
}

/// The programs of an interface, as `run-started` lists them.
fn classifiers(observed: &InterfaceReport) -> [(String, String); 2] {
    let mut place = observed.interface.name.clone();
    if observed.is_elsewhere() {
        place = format!("{place}@{}", observed.netns);
    }
    ["pw_ingress", "pw_egress"]
        .map(|name| (format!("{name}@{place}"), observed.mode.clone().into_owned()))
}
