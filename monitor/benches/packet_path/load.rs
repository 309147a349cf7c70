//! The real `watch` under load: a flood, and tens of thousands of active flows.
//!
//! The packets are made in the kernel, in a network namespace of the bench's own.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::Effort;
use crate::cable::Cable;
use crate::clock::Stopwatch;
use crate::following::MANY;
use crate::frames::{self, WATCHED};
use crate::generator::Generator;
use crate::process::{Running, one_apart, own_cpus, stay_on};
use crate::report::Row;
use crate::spread::Spread;

/// The most that user space may use: per cent of a core under a flood and with 64 k active flows,
/// megabytes with those, and wake-ups a second, ever.
const FLOOD_BAR: f64 = 25.0;
const FOLLOWING_BAR: f64 = 1.0;
const MEMORY_BAR: f64 = 60.0;
const WAKE_UPS_BAR: f64 = 200.0;

/// Packets that would be sampled, a second.
const OFFERED: u32 = 100_000;
/// Time between two bursts of packets that come evenly.
const BEAT: Duration = Duration::from_millis(10);
const BEATS_PER_SECOND: u32 = 100;
/// Packets of each active flow, a second.
const EACH: u32 = 2;
/// Packets that one call makes: the kernel takes tens of milliseconds to get ready for it.
const FLAT_OUT: u32 = 500_000;
/// The start of so many flows is reported meanwhile, which is not what is measured.
const STARTING: Duration = Duration::from_secs(15);
/// Packets of each flow a second until then, by which they are seen to last.
const EACH_AT_FIRST: u32 = 5;

/// What a running `watch` used, measured some times.
#[derive(Debug, Default)]
struct Used {
    cpu: Vec<f64>,
    wake_ups: Vec<f64>,
    memory: Vec<f64>,
}

/// From the start of the command until it watches.
pub(crate) fn start(effort: Effort) -> Result<Vec<Row>> {
    let _cable = Cable::lay()?;
    let mut times = Vec::new();
    for _ in 0..effort.runs {
        let passed = Stopwatch::of_everybody();
        let watch = Running::watch::<&str>(&[])?;
        times.push(passed.elapsed().as_secs_f64() * 1e3);
        watch.stop()?;
    }
    Ok(vec![Row::new("from the start of watch until it watches", "ms", Spread::of(times))])
}

/// Packets that would all be sampled: at a steady rate, and as many as one CPU can make.
pub(crate) fn flood(effort: Effort) -> Result<Vec<Row>> {
    let cable = Cable::lay()?;
    let (cpu, _) = one_apart()?;
    let generator = generator(Generator::of_packet(frames::datagram(true), cable.ifindex))?;
    let to = (Cable::reader(0), WATCHED);
    let _never_read = UdpSocket::bind(to).context("binding a socket")?;
    let socket = cable.at_sending_end(|| {
        let socket = UdpSocket::bind((Cable::sender(0), 0)).context("binding a socket")?;
        socket.connect(to).context("connecting a socket")?;
        Ok(socket)
    })?;
    let watch = Running::watch(&["--format", "json", "--sample", "1"])?;
    stay_on(&[cpu])?;
    let steady = use_of(&watch, effort, || {
        evenly(|| {
            for _ in 0..OFFERED / BEATS_PER_SECOND {
                socket.send(&[0; 64]).context("sending a datagram")?;
            }
            Ok(())
        })
    })?;
    let mut packets = Vec::new();
    let flat_out = use_of(&watch, effort, || {
        let passed = Stopwatch::of_everybody();
        generator.send(FLAT_OUT).context("making packets, which takes Linux 5.18")?;
        packets.push(f64::from(FLAT_OUT) / passed.elapsed().as_secs_f64() / 1e6);
        Ok(())
    })?;
    watch.stop()?;
    let row = |what: &str, unit, values| Row::new(what, unit, Spread::of(values));
    Ok(vec![
        row("100 k packets/s to be sampled, CPU of watch", "%", steady.cpu).at_most(FLOOD_BAR),
        row("100 k packets/s to be sampled, wake-ups of watch", "/s", steady.wake_ups)
            .at_most(WAKE_UPS_BAR),
        row("as many packets as one CPU makes, all to be sampled", "M/s", packets),
        row("as many packets as one CPU makes, CPU of watch", "%", flat_out.cpu).at_most(FLOOD_BAR),
        row("as many packets as one CPU makes, wake-ups of watch", "/s", flat_out.wake_ups)
            .at_most(WAKE_UPS_BAR),
    ])
}

/// 64 k active flows, spread over all CPUs, of which nothing is to be reported meanwhile; and the same
/// with the usual reports.
pub(crate) fn active(effort: Effort) -> Result<Vec<Row>> {
    let quiet = follow(effort, &["--format", "json", "--sample", "0", "--interval", "1h"])?;
    let usual = follow(effort, &["--format", "json"])?;
    let row = |what: &str, unit, values| Row::new(what, unit, Spread::of(values));
    Ok(vec![
        row("64 k active flows, CPU of watch to follow them", "%", quiet.cpu)
            .at_most(FOLLOWING_BAR),
        row("64 k active flows, resident memory", "MB", quiet.memory).at_most(MEMORY_BAR),
        row("64 k active flows, wake-ups of watch", "/s", quiet.wake_ups).at_most(WAKE_UPS_BAR),
        row("64 k active flows, CPU of watch, a report of each every 10 s", "%", usual.cpu),
    ])
}

fn follow(effort: Effort, arguments: &[&str]) -> Result<Used> {
    let cable = Cable::lay()?;
    let cpus = own_cpus()?;
    let lanes = u32::try_from(cpus.len()).unwrap_or(1).next_power_of_two();
    let flows = MANY / lanes;
    let mut generators = Vec::new();
    for (lane, cpu) in (1_u8..).zip(cpus.iter().cycle().take(usize::try_from(lanes)?)) {
        let made = Generator::of_flows(frames::datagram(true), cable.ifindex, flows, lane);
        generators.push((*cpu, generator(made)?));
    }
    let watch = Running::watch(arguments)?;
    let second = |each| {
        let passed = Stopwatch::of_everybody();
        for number in 1..=each {
            for (cpu, generator) in &generators {
                stay_on(&[*cpu])?;
                generator.send(flows).context("making packets, which takes Linux 5.18")?;
            }
            let due = Duration::from_secs(1) * number / each;
            thread::sleep(due.saturating_sub(passed.elapsed()));
        }
        Ok(())
    };
    for _ in 0..STARTING.as_secs() {
        second(EACH_AT_FIRST)?;
    }
    let used = use_of(&watch, effort, || second(EACH))?;
    watch.stop()?;
    stay_on(&cpus)?;
    Ok(used)
}

fn generator(made: std::io::Result<Generator>) -> Result<Generator> {
    made.context("loading the generator of packets")
}

/// What `watch` uses while packets come, for some seconds again and again.
fn use_of(watch: &Running, effort: Effort, mut second: impl FnMut() -> Result<()>) -> Result<Used> {
    let mut used = Used::default();
    // With many flows, the flow table is read every few seconds.
    let window = 2 * effort.seconds;
    for _ in 0..3 {
        let (passed, cpu, wake_ups) =
            (Stopwatch::of_everybody(), watch.cpu_time()?, watch.wake_ups()?);
        for _ in 0..window {
            second()?;
        }
        let seconds = passed.elapsed().as_secs_f64();
        let share = watch.cpu_time()?.saturating_sub(cpu).as_secs_f64() / seconds;
        used.cpu.push(share * 100.0);
        let woken = u32::try_from(watch.wake_ups()?.saturating_sub(wake_ups)).unwrap_or(u32::MAX);
        used.wake_ups.push(f64::from(woken) / seconds);
        used.memory.push(watch.megabytes("VmRSS:")?);
    }
    Ok(used)
}

/// Does something at every beat of a second.
fn evenly(mut beat: impl FnMut() -> Result<()>) -> Result<()> {
    let passed = Stopwatch::of_everybody();
    for number in 0..BEATS_PER_SECOND {
        beat()?;
        thread::sleep((BEAT * (number + 1)).saturating_sub(passed.elapsed()));
    }
    Ok(())
}
