//! Promises about several transfers on one connection.

use avp_wire::EncodeOptions;

use super::{Harness, default_pair, sample, seen};
use crate::connection::Connection;
use crate::error::{LimitExceeded, TransportError, UsageError};
use crate::options::Options;
use crate::transfers::{Transfer, Transfers};

const FRAMES: u32 = 40;

async fn send_all(transfer: &Transfer, seed: u32) {
    for i in 0..FRAMES {
        transfer.send(sample(seed + i, 20_000), &EncodeOptions::default()).await.unwrap();
    }
}

/// Transfers in both directions at once each keep their own order.
pub async fn several_transfers_run_at_once_each_in_order(harness: &dyn Harness) {
    let (client, server) = default_pair(harness).await;
    let run = |connection: Connection, ours: u32, theirs: u32| async move {
        let transfers = Transfers::over(connection);
        let mut tasks = Vec::new();
        for i in 0..4 {
            let transfer = transfers.open(&format!("from-{ours}-{i}")).unwrap();
            tasks.push(tokio::spawn(async move { send_all(&transfer, ours + 100 * i).await }));
        }
        for _ in 0..4 {
            let mut transfer = transfers.accept().await.unwrap().unwrap();
            tasks.push(tokio::spawn(async move {
                let lane: u32 = transfer.id().rsplit('-').next().unwrap().parse().unwrap();
                for i in 0..FRAMES {
                    let frame = transfer.recv().await.unwrap().unwrap();
                    assert_eq!(seen(&frame), seen(&sample(theirs + 100 * lane + i, 20_000)));
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        transfers.finish().await.unwrap();
        assert!(transfers.accept().await.unwrap().is_none());
    };
    tokio::join!(run(client, 0, 10_000), run(server, 10_000, 0));
}

/// A transfer that is dropped in its middle costs the others nothing, and is not taken for a new one.
pub async fn a_dropped_transfer_leaves_the_others_as_they_were(harness: &dyn Harness) {
    let mut options = Options::default();
    options.budgets.rejects = FRAMES;
    let (client, server) = harness.pair(Options::default(), options).await;
    let client = Transfers::over(client);
    let sending = tokio::spawn(async move {
        let (dropped, kept) = (client.open("dropped").unwrap(), client.open("kept").unwrap());
        for i in 0..FRAMES {
            dropped.send(sample(i, 20_000), &EncodeOptions::default()).await.unwrap();
            kept.send(sample(100 + i, 20_000), &EncodeOptions::default()).await.unwrap();
        }
        client.finish().await.unwrap();
        client
    });
    let server = Transfers::over(server);
    let mut dropped = server.accept().await.unwrap().unwrap();
    assert_eq!(seen(&dropped.recv().await.unwrap().unwrap()), seen(&sample(0, 20_000)));
    drop(dropped);
    let mut kept = server.accept().await.unwrap().unwrap();
    assert_eq!(kept.id(), "kept");
    for i in 0..FRAMES {
        assert_eq!(seen(&kept.recv().await.unwrap().unwrap()), seen(&sample(100 + i, 20_000)));
    }
    assert!(kept.recv().await.unwrap().is_none());
    assert!(server.accept().await.unwrap().is_none());
    drop(sending.await);
}

// spec: limits 9.1
/// As many transfers as the limit says, not one more, from either side; an ended one makes room.
pub async fn transfers_beyond_the_limit_are_refused(harness: &dyn Harness) {
    let (client, server) = default_pair(harness).await;
    let limit = Options::default().limits.max_concurrent_transfers;
    let (client, server) = (Transfers::over(client), Transfers::over(server));
    let mut open: Vec<Transfer> = (0..limit).map(|i| client.open(&format!("t{i}")).unwrap()).collect();
    let error = client.open("one more").unwrap_err();
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Transfers { limit: 100 })), "{error}");
    drop(open.pop());
    let error = client.open("t0").unwrap_err();
    assert!(matches!(error, TransportError::Usage(UsageError::NameInUse { .. })), "{error}");
    open.push(client.open("one more").unwrap());

    // The peer keeps count on its own: it takes a hundred, whatever this side believes.
    let mut more = Options::default();
    more.limits.max_concurrent_transfers = 1000;
    let (client, server_end) = harness.pair(more, Options::default()).await;
    let (client, strict) = (Transfers::over(client), Transfers::over(server_end));
    let open: Vec<Transfer> = (0..limit + 5).map(|i| client.open(&format!("t{i}")).unwrap()).collect();
    let sending = tokio::spawn(async move {
        for transfer in &open {
            transfer.send(sample(1, 100), &EncodeOptions::default()).await.unwrap();
        }
        client.finish().await.unwrap();
        // Dropped here, refusals that nobody has read would reset the connection before all has arrived.
        (client, open)
    });
    let mut taken = Vec::new();
    while let Some(transfer) = strict.accept().await.unwrap() {
        taken.push(transfer);
    }
    assert_eq!(taken.len(), limit);
    drop((sending.await.unwrap(), server));
}
