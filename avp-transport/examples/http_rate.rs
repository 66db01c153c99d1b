//! Throughput over HTTP on loopback, beside a bare std-socket blast of the same sizes in the same run:
//! `cargo run --release -p avp-transport --features testing --example http_rate [MiB ...]`
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use avp_handshake::{Hello, ModelIdentity, NegotiatorConfig, PeerId, Session};
use avp_transport::testing::{BareHttp2, blast, frames_over};
use avp_transport::{
    BoxFuture, HttpAgent, HttpCaller, HttpClient, HttpHandler, HttpListener, HttpRefusal, HttpReply,
    HttpServerOptions, Listener, Options, connect, listen,
};
use avp_wire::{EncodeOptions, Frame, Metadata};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ROUNDS: usize = 5;
const MIB: usize = 1 << 20;

/// What is measured in each round beside the blast.
#[derive(Clone, Copy)]
enum Case {
    /// Frames over a connection.
    Frames(&'static str),
    /// Requests over HTTP/1.1 or HTTP/2, so many at once.
    Requests { h2: bool, at_once: usize },
    /// hyper alone, with the same settings.
    Bare,
}

const CASES: [(&str, Case); 7] = [
    ("TCP", Case::Frames("avp+tcp://127.0.0.1:0")),
    ("HTTP upgraded", Case::Frames("http://127.0.0.1:0")),
    ("transmit, HTTP/1.1", Case::Requests { h2: false, at_once: 1 }),
    ("  4 at once", Case::Requests { h2: false, at_once: 4 }),
    ("transmit, h2c", Case::Requests { h2: true, at_once: 1 }),
    ("  4 at once", Case::Requests { h2: true, at_once: 4 }),
    ("hyper alone, h2c", Case::Bare),
];

/// Drops what comes.
#[derive(Debug)]
struct Sink;

impl HttpHandler for Sink {
    fn frame<'a>(
        &'a self,
        _: &'a HttpCaller,
        _: Option<Session>,
        _: Frame,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        Box::pin(async { Ok(HttpReply::default()) })
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let mut sizes = Vec::new();
    for argument in std::env::args().skip(1) {
        sizes.push(argument.parse::<usize>()? * MIB);
    }
    if sizes.is_empty() {
        sizes = [1, 64, 256, 1024].map(|mib| mib * MIB).to_vec();
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("no checks; GB/s, and ratio to the bare blast of the same round: medians of {ROUNDS} rounds");
    println!("load {}", load.trim());
    for size in sizes {
        measure(size, (512 * MIB / size).clamp(2, 500)).await?;
    }
    Ok(())
}

async fn measure(size: usize, count: usize) -> Outcome<()> {
    let frame = Frame::new(Metadata::default(), vec![1; size]);
    let mut bare = Vec::new();
    let mut rates = vec![Vec::new(); CASES.len()];
    for _ in 0..ROUNDS {
        let base = blast(size, count)?.rate();
        bare.push(base);
        for ((_, case), rates) in CASES.iter().zip(&mut rates) {
            let rate = match *case {
                Case::Frames(url) => stream(url, &frame, count).await?,
                Case::Requests { h2, at_once } => requests(h2, at_once, &frame, count).await?,
                Case::Bare => {
                    let mut pair = BareHttp2::pair(size).await;
                    pair.blast(2).await;
                    let start = Instant::now();
                    pair.blast(count).await;
                    (size * count) as f64 / start.elapsed().as_secs_f64()
                }
            };
            rates.push((rate, rate / base));
        }
    }
    println!("{:>5} MiB  {:<20} {:6.2}", size / MIB, "bare blast", median(bare) / 1e9);
    for ((name, _), rates) in CASES.iter().zip(rates) {
        let (rate, ratio): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
        println!("           {name:<20} {:6.2}  ratio {:.2}", median(rate) / 1e9, median(ratio));
    }
    Ok(())
}

fn options() -> (Options, EncodeOptions) {
    let mut options = Options::default();
    options.limits.verify_checksum = false;
    (options, EncodeOptions { checksum: false, ..EncodeOptions::default() })
}

/// Bytes per second of a connection.
async fn stream(url: &str, frame: &Frame, count: usize) -> Outcome<f64> {
    let (options, encoding) = options();
    let listener = listen(&url.parse()?, &options).await?;
    let (client, server) = tokio::join!(connect(listener.local_url(), &options), listener.accept());
    let (mut client, mut server) = (client?, server?);
    // Two frames first, so that buffers are warm.
    frames_over(&mut client, &mut server, frame, encoding, 2, false).await?;
    Ok(frames_over(&mut client, &mut server, frame, encoding, count, false).await?.rate())
}

/// Bytes per second of requests, `at_once` of them at any time.
async fn requests(h2: bool, at_once: usize, frame: &Frame, count: usize) -> Outcome<f64> {
    let (options, encoding) = options();
    let identity = ModelIdentity { model_hash: "00".into(), ..ModelIdentity::default() };
    let config = NegotiatorConfig::new(Hello::new("sink", identity), PeerId::new("sink"));
    let mut http = HttpServerOptions::default();
    http.service = Some(Arc::new(HttpAgent::new(config, Sink)?));
    let listener = HttpListener::serve(&"http://127.0.0.1:0".parse()?, options.clone(), http).await?;
    let client = HttpClient::new(listener.local_url(), "source", options)?;
    let client = if h2 { client.with_http2() } else { client };
    let several = async |count: usize| -> Outcome<()> {
        let mut transfers = tokio::task::JoinSet::new();
        for _ in 0..at_once {
            let (client, frame) = (client.clone(), frame.clone());
            transfers.spawn(async move {
                for _ in 0..count {
                    client.transmit(frame.encode(&encoding)?).await?;
                }
                Outcome::Ok(())
            });
        }
        while let Some(done) = transfers.join_next().await {
            done??;
        }
        Ok(())
    };
    several(2).await?;
    let each = count.div_ceil(at_once);
    let start = Instant::now();
    several(each).await?;
    Ok((frame.payload.len() * each * at_once) as f64 / start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
