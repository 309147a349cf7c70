//! The one line that a run leaves behind: what was seen, and everything that was not.

use crate::endpoint::Direction;
use crate::report::{Counters, PortCount, RecordCounts, RunEnded};

use super::amount::{grouped, plural};
use crate::escape::escape;

/// As many ports are named one by one.
const NAMED_PORTS: usize = 4;

/// `portwatch: 3516/tcp+udp: 12 345 packets in, 11 900 out; 40 records, 0 lost`.
///
/// "0 lost" is only said when every count of a loss is zero; else each is named, with the option
/// that helps.
pub fn summary(run: &RunEnded) -> String {
    let Some(counters) = &run.counters else {
        return format!("portwatch: {}", seen(run, "connection"));
    };
    let packets = |direction| {
        let counts = counters.ports.iter().filter(|count| count.direction == direction);
        grouped(sum(counts.map(|count| count.packets)))
    };
    let mut text = format!(
        "portwatch: {}: {} packets in, {} out; {}",
        ports(&counters.ports),
        packets(Direction::Ingress),
        packets(Direction::Egress),
        plural(counters.records.read, "record"),
    );
    let losses = losses(counters);
    if losses.is_empty() {
        text.push_str(", 0 lost");
    } else {
        text.push_str("; lost: ");
        text.push_str(&losses.join(", "));
    }
    let unparsable = sum(counters.unparsable.values().copied());
    if unparsable > 0 {
        text.push_str(&format!("; {} could not be parsed", plural(unparsable, "packet")));
    }
    text
}

/// `1 listener, 1 flow, 0 findings`.
pub(super) fn seen(run: &RunEnded, flow: &str) -> String {
    [(run.listeners, "listener"), (run.flows, flow), (run.findings, "finding")]
        .map(|(count, what)| plural(count, what))
        .join(", ")
}

/// Everything lost, in words; empty only when nothing was.
pub(super) fn losses(counters: &Counters) -> Vec<String> {
    let RecordCounts { seen, filtered, submitted, ring_full, read, undecodable } = counters.records;
    let accounted = sum([filtered, submitted, ring_full]);
    let mut losses = Vec::new();
    let mut lost = |count, words: &dyn Fn(&str) -> String, what| {
        if count > 0 {
            losses.push(words(&plural(count, what)));
        }
    };
    lost(ring_full, &|it| format!("{it} at the full ring (try a larger --ring-size)"), "record");
    lost(submitted.saturating_sub(read), &|it| format!("{it} never read"), "record");
    lost(read.saturating_sub(submitted), &|it| format!("{it} read but never sent"), "record");
    lost(seen.abs_diff(accounted), &|it| format!("{it} not accounted for"), "record");
    lost(undecodable, &|it| format!("{it} not understood"), "record");
    let overflow = sum(counters.overflow.iter().map(|count| count.packets));
    lost(overflow, &|it| format!("{it} counted in no flow (the flow table was full)"), "packet");
    for sink in &counters.sinks {
        lost(sink.lost, &|it| format!("{it} not written to {}", escape(&sink.name)), "report");
    }
    losses
}

/// `3516/tcp+udp`, `22,80/tcp+udp`, `12 ports`.
fn ports(counts: &[PortCount]) -> String {
    let mut ports: Vec<u16> = counts.iter().map(|count| count.port).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.len() > NAMED_PORTS {
        return format!("{} ports", ports.len());
    }
    let names: Vec<_> = ports.iter().map(u16::to_string).collect();
    format!("{}/tcp+udp", names.join(","))
}

fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use crate::output::examples;
    use crate::report::SinkCount;

    use super::*;

    #[test]
    fn a_run_without_losses_says_so() {
        let mut run = examples::run_ended();
        let counters = run.counters.as_mut().unwrap();
        counters.overflow.clear();
        counters.unparsable.clear();
        counters.ports[0].packets = 12_345;

        let text = summary(&run);

        assert_eq!(text, "portwatch: 3516/tcp+udp: 12 345 packets in, 9 out; 40 records, 0 lost");
    }

    #[test]
    fn every_loss_is_named_with_the_option_that_helps() {
        let mut run = examples::run_ended();
        let counters = run.counters.as_mut().unwrap();
        counters.records = RecordCounts {
            seen: 60,
            filtered: 4,
            submitted: 40,
            ring_full: 12_000,
            read: 39,
            undecodable: 2,
        };
        let name = "std\u{1b}out".to_owned();
        counters.sinks = vec![SinkCount { name, delivered: 30, lost: 8 }];

        let text = summary(&run);

        assert_eq!(
            text,
            "portwatch: 3516/tcp+udp: 13 packets in, 9 out; 39 records; lost: 12 000 records at \
             the full ring (try a larger --ring-size), 1 record never read, 11 984 records not \
             accounted for, 2 records not understood, 1 packet counted in no flow (the flow table \
             was full), 8 reports not written to std\\x1bout; 1 packet could not be parsed"
        );
    }

    #[test]
    fn a_scan_counts_no_packets() {
        let run = RunEnded { counters: None, listeners: 2, ..examples::run_ended() };

        assert_eq!(summary(&run), "portwatch: 2 listeners, 1 connection, 1 finding");
    }

    #[test]
    fn no_single_loss_hides_behind_zero_lost() {
        let clean = Counters { overflow: Vec::new(), ..examples::counters() };
        assert_eq!(losses(&clean), Vec::<String>::new());
        let spoilers: [fn(&mut Counters); 7] = [
            |it| it.records.ring_full = 1,
            |it| it.records.undecodable = 1,
            |it| it.records.read -= 1,
            |it| it.records.submitted -= 1,
            |it| it.records.seen += 1,
            |it| it.overflow = examples::counters().overflow,
            |it| it.sinks[0].lost = 1,
        ];
        for spoil in spoilers {
            let mut counters = clean.clone();
            spoil(&mut counters);
            assert!(!losses(&counters).is_empty(), "{counters:?}");
        }
    }
}
