//! The golden lines, and what no line may do.

use std::sync::Arc;

use crate::escape::width;
use crate::output::examples::network::endpoint;
use crate::output::examples::{self, network};
use crate::report::{EndReason, FlowChange, FlowReport, FlowRole};

use super::*;

#[test]
fn a_run_reads_as_agreed() {
    examples::assert_golden("run.txt", &render(&examples::run(), Look::plain()));
}

#[test]
fn rarities_read_as_agreed() {
    examples::assert_golden("rarities.txt", &render(&examples::rarities(), Look::plain()));
}

#[test]
fn a_scan_is_a_table_with_its_findings() {
    examples::assert_golden("scan.txt", &table_of(examples::scan(), &Look::plain()));
}

#[test]
fn a_table_fits_its_terminal_and_cuts_no_address() {
    let look = Look { width: Some(120), ..Look::plain() };

    let text = table_of(examples::scan(), &look);

    let (table, _) = text.split_once("    degraded").unwrap();
    for line in table.lines() {
        assert!(width(line) <= 120, "{line}");
    }
    assert!(table.contains("127.0.0.1%lo:3516"), "{table}");
    assert!(table.contains("…/cardbridged"), "{table}");
    assert!(table.contains("[812]~ +1"), "{table}");
}

#[test]
fn a_narrow_terminal_is_spared_the_columns_that_say_the_same() {
    let look = Look { width: Some(80), ..Look::plain() };

    let mut reports = examples::run();
    reports.retain(|report| matches!(report.body, Body::Listener(..)));

    let text = table_of(reports, &look);

    let head: Vec<_> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["PROTO", "STATE", "LOCAL", "PROCESS", "USER", "EXE", "VERDICT"]);
    assert!(text.lines().all(|line| width(line) <= 80), "{text}");
}

#[test]
fn a_scan_that_finds_nothing_says_so() {
    assert_eq!(scan(&[], &Look::plain()), "nothing listens and nothing is connected\n");
}

#[test]
fn colour_changes_nothing_but_colour() {
    let look = Look { colour: true, ..Look::plain() };
    for reports in [examples::run(), examples::rarities()] {
        let coloured = render(&reports, look.clone());

        assert!(coloured.contains("\u{1b}["));
        let stripped = anstream::adapter::strip_str(&coloured).to_string();
        assert_eq!(stripped, render(&reports, Look::plain()));
    }
    let table = table_of(examples::scan(), &look);
    assert_eq!(
        anstream::adapter::strip_str(&table).to_string(),
        table_of(examples::scan(), &Look::plain())
    );
}

#[test]
fn no_foreign_text_reaches_the_terminal_as_it_is() {
    let text = render(&examples::rarities(), Look::plain());
    let table = table_of(examples::scan(), &Look::plain());

    for shown in [&text, &table] {
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown}");
        assert!(!shown.contains('\u{202e}'), "{shown}");
        assert!(shown.contains(r"sh\x1b[2J\nok[666]?"), "{shown}");
    }
}

#[test]
fn a_new_day_has_a_line_of_its_own() {
    let mut reports = examples::run();
    reports.truncate(1);
    let tomorrow =
        Report { time_unix_ns: examples::START_NS + 86_400_000_000_000, ..reports[0].clone() };
    reports.push(tomorrow);

    let text = render(&reports, Look::plain());

    let days: Vec<_> = text.lines().filter(|line| line.contains(" DAY ")).collect();
    assert_eq!(
        days,
        [
            "13:03:07.100 DAY       Monday 2026-11-23 +00:00",
            "13:03:07.000 DAY       Tuesday 2026-11-24 +00:00",
        ]
    );
}

#[test]
fn times_are_those_of_the_zone() {
    let zone = TimeZone::fixed(jiff::tz::offset(-5));

    let text = render(&examples::run(), Look { zone, ..Look::plain() });

    assert!(text.starts_with("08:03:07.100 DAY       Monday 2026-11-23 -05:00\n"), "{text}");
}

#[test]
fn a_scan_of_ports_is_a_line_and_not_thousands() {
    let mut reports = Vec::new();
    for port in 0..1500 {
        let (source, destination) = (endpoint("203.0.113.9", 40_000), endpoint("10.0.0.1", port));
        reports.extend(refused(FlowReport { source, destination, ..network::refused_flow() }));
    }
    // Somebody who is answered is shown meanwhile.
    reports.push(of_flow(FlowChange::Started, network::flow(FlowChange::Started)));
    reports.push(counters());

    let text = render(&reports, Look::plain());

    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * 16 + 1 + 1 + 1, "{text}");
    assert!(lines[34].contains("203.0.113.9: 1484 more flows not shown, to 1484 ports"), "{text}");
    assert!(lines[34].ends_with("ended: 1484 refused"), "{text}");
}

#[test]
fn a_flood_from_everywhere_has_a_line_for_the_worst_and_one_for_the_rest() {
    let mut reports = Vec::new();
    for number in 0..6000_u32 {
        let ip = std::net::Ipv4Addr::from(0xc612_0000 + number).to_string();
        let source = endpoint(&ip, 40_000);
        reports.extend(refused(FlowReport { source, ..network::refused_flow() }));
    }
    reports.push(counters());
    reports.push(counters());

    let text = render(&reports, Look::plain());

    let probes: Vec<&str> = text.lines().filter(|line| line.contains(" PROBES ")).collect();
    assert_eq!(probes.len(), 9, "{text}");
    assert!(probes[8].contains("more than 4024 more sources: 5928 more flows"), "{probes:#?}");
}

/// The start and the end of a flow that was refused.
fn refused(flow: FlowReport) -> [Report; 2] {
    assert_eq!(flow.role, Some(FlowRole::Refused));
    let ended = of_flow(FlowChange::Ended(EndReason::EndOfFlow), flow.clone());
    [of_flow(FlowChange::Started, flow), ended]
}

fn of_flow(change: FlowChange, flow: FlowReport) -> Report {
    Report { time_unix_ns: examples::START_NS, body: Body::Flow(change, Box::new(flow)) }
}

fn counters() -> Report {
    let body = Body::Counters(Box::default());
    Report { time_unix_ns: examples::START_NS, body }
}

fn table_of(reports: Vec<Report>, look: &Look) -> String {
    let reports: Vec<_> = reports.into_iter().map(Arc::new).collect();
    scan(&reports, look)
}

fn render(reports: &[Report], look: Look) -> String {
    let mut encoder = Encoder::new(look);
    let mut out = Vec::new();
    for report in reports {
        encoder.encode(report, &mut out);
    }
    String::from_utf8(out).unwrap()
}
