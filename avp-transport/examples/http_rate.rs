//! Throughput over HTTP on loopback, beside a bare std-socket blast of the same sizes in the same run:
#![allow(clippy::print_stdout)]
//! `cargo run --release -p avp-transport --features testing --example http_rate`

use std::sync::Arc;
use std::time::Instant;

use avp_handshake::{Hello, ModelIdentity, NegotiatorConfig, PeerId, Session};
use avp_transport::testing::{blast, frames_over};
use avp_transport::{
    BoxFuture, HttpAgent, HttpCaller, HttpClient, HttpHandler, HttpListener, HttpRefusal, HttpReply,
    HttpServerOptions, Listener, Options, connect, listen,
};
use avp_wire::{EncodeOptions, Frame, Metadata};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Payload sizes, how many of each in a round, and rounds.
const SIZES: [(usize, usize, usize); 3] = [(1 << 20, 500, 7), (64 << 20, 12, 7), (256 << 20, 4, 5)];
const CASES: [&str; 4] = ["TCP", "HTTP upgraded", "transmit, HTTP/1.1", "transmit, h2c"];

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
    let mut options = Options::default();
    options.limits.verify_checksum = false;
    let plain = EncodeOptions { checksum: false, ..EncodeOptions::default() };
    println!("no checks; GB/s, and ratio to the bare blast of the same round: medians");
    for (size, count, rounds) in SIZES {
        let frame = Frame::new(Metadata::default(), vec![1; size]);
        let mut bare = Vec::new();
        let mut rates = vec![Vec::new(); CASES.len()];
        for _ in 0..rounds {
            let base = blast(size, count)?.rate();
            bare.push(base);
            for (case, rates) in rates.iter_mut().enumerate() {
                let rate = match case {
                    0 => stream("avp+tcp://127.0.0.1:0", &options, &frame, plain, count).await?,
                    1 => stream("http://127.0.0.1:0", &options, &frame, plain, count).await?,
                    case => requests(case == 3, &options, &frame, plain, count).await?,
                };
                rates.push((rate, rate / base));
            }
        }
        println!("{size:>10} B  bare blast           {:6.2}", median(bare) / 1e9);
        for (name, rates) in CASES.iter().zip(rates) {
            let (rate, ratio): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
            println!("              {name:<20} {:6.2}  ratio {:.2}", median(rate) / 1e9, median(ratio));
        }
    }
    Ok(())
}

/// Bytes per second of a connection.
async fn stream(
    url: &str,
    options: &Options,
    frame: &Frame,
    encoding: EncodeOptions,
    count: usize,
) -> Outcome<f64> {
    let listener = listen(&url.parse()?, options).await?;
    let (client, server) = tokio::join!(connect(listener.local_url(), options), listener.accept());
    let (mut client, mut server) = (client?, server?);
    // Two frames first, so that buffers are warm.
    frames_over(&mut client, &mut server, frame, encoding, 2, false).await?;
    Ok(frames_over(&mut client, &mut server, frame, encoding, count, false).await?.rate())
}

/// Bytes per second of one request after the other.
async fn requests(
    h2: bool,
    options: &Options,
    frame: &Frame,
    encoding: EncodeOptions,
    count: usize,
) -> Outcome<f64> {
    let identity = ModelIdentity { model_hash: "00".into(), ..ModelIdentity::default() };
    let config = NegotiatorConfig::new(Hello::new("sink", identity), PeerId::new("sink"));
    let mut http = HttpServerOptions::default();
    http.service = Some(Arc::new(HttpAgent::new(config, Sink)?));
    let listener = HttpListener::serve(&"http://127.0.0.1:0".parse()?, options.clone(), http).await?;
    let client = HttpClient::new(listener.local_url(), "source", options.clone())?;
    let client = if h2 { client.with_http2() } else { client };
    for _ in 0..2 {
        client.transmit(frame.encode(&encoding)?).await?;
    }
    let start = Instant::now();
    for _ in 0..count {
        client.transmit(frame.encode(&encoding)?).await?;
    }
    Ok((frame.payload.len() * count) as f64 / start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
