//! The whole, end to end: real programs, real AF_XDP and the real filter, in network namespaces, onto files and block devices of a disk.
//!
//! | module | what it proves |
//! | --- | --- |
//! | [`together`] | several machines and images at once, byte-exact, at the price that the design promises |
//! | [`faults`] | loss, bursts, late joiners, receivers and senders that are killed |
//! | [`hostile`] | what a stranger sends to the port does no harm |
//! | [`operator`] | a running sender is seen and changed: rate, priorities, dismissal |
//! | [`paths`] | AF_XDP, UDP and IPv6 in their combinations, membership, the filter's isolation |
//! | [`queues`] | streams leave by several queues of the sender's card |
//! | [`ground`] | the lab does what the other tests take for granted |
//! | [`resume`] | what a target holds already does not cross the wire |
//! | [`slow_disk`] | a device that the kernel throttles is never sent more than it takes |
//! | [`streams`] | slow machines get parallel streams, or are parted with |
//! | [`sharing`] | a narrow link is shared with another session, and with TCP |
//! | [`targets`] | block devices, old data, protection of what must not be overwritten |
//!
//! Run one with `cargo test -p discus-bench --test delivery -- NAME`. Each test makes its own namespaces and scratch directory and
//! removes both; a failure prints what the programs wrote.

mod faults;
mod fixtures;
mod ground;
mod hostile;
mod operator;
mod paths;
mod queues;
mod resume;
mod sharing;
mod slow_disk;
mod streams;
mod targets;
mod together;
mod world;

use std::process::ExitCode;
use std::sync::Arc;

use fixtures::Fixtures;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

type Test = fn(&Fixtures) -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("a_lab_and_its_processes_are_gone_when_they_are_dropped", ground::a_lab_and_its_processes_are_gone_when_they_are_dropped),
    ("the_bridge_forwards_a_group_to_its_members_only", ground::the_bridge_forwards_a_group_to_its_members_only),
    ("three_machines_get_three_images_from_one_stream", together::three_machines_get_three_images_from_one_stream),
    ("slow_devices_get_parallel_streams_and_join_only_their_own", streams::slow_devices_get_parallel_streams_and_join_only_their_own),
    (
        "who_cannot_keep_up_takes_everything_by_unicast_where_the_operator_says_so",
        streams::who_cannot_keep_up_takes_everything_by_unicast_where_the_operator_says_so,
    ),
    ("who_cannot_keep_up_is_dropped_where_the_operator_says_so", streams::who_cannot_keep_up_is_dropped_where_the_operator_says_so),
    ("streams_leave_by_both_queues_of_the_senders_card", queues::streams_leave_by_both_queues_of_the_senders_card),
    ("a_queue_that_is_taken_falls_back_alone", queues::a_queue_that_is_taken_falls_back_alone),
    ("a_slow_disk_pushes_back_before_anything_is_given_up", slow_disk::a_slow_disk_pushes_back_before_anything_is_given_up),
    ("without_loss_nothing_is_sent_twice", together::without_loss_nothing_is_sent_twice),
    ("a_packet_that_only_others_want_never_passes_the_filter", together::a_packet_that_only_others_want_never_passes_the_filter),
    ("one_percent_loss_costs_three_receivers_six_percent_at_most", faults::one_percent_loss_costs_three_receivers_six_percent_at_most),
    ("a_burst_of_five_hundred_lost_packets_is_mended", faults::a_burst_of_five_hundred_lost_packets_is_mended),
    ("a_receiver_that_joins_halfway_gets_everything", faults::a_receiver_that_joins_halfway_gets_everything),
    ("a_killed_receiver_leaves_no_program_and_does_not_stop_others", faults::a_killed_receiver_leaves_no_program_and_does_not_stop_others),
    ("receivers_of_a_killed_sender_say_so_and_end", faults::receivers_of_a_killed_sender_say_so_and_end),
    ("receivers_go_on_when_a_killed_sender_comes_back", faults::receivers_go_on_when_a_killed_sender_comes_back),
    ("a_hostile_flood_does_no_harm", hostile::a_hostile_flood_does_no_harm),
    ("forged_symbols_are_found_and_replaced", hostile::forged_symbols_are_found_and_replaced),
    ("images_are_installed_in_the_order_of_their_priorities", operator::images_are_installed_in_the_order_of_their_priorities),
    ("an_operator_changes_a_running_sender", operator::an_operator_changes_a_running_sender),
    ("udp_at_both_ends", paths::udp_at_both_ends),
    ("af_xdp_to_udp_and_udp_to_af_xdp", paths::af_xdp_to_udp_and_udp_to_af_xdp),
    ("an_ipv6_group", paths::an_ipv6_group),
    ("receivers_are_members_of_the_group_while_they_receive", paths::receivers_are_members_of_the_group_while_they_receive),
    ("a_receiver_that_hears_nothing_joins_again", paths::a_receiver_that_hears_nothing_joins_again),
    ("another_senders_certificate_is_refused", paths::another_senders_certificate_is_refused),
    ("a_block_device_with_old_data_reads_back_as_the_image", targets::a_block_device_with_old_data_reads_back_as_the_image),
    ("an_upgraded_image_costs_its_difference", resume::an_upgraded_image_costs_its_difference),
    ("a_killed_receiver_goes_on_where_it_was", resume::a_killed_receiver_goes_on_where_it_was),
    ("two_sessions_share_a_link_that_is_too_narrow", sharing::two_sessions_share_a_link_that_is_too_narrow),
    ("tcp_and_a_session_that_was_there_first_share_a_narrow_link", sharing::tcp_and_a_session_that_was_there_first_share_a_narrow_link),
    ("targets_that_must_not_be_overwritten_are_refused", targets::targets_that_must_not_be_overwritten_are_refused),
];

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // They measure and share two cores with four programs each; at once they would only wait for each other.
    arguments.test_threads = Some(1);
    let fixtures = Arc::new(Fixtures::new()?);
    let trial = |&(name, test): &(&'static str, Test)| {
        let fixtures = Arc::clone(&fixtures);
        Trial::ignorable_test(name, move || match bench::lab::unavailable() {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => test(&fixtures).map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:?}"))),
        })
    };
    Ok(libtest_mimic::run(&arguments, TESTS.iter().map(trial).collect()).exit_code())
}
