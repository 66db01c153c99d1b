//! How much longer an honest client takes beside attackers at the same address, and what that costs in memory:
//! `cargo run --release -p avp-transport --features testing --example abuse -- [transport ...]`
//!
//! Server, attacker and client share one process and its cores, so the attacker's own work counts against the client.
#![allow(clippy::print_stdout)]

use std::env;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use avp_transport::testing::{Attack, Ends, Reached, Service, honest_transfer, open_files_limit, resident};
use avp_transport::{Options, TransportUrl};
use tokio::time::{Instant, sleep};

type Failure = Box<dyn std::error::Error>;

const HALF_OPEN: usize = 10_000;
const PAYLOAD: usize = 4 << 20;
const TRANSFERS: usize = 15;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // An attacker holds its ends also after the server has dropped its own.
    let files = open_files_limit(HALF_OPEN + 5000);
    let most = HALF_OPEN.min(files.saturating_sub(1000));
    let mut transports: Vec<String> = env::args().skip(1).collect();
    if transports.is_empty() {
        transports =
            ["avp+tcp://127.0.0.1:0", "avp+tls://127.0.0.1:0", "avp+mem:abuse"].map(str::to_owned).into();
    }
    println!("{files} open files allowed; honest transfers of {} MiB, median of {TRANSFERS}", PAYLOAD >> 20);
    for transport in &transports {
        for attack in Attack::ALL {
            measure(&transport.parse()?, attack, most).await?;
        }
    }
    Ok(())
}

async fn measure(url: &TransportUrl, attack: Attack, most: usize) -> Result<(), Failure> {
    // Each attack meets a server of its own.
    let ends = Ends::secured(Options::default());
    let service = Service::acknowledging(url, &ends.server).await?;
    let transfers = async || -> Result<Duration, Failure> {
        let mut times = Vec::new();
        for _ in 0..TRANSFERS {
            times.push(honest_transfer(service.url(), &ends.client, PAYLOAD).await?);
            sleep(Duration::from_millis(20)).await;
        }
        times.sort();
        Ok(times[TRANSFERS / 2])
    };
    transfers().await?;
    let calm = transfers().await?;
    let before = resident().unwrap_or(0);
    let reached = Arc::new(Reached::default());
    let connections = if attack == Attack::SlowLoris { 500 } else { most };
    let attacking = tokio::spawn(attack.run(
        service.url().clone(),
        ends.client.clone(),
        connections,
        Arc::clone(&reached),
    ));
    let begun = Instant::now();
    while attack == Attack::HalfOpen
        && reached.held.load(Ordering::Relaxed) < most
        && begun.elapsed() < Duration::from_secs(30)
    {
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_millis(500)).await;
    let disturbed = transfers().await;
    let grown = resident().unwrap_or(0).saturating_sub(before);
    let took = begun.elapsed();
    attacking.abort();
    let _ = attacking.await;
    let scheme = service.url().scheme();
    service.stop().await;
    let (made, held, sent) = (
        reached.connections.load(Ordering::Relaxed),
        reached.held.load(Ordering::Relaxed),
        reached.sent.load(Ordering::Relaxed),
    );
    match disturbed {
        Ok(disturbed) => println!(
            "{:<8} {:<13} {:>7.2} ms alone {:>8.2} ms beside it, ratio {:>5.2}; {:>4} MiB more; \
             {made} connections ({held} held), {sent} sent in {:.1} s",
            scheme,
            format!("{attack:?}"),
            calm.as_secs_f64() * 1e3,
            disturbed.as_secs_f64() * 1e3,
            disturbed.as_secs_f64() / calm.as_secs_f64(),
            grown >> 20,
            took.as_secs_f64()
        ),
        Err(error) => println!("{:<8} {attack:?}: FAILED: {error}", scheme),
    }
    Ok(())
}
