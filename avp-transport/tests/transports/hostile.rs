//! Scripted peers that misbehave: each is a typed error within its deadline. Time is paused, so waits cost nothing.

use std::time::Duration;

use avp_transport::{
    Connection, Deadline, LimitExceeded, Options, Peer, PeerAddress, PeerFault, TransportError,
    connection_over,
};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::time::{Instant, sleep};

fn victim(options: &Options) -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(64 << 10);
    let (read, write) = split(ours);
    (connection_over(read, write, Peer::at(PeerAddress::Memory("attacker".into())), options), theirs)
}

fn wire(payload: usize) -> Vec<u8> {
    let metadata = Metadata { session_id: "s".repeat(100), ..Metadata::default() };
    Frame::new(metadata, vec![5; payload]).encode(&EncodeOptions::default()).unwrap().to_vec()
}

// spec: frame 2.1
#[tokio::test(start_paused = true)]
async fn another_protocol_is_found_out_by_its_first_byte() {
    for first in [&b"G"[..], b"GET / HTTP/1.1\r\n", b"AX", b"\x16\x03\x01\x02\x00\x01"] {
        let (mut victim, mut attacker) = victim(&Options::default());
        attacker.write_all(first).await.unwrap();
        let start = Instant::now();
        let error = victim.recv().await.unwrap_err();
        assert!(matches!(error, TransportError::Peer(PeerFault::NotAvp { .. })), "{error}");
        assert_eq!(error.code(), ErrorCode::BadMagic);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(victim.recv().await.is_err(), "nothing is read after it");
    }
}

// spec: frame 8.4
#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_within_a_frame_is_told_from_one_that_finished() {
    let frame = wire(5000);
    for cut in [1, 2, 11, 12, 13, 100, frame.len() - 5000, frame.len() - 1] {
        let (mut victim, mut attacker) = victim(&Options::default());
        attacker.write_all(&frame).await.unwrap();
        attacker.write_all(&frame[..cut]).await.unwrap();
        drop(attacker);
        assert!(victim.recv().await.unwrap().is_some());
        let error = victim.recv().await.unwrap_err();
        assert!(matches!(error, TransportError::Peer(PeerFault::Truncated { .. })), "at {cut}: {error}");
    }
    let (mut victim, mut attacker) = victim(&Options::default());
    attacker.write_all(&frame).await.unwrap();
    drop(attacker);
    assert!(victim.recv().await.unwrap().is_some());
    assert!(victim.recv().await.unwrap().is_none());
}

// spec: limits 10.1
#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_within_a_frame_is_given_up_at_the_frame_deadline() {
    let frame = wire(50_000);
    for cut in [1, 12, 60, 1000, 49_000] {
        let (mut victim, mut attacker) = victim(&Options::default());
        attacker.write_all(&frame[..cut]).await.unwrap();
        let start = Instant::now();
        let error = victim.recv().await.unwrap_err();
        let TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Receive, .. }) = error else {
            panic!("at {cut}: {error}");
        };
        assert!(start.elapsed() <= Duration::from_secs(32), "at {cut}: {:?}", start.elapsed());
    }
}

// spec: limits 10.1
#[tokio::test(start_paused = true)]
async fn a_trickle_is_given_up_and_a_slow_honest_peer_is_not() {
    for (step, survives) in [(1, false), (1000, false), (90_000, true)] {
        let (mut victim, attacker) = victim(&Options::default());
        let (_keep, mut attacker) = split(attacker);
        let sending = tokio::spawn(async move {
            for chunk in wire(10_000_000).chunks(step) {
                if attacker.write_all(chunk).await.is_err() {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        let start = Instant::now();
        match victim.recv().await {
            Ok(frame) => {
                assert!(survives && frame.unwrap().payload.len() == 10_000_000);
                assert!(start.elapsed() > Duration::from_secs(60), "it took its time");
            }
            Err(error) => {
                assert!(!survives && start.elapsed() < Duration::from_secs(60), "{error}");
                assert_eq!(error.code(), ErrorCode::TooSlow);
            }
        }
        sending.abort();
    }
}

// spec: frame 2.7, frame 8.2, frame 8.3, limits 1.1, limits 2.2
#[tokio::test(start_paused = true)]
async fn what_a_header_claims_is_held_against_the_limits_at_once() {
    let header = |payload: u32, metadata: u32| {
        let mut bytes = vec![0x41, 0x56, 1, 0];
        bytes.extend(payload.to_le_bytes());
        bytes.extend(metadata.to_le_bytes());
        bytes
    };
    for (bytes, code) in [
        (header(u32::MAX, 0), ErrorCode::MemoryBudget),
        (header(70_000, 65_537), ErrorCode::MetadataTooLarge),
        (header(10, 11), ErrorCode::MetadataBeyondPayload),
        (vec![0x41, 0x56, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0], ErrorCode::UnsupportedVersion),
        (vec![0x41, 0x56, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], ErrorCode::ReservedFlags),
    ] {
        let (mut victim, mut attacker) = victim(&Options::default());
        attacker.write_all(&bytes).await.unwrap();
        let start = Instant::now();
        let error = victim.recv().await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.is_recoverable());
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_ends_a_send_at_the_frame_deadline() {
    let (mut victim, attacker) = victim(&Options::default());
    let frame = Frame::new(Metadata::default(), vec![0; 10 << 20]);
    let error = victim.send_frame(&frame, &EncodeOptions::default()).await.unwrap_err();
    let TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Send, got, expected, .. }) = error
    else {
        panic!("{error}");
    };
    assert!(got <= 64 << 10 && expected > 10 << 20);
    assert!(victim.send_frame(&frame, &EncodeOptions::default()).await.is_err(), "the stream is out of step");
    drop(attacker);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_ends_cannot_hold_up_a_close() {
    for chatty in [false, true] {
        let (victim, attacker) = victim(&Options::default());
        let (mut reads, mut writes) = split(attacker);
        let talking = tokio::spawn(async move {
            while chatty && writes.write_all(&wire(100)).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
            writes
        });
        let start = Instant::now();
        let error = victim.close().await.unwrap_err();
        let TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Close, .. }) = error else {
            panic!("{error}");
        };
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(reads.read(&mut [0; 10]).await.unwrap(), 0, "our side was ended");
        talking.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_its_time_is_not_held_against_the_peer() {
    let (mut victim, mut attacker) = victim(&Options::default());
    attacker.write_all(&wire(20_000)).await.unwrap();
    assert!(victim.head().await.unwrap().is_some());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(victim.payload().await.unwrap().payload.len(), 20_000);
}

#[tokio::test]
async fn a_flood_of_frames_leaves_other_tasks_their_turn() {
    let (mut victim, mut attacker) = victim(&Options::default());
    let metadata = Metadata { session_id: "flood".into(), ..Metadata::default() };
    let tiny = Frame::new(metadata, vec![1; 8]).encode(&EncodeOptions::default()).unwrap().to_vec();
    let many = (64 << 10) / tiny.len();
    attacker.write_all(&tiny.repeat(many)).await.unwrap();
    let turns = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&turns);
    let other = tokio::spawn(async move {
        loop {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..many {
        victim.recv().await.unwrap();
    }
    other.abort();
    let turns = turns.load(std::sync::atomic::Ordering::Relaxed);
    assert!(turns >= many / 20, "{turns} turns while {many} frames were received");
}
