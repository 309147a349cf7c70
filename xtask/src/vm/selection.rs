//! What `cargo xtask test --vm` runs on which kernel: few tests, since a guest that is run by software
//! takes some seconds for each, and those that tell most of what differs between kernels.
//!
//! `cargo xtask vm` runs all tests.

use std::collections::BTreeMap;

use crate::vm::archive::NEWEST;

/// Tests by file and name, and the kernels they run on.
const SELECTION: &[(&[&str], &[&str])] = &[
    (EVERYWHERE, &["5.10", "6.1", "6.12", NEWEST]),
    (WITH_ITERATORS, &["6.1", "6.12", NEWEST]),
    (ON_CLSACT, &["5.10", "6.1"]),
    (ON_TCX, &["6.12", NEWEST]),
    (WITH_MODULES, &[NEWEST]),
    (UNDER_SYSTEMD, &[NEWEST]),
];

/// What holds on every kernel.
const EVERYWHERE: &[&str] = &[
    // Counting: as nftables counts, in packets and bytes.
    "counting::datagrams_on_loopback_count_at_both_hooks_and_once_in_their_flow",
    "counting::tcp_transfers_each_way_are_counted_as_nftables_counts_them",
    // Attribution: by cgroup hooks, across namespaces, by the iterator, on a port got by chance.
    "attribution::both_ends_of_a_connection_between_hosts_are_known_exactly",
    "attribution::one_datagram_of_a_process_that_exits_at_once_is_known_exactly",
    "attribution::a_server_that_only_receives_datagrams_is_known_exactly",
    "attribution::a_client_that_got_the_watched_port_as_its_own_is_not_taken_for_a_server",
    // Listeners: opened and closed under watch, in another namespace, held by an heir.
    "listeners::a_listener_inside_another_namespace_is_found_and_flagged",
    "listeners::a_listener_whose_opener_exits_belongs_to_who_still_holds_it",
    // Rights: given up, and everything still works.
    "privileges::every_thread_keeps_what_it_needs_and_nothing_else",
    "privileges::who_comes_from_a_new_namespace_as_another_user_with_a_deleted_program_is_known_afterwards",
];

/// What takes iterators that may ask for cookies.
const WITH_ITERATORS: &[&str] = &[
    "hidden::a_listener_behind_a_mount_over_its_process_is_found_with_both_views",
    "portless::whoever_waits_for_a_magic_packet_is_found",
];

/// What is done differently without TCX.
const ON_CLSACT: &[&str] = &[
    "coverage::a_filter_of_ours_that_somebody_removes_is_reported_and_stays_removed",
    "guest::what_a_killed_portwatch_left_on_clsact_goes_with_the_next_and_nothing_else",
];

/// What takes TCX, or tracepoints that came before it.
const ON_TCX: &[&str] = &[
    "attribution::the_worker_that_serves_a_connection_is_its_user_and_the_process_to_name",
    "owners::whoever_serves_a_connection_is_its_user_however_he_came_by_it",
    "owners::whoever_serves_a_connection_through_a_ring_is_its_user_even_without_a_descriptor",
    "coverage::a_link_of_ours_that_somebody_detaches_is_reported_and_stays_detached",
    "pinning::counting_goes_on_while_no_portwatch_runs_and_the_next_one_has_it_all",
];

/// What takes modules that the machine that builds need not have, or a kernel that is not locked down.
const WITH_MODULES: &[&str] = &[
    "hidden::a_connection_of_the_nfs_client_that_begins_while_portwatch_watches_is_the_kernels",
    "hidden::a_process_that_no_list_of_proc_has_is_found",
    "hidden::the_socket_of_geneve_is_the_kernels_and_hides_nothing",
    "hidden::the_socket_of_wireguard_is_the_kernels_and_has_the_name_of_its_device",
    "hidden::the_connection_of_the_nfs_client_is_the_kernels_with_the_server_it_talks_to",
    "hidden::the_socket_that_the_nfs_server_is_given_is_the_kernels_and_hides_nothing",
    "hidden::the_socket_that_the_nfs_server_makes_is_the_kernels",
    "nat::a_port_that_is_sent_on_to_another_namespace_is_joined_to_who_serves_there",
    "nat::what_a_load_balancer_answers_is_joined_to_the_server_that_gets_it_and_told_with_the_service",
    "nat::what_a_load_balancer_sends_to_another_host_is_forwarded_there",
    "netkit::a_program_on_what_an_end_sends_is_a_gap_of_the_other_end_only",
    "netkit::a_program_that_answers_for_the_port_is_named_where_no_socket_does",
    "netkit::a_program_that_answers_before_anything_comes_in_is_a_gap_with_its_name",
    "netkit::a_program_that_takes_packets_before_they_come_in_is_a_gap_until_it_goes",
    "netkit::each_end_counts_every_packet_whatever_the_pair_carries",
    "netkit::in_every_namespace_both_ends_are_places_of_one_flow",
    "tunnels::geneve",
    "tunnels::gre",
    "tunnels::sit",
];

/// What takes systemd as the first process.
const UNDER_SYSTEMD: &[&str] =
    &["units::what_systemd_opens_accepts_and_starts_has_its_unit_and_who_serves_it"];

/// A guest has about so many tests: with many more the last one would run alone for long.
const MOST_TESTS: usize = 12;

/// The kernels, oldest first.
pub(super) fn kernels() -> Vec<&'static str> {
    let mut kernels = Vec::new();
    for kernel in SELECTION.iter().flat_map(|(_, kernels)| *kernels) {
        if !kernels.contains(kernel) {
            kernels.push(*kernel);
        }
    }
    kernels
}

/// Test programs, and the tests in them that one guest runs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Share {
    pub(super) programs: Vec<String>,
    pub(super) tests: Vec<String>,
}

/// The tests of a kernel, as many guests as it takes for them.
pub(super) fn shares_on(series: &str) -> Vec<Share> {
    let on_it = SELECTION.iter().filter(|(_, kernels)| kernels.contains(&series));
    let mut by_program: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (program, test) in on_it.flat_map(|(tests, _)| *tests).filter_map(|it| it.split_once("::"))
    {
        by_program.entry(program).or_default().push(test.to_owned());
    }
    let all: usize = by_program.values().map(Vec::len).sum();
    let each = all.div_ceil(all.div_ceil(MOST_TESTS).max(1));
    let mut shares = vec![Share::default()];
    for (program, tests) in by_program {
        if let Some(share) = shares.last_mut().filter(|share| share.tests.len() < each) {
            share.programs.push(program.to_owned());
            share.tests.extend(tests);
        } else {
            shares.push(Share { programs: vec![program.to_owned()], tests });
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kernel_has_the_tests_of_its_kind() {
        assert_eq!(kernels(), ["5.10", "6.1", "6.12", NEWEST]);
        let shares = shares_on("5.10");
        let is_run = |name: &str| {
            shares.iter().flat_map(|share| &share.programs).any(|program| program == name)
        };
        assert!(is_run("guest") && !is_run("pinning"));
        let tests = shares.iter().flat_map(|share| &share.tests);
        assert_eq!(tests.count(), EVERYWHERE.len() + ON_CLSACT.len());
    }

    #[test]
    fn a_kernel_with_many_tests_has_several_guests_for_them() {
        let shares = shares_on(NEWEST);

        assert!(shares.len() > 1 && shares.iter().all(|share| share.tests.len() < 2 * MOST_TESTS));
        let programs: Vec<_> = shares.iter().flat_map(|share| &share.programs).collect();
        assert_eq!(programs.iter().collect::<BTreeSet<_>>().len(), programs.len(), "{programs:?}");
    }

    #[test]
    fn every_selected_test_is_there() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/tests");
        for test in SELECTION.iter().flat_map(|(tests, _)| *tests) {
            let (file, name) = test.split_once("::").unwrap();
            let text = std::fs::read_to_string(format!("{directory}/{file}.rs")).unwrap();
            assert!(text.contains(&format!("\nfn {name}() {{")), "{test} is gone");
        }
    }
}
