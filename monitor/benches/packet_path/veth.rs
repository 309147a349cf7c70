//! What observers of the same traffic cost, on a veth pair between two namespaces, in turns.
//!
//! The packets are made in the kernel as if they had come by wire, and go through TC up to a UDP socket
//! that is full, on one CPU. Observers that are processes run on the others.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use anyhow::{Context as _, Result};
use monitor::kernel::object::Object;

use crate::Effort;
use crate::cable::Cable;
use crate::clock::Stopwatch;
use crate::frames::{self, UNWATCHED, WATCHED};
use crate::generator::Generator;
use crate::observer::{Observer, empty_program};
use crate::process::{one_apart, stay_on};
use crate::programs::nanoseconds_each;
use crate::quiet;
use crate::report::Row;
use crate::spread::{Spread, median};

/// The most that portwatch may cost on the port, in per cent of what tcpdump costs.
const TCPDUMP_BAR: f64 = 20.0;

/// Bursts in a turn, of which the median counts, and packets of each.
const BURSTS: usize = 5;
const RECEIVED: u32 = 50_000;

/// Who takes turns. The second that does nothing shows what cannot be told apart.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Turn {
    Nothing,
    Empty,
    Portwatch,
    Tcpdump,
    Nft,
    NothingAgain,
}

impl Turn {
    const ALL: [Self; 6] =
        [Self::Nothing, Self::Empty, Self::Portwatch, Self::Tcpdump, Self::Nft, Self::NothingAgain];

    const fn observer(self) -> Observer {
        match self {
            Self::Nothing | Self::NothingAgain => Observer::Nothing,
            Self::Empty => Observer::Empty,
            Self::Portwatch => Observer::Portwatch,
            Self::Tcpdump => Observer::Tcpdump,
            Self::Nft => Observer::Nft,
        }
    }
}

/// What packets off and on the watched port cost in one turn, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Cost {
    off: f64,
    on: f64,
}

/// What everybody cost in one round.
type Round = BTreeMap<Turn, Cost>;

/// All observers in turn, again and again.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    let road = Road::open()?;
    let mut object = empty_program()?;
    let missing = |turn: Turn| Some((turn, turn.observer().missing()?));
    let missing: BTreeMap<Turn, &str> = Turn::ALL.into_iter().filter_map(missing).collect();
    let mut turns = Turn::ALL;
    let mut rounds = Vec::new();
    for _ in 0..effort.turns {
        let mut round = Round::new();
        for turn in turns {
            if !missing.contains_key(&turn) {
                round.insert(turn, road.observed(turn.observer(), &mut object)?);
            }
        }
        rounds.push(round);
        // Whoever comes after whom differs from round to round.
        turns.rotate_left(1);
        turns.swap(1, 4);
    }
    Ok(rows(&rounds, &missing))
}

/// The way of the packets.
struct Road {
    /// Of packets off and on the port.
    off: Generator,
    on: Generator,
    /// Bound, and never read.
    _full: [UdpSocket; 2],
    _cable: Cable,
    cpu: usize,
    /// Where the observers run.
    others: Vec<usize>,
}

impl Road {
    fn open() -> Result<Self> {
        let (cpu, others) = one_apart()?;
        let cable = Cable::lay()?;
        let generator = |watched| {
            let generator = Generator::of_packet(frames::datagram(watched), cable.ifindex);
            generator.context("loading the generator of packets")
        };
        let bind = |port| UdpSocket::bind((Cable::receiver(0), port)).context("binding a socket");
        Ok(Self {
            off: generator(false)?,
            on: generator(true)?,
            _full: [bind(UNWATCHED)?, bind(WATCHED)?],
            _cable: cable,
            cpu,
            others,
        })
    }

    /// What packets cost with this observer.
    fn observed(&self, observer: Observer, object: &mut Object) -> Result<Cost> {
        stay_on(&self.others)?;
        let observing = observer.start(object)?;
        stay_on(&[self.cpu])?;
        // The first bursts warm up.
        for generator in [&self.off, &self.on] {
            receive(generator)?;
        }
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for _ in 0..BURSTS {
            // What an observer does on other CPUs meanwhile counts: only this one has to be quiet.
            off.push(quiet::measure(|| receive(&self.off))?);
            on.push(quiet::measure(|| receive(&self.on))?);
        }
        observing.stop()?;
        Ok(Cost { off: median(off), on: median(on) })
    }
}

/// Nanoseconds for each packet of a burst that is received.
fn receive(generator: &Generator) -> Result<f64> {
    let running = Stopwatch::of_thread();
    generator.send(RECEIVED).context("making packets, which takes Linux 5.18")?;
    Ok(nanoseconds_each(running.elapsed(), RECEIVED))
}

/// Takes one of the two costs.
type Port = (&'static str, fn(&Cost) -> f64);

fn rows(rounds: &[Round], missing: &BTreeMap<Turn, &str>) -> Vec<Row> {
    const OFF: Port = ("off", |cost| cost.off);
    const ON: Port = ("on", |cost| cost.on);
    // One row: what `number` makes of every round that has it.
    let row = |what: String, unit, number: &dyn Fn(&Round) -> Option<f64>| {
        Row::new(what, unit, Spread::of(rounds.iter().filter_map(number).collect()))
    };
    let again = |round: &Round| {
        let [again, first] = [Turn::NothingAgain, Turn::Nothing].map(|turn| round.get(&turn));
        Some(again?.on - first?.on)
    };
    let mut rows = vec![
        row("received: nothing attached".to_owned(), "ns", &|round| nothing(round, ON)),
        row("received, over nothing: nothing again".to_owned(), "ns", &again),
    ];
    for (turn, name) in [
        (Turn::Empty, "an empty TCX program"),
        (Turn::Portwatch, "portwatch"),
        (Turn::Nft, "an nft netdev counter"),
        (Turn::Tcpdump, "tcpdump port 3516"),
    ] {
        for port in [OFF, ON] {
            let what = format!("received, over nothing: {name}, {} the port", port.0);
            rows.push(row(what, "ns", &|round| over_nothing(round, turn, port)));
        }
    }
    for port in [OFF, ON] {
        let what = format!("received, over nothing: portwatch of tcpdump, {} the port", port.0);
        let row = row(what, "%", &|round| {
            let tcpdump = over_nothing(round, Turn::Tcpdump, port)?;
            Some(over_nothing(round, Turn::Portwatch, port)? / tcpdump * 100.0)
        });
        rows.push(if port.0 == "on" { row.at_most(TCPDUMP_BAR) } else { row });
    }
    rows.extend(missing.values().map(|why| Row::new(format!("not compared: {why}"), "", None)));
    rows
}

/// What a packet costs with nothing attached.
fn nothing(round: &Round, (_, cost): Port) -> Option<f64> {
    Some(f64::midpoint(cost(round.get(&Turn::Nothing)?), cost(round.get(&Turn::NothingAgain)?)))
}

/// How many nanoseconds a packet costs more than with nothing attached.
fn over_nothing(round: &Round, turn: Turn, port: Port) -> Option<f64> {
    Some(port.1(round.get(&turn)?) - nothing(round, port)?)
}
