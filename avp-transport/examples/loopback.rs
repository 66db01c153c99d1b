//! Throughput of TCP on loopback, beside a bare std-socket blast of the same sizes in the same run:
#![allow(clippy::print_stdout)]
//! `cargo run --release -p avp-transport --features testing --example loopback`

use avp_transport::testing::{blast, frames_over};
use avp_transport::{Options, connect, listen};
use avp_wire::{EncodeOptions, Frame, Metadata};

const ROUNDS: usize = 7;
/// Payload sizes, and how many of each in a round.
const SIZES: [(usize, usize); 3] = [(1 << 10, 200_000), (1 << 20, 1000), (64 << 20, 16)];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plain = EncodeOptions { checksum: false, ..EncodeOptions::default() };
    let cases = [
        ("no checks", plain, false),
        ("no checks, gathered", plain, true),
        ("defaults", EncodeOptions::default(), false),
        ("defaults, gathered", EncodeOptions::default(), true),
    ];
    println!("median of {ROUNDS} rounds, GB/s; ratio to the bare blast of the same round");
    for (size, count) in SIZES {
        let frame = Frame::new(Metadata::default(), vec![1; size]);
        let mut bare = Vec::new();
        let mut rates = vec![Vec::new(); cases.len()];
        for _ in 0..ROUNDS {
            let base = blast(size, count)?.rate();
            bare.push(base);
            for ((_, encoding, gather), rates) in cases.iter().zip(&mut rates) {
                let mut options = Options::default();
                options.limits.verify_checksum = encoding.checksum;
                let listener = listen(&"avp+tcp://127.0.0.1:0".parse()?, &options).await?;
                let (client, server) =
                    tokio::join!(connect(listener.local_url(), &options), listener.accept());
                let (mut client, mut server) = (client?, server?);
                // Two frames first, so that buffers are warm.
                frames_over(&mut client, &mut server, &frame, *encoding, 2, false).await?;
                let run = frames_over(&mut client, &mut server, &frame, *encoding, count, *gather).await?;
                rates.push((run.rate(), run.rate() / base));
            }
        }
        println!("{size:>9} B  bare blast            {:6.2}", median(bare) / 1e9);
        for ((name, ..), rates) in cases.iter().zip(rates) {
            let (rate, ratio): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
            println!("             {name:<21} {:6.2}  ratio {:.2}", median(rate) / 1e9, median(ratio));
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
