//! Promises about limits and bad frames.

use std::time::Duration;

use avp_wire::{Bytes, Compression, EncodeOptions, EncodedFrame, Frame, Metadata};

use tokio::task::JoinHandle;

use super::{Harness, encoded, sample, seen};
use crate::connection::Connection;
use crate::error::{LimitExceeded, PeerFault, TransportError};
use crate::options::Options;

/// Sends from a task of its own, so that a transport that holds little does not wait for this one.
fn sending(mut client: Connection, frames: Vec<EncodedFrame>) -> JoinHandle<Connection> {
    tokio::spawn(async move {
        for frame in frames {
            client.send(frame).await.unwrap();
        }
        client
    })
}

fn damaged(seed: u32) -> EncodedFrame {
    let mut frame = encoded(&sample(seed, 20_000));
    frame.payload = Bytes::from(vec![0; 20_000]);
    frame
}

/// A payload that fails its checksum is one error; the next frame arrives.
pub async fn a_damaged_payload_costs_one_frame(harness: &dyn Harness) {
    let (client, mut server) = super::default_pair(harness).await;
    let _client = sending(client, vec![damaged(1), encoded(&sample(2, 100))]);
    let error = server.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::DamagedFrame { .. })), "{error}");
    assert!(error.is_recoverable());
    assert_eq!(seen(&server.recv().await.unwrap().unwrap()), seen(&sample(2, 100)));
}

// spec: limits 12.2
/// A peer that keeps sending damaged frames is given up.
pub async fn damaged_frames_beyond_the_budget_end_the_connection(harness: &dyn Harness) {
    let mut options = Options::default();
    options.budgets.rejects = 3;
    let (client, mut server) = harness.pair(Options::default(), options).await;
    let _client = sending(client, (0..4).map(damaged).collect());
    for _ in 0..3 {
        assert!(server.recv().await.unwrap_err().is_recoverable());
    }
    let error = server.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Rejects { limit: 3 })), "{error}");
    assert!(!error.is_recoverable());
    assert!(server.recv().await.is_err());
}

// spec: limits 2.2
/// A frame that can never fit is refused before its payload is taken.
pub async fn a_frame_beyond_the_memory_budget_is_refused_by_its_head(harness: &dyn Harness) {
    let mut options = Options::default();
    options.limits.memory_budget = 64 << 10;
    let (client, mut server) = harness.pair(Options::default(), options).await;
    let sending = tokio::spawn(async move {
        let mut client = client;
        let _ = client.send(encoded(&sample(1, (64 << 10) + 1))).await;
        client
    });
    let error = server.head().await.unwrap_err();
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Frame { .. })), "{error}");
    drop(server);
    drop(sending.await);
}

// spec: limits 2.3
/// A compressed payload that unpacks beyond the budget costs one frame, before it is unpacked.
pub async fn a_payload_that_unpacks_beyond_the_budget_costs_one_frame(harness: &dyn Harness) {
    let mut options = Options::default();
    options.limits.memory_budget = 1 << 20;
    let (client, mut server) = harness.pair(Options::default(), options).await;
    let zstd = EncodeOptions { compression: Some(Compression::Fast), ..EncodeOptions::default() };
    let bomb = Frame::new(Metadata::default(), vec![0; 8 << 20]).encode(&zstd).unwrap();
    let _client = sending(client, vec![bomb, encoded(&sample(2, 100))]);
    let error = server.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Unpacked { .. })), "{error}");
    assert!(error.is_recoverable());
    assert_eq!(seen(&server.recv().await.unwrap().unwrap()), seen(&sample(2, 100)));
}

// spec: limits 2.5
/// Frames count until their payloads are dropped; one that does not fit yet waits, then is an error to recover from.
pub async fn memory_is_free_again_when_frames_are_dropped(harness: &dyn Harness) {
    let mut options = Options::default();
    options.limits.memory_budget = 1 << 20;
    options.limits.frame_timeout = Duration::from_secs(1);
    let (client, mut server) = harness.pair(Options::default(), options).await;
    let sending = sending(client, (0..3).map(|i| encoded(&sample(i, 400 << 10))).collect());
    let held = [server.recv().await.unwrap().unwrap(), server.recv().await.unwrap().unwrap()];
    let error = server.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Memory { .. })), "{error}");
    assert!(error.is_recoverable());
    drop(held);
    assert_eq!(seen(&server.recv().await.unwrap().unwrap()), seen(&sample(2, 400 << 10)));
    sending.await.unwrap();
}

// spec: limits 12.1
/// Tiny frames beyond the burst are a flood.
pub async fn a_flood_of_tiny_frames_ends_the_connection(harness: &dyn Harness) {
    let mut options = Options::default();
    (options.budgets.tiny_burst, options.budgets.tiny_per_second) = (100, 1);
    let (client, mut server) = harness.pair(Options::default(), options).await;
    let sending = tokio::spawn(async move {
        let mut client = client;
        let tiny = Frame::new(Metadata::default(), Bytes::new()).encode(&EncodeOptions::default()).unwrap();
        while client.send(tiny.clone()).await.is_ok() {}
    });
    let mut taken = 0;
    let error = loop {
        match server.recv().await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TransportError::Limit(LimitExceeded::TinyFrames { .. })), "{error}");
    // The burst, and what a slow run of this test earns while it lasts.
    assert!((100..300).contains(&taken), "{taken}");
    drop(server);
    sending.await.unwrap();
}

// spec: limits 7.1
/// Before negotiation is done a peer may send so many bytes and no more; afterwards frames flow again.
pub async fn a_restricted_receiver_takes_no_more_than_its_bytes(harness: &dyn Harness) {
    let (client, mut server) = super::default_pair(harness).await;
    let sizes = [30 << 10, 100 << 10, 30 << 10, 30 << 10, 30 << 10];
    let _client = sending(client, sizes.map(|size| encoded(&sample(1, size))).into());
    server.halves().1.restrict(64 << 10);
    assert!(server.recv().await.unwrap().is_some());
    server.halves().1.unrestrict();
    assert!(server.recv().await.unwrap().is_some());
    server.halves().1.restrict(64 << 10);
    assert!(server.recv().await.unwrap().is_some());
    assert!(server.recv().await.unwrap().is_some());
    let error = server.recv().await.unwrap_err();
    assert!(
        matches!(error, TransportError::Limit(LimitExceeded::HandshakeBytes { limit: 65_536, .. })),
        "{error}"
    );
}
