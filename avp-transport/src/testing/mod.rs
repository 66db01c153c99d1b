//! The behaviour that every transport must show, as one suite; rigs that show that it is robust; and a measurement of
//! throughput.
//!
//! A transport's tests implement [`Harness`] and name it in [`conformance_tests!`](crate::conformance_tests); each
//! promise becomes a test of its own. The rigs take an address: [`EmulatedLink`] and [`Chaos`] stand in front of it,
//! [`ChaosRun`] runs transfers through faults, [`Attack`] abuses it beside an honest client. [`Census`] finds leaks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

mod abuse;
mod apart;
mod bucket;
mod census;
mod chaos;
mod datagrams;
mod dice;
mod discard;
pub mod driver;
mod flow;
mod http;
mod link;
mod multiple;
mod order;
mod ping_pong;
mod proxy;
mod quic;
mod rules;
mod service;
mod throughput;

use avp_wire::{EncodeOptions, EncodedFrame, Frame, Metadata};

pub use abuse::{Attack, Reached, honest_transfer, open_files_limit};
pub use apart::{Apart, ApartPair};
pub use census::{Census, resident};
pub use chaos::{Chaos, Fault, Plan, Relay, unruly_pipe};
pub use datagrams::Direction;
pub use dice::Dice;
pub use discard::Discard;
pub use driver::ChaosRun;
pub use flow::*;
pub use http::BareHttp2;
pub use link::{EmulatedLink, Link};
pub use multiple::*;
pub use order::*;
#[cfg(target_os = "linux")]
pub use ping_pong::ping_pong_eventfd;
pub use ping_pong::{ping_pong_tcp, ping_pong_udp};
pub use quic::BareQuic;
pub use rules::*;
pub use service::{Ends, Service, hello};
pub use throughput::{blast, blast_tls};

use crate::connection::Connection;
use crate::link::BoxFuture;
use crate::options::Options;

/// Makes connected pairs over the transport under test.
pub trait Harness: Send + Sync {
    /// A client's and a server's end, connected, each with options of its own.
    fn pair(&self, client: Options, server: Options) -> BoxFuture<'_, (Connection, Connection)>;
}

/// One test per promise, for one [`Harness`].
///
/// ```ignore
/// mod tcp { avp_transport::conformance_tests!(super::Tcp); }
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr) => {
        $crate::conformance_tests!(@ $harness,
            frames_arrive_in_order_and_unchanged_both_ways,
            fed_frames_arrive_after_a_flush,
            halves_work_from_different_tasks,
            compressed_frames_arrive_unpacked,
            a_head_can_be_judged_before_its_payload_is_received,
            a_refused_frame_leaves_the_stream_in_step,
            a_finished_side_still_receives,
            closing_delivers_everything_sent_before,
            a_sender_waits_while_the_receiver_takes_nothing,
            a_cancelled_send_leaves_the_stream_in_step,
            nothing_overtakes_a_cancelled_flush,
            a_cancelled_receive_loses_nothing,
            a_cancelled_check_of_a_large_payload_loses_nothing,
            a_vanished_peer_is_noticed_by_both_halves,
            a_damaged_payload_costs_one_frame,
            damaged_frames_beyond_the_budget_end_the_connection,
            a_frame_beyond_the_memory_budget_is_refused_by_its_head,
            a_payload_that_unpacks_beyond_the_budget_costs_one_frame,
            memory_is_free_again_when_frames_are_dropped,
            a_flood_of_tiny_frames_ends_the_connection,
            a_restricted_receiver_takes_no_more_than_its_bytes,
            waiting_for_a_frame_ends_at_the_idle_deadline_and_can_go_on,
            connections_do_not_disturb_each_other,
            several_transfers_run_at_once_each_in_order,
            a_dropped_transfer_leaves_the_others_as_they_were,
            transfers_beyond_the_limit_are_refused,
        );
    };
    (@ $harness:expr, $($promise:ident,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                $crate::testing::$promise(&$harness).await;
            }
        )+
    };
}

/// A frame whose payload of `len` bytes follows from `seed`.
#[must_use]
pub fn sample(seed: u32, len: usize) -> Frame {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let payload: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect();
    let metadata = Metadata { session_id: format!("frame-{seed}"), ..Metadata::default() };
    Frame::new(metadata, payload)
}

/// The frame encoded with the defaults.
#[must_use]
pub fn encoded(frame: &Frame) -> EncodedFrame {
    frame.encode(&EncodeOptions::default()).unwrap()
}

/// What a receiver sees of a frame, to compare it by: its name and payload.
fn seen(frame: &Frame) -> (&str, &[u8]) {
    (&frame.metadata.session_id, &frame.payload)
}

async fn default_pair(harness: &dyn Harness) -> (Connection, Connection) {
    harness.pair(Options::default(), Options::default()).await
}
