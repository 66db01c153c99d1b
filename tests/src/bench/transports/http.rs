//! HTTP beside bare sockets, beside hyper alone, and beside the Python SDK.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use avp_handshake::{Hello, ModelIdentity, NegotiatorConfig, PeerId};
use avp_transport::testing::{BareHttp2, Discard, Ends, blast};
use avp_transport::{HttpAgent, HttpClient, HttpListener, HttpServerOptions, Listener};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::{LOADS, Load, encoding, ends, streams};
use crate::measure::{Side, alternate};
use crate::peer::Peer;
use crate::report::{Bound, Figure, Group};

const BARE: &str = "bare TCP sockets";
/// Payloads and requests in a round beside the SDK.
const BESIDE_SDK: [Load; 2] = [
    Load { name: "16 MiB", size: 16 << 20, count: 8, rounds: 5 },
    Load { name: "128 MiB", size: 128 << 20, count: 2, rounds: 5 },
];

/// How requests go.
#[derive(Clone, Copy)]
struct Way {
    h2: bool,
    at_once: usize,
}

pub(crate) fn run(python: Option<&Path>) -> Result<Group> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut group = Group::new("HTTP on loopback");
    for load in LOADS {
        // A request has its price, however small it is.
        let count = if load.gathered() { load.count / 10 } else { load.count };
        sizes(&runtime, &Load { count, ..load }, &mut group)?;
    }
    group.note(
        "median of 7 alternating rounds, 3 of 1 GiB, without integrity checks; requests end with the server's answer, so one \
         at a time pays a round trip for each payload; client and server share a runtime with two threads",
    );
    if let Some(python) = python {
        beside_sdk(&runtime, python, &mut group)?;
    }
    Ok(group)
}

fn sizes(runtime: &Runtime, load: &Load, group: &mut Group) -> Result<()> {
    let ends = ends(false);
    let requests = |h2, at_once| {
        let ends = &ends;
        move || runtime.block_on(transmit(ends, Way { h2, at_once }, load, false))
    };
    let mut sides: [Side<'_>; 7] = [
        Box::new(|| Ok(blast(load.size, load.count)?.as_secs_f64())),
        Box::new(|| streams::frames("http://127.0.0.1:0", &ends, load, false)),
        Box::new(requests(false, 1)),
        Box::new(requests(false, 4)),
        Box::new(requests(true, 1)),
        Box::new(requests(true, 4)),
        Box::new(|| Ok(runtime.block_on(alone(load)))),
    ];
    let samples = alternate(load.rounds, &mut sides)?;
    drop(sides);
    let row = |what: &str, index: usize| {
        let name = format!("{}, {what}", load.name);
        Figure::rate(name, load.bytes(), &samples[index]).speed_beside(BARE, &samples[index], &samples[0])
    };
    let least = Bound::RatioAtLeast(0.6);
    group.figures.push(row("frames on an upgraded connection", 1).target(least));
    group.figures.push(row("requests over HTTP/1.1, one at a time", 2));
    group.figures.push(row("requests over HTTP/1.1, 4 at a time", 3).target(least));
    group.figures.push(row("requests over HTTP/2, one at a time", 4));
    group.figures.push(row("requests over HTTP/2, 4 at a time", 5).target(least));
    group.figures.push(row("hyper alone over HTTP/2, one at a time", 6));
    Ok(())
}

fn beside_sdk(runtime: &Runtime, python: &Path, group: &mut Group) -> Result<()> {
    // Two processes, as client and server of a deployment are.
    let mut server = Peer::start(python, "bench_http.py")?;
    let mut client = Peer::start(python, "bench_http.py")?;
    let port = server.ask(&json!({ "op": "start" }))?;
    let port = port.get("port").and_then(serde_json::Value::as_u64).context("the server gave no port")?;
    let ends = ends(true);
    for load in BESIDE_SDK {
        let url = format!("http://127.0.0.1:{port}");
        client.ask(&json!({ "op": "connect", "url": url, "bytes": load.size }))?;
        let ours = |h2, at_once| {
            let (ends, load) = (&ends, &load);
            move || runtime.block_on(transmit(ends, Way { h2, at_once }, load, true))
        };
        let mut sides: [Side<'_>; 4] = [
            Box::new(|| client.seconds(&json!({ "op": "transmit", "count": load.count }))),
            Box::new(ours(false, 1)),
            Box::new(ours(false, 4)),
            Box::new(ours(true, 1)),
        ];
        let samples = alternate(load.rounds, &mut sides)?;
        drop(sides);
        let ways = ["HTTP/1.1, one at a time", "HTTP/1.1, 4 at a time", "HTTP/2, one at a time"];
        for (what, seconds) in ways.into_iter().zip(&samples[1..]) {
            let figure = Figure::rate(format!("{}, requests over {what}", load.name), load.bytes(), seconds);
            let figure = figure.speed_beside("Python SDK", seconds, &samples[0]);
            group.figures.push(figure.target(Bound::RatioAtLeast(10.0)));
        }
    }
    group.note("beside the Python SDK: AVPClient and create_app under hypercorn in a process each; checksums on both sides");
    Ok(())
}

/// Seconds of a load of requests, on connections that have carried some already.
async fn transmit(ends: &Ends, way: Way, load: &Load, checksum: bool) -> Result<f64> {
    let identity = ModelIdentity { model_hash: "00".into(), ..ModelIdentity::default() };
    let config = NegotiatorConfig::new(Hello::new("sink", identity), PeerId::new("sink"));
    let mut http = HttpServerOptions::default();
    http.service = Some(Arc::new(HttpAgent::new(config, Discard::default())?));
    http.limits.requests_per_second = u32::MAX;
    // As much as several of the largest payloads take.
    http.limits.body_memory = 8 << 30;
    let listener = HttpListener::serve(&"http://127.0.0.1:0".parse()?, ends.server.clone(), http).await?;
    let client = HttpClient::new(listener.local_url(), "source", ends.client.clone())?;
    let client = if way.h2 { client.with_http2() } else { client };
    let (frame, encoding) = (load.frame(), encoding(checksum));
    // The largest payloads would not fit into the budget side by side.
    let at_once = way.at_once.min(load.count);
    let several = async |count: usize| -> Result<()> {
        let mut transfers = JoinSet::new();
        for number in 0..at_once {
            let (client, frame) = (client.clone(), frame.clone());
            let share = count / at_once + usize::from(number < count % at_once);
            transfers.spawn(async move {
                for _ in 0..share {
                    client.transmit(frame.encode(&encoding)?).await?;
                }
                anyhow::Ok(())
            });
        }
        transfers.join_all().await.into_iter().collect()
    };
    several(at_once.max(load.count / 4)).await?;
    let start = Instant::now();
    several(load.count).await?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds of hyper without frames and limits.
async fn alone(load: &Load) -> f64 {
    let mut pair = BareHttp2::pair(load.size).await;
    pair.blast(load.count.div_ceil(4)).await;
    let start = Instant::now();
    pair.blast(load.count).await;
    start.elapsed().as_secs_f64()
}
