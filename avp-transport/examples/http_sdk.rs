//! Requests over HTTP beside the Python SDK's: its `AVPClient` to its `create_app` under hypercorn, this crate's client to
//! this crate's server, with the same payloads in turns:
//! `cargo run --release -p avp-transport --example http_sdk PYTHON [MiB ...]`
#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use avp_handshake::{Hello, ModelIdentity, NegotiatorConfig, PeerId, Session};
use avp_transport::{
    BoxFuture, HttpAgent, HttpCaller, HttpClient, HttpHandler, HttpListener, HttpRefusal, HttpReply,
    HttpServerOptions, Listener, Options,
};
use avp_wire::{EncodeOptions, Frame, Metadata};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ROUNDS: usize = 5;
/// Requests in a round.
const COUNT: usize = 4;
const MIB: usize = 1 << 20;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let python = arguments.next().ok_or("the first argument is a Python with avp, fastapi and hypercorn")?;
    let mut sizes = Vec::new();
    for argument in arguments {
        sizes.push(argument.parse::<usize>()? * MIB);
    }
    if sizes.is_empty() {
        sizes = vec![16 * MIB, 128 * MIB];
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{COUNT} requests one after the other, checksums on; GB/s, medians of {ROUNDS} rounds in turns");
    println!("load {}", load.trim());
    // Two processes, as the client and the server of a deployment are.
    let (mut theirs, mut their_server) = (Python::start(&python)?, Python::start(&python)?);
    let port = their_server.ask(&json!({ "op": "start" }))?;
    let their_url = format!("http://127.0.0.1:{}", port.get("port").unwrap_or(&Value::Null));
    let listener = ours().await?;
    for size in sizes {
        theirs.ask(&json!({ "op": "connect", "url": their_url, "bytes": size }))?;
        let clients = ["HTTP/1.1", "h2c"].map(|name| (name, name == "h2c"));
        let (mut sdk, mut rates) = (Vec::new(), vec![Vec::new(); clients.len()]);
        for round in 0..=ROUNDS {
            let seconds = theirs.ask(&json!({ "op": "transmit", "count": COUNT }))?;
            let seconds = seconds.get("seconds").and_then(Value::as_f64).ok_or("no seconds")?;
            let base = (size * COUNT) as f64 / seconds;
            let mut of_round = Vec::new();
            for (_, h2) in clients {
                of_round.push(requests(&listener, h2, size).await?);
            }
            // The first round warms both sides.
            if round > 0 {
                sdk.push(base);
                for (rates, rate) in rates.iter_mut().zip(of_round) {
                    rates.push((rate, rate / base));
                }
            }
        }
        println!("{:>5} MiB  {:<12} {:6.3}", size / MIB, "Python SDK", median(sdk) / 1e9);
        for ((name, _), rates) in clients.into_iter().zip(rates) {
            let (rate, ratio): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
            println!("           {name:<12} {:6.3}  {:.1} x as fast", median(rate) / 1e9, median(ratio));
        }
    }
    Ok(())
}

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

async fn ours() -> Outcome<HttpListener> {
    let identity = ModelIdentity { model_hash: "00".into(), ..ModelIdentity::default() };
    let config = NegotiatorConfig::new(Hello::new("sink", identity), PeerId::new("sink"));
    let mut http = HttpServerOptions::default();
    http.service = Some(Arc::new(HttpAgent::new(config, Sink)?));
    Ok(HttpListener::serve(&"http://127.0.0.1:0".parse()?, Options::default(), http).await?)
}

/// Bytes per second, encoding each time, as the SDK does.
async fn requests(listener: &HttpListener, h2: bool, size: usize) -> Outcome<f64> {
    let client = HttpClient::new(listener.local_url(), "bench", Options::default())?;
    let client = if h2 { client.with_http2() } else { client };
    let frame = Frame::new(Metadata::default(), vec![1; size]);
    client.health().await?;
    let start = Instant::now();
    for _ in 0..COUNT {
        client.transmit(frame.encode(&EncodeOptions::default())?).await?;
    }
    Ok((size * COUNT) as f64 / start.elapsed().as_secs_f64())
}

/// A process that runs `tests/python/bench_http.py`.
struct Python {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    fn start(python: &str) -> Outcome<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/python/bench_http.py");
        let mut child =
            Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take().ok_or("no pipe")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { child, requests, answers })
    }

    fn ask(&mut self, request: &Value) -> Outcome<Value> {
        writeln!(self.requests, "{request}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| "the Python side ended")?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(format!("the Python side says: {error}").into()),
            None => Ok(answer),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It waits for a request; nothing of it is worth keeping.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
