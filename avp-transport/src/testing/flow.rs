//! Promises about ends, waits and cancellation.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use avp_wire::{Compression, EncodeOptions, Frame};
use tokio::time::timeout;

use super::{Harness, default_pair, encoded, sample, seen};
use crate::error::{Deadline, LimitExceeded, TransportError};
use crate::options::Options;

/// Long enough for anything that is going to happen, short enough to wait for what is not.
const A_WHILE: Duration = Duration::from_millis(300);

/// Ending one direction leaves the other as it was.
pub async fn a_finished_side_still_receives(harness: &dyn Harness) {
    let (mut client, mut server) = default_pair(harness).await;
    client.send(encoded(&sample(1, 10))).await.unwrap();
    client.halves().0.finish().await.unwrap();
    assert!(client.send(encoded(&sample(2, 10))).await.is_err());
    assert!(server.recv().await.unwrap().is_some());
    assert!(server.recv().await.unwrap().is_none());
    assert!(server.recv().await.unwrap().is_none());
    let (sent, frame) = tokio::join!(server.send(encoded(&sample(3, 100_000))), client.recv());
    sent.unwrap();
    assert_eq!(seen(&frame.unwrap().unwrap()), seen(&sample(3, 100_000)));
}

/// `close` returns once the peer has everything, also when the peer is still sending.
pub async fn closing_delivers_everything_sent_before(harness: &dyn Harness) {
    let (client, server) = default_pair(harness).await;
    let closing = tokio::spawn(async move {
        let mut client = client;
        for i in 0..20 {
            client.halves().0.feed(encoded(&sample(i, 50_000))).await.unwrap();
        }
        client.close().await
    });
    let (mut sender, mut receiver) = server.split();
    let sending = tokio::spawn(async move {
        sender.send(encoded(&sample(99, 200_000))).await.unwrap();
        sender.finish().await.unwrap();
    });
    for i in 0..20 {
        assert_eq!(seen(&receiver.recv().await.unwrap().unwrap()), seen(&sample(i, 50_000)));
    }
    assert!(receiver.recv().await.unwrap().is_none());
    sending.await.unwrap();
    closing.await.unwrap().unwrap();
}

/// Sending does not run ahead of a receiver that takes nothing by more than what the transport holds.
pub async fn a_sender_waits_while_the_receiver_takes_nothing(harness: &dyn Harness) {
    const FRAMES: u32 = 256;
    let (client, mut server) = default_pair(harness).await;
    let (mut sender, _receiver) = client.split();
    let mut sending = tokio::spawn(async move {
        let frame = encoded(&sample(0, 1 << 20));
        for _ in 0..FRAMES {
            sender.send(frame.clone()).await.unwrap();
        }
        sender
    });
    assert!(timeout(A_WHILE, &mut sending).await.is_err(), "256 MiB went into the transport");
    for _ in 0..FRAMES {
        assert_eq!(server.recv().await.unwrap().unwrap().payload.len(), 1 << 20);
    }
    sending.await.unwrap();
}

/// A dropped `send` either did not happen or is completed; the next frame arrives whole.
pub async fn a_cancelled_send_leaves_the_stream_in_step(harness: &dyn Harness) {
    let (client, mut server) = default_pair(harness).await;
    let (mut sender, _receiver) = client.split();
    let big = sample(1, 24 << 20);
    let mut sent = 0;
    // Fill what the transport holds, so that a send is pending when it is dropped.
    while timeout(A_WHILE, sender.send(encoded(&big))).await.is_ok() {
        sent += 1;
    }
    let last = sample(2, 5000);
    let sending = tokio::spawn(async move {
        sender.send(encoded(&last)).await.unwrap();
        sender.finish().await.unwrap();
    });
    let mut arrived = 0;
    let last = loop {
        let frame = server.recv().await.unwrap().unwrap();
        if frame.payload.len() == 5000 {
            break frame;
        }
        assert_eq!(seen(&frame), seen(&big));
        arrived += 1;
    };
    assert_eq!(seen(&last), seen(&sample(2, 5000)));
    assert!(arrived == sent || arrived == sent + 1, "{sent} sent, {arrived} arrived");
    assert!(server.recv().await.unwrap().is_none());
    sending.await.unwrap();
}

/// Frames arrive in order also where a `flush` or `feed` was dropped before all was gone.
pub async fn nothing_overtakes_a_cancelled_flush(harness: &dyn Harness) {
    let (client, mut server) = default_pair(harness).await;
    let (mut sender, _receiver) = client.split();
    let frame = |number| sample(number, 3000);
    let fed = AtomicU32::new(0);
    // Fill what the transport holds, so that something is pending when it is dropped.
    let mut feed_some = async || {
        for _ in 0..48 {
            sender.feed(encoded(&frame(fed.load(Ordering::Relaxed)))).await.unwrap();
            fed.fetch_add(1, Ordering::Relaxed);
        }
        sender.flush().await.unwrap();
    };
    while timeout(A_WHILE, feed_some()).await.is_ok() {}
    let fed = fed.into_inner();
    let last = [sample(fed + 1, 2000), sample(fed + 2, 100_000)];
    let sending = tokio::spawn(async move {
        let [small, large] = last;
        sender.feed(encoded(&small)).await.unwrap();
        sender.send(encoded(&large)).await.unwrap();
        sender.finish().await.unwrap();
    });
    let mut next = 0;
    while let Some(arrived) = server.recv().await.unwrap() {
        // The one whose `feed` was dropped may not have been taken.
        if next == fed && arrived.payload.len() != 3000 {
            next += 1;
        }
        let expected = match next.saturating_sub(fed) {
            0 => frame(next),
            1 => sample(next, 2000),
            _ => sample(next, 100_000),
        };
        assert_eq!(seen(&arrived), seen(&expected), "after {next} of {fed}");
        next += 1;
    }
    assert_eq!(next, fed + 3);
    sending.await.unwrap();
}

/// Dropping `recv`, `head` or `payload` at any moment loses no byte.
pub async fn a_cancelled_receive_loses_nothing(harness: &dyn Harness) {
    let (client, mut server) = default_pair(harness).await;
    let sending = tokio::spawn(async move {
        let mut client = client;
        for i in 0..30 {
            let frame = sample(i, 200_000 * usize::try_from(i % 5).unwrap() + 10);
            client.send(encoded(&frame)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client
    });
    let mut cancelled = 0;
    for i in 0..30 {
        let frame = loop {
            tokio::select! {
                biased;
                frame = server.recv() => break frame.unwrap().unwrap(),
                () = tokio::task::yield_now() => cancelled += 1,
            }
        };
        assert_eq!(seen(&frame), seen(&sample(i, 200_000 * usize::try_from(i % 5).unwrap() + 10)));
    }
    assert!(cancelled > 0);
    sending.await.unwrap();
}

/// Large and compressed payloads are checked on other threads. Dropping `payload` meanwhile leaves the head pending.
pub async fn a_cancelled_check_of_a_large_payload_loses_nothing(harness: &dyn Harness) {
    let (mut client, mut server) = default_pair(harness).await;
    let frames: Vec<Frame> = (0..4).map(|i| sample(i, 8 << 20)).collect();
    let outgoing = frames.clone();
    let sending = tokio::spawn(async move {
        let zstd = EncodeOptions { compression: Some(Compression::Fast), ..EncodeOptions::default() };
        for (frame, encoding) in outgoing.iter().zip([EncodeOptions::default(), zstd].iter().cycle()) {
            client.send_frame(frame, encoding).await.unwrap();
        }
        client
    });
    let mut cancelled = 0;
    for frame in &frames {
        let received = loop {
            let head = server.head().await.unwrap().unwrap();
            assert_eq!(head.metadata.session_id, frame.metadata.session_id);
            // Given up at once, then in the middle of the check.
            let polled = {
                let mut payload = pin!(server.payload());
                poll_fn(|cx| Poll::Ready(payload.as_mut().poll(cx))).await
            };
            if let Poll::Ready(received) = polled {
                break received.unwrap();
            }
            cancelled += 1;
            if let Ok(received) = timeout(Duration::from_micros(50), server.payload()).await {
                break received.unwrap();
            }
        };
        assert_eq!(seen(&received), seen(frame));
    }
    assert!(cancelled > 0);
    sending.await.unwrap();
}

/// Once the peer is gone, receiving ends and sending fails.
pub async fn a_vanished_peer_is_noticed_by_both_halves(harness: &dyn Harness) {
    let (client, server) = default_pair(harness).await;
    drop(server);
    let (mut sender, mut receiver) = client.split();
    assert!(matches!(receiver.recv().await, Ok(None) | Err(TransportError::Io(_))));
    let frame = encoded(&sample(1, 1 << 20));
    let failed = timeout(Duration::from_secs(60), async {
        loop {
            if let Err(error) = sender.send(frame.clone()).await {
                break error;
            }
        }
    });
    assert!(matches!(failed.await.unwrap(), TransportError::Io(_)));
}

// spec: limits 10.2
/// No frame within the idle deadline is an error that names it, and the connection can still be used.
pub async fn waiting_for_a_frame_ends_at_the_idle_deadline_and_can_go_on(harness: &dyn Harness) {
    let mut options = Options::default();
    options.timeouts.idle = Duration::from_millis(50);
    let (mut client, mut server) = harness.pair(Options::default(), options).await;
    let error = server.recv().await.unwrap_err();
    let idle = LimitExceeded::Deadline {
        peer: server.peer().to_string(),
        which: Deadline::Idle,
        after: Duration::from_millis(50),
        got: 0,
        expected: 0,
    };
    assert!(matches!(&error, TransportError::Limit(limit) if *limit == idle), "{error}");
    assert!(error.is_recoverable());
    client.send(encoded(&sample(1, 10))).await.unwrap();
    let frame = loop {
        match server.recv().await {
            Ok(frame) => break frame,
            Err(error) => assert!(error.is_recoverable(), "{error}"),
        }
    };
    assert_eq!(seen(&frame.unwrap()), seen(&sample(1, 10)));
}

/// Frames go to the connection they were sent on, with many open at once.
pub async fn connections_do_not_disturb_each_other(harness: &dyn Harness) {
    let mut tasks = Vec::new();
    for i in 0..16 {
        let (mut client, mut server) = default_pair(harness).await;
        tasks.push(tokio::spawn(async move {
            for j in 0..20 {
                let frame = sample(1000 * i + j, 30_000);
                client.send(encoded(&frame)).await.unwrap();
                assert_eq!(seen(&server.recv().await.unwrap().unwrap()), seen(&frame));
            }
            let (ours, theirs) = tokio::join!(client.close(), server.close());
            ours.unwrap();
            theirs.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}
