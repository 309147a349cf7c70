//! Packets that are sampled: within what a CPU may sample in a tenth of a second, and beyond.
//!
//! The kernel side samples only so many packets a second. Packets are therefore run in batches small
//! enough for several of them to fit in; what a batch left in the ring tells which kind it was.

use std::hint;
use std::time::Duration;

use anyhow::Result;
use monitor::kernel::object::Settings;

use crate::clock::Stopwatch;
use crate::frames;
use crate::known_flow::over_empty;
use crate::programs::{OURS, Programs, default_settings};
use crate::quiet;
use crate::report::Row;
use crate::spread::Spread;
use crate::{Effort, stay_on_one_cpu};

/// The most a packet may cost, in nanoseconds, when 1 in 64 is sampled and when each is.
const SOME_BAR: f64 = 20.0;
const ALL_BAR: f64 = 85.0;

/// Samples in a batch.
const SAMPLES: u16 = 32;
const WHOLE: usize = SAMPLES as usize;

/// A ring that batch after batch writes to the same memory of, which is in the caches then as all else is
/// that these packets need. So few samples a second come back to the same place of the usual one after
/// seconds, so that what is measured there is how long the machine takes to fetch memory.
const WARM_RING: u32 = 32 << 10;

/// How long batches run until it is asked again whether the machine is quiet.
const TURN: Duration = Duration::from_millis(100);

/// What a tick brings along is done by then, and the next one is not due.
const AFTER_TICK: Duration = Duration::from_millis(1);

/// What packets cost, in nanoseconds over the empty program.
#[derive(Default)]
struct Costs {
    /// In batches of which every sample was taken.
    within: Vec<f64>,
    /// In batches of which none was.
    beyond: Vec<f64>,
}

/// One in 64, and every packet.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let usual = default_settings()?;
    let warm = |sample_every| Settings { sample_every, ring_bytes: WARM_RING, ..usual.clone() };
    let some = run(&warm(64), effort)?;
    let all = run(&warm(1), effort)?;
    let cold = run(&Settings { sample_every: 1, ..usual.clone() }, effort)?;
    let row = |what: &str, costs| Row::new(over_empty(what), "ns", Spread::of(costs));
    Ok(vec![
        row("known flow, 1 packet in 64 sampled", some.within).at_most(SOME_BAR),
        row("known flow, every packet sampled", all.within).at_most(ALL_BAR),
        row("known flow, every packet sampled, to memory not used for seconds", cold.within),
        row("known flow, every packet to be sampled, beyond the limit", all.beyond),
    ])
}

fn run(settings: &Settings, effort: Effort) -> Result<Costs> {
    let mut programs = Programs::load(settings)?;
    let [frame, ..] = frames::hits();
    let packets = u32::from(settings.sample_every) * u32::from(SAMPLES);
    // The first packets of a flow are sampled whatever was asked for; then begin with a whole batch.
    programs.run(OURS, &frame.bytes, 4 + packets)?;
    programs.drain();
    let mut costs = Costs::default();
    let mut measured = Duration::ZERO;
    while measured < Duration::from_secs(effort.seconds) {
        let turn = quiet::measure(|| batches(&mut programs, &frame.bytes, packets))?;
        costs.within.extend(turn.within);
        costs.beyond.extend(turn.beyond);
        measured += TURN;
    }
    Ok(costs)
}

/// Batches for a turn.
fn batches(programs: &mut Programs, packet: &[u8], packets: u32) -> Result<Costs> {
    let mut costs = Costs::default();
    let passed = Stopwatch::of_everybody();
    let mut before = 0;
    while passed.elapsed() < TURN {
        let cost = programs.difference(packet, packets, false)?;
        let taken = programs.drain();
        match (before, taken) {
            (0, 0) => costs.beyond.push(cost),
            // A tick has made the budget whole; what else the kernel does then is not meant.
            (0, _) => spin(AFTER_TICK),
            (_, WHOLE) => costs.within.push(cost),
            _ => {}
        }
        before = taken;
    }
    Ok(costs)
}

/// Passes time without sleeping, which would leave the CPU to others.
fn spin(time: Duration) {
    let passed = Stopwatch::of_everybody();
    while passed.elapsed() < time {
        hint::spin_loop();
    }
}
