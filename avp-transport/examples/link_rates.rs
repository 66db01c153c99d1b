//! Rates of transports through an emulated link of 100 Mbit/s with 50 ms one way (100 ms round trip) and 1 % loss:
//! `cargo run --release -p avp-transport --features testing --example link_rates -- [transport ...]`
//!
//! The proxy ends TCP, so the kernel's congestion control never sees the link: what a stream gets here is a model's
//! (`avp_transport::testing::EmulatedLink`). QUIC goes through the link datagram by datagram, and its own congestion
//! control reacts. `--direct` leaves the link out, for a network that is shaped by other means (netem), where the
//! kernel's TCP is measured as it is.
#![allow(clippy::print_stdout)]

use std::env;
use std::time::Duration;

use avp_transport::testing::{EmulatedLink, Ends, Link, Service, honest_transfer};
use avp_transport::{Options, TransportUrl};

type Failure = Box<dyn std::error::Error>;

const DELAY: Duration = Duration::from_millis(50);
const SIZES: [usize; 2] = [1 << 20, 8 << 20];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut transports: Vec<String> = env::args().skip(1).collect();
    let direct = transports.iter().any(|argument| argument == "--direct");
    transports.retain(|argument| argument != "--direct");
    if transports.is_empty() {
        transports = ["avp+tcp://127.0.0.1:0", "avp+tls://127.0.0.1:0"].map(str::to_owned).into();
    }
    let kernel = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    println!("kernel's TCP congestion control: {}", kernel.as_deref().map_or("unknown", str::trim));
    let mut clean = Link::default();
    (clean.rate, clean.delay) = (Some(100_000_000), DELAY);
    let mut lossy = clean;
    lossy.loss = 0.01;
    let (mut reno, mut reno_lossy) = (clean, lossy);
    (reno.reno, reno_lossy.reno) = (true, true);
    let links = [
        ("no loss, window without congestion control", Some(clean)),
        ("1 % loss, window without congestion control", Some(lossy)),
        ("no loss, modelled Reno", Some(reno)),
        ("1 % loss, modelled Reno", Some(reno_lossy)),
    ];
    for transport in &transports {
        let url: TransportUrl = transport.parse()?;
        if direct {
            rate(&url, "direct", None).await?;
            continue;
        }
        for (name, link) in links {
            rate(&url, name, link).await?;
        }
    }
    Ok(())
}

async fn rate(url: &TransportUrl, name: &str, link: Option<Link>) -> Result<(), Failure> {
    let ends = Ends::secured(Options::default());
    let service = Service::acknowledging(url, &ends.server).await?;
    let emulated = match link {
        Some(link) => Some(EmulatedLink::before(service.url(), link, 1).await?),
        None => None,
    };
    let through = emulated.as_ref().map_or(service.url(), EmulatedLink::url);
    for size in SIZES {
        let took = honest_transfer(through, &ends.client, size).await?;
        println!(
            "{:<8} {name:<44} {:>2} MiB in {:>7.2} s: {:>7.2} Mbit/s, connecting and handshake included",
            url.scheme(),
            size >> 20,
            took.as_secs_f64(),
            size as f64 * 8.0 / took.as_secs_f64() / 1e6
        );
    }
    Ok(())
}
