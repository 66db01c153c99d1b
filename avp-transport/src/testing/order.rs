//! Promises about order and content.

use avp_wire::{Compression, EncodeOptions};

use super::{Harness, default_pair, encoded, sample, seen};
use crate::connection::Connection;
use crate::error::{TransportError, UsageError};
use crate::options::Options;

/// Around the sizes at which implementations change their ways.
const SIZES: [usize; 12] =
    [0, 1, 63, 64, 1 << 10, 16 << 10, (16 << 10) + 1, 64 << 10, 65_521, 1 << 20, (1 << 20) + 3, 5 << 20];

// spec: frame 8.1
/// Whatever is sent one way arrives as it was, in its order, while the other way does the same.
pub async fn frames_arrive_in_order_and_unchanged_both_ways(harness: &dyn Harness) {
    let (client, server) = default_pair(harness).await;
    let run = |connection: Connection, ours: u32, theirs: u32| async move {
        let (mut sender, mut receiver) = connection.split();
        let sending = tokio::spawn(async move {
            for (i, &size) in (0..).zip(SIZES.iter().chain(SIZES.iter().rev())) {
                sender.send(encoded(&sample(ours + i, size))).await.unwrap();
            }
            sender.finish().await.unwrap();
        });
        for (i, &size) in (0..).zip(SIZES.iter().chain(SIZES.iter().rev())) {
            let frame = receiver.recv().await.unwrap().unwrap();
            assert_eq!(seen(&frame), seen(&sample(theirs + i, size)));
        }
        assert!(receiver.recv().await.unwrap().is_none());
        sending.await.unwrap();
    };
    tokio::join!(run(client, 0, 1000), run(server, 1000, 0));
}

/// `feed` may hold frames back, `flush` lets them go, in order with frames sent otherwise.
pub async fn fed_frames_arrive_after_a_flush(harness: &dyn Harness) {
    let (client, mut server) = default_pair(harness).await;
    let sending = tokio::spawn(async move {
        let (mut sender, receiver) = client.split();
        for i in 0..3000 {
            let size = if i % 500 == 499 { 100_000 } else { 1 << 10 };
            sender.feed(encoded(&sample(i, size))).await.unwrap();
        }
        sender.flush().await.unwrap();
        (sender, receiver)
    });
    for i in 0..3000 {
        let size = if i % 500 == 499 { 100_000 } else { 1 << 10 };
        assert_eq!(seen(&server.recv().await.unwrap().unwrap()), seen(&sample(i, size)));
    }
    sending.await.unwrap();
}

/// One task sends while another receives on the same connection.
pub async fn halves_work_from_different_tasks(harness: &dyn Harness) {
    let (client, server) = default_pair(harness).await;
    let echo = tokio::spawn(async move {
        let (mut sender, mut receiver) = server.split();
        while let Some(frame) = receiver.recv().await.unwrap() {
            sender.send(encoded(&frame)).await.unwrap();
        }
        sender.finish().await.unwrap();
    });
    let (mut sender, mut receiver) = client.split();
    let sending = tokio::spawn(async move {
        for i in 0..200 {
            sender.send(encoded(&sample(i, 10_000))).await.unwrap();
        }
        sender.finish().await.unwrap();
    });
    for i in 0..200 {
        assert_eq!(seen(&receiver.recv().await.unwrap().unwrap()), seen(&sample(i, 10_000)));
    }
    assert!(receiver.recv().await.unwrap().is_none());
    sending.await.unwrap();
    echo.await.unwrap();
}

/// The receiver gives the payload as it was before compression.
pub async fn compressed_frames_arrive_unpacked(harness: &dyn Harness) {
    let (mut client, mut server) = default_pair(harness).await;
    let mut frame = sample(1, 0);
    frame.payload = vec![42; 3 << 20].into();
    let zstd = EncodeOptions { compression: Some(Compression::Fast), ..EncodeOptions::default() };
    client.send_frame(&frame, &zstd).await.unwrap();
    assert_eq!(seen(&server.recv().await.unwrap().unwrap()), seen(&frame));
}

/// `head` shows metadata and size, gives the same head until it is answered, and `payload` completes it.
pub async fn a_head_can_be_judged_before_its_payload_is_received(harness: &dyn Harness) {
    let (client, mut server) = default_pair(harness).await;
    let sending = tokio::spawn(async move {
        let mut client = client;
        client.send(encoded(&sample(7, 300_000))).await.unwrap();
        client
    });
    for _ in 0..2 {
        let head = server.head().await.unwrap().unwrap();
        assert_eq!(head.metadata.session_id, "frame-7");
        assert_eq!(head.payload_len_on_wire(), 300_000);
    }
    assert_eq!(seen(&server.payload().await.unwrap()), seen(&sample(7, 300_000)));
    let error = server.payload().await.unwrap_err();
    assert!(matches!(error, TransportError::Usage(UsageError::NoHead)), "{error}");
    sending.await.unwrap();
}

/// The frame after a refused one arrives whole, for payloads of any size.
pub async fn a_refused_frame_leaves_the_stream_in_step(harness: &dyn Harness) {
    let mut options = Options::default();
    options.budgets.rejects = u32::try_from(SIZES.len()).unwrap();
    let (client, mut server) = harness.pair(Options::default(), options).await;
    let sending = tokio::spawn(async move {
        let mut client = client;
        for (i, &size) in (0..).zip(&SIZES) {
            client.send(encoded(&sample(i, size))).await.unwrap();
            client.send(encoded(&sample(100 + i, 1000))).await.unwrap();
        }
        client
    });
    for (i, _) in (0..).zip(&SIZES) {
        server.head().await.unwrap().unwrap();
        server.refuse().await.unwrap();
        assert_eq!(seen(&server.recv().await.unwrap().unwrap()), seen(&sample(100 + i, 1000)));
    }
    sending.await.unwrap();
}
