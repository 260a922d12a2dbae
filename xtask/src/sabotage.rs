//! Test builds that turn one check off: a named test must fail then, or it proves nothing.

/// How the build that holds the noticing test is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// `cargo test` with these arguments.
    Test(&'static [&'static str]),
    /// A loom model: `--cfg loom` with these arguments.
    Loom(&'static [&'static str]),
    /// A whole switch, attacked by a process.
    Switch,
}

/// One sabotaged check.
pub struct Sabotage {
    /// The crate.
    pub package: &'static str,
    /// Its feature, `sabotage-...`.
    pub feature: &'static str,
    /// How the test is built.
    pub build: Build,
    /// The test that must fail.
    pub test: &'static str,
}

impl Sabotage {
    /// Whether its package is one of those that only build where DPDK is.
    pub fn needs_dpdk(&self) -> bool {
        matches!(self.package, "dpdk" | "host-switch")
    }
}

const RING_MODEL: Build = Build::Loom(&["--test", "loom"]);
const LIB: Build = Build::Test(&["--lib"]);

const fn ring(feature: &'static str, test: &'static str) -> Sabotage {
    Sabotage { package: "shm-ring", feature, build: RING_MODEL, test }
}

const fn check(feature: &'static str, test: &'static str) -> Sabotage {
    Sabotage { package: "switch-core", feature, build: LIB, test }
}

const fn flow(feature: &'static str, test: &'static str) -> Sabotage {
    Sabotage { package: "flow-table", feature, build: LIB, test }
}

const fn vhost(feature: &'static str, test: &'static str) -> Sabotage {
    Sabotage { package: "vhost-port", feature, build: LIB, test }
}

const fn pool(feature: &'static str, test: &'static str) -> Sabotage {
    Sabotage { package: "dpdk", feature, build: Build::Loom(&["--lib"]), test }
}

const fn handover(feature: &'static str, test: &'static str) -> Sabotage {
    Sabotage { package: "vhost-port", feature, build: Build::Loom(&["--lib"]), test }
}

const fn frontend(feature: &'static str, test: &'static str) -> Sabotage {
    Sabotage { package: "vhost-port", feature, build: Build::Test(&["--test", "hostile"]), test }
}

const fn attacked(feature: &'static str) -> Sabotage {
    Sabotage { package: "switch-core", feature, build: Build::Switch, test: ATTACK }
}

/// The attack that a sabotaged switch must not stand.
pub const ATTACK: &str = "an_attacker_in_a_process_meets_every_check";

/// Every sabotage there is.
pub const ALL: &[Sabotage] = &[
    ring("sabotage-publish-relaxed", "what_is_taken_is_what_was_published"),
    ring("sabotage-pending-relaxed", "what_is_taken_is_what_was_published"),
    ring("sabotage-release-relaxed", "a_slot_is_overwritten_only_after_it_was_read_also_where_counters_wrap"),
    ring("sabotage-room-relaxed", "a_slot_is_overwritten_only_after_it_was_read_also_where_counters_wrap"),
    ring("sabotage-journal-relaxed", "who_takes_over_finds_the_ledger_as_of_the_journal"),
    ring("sabotage-journal-order", "a_descriptor_that_the_peer_sees_is_in_the_journal"),
    ring("sabotage-wakeup-fence", "no_consumer_sleeps_beside_a_descriptor_unless_the_doorbell_rings"),
    ring(
        "sabotage-wakeup-producer-fence",
        "no_consumer_sleeps_beside_a_descriptor_unless_the_doorbell_rings",
    ),
    ring("sabotage-ask-relaxed", "who_sees_the_nonce_sees_the_version_and_that_the_old_epoch_is_over"),
    ring(
        "sabotage-report-nonce-relaxed",
        "who_sees_the_nonce_sees_the_version_and_that_the_old_epoch_is_over",
    ),
    ring("sabotage-answer-relaxed", "who_sees_the_answer_sees_epoch_and_reset_rings"),
    ring("sabotage-answered-relaxed", "who_sees_the_answer_sees_epoch_and_reset_rings"),
    ring("sabotage-confirm-relaxed", "who_sees_the_confirmation_sees_the_guests_counters_at_zero"),
    ring("sabotage-report-confirmed-relaxed", "who_sees_the_confirmation_sees_the_guests_counters_at_zero"),
    ring("sabotage-leave-relaxed", "who_sees_that_an_nf_left_sees_what_it_gave_back"),
    ring("sabotage-report-ended-relaxed", "who_sees_that_an_nf_was_reaped_sees_what_it_gave_back"),
    ring("sabotage-show-draining-relaxed", "who_sees_that_the_feeding_has_stopped_sees_the_last_descriptor"),
    ring(
        "sabotage-feeding-stopped-relaxed",
        "who_sees_that_the_feeding_has_stopped_sees_the_last_descriptor",
    ),
    ring("sabotage-reference-fence", "a_copy_under_a_reference_that_still_holds_is_of_its_own_packet"),
    ring("sabotage-view-fence", "a_copy_under_a_reference_that_still_holds_is_of_its_own_packet"),
    Sabotage {
        package: "shm-ring",
        feature: "sabotage-peer-counter",
        build: Build::Test(&["--test", "ring"]),
        test: "accepts_a_producer_that_claims_a_full_ring_and_refuses_one_more",
    },
    Sabotage {
        package: "shm-ring",
        feature: "sabotage-journal-order",
        build: LIB,
        test: "no_buffer_has_two_holders_or_none_wherever_the_host_stops",
    },
    Sabotage {
        package: "shm-ring",
        feature: "sabotage-generation-order",
        build: LIB,
        test: "no_buffer_has_two_holders_or_none_wherever_the_host_stops",
    },
    check("sabotage-generation", "refuses_a_replayed_descriptor"),
    check("sabotage-holder", "refuses_a_buffer_that_another_endpoint_holds"),
    check("sabotage-bound", "refuses_an_index_of_another_shard"),
    check("sabotage-length", "refuses_data_one_byte_past_the_buffer"),
    check("sabotage-verdict-rights", "refuses_a_target_that_the_service_may_not_name"),
    check("sabotage-edge", "what_no_edge_is_drawn_for_does_not_cross"),
    check("sabotage-broadcast", "a_frame_for_a_group_crosses_only_on_an_edge_that_says_so"),
    check("sabotage-ways", "refuses_every_way_without_an_edge"),
    check("sabotage-bucket", "admits_no_more_than_the_rate_allows"),
    check("sabotage-pin", "a_buffer_whose_chain_is_done_waits_for_its_observers"),
    check("sabotage-flow", "where_none_is_chosen_by_flow_all_flows_go_the_same_way"),
    check("sabotage-share", "domains_that_always_have_work_get_what_their_weights_say"),
    flow("sabotage-unanswered-limit", "a_server_that_replies_to_every_first_packet_answers_no_flow"),
    flow("sabotage-unanswered-order", "the_oldest_unanswered_flow_makes_room_however_much_it_sends"),
    flow("sabotage-answered", "ten_thousand_established_flows_outlive_five_million_first_packets"),
    flow(
        "sabotage-generation",
        "an_id_of_a_flow_that_has_ended_names_nothing_even_when_the_slot_is_in_use_again",
    ),
    flow("sabotage-full-key", "flows_that_share_bucket_and_tag_are_told_apart_by_their_keys"),
    flow("sabotage-spilled", "flows_beyond_their_first_bucket_are_found_in_the_second"),
    flow("sabotage-epoch", "a_decision_holds_for_its_direction_until_the_next_epoch"),
    flow("sabotage-seed", "where_flows_meet_hangs_on_the_seed"),
    vhost("sabotage-avail-jump", "an_index_that_claims_one_chain_more_than_the_ring_holds_breaks_it"),
    vhost("sabotage-head-bound", "a_chain_that_starts_right_behind_the_table_breaks_the_ring"),
    vhost("sabotage-next-bound", "a_next_descriptor_right_behind_the_table_breaks_the_ring"),
    vhost("sabotage-chain-length", "a_chain_may_be_as_long_as_its_ring_and_no_longer"),
    vhost("sabotage-indirect-nested", "a_table_in_a_table_breaks_the_ring"),
    vhost("sabotage-indirect-length", "a_table_may_be_as_long_as_its_ring_and_no_longer"),
    vhost("sabotage-direction", "a_buffer_for_the_other_direction_breaks_the_ring"),
    vhost("sabotage-descriptor-budget", "a_burst_ends_when_its_descriptors_are_spent"),
    vhost("sabotage-byte-budget", "a_burst_ends_when_its_bytes_are_spent"),
    vhost("sabotage-room", "takes_a_frame_that_fills_its_room_and_drops_one_byte_more"),
    vhost("sabotage-guest-room", "fills_a_buffer_to_its_end_and_not_one_byte_further"),
    vhost("sabotage-lost-memory", "lost_memory_is_looked_at_no_more"),
    vhost("sabotage-closed-port", "a_closed_port_serves_nothing_even_before_its_session_ends"),
    vhost("sabotage-checksum-bound", "completes_a_checksum_at_the_very_end_and_refuses_it_one_byte_later"),
    handover("sabotage-notify-fence", "no_interrupt_is_missed_by_a_driver_that_asks_and_looks_again"),
    check("sabotage-reference-held", "refuses_a_reference_that_was_never_brought"),
    check("sabotage-reference-generation", "refuses_a_reference_of_before"),
    check("sabotage-reference-end", "a_reference_lasts_until_its_time_is_up_and_not_one_millisecond_longer"),
    pool("sabotage-push-relaxed", "the_owner_sees_what_a_pusher_did_to_each_buffer_it_gave_back"),
    pool("sabotage-take-all-relaxed", "the_owner_sees_what_a_pusher_did_to_each_buffer_it_gave_back"),
    pool("sabotage-own-relaxed", "uses_by_an_owner_and_by_claims_never_overlap_and_see_each_other"),
    pool("sabotage-disown-relaxed", "uses_by_an_owner_and_by_claims_never_overlap_and_see_each_other"),
    handover("sabotage-publish-relaxed", "what_every_lane_has_passed_is_out_of_use"),
    handover("sabotage-acknowledge-relaxed", "what_every_lane_has_passed_is_out_of_use"),
    handover(
        "sabotage-offline-relaxed",
        "a_lane_that_is_away_is_not_waited_for_and_comes_back_to_the_newest",
    ),
    vhost("sabotage-seal", "refuses_a_file_that_can_shrink_unless_told_to_take_it"),
    vhost("sabotage-region-size", "a_region_may_end_exactly_where_its_file_does"),
    vhost("sabotage-region-overlap", "regions_may_touch_and_may_not_overlap_by_a_byte"),
    vhost("sabotage-translation-bound", "finds_exactly_what_lies_in_one_region"),
    frontend("sabotage-ring-bounds", "a_ring_that_ends_outside_guest_memory_never_starts"),
    frontend("sabotage-running-change", "what_a_running_queue_rests_on_does_not_change"),
    frontend("sabotage-answer-early", "an_answer_comes_when_no_lane_uses_the_memory_any_more"),
    frontend("sabotage-partial-message", "the_rest_of_a_message_is_not_waited_for"),
    Sabotage {
        package: "dpdk",
        feature: "sabotage-burst-leak",
        build: Build::Test(&["--test", "dpdk"]),
        test: "a_burst_dropped_half_used_gives_its_frames_back",
    },
    datapath(
        "sabotage-flow-decisions",
        &["--test", "datapath_flows"],
        "a_change_of_rules_holds_for_flows_that_are_known",
    ),
    datapath("sabotage-edge-check", EDGES, "an_edge_that_is_not_drawn_lets_nothing_through"),
    datapath("sabotage-crossing-reread", EDGES, "headers_rewritten_after_the_judgement_do_not_cross"),
    datapath("sabotage-double-read", HOSTILE, "descriptors_rewritten_behind_the_copy_change_nothing"),
    datapath("sabotage-crossing-tail", EDGES, "nothing_but_the_frame_crosses"),
    datapath("sabotage-limits", SHARES, "a_limited_domain_lets_in_what_its_rate_allows"),
    datapath(
        "sabotage-replicate-limit",
        &["--test", "datapath_replicate"],
        "no_sender_makes_more_copies_than_the_rule_allows",
    ),
    datapath(
        "sabotage-shared-limit",
        SHARES,
        "domains_that_share_a_limit_let_in_together_what_its_rate_allows",
    ),
    datapath("sabotage-shares", SHARES, "a_flood_in_one_domain_leaves_the_other_its_share"),
    datapath("sabotage-port-shares", SHARED, "a_flood_of_one_domain_leaves_the_other_its_share_of_a_port"),
    datapath(
        "sabotage-observer-verdict",
        &["--test", "datapath_observe"],
        "an_observer_sees_what_enters_the_chain_and_changes_nothing_of_it",
    ),
    datapath(
        "sabotage-reference-end",
        &["--test", "datapath_references"],
        "a_reference_ends_by_itself_shows_it_and_may_be_given_back_late",
    ),
    datapath(
        "sabotage-hold",
        &["--test", "datapath_change"],
        "a_chain_that_gets_shorter_under_traffic_loses_nothing_and_keeps_every_flow_in_order",
    ),
    datapath("sabotage-egress-reread", SHARED, "headers_rewritten_behind_the_copy_do_not_leave"),
    datapath("sabotage-nic-reread", NIC, "headers_rewritten_behind_the_copy_do_not_reach_the_guest"),
    Sabotage {
        package: "host-switch",
        feature: "sabotage-exit-proof",
        build: LIB,
        test: "a_process_that_only_hangs_up_keeps_its_buffers_quarantined_until_it_has_exited",
    },
    Sabotage {
        package: "host-switch",
        feature: "sabotage-observer-writable",
        build: LIB,
        test: "an_observer_gets_a_region_that_it_cannot_write",
    },
    Sabotage {
        package: "host-switch",
        feature: "sabotage-vm-uid",
        build: Build::Test(&["--test", "cli_users"]),
        test: "a_process_with_the_user_of_one_vm_opens_nothing_of_another",
    },
    Sabotage {
        package: "host-switch",
        feature: "sabotage-attach-budget",
        build: LIB,
        test: "the_endpoints_of_one_owner_share_a_budget_of_attaches",
    },
    Sabotage {
        package: "host-switch",
        feature: "sabotage-refused-change",
        build: LIB,
        test: "a_file_with_one_thing_that_needs_a_restart_changes_nothing",
    },
    attacked("sabotage-edge"),
    attacked("sabotage-generation"),
    attacked("sabotage-verdict-rights"),
    Sabotage {
        package: "guest-netlib",
        feature: "sabotage-drop-returns",
        build: Build::Test(&["--test", "packets"]),
        test: "a_half_used_burst_gives_back_the_rest",
    },
    Sabotage {
        package: "guest-netlib",
        feature: "sabotage-view-check",
        build: LIB,
        test: "a_reference_that_ends_behind_the_copy_makes_it_worthless",
    },
    Sabotage {
        package: "guest-netlib",
        feature: "sabotage-leave-at-once",
        build: Build::Test(&["--test", "run"]),
        test: "a_stopped_loop_handles_what_the_switch_lends_until_it_knows",
    },
];

const fn datapath(feature: &'static str, file: &'static [&'static str], test: &'static str) -> Sabotage {
    Sabotage { package: "host-switch", feature, build: Build::Test(file), test }
}

const EDGES: &[&str] = &["--test", "datapath_edges"];
const SHARES: &[&str] = &["--test", "datapath_shares"];
const HOSTILE: &[&str] = &["--test", "datapath_hostile"];
const SHARED: &[&str] = &["--test", "datapath_shared"];
const NIC: &[&str] = &["--test", "datapath_nic"];

/// Features that are tools of a test instead of broken checks: with them, the test must pass.
pub const TOOLS: &[Sabotage] = &[
    datapath(
        "sabotage-leak",
        &["--test", "datapath_hostile"],
        "the_audit_finds_a_buffer_that_was_leaked_on_purpose",
    ),
    datapath("test-hooks", EDGES, "headers_rewritten_after_the_judgement_do_not_cross"),
    datapath("test-hooks", HOSTILE, "descriptors_rewritten_behind_the_copy_change_nothing"),
    datapath("test-hooks", SHARED, "a_flood_of_one_domain_leaves_the_other_its_share_of_a_port"),
    datapath("test-hooks", SHARED, "headers_rewritten_behind_the_copy_do_not_leave"),
    datapath("test-hooks", NIC, "headers_rewritten_behind_the_copy_do_not_reach_the_guest"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn is_declared(line: &str) -> bool {
        line.starts_with("sabotage-") || line.starts_with("test-hooks ")
    }

    #[test]
    fn every_sabotage_feature_of_the_workspace_is_run() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let run: BTreeSet<String> =
            ALL.iter().chain(TOOLS).map(|one| format!("{}/{}", one.package, one.feature)).collect();
        let mut declared = BTreeSet::new();
        for entry in std::fs::read_dir(root).unwrap() {
            let folder = entry.unwrap().path();
            let Ok(manifest) = std::fs::read_to_string(folder.join("Cargo.toml")) else { continue };
            let package = folder.file_name().unwrap().to_string_lossy().into_owned();
            for line in manifest.lines().filter(|line| is_declared(line)) {
                let feature = line.split([' ', '=']).next().unwrap();
                declared.insert(format!("{package}/{feature}"));
            }
        }
        assert_eq!(run, declared);
    }
}
