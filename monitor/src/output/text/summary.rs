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
        text.push_str(&escape(&losses.join(", ")));
    }
    if !run.coverage_gaps.is_empty() {
        text.extend(["; ", &plural(count(&run.coverage_gaps), "coverage gap")]);
    }
    let unparsable = sum(counters.unparsable.values().copied());
    if unparsable > 0 {
        text.extend(["; ", &plural(unparsable, "packet"), " could not be parsed"]);
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
///
/// At the end nothing is under way any more, so what does not add up is lost too.
fn losses(counters: &Counters) -> Vec<String> {
    let RecordCounts { seen, filtered, submitted, ring_full, read, .. } = counters.records;
    let mut losses = counters.losses();
    let mut gap = |count, what: &str| {
        if count > 0 {
            losses.push(format!("{} {what}", plural(count, "record")));
        }
    };
    gap(submitted.saturating_sub(read), "handed to the ring but never read");
    gap(read.saturating_sub(submitted), "read but never handed to the ring");
    gap(seen.abs_diff(sum([filtered, submitted, ring_full])), "not accounted for");
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

fn count(sentences: &[String]) -> u64 {
    u64::try_from(sentences.len()).unwrap_or(u64::MAX)
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
    fn the_counters_of_the_examples_add_up() {
        assert_eq!(examples::counters().broken_equations(), Vec::<String>::new());
    }

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

        assert!(text.starts_with(
            "portwatch: 3516/tcp+udp: 13 packets in, 9 out; 39 records; lost: 12000 records "
        ));
        assert!(text.contains("--ring-size"), "{text}");
        assert!(text.contains("2 records could not be decoded"), "{text}");
        assert!(text.contains("8 reports not written to std\\x1bout"), "{text}");
        assert!(text.contains("1 record handed to the ring but never read"), "{text}");
        assert!(text.contains("11 984 records not accounted for"), "{text}");
        assert!(text.ends_with("; 1 packet could not be parsed"), "{text}");
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
