//! A packet of a flow that is in the table, and a packet that is none of ours.

use anyhow::Result;

use crate::frames::{self, Frame};
use crate::programs::{EMPTY, OURS, Programs, default_settings, nanoseconds_each};
use crate::quiet;
use crate::report::Row;
use crate::spread::Spread;
use crate::{Effort, stay_on_one_cpu};

/// The most that a packet of another port, and one of a known flow, may cost, in nanoseconds.
const MISS_BAR: f64 = 5.0;
const HIT_BAR: f64 = 12.0;
const IPV6_HIT_BAR: f64 = 16.0;
/// Where the verifier gives up, in thousands of instructions.
const VERIFIER_BAR: f64 = 1000.0;

/// One kind of packet and what it cost in each round.
struct Case {
    frame: Frame,
    bar: f64,
    costs: Vec<f64>,
}

/// Every kind, one after the other, round after round.
pub(crate) fn measure(effort: Effort) -> Result<Vec<Row>> {
    stay_on_one_cpu()?;
    let settings = default_settings()?;
    let case = |bar| move |frame| Case { frame, bar, costs: Vec::new() };
    let misses = frames::misses().into_iter().chain([frames::arp()]);
    let hits = frames::hits().into_iter().zip([HIT_BAR, IPV6_HIT_BAR, HIT_BAR]);
    let hits = hits.map(|(frame, bar)| case(bar)(frame));
    let mut cases: Vec<Case> = misses.map(case(MISS_BAR)).chain(hits).collect();
    let (mut floor, mut verified) = (Vec::new(), Vec::new());
    for _ in 0..effort.loads {
        let mut programs = Programs::load(&settings)?;
        start_flows(&mut programs)?;
        verified.push(f64::from(programs.verified(OURS)?) / 1e3);
        for round in 0..effort.rounds {
            for Case { frame, costs, .. } in &mut cases {
                let ours_first = round % 2 == 1;
                let packets = effort.packets;
                costs.push(programs.difference_in_quiet(&frame.bytes, packets, ours_first)?);
            }
            let arp = frames::arp();
            let empty = quiet::measure(|| programs.run(EMPTY, &arp.bytes, effort.packets))?;
            floor.push(nanoseconds_each(empty, effort.packets));
        }
    }
    let verified = Row::new("instructions verified to load pw_ingress", "k", Spread::of(verified));
    let mut rows = vec![
        verified.at_most(VERIFIER_BAR),
        Row::new("the empty program and the kernel's loop", "ns", Spread::of(floor)),
    ];
    rows.extend(cases.into_iter().map(|case| {
        Row::new(over_empty(case.frame.name), "ns", Spread::of(case.costs)).at_most(case.bar)
    }));
    Ok(rows)
}

/// The first packets of a flow are announced and sampled: not what is measured here.
fn start_flows(programs: &mut Programs) -> Result<()> {
    const PACKETS: u32 = 1000;
    for frame in frames::hits() {
        programs.run(OURS, &frame.bytes, PACKETS)?;
    }
    programs.drain();
    Ok(())
}

/// What a row is called that tells a difference.
pub(crate) fn over_empty(what: &str) -> String {
    format!("over empty: {what}")
}
