//! Transfers on streams of their own, their stripes, and how connections end.

use std::time::Duration;

use avp_transport::testing::{Harness, encoded, sample};
use avp_transport::{
    Connection, IoFault, LimitExceeded, Options, Transfers, TransportError, connect, listen,
};
use avp_wire::EncodeOptions;
use tokio::time::{sleep, timeout};

use super::{A_WHILE, GENEROUS, QUIC};
use crate::common::Secure;

fn plain() -> EncodeOptions {
    EncodeOptions::default()
}

async fn pair(client: Options, server: Options) -> (Connection, Connection) {
    Secure(QUIC).pair(client, server).await
}

async fn transfers(client: Options, server: Options) -> (Transfers, Transfers) {
    let (client, server) = pair(client, server).await;
    (Transfers::over(client), Transfers::over(server))
}

// spec: transports 3.5
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_transfer_holds_up_no_other() {
    let mut options = Options::default();
    options.quic.stream_window = 1 << 20;
    let (client, server) = transfers(options.clone(), options).await;
    let stalled = client.open("stalled").unwrap();
    let stalling = tokio::spawn(async move {
        for i in 0..64 {
            stalled.send(sample(i, 1 << 20), &plain()).await.unwrap();
        }
    });
    let flowing = client.open("flowing").unwrap();
    let sending = tokio::spawn(async move {
        for i in 0..40 {
            flowing.send(sample(1000 + i, 1 << 20), &plain()).await.unwrap();
        }
    });
    let (mut kept, mut taken) = (None, None);
    for _ in 0..2 {
        let transfer = server.accept().await.unwrap().unwrap();
        if transfer.id() == "stalled" { kept = Some(transfer) } else { taken = Some(transfer) }
    }
    let mut taken = taken.unwrap();
    for i in 0..40 {
        assert_eq!(taken.recv().await.unwrap().unwrap().payload, sample(1000 + i, 1 << 20).payload);
    }
    assert!(taken.recv().await.unwrap().is_none(), "it ends when the peer's transfer is dropped");
    sending.await.unwrap();
    assert!(!stalling.is_finished());
    // It goes on where it was left.
    let mut kept = kept.unwrap();
    for i in 0..64 {
        assert_eq!(kept.recv().await.unwrap().unwrap().payload, sample(i, 1 << 20).payload);
    }
    stalling.await.unwrap();
}

// spec: transports 3.6, transports 3.7
#[tokio::test(flavor = "multi_thread")]
async fn stripes_are_merged_into_their_transfer_each_in_order() {
    const STRIPES: u32 = 3;
    const FRAMES: u32 = 30;
    let (client, server) = transfers(Options::default(), Options::default()).await;
    let transfer = client.open("striped").unwrap();
    let mut sending = Vec::new();
    for stripe in 1..=STRIPES {
        let lane = transfer.stripe().await.unwrap().unwrap();
        sending.push(tokio::spawn(async move {
            for i in 0..FRAMES {
                lane.send(sample(1000 * stripe + i, 50_000), &plain()).await.unwrap();
            }
        }));
    }
    sending.push(tokio::spawn(async move {
        for i in 0..FRAMES {
            transfer.send(sample(i, 50_000), &plain()).await.unwrap();
        }
    }));
    let mut received = server.accept().await.unwrap().unwrap();
    let mut next = [0; 1 + STRIPES as usize];
    while let Some(frame) = received.recv().await.unwrap() {
        let number: u32 = frame.metadata.session_id.strip_prefix("frame-").unwrap().parse().unwrap();
        let (lane, i) = (number / 1000, number % 1000);
        assert_eq!(next[lane as usize], i, "in order on stream {lane}");
        next[lane as usize] += 1;
        assert_eq!(frame.payload, sample(number, 50_000).payload);
    }
    assert_eq!(next, [FRAMES; 1 + STRIPES as usize]);
    for task in sending {
        task.await.unwrap();
    }
    client.finish().await.unwrap();
    assert!(server.accept().await.unwrap().is_none(), "stripes are no transfers");
}

#[tokio::test]
async fn where_there_is_one_stream_there_are_no_stripes() {
    let listener = listen(&"avp+tcp://127.0.0.1:0".parse().unwrap(), &Options::default()).await.unwrap();
    let options = Options::default();
    let (client, _server) = tokio::join!(connect(listener.local_url(), &options), listener.accept());
    let transfer = Transfers::over(client.unwrap()).open("one").unwrap();
    assert!(transfer.stripe().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_transfer_is_answered_on_its_own_stream() {
    let (client, server) = transfers(Options::default(), Options::default()).await;
    let mut asked = client.open("question").unwrap();
    asked.send(sample(1, 1000), &plain()).await.unwrap();
    let mut answering = server.accept().await.unwrap().unwrap();
    assert!(answering.recv().await.unwrap().is_some());
    answering.send(sample(2, 300_000), &plain()).await.unwrap();
    drop(answering);
    assert_eq!(asked.recv().await.unwrap().unwrap().payload, sample(2, 300_000).payload);
    assert!(asked.recv().await.unwrap().is_none());
    // What is sent to a transfer that the peer dropped goes nowhere, as over one stream.
    for i in 0..50 {
        asked.send(sample(i, 1 << 20), &plain()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_there_is_no_memory_for_is_told_once_and_its_stream_goes_on() {
    const BIG: usize = 700_000;
    let mut options = Options::default();
    (options.limits.memory_budget, options.limits.frame_timeout) = (1 << 20, Duration::from_secs(2));
    let (client, server) = transfers(Options::default(), options).await;
    let sending = client.open("big").unwrap();
    for (i, len) in [BIG, BIG, 1000].into_iter().enumerate() {
        sending.send(sample(i as u32, len), &plain()).await.unwrap();
    }
    let mut transfer = server.accept().await.unwrap().unwrap();
    let held = transfer.recv().await.unwrap().unwrap();
    let error = transfer.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Memory { .. })), "{error}");
    assert_eq!(transfer.recv().await.unwrap().unwrap().payload, sample(2, 1000).payload);
    drop(held);
    sending.send(sample(3, BIG), &plain()).await.unwrap();
    assert_eq!(transfer.recv().await.unwrap().unwrap().payload, sample(3, BIG).payload);
}

// spec: transports 3.14
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_dropped_after_finish_delivers_everything() {
    let (client, mut server) = pair(Options::default(), Options::default()).await;
    let (mut sender, receiver) = client.split();
    // Until the receiver has begun, it takes little.
    let (begun, first) = tokio::join!(sender.send(encoded(&sample(0, 1 << 20))), server.recv());
    begun.unwrap();
    assert!(first.unwrap().is_some());
    for i in 1..12 {
        sender.send(encoded(&sample(i, 1 << 20))).await.unwrap();
    }
    sender.finish().await.unwrap();
    drop((sender, receiver));
    sleep(A_WHILE).await;
    for i in 1..12 {
        assert_eq!(server.recv().await.unwrap().unwrap().payload, sample(i, 1 << 20).payload);
    }
    assert!(server.recv().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_connection_that_is_dropped_tells_the_peer_at_once() {
    let mut options = Options::default();
    options.quic.idle_timeout = Duration::from_secs(60);
    let (client, mut server) = pair(options.clone(), options).await;
    let (mut sender, receiver) = client.split();
    // More than the window: the last frame is dropped on its way.
    let endless = async {
        for i in 0.. {
            sender.send(encoded(&sample(i, 4 << 20))).await.unwrap();
        }
    };
    assert!(timeout(A_WHILE, endless).await.is_err());
    drop((sender, receiver));
    let told = async {
        loop {
            match server.recv().await {
                Ok(Some(_)) => {}
                other => break other.map(drop),
            }
        }
    };
    let error = timeout(GENEROUS, told).await.expect("before the idle timeout").unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Broken { .. })), "{error}");
}
