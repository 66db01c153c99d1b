//! Rates of transports through an emulated link of 100 Mbit/s with 50 ms one way (100 ms round trip), without loss and with
//! 1 %, side by side with the congestion controllers that made them:
//! `cargo run --release -p avp-transport --features testing --example link_rates`
//!
//! QUIC goes through the link datagram by datagram, and its own congestion control reacts. The proxy ends TCP, so the
//! kernel's never sees the link: what a stream gets here is a model's (`avp_transport::testing::EmulatedLink`).
//! `--direct [transport ...]` leaves the link out, for a network that is shaped by other means (netem), where the kernel's
//! TCP is measured as it is.
#![allow(clippy::print_stdout)]

use std::env;
use std::time::Duration;

use avp_transport::testing::{EmulatedLink, Ends, Link, Service, honest_transfer};
use avp_transport::{Congestion, Options, TransportUrl};

type Failure = Box<dyn std::error::Error>;

const RATE: u64 = 100_000_000;
const DELAY: Duration = Duration::from_millis(50);
const LOSSES: [f64; 2] = [0.0, 0.01];
const SIZES: [usize; 2] = [1 << 20, 8 << 20];
/// UDP payloads that fit in an Ethernet frame. Loopback carries larger ones, of which fewer would be lost.
const MTU: u16 = 1452;

/// What reacts to the link.
#[derive(Clone, Copy)]
enum Control {
    /// Nothing: a window as large as the link's queue.
    None,
    /// The link's model of TCP Reno.
    Reno,
    /// QUIC's own.
    Quic(Congestion),
}

const SIDES: [(&str, &str, Control); 6] = [
    ("avp+tcp://127.0.0.1:0", "none, a fixed window of 4 MiB", Control::None),
    ("avp+tcp://127.0.0.1:0", "Reno (RFC 5681), modelled", Control::Reno),
    ("avp+tls://127.0.0.1:0", "Reno (RFC 5681), modelled", Control::Reno),
    ("avp+quic://127.0.0.1:0", "CUBIC, quinn's (default)", Control::Quic(Congestion::Cubic)),
    ("avp+quic://127.0.0.1:0", "NewReno, quinn's", Control::Quic(Congestion::NewReno)),
    ("avp+quic://127.0.0.1:0", "BBR, quinn's", Control::Quic(Congestion::Bbr)),
];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--direct") {
        return direct(arguments.split_off(1)).await;
    }
    println!(
        "{} Mbit/s, {} ms one way; Mbit/s of a payload from connecting to the answer, handshakes included",
        RATE / 1_000_000,
        DELAY.as_millis()
    );
    println!(
        "{:<8} {:<30} {:>14} {:>14} {:>14} {:>14}",
        "", "congestion control", "1 MiB, 0 %", "8 MiB, 0 %", "1 MiB, 1 %", "8 MiB, 1 %"
    );
    for (url, name, control) in SIDES {
        let url: TransportUrl = url.parse()?;
        print!("{:<8} {name:<30}", url.scheme());
        for loss in LOSSES {
            for size in SIZES {
                print!(" {:>14.2}", rate(&url, control, loss, size).await?);
            }
        }
        println!();
    }
    Ok(())
}

/// Megabits a second of one transfer.
async fn rate(url: &TransportUrl, control: Control, loss: f64, size: usize) -> Result<f64, Failure> {
    let mut options = Options::default();
    options.quic.max_mtu = MTU;
    let mut link = Link::default();
    (link.rate, link.delay, link.loss) = (Some(RATE), DELAY, loss);
    match control {
        Control::None => {}
        Control::Reno => link.reno = true,
        Control::Quic(congestion) => options.quic.congestion = congestion,
    }
    let ends = Ends::secured(options);
    let service = Service::acknowledging(url, &ends.server).await?;
    let emulated = EmulatedLink::before(service.url(), link, 1).await?;
    let took = honest_transfer(emulated.url(), &ends.client, size).await?;
    Ok(megabits(size, took))
}

/// Without a link.
async fn direct(mut transports: Vec<String>) -> Result<(), Failure> {
    let kernel = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    println!("kernel's TCP congestion control: {}", kernel.as_deref().map_or("unknown", str::trim));
    if transports.is_empty() {
        transports =
            ["avp+tcp", "avp+tls", "avp+quic"].map(|scheme| format!("{scheme}://127.0.0.1:0")).into();
    }
    for transport in transports {
        let ends = Ends::secured(Options::default());
        let service = Service::acknowledging(&transport.parse()?, &ends.server).await?;
        for size in SIZES {
            let took = honest_transfer(service.url(), &ends.client, size).await?;
            println!(
                "{:<8} {:>2} MiB: {:>8.2} Mbit/s",
                service.url().scheme(),
                size >> 20,
                megabits(size, took)
            );
        }
    }
    Ok(())
}

fn megabits(size: usize, took: Duration) -> f64 {
    size as f64 * 8.0 / took.as_secs_f64() / 1e6
}
