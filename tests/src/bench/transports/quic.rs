//! QUIC beside bare quinn streams with the same configuration.

use std::time::Instant;

use anyhow::Result;
use avp_transport::testing::{BareQuic, Ends};
use avp_transport::{Connection, connect, listen};
use avp_wire::{EncodeOptions, Frame};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::{LOADS, Load, encoding, ends};
use crate::measure::{Side, alternate};
use crate::report::{Bound, Figure, Group};

const BARE: &str = "bare quinn, same configuration";
/// QUIC takes ten times as long as TCP for a payload.
const SLOWER: usize = 4;

pub(crate) fn run() -> Result<Group> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut group = Group::new("QUIC on loopback");
    for load in LOADS {
        sizes(&runtime, &Load { count: load.count.div_ceil(SLOWER), ..load }, &mut group)?;
    }
    for connections in [2, 4] {
        parallel(&runtime, connections, &mut group)?;
    }
    group.note(
        "median of 7 alternating rounds, 3 of 1 GiB, on a runtime with two threads; frames of 1 KiB go out gathered; \
         quinn's defaults are what bare quinn does without this crate's windows and MTU",
    );
    Ok(group)
}

fn sizes(runtime: &Runtime, load: &Load, group: &mut Group) -> Result<()> {
    let (unchecked, checked) = (ends(false), ends(true));
    let mut sides: [Side<'_>; 5] = [
        Box::new(|| Ok(runtime.block_on(blast(&unchecked, true, load)))),
        Box::new(|| runtime.block_on(frames(&unchecked, 1, load, false, load.gathered()))),
        Box::new(|| runtime.block_on(frames(&checked, 1, load, true, load.gathered()))),
        Box::new(|| Ok(runtime.block_on(blast(&unchecked, false, load)))),
        // Where frames are gathered, one by one as well.
        Box::new(|| match load.gathered() {
            true => runtime.block_on(frames(&unchecked, 1, load, false, false)),
            false => Ok(f64::NAN),
        }),
    ];
    let samples = alternate(load.rounds, &mut sides)?;
    drop(sides);
    let row = |what: &str, index: usize| {
        let seconds = &samples[index];
        let name = format!("{} of {}, {what}", if index == 3 { "bytes" } else { "frames" }, load.name);
        Figure::rate(name, load.bytes(), seconds).speed_beside(BARE, seconds, &samples[0])
    };
    group.figures.push(row("no checks", 1).target(Bound::RatioAtLeast(0.95)));
    group.figures.push(row("checksums", 2));
    if load.gathered() {
        group.figures.push(row("no checks, sent one by one", 4));
    }
    group.figures.push(row("quinn's defaults", 3));
    Ok(())
}

fn parallel(runtime: &Runtime, connections: usize, group: &mut Group) -> Result<()> {
    let load = Load { name: "64 MiB", size: 64 << 20, count: 2, rounds: 5 };
    let ends = ends(false);
    let mut sides: [Side<'_>; 2] = [
        Box::new(|| runtime.block_on(frames(&ends, 1, &load, false, false))),
        Box::new(|| runtime.block_on(frames(&ends, connections, &load, false, false))),
    ];
    let samples = alternate(load.rounds, &mut sides)?;
    drop(sides);
    // So many times the bytes of one: scaled to the same bytes.
    let many: Vec<f64> = samples[1].iter().map(|seconds| seconds / connections as f64).collect();
    let figure =
        Figure::rate(format!("frames of 64 MiB over {connections} connections"), load.bytes(), &many);
    group.figures.push(figure.speed_beside("one connection", &many, &samples[0]));
    Ok(())
}

/// Seconds that a bare stream takes, on a connection that is warm.
async fn blast(ends: &Ends, tuned: bool, load: &Load) -> f64 {
    let pair = BareQuic::pair(&ends.client, &ends.server, tuned, load.size).await;
    let pair = pair.blast(load.count.div_ceil(4)).await;
    let start = Instant::now();
    let pair = pair.blast(load.count).await;
    let time = start.elapsed().as_secs_f64();
    drop(pair);
    time
}

/// Seconds that frames take on so many connections, which are warm.
async fn frames(ends: &Ends, connections: usize, load: &Load, checksum: bool, gather: bool) -> Result<f64> {
    let (frame, encoding) = (load.frame(), encoding(checksum));
    let (mut pairs, mut listeners) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let listener = listen(&"avp+quic://127.0.0.1:0".parse()?, &ends.server).await?;
        let (client, server) = tokio::join!(connect(listener.local_url(), &ends.client), listener.accept());
        let pair = (client?, server?);
        pairs.push(send_all(pair, frame.clone(), encoding, load.count.div_ceil(4), gather).await?);
        listeners.push(listener);
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    for pair in pairs {
        running.spawn(send_all(pair, frame.clone(), encoding, load.count, gather));
    }
    let pairs = running.join_all().await;
    let time = start.elapsed().as_secs_f64();
    pairs.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(time)
}

async fn send_all(
    (mut client, mut server): (Connection, Connection),
    frame: Frame,
    encoding: EncodeOptions,
    count: usize,
    gather: bool,
) -> Result<(Connection, Connection)> {
    let sending = tokio::spawn(async move {
        for _ in 0..count {
            let encoded = frame.encode(&encoding)?;
            let (sender, _) = client.halves();
            if gather { sender.feed(encoded).await? } else { sender.send(encoded).await? }
        }
        client.halves().0.flush().await?;
        anyhow::Ok(client)
    });
    let receiving = tokio::spawn(async move {
        for _ in 0..count {
            server.recv().await?;
        }
        anyhow::Ok(server)
    });
    let (client, server) = tokio::join!(sending, receiving);
    Ok((client??, server??))
}
