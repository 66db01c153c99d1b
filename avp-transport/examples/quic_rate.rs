//! Throughput and round trip of frames over QUIC on loopback, beside bare quinn streams with the same configuration, and
//! bare UDP, in the same run:
//! `cargo run --release -p avp-transport --features testing --example quic_rate`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use avp_transport::testing::BareQuic;
use avp_transport::tls::DevCa;
use avp_transport::{Connection, Options, TlsAuthorities, TlsCertificate, connect, listen};
use avp_wire::{EncodeOptions, Frame, Metadata};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

const ROUNDS: usize = 7;
/// Payload sizes, and how many of each in a round.
const SIZES: [(usize, usize); 3] = [(1 << 10, 100_000), (1 << 20, 256), (64 << 20, 4)];
const ROUND_TRIPS: usize = 2000;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let (client, server) = options()?;
    let only = std::env::args().nth(1);
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    println!("medians of {ROUNDS} rounds, interleaved; ratios are to bare quinn, tuned, in the same round");
    if wanted("sizes") {
        for (size, count) in SIZES {
            sizes(&client, &server, size, count).await?;
        }
    }
    if wanted("parallel") {
        for connections in [1, 2, 4] {
            parallel(&client, &server, connections).await?;
        }
    }
    if wanted("trips") {
        trips(&client, &server).await?;
    }
    Ok(())
}

/// Options of both sides, with certificates made for the occasion.
fn options() -> Result<(Options, Options), Failure> {
    let ca = DevCa::new("quic_rate")?;
    let issued = ca.issue(&["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let (mut client, mut server) = (Options::default(), Options::default());
    client.tls.authorities = Some(TlsAuthorities::from_pem(ca.certificate())?);
    server.tls.certificate = Some(TlsCertificate::from_pem(&issued.certificate, &issued.key)?);
    Ok((client, server))
}

async fn pair(client: &Options, server: &Options) -> Result<(Connection, Connection), Failure> {
    let listener = listen(&"avp+quic://127.0.0.1:0".parse()?, server).await?;
    let (client, server) = tokio::join!(connect(listener.local_url(), client), listener.accept());
    Ok((client?, server?))
}

/// How frames are sent.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    checksum: bool,
    gather: bool,
}

const WAYS: [Way; 3] = [
    Way { name: "frames, no checks", checksum: false, gather: false },
    Way { name: "frames, no checks, gathered", checksum: false, gather: true },
    Way { name: "frames, defaults", checksum: true, gather: false },
];

async fn sizes(client: &Options, server: &Options, size: usize, count: usize) -> Result<(), Failure> {
    let bytes = (size * count) as f64;
    let (mut untuned, mut tuned, mut ours) = (Vec::new(), Vec::new(), vec![Vec::new(); WAYS.len()]);
    for _ in 0..ROUNDS {
        untuned.push(bytes / blast(client, server, false, size, count).await);
        let base = bytes / blast(client, server, true, size, count).await;
        tuned.push(base);
        for (way, rates) in WAYS.iter().zip(&mut ours) {
            let rate = bytes / frames(client, server, 1, *way, size, count).await?;
            rates.push((rate, rate / base));
        }
    }
    println!("{size:>9} B  bare quinn, its defaults     {:6.3} GB/s", median(untuned) / 1e9);
    println!("             bare quinn, tuned            {:6.3} GB/s", median(tuned) / 1e9);
    for (way, rates) in WAYS.iter().zip(ours) {
        let (rate, ratio): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
        println!("             {:<28} {:6.3} GB/s  ratio {:.2}", way.name, median(rate) / 1e9, median(ratio));
    }
    Ok(())
}

async fn parallel(client: &Options, server: &Options, connections: usize) -> Result<(), Failure> {
    let (size, count) = (64 << 20, 4);
    let bytes = (size * count * connections) as f64;
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut pairs = Vec::new();
        for _ in 0..connections {
            pairs.push(BareQuic::pair(client, server, true, size).await.blast(1).await);
        }
        let start = Instant::now();
        let mut running = JoinSet::new();
        for pair in pairs {
            running.spawn(pair.blast(count));
        }
        let pairs = running.join_all().await;
        let base = bytes / start.elapsed().as_secs_f64();
        drop(pairs);
        bare.push(base);
        let rate = bytes / frames(client, server, connections, WAYS[0], size, count).await?;
        ours.push((rate, rate / base));
    }
    let (rate, ratio): (Vec<f64>, Vec<f64>) = ours.into_iter().unzip();
    println!(
        "{connections} connections of 64 MiB payloads: bare {:.3} GB/s, frames {:.3} GB/s, ratio {:.2}",
        median(bare) / 1e9,
        median(rate) / 1e9,
        median(ratio)
    );
    Ok(())
}

/// Seconds that a bare stream takes, on a connection that is warm.
async fn blast(client: &Options, server: &Options, tuned: bool, size: usize, count: usize) -> f64 {
    let pair = BareQuic::pair(client, server, tuned, size).await.blast(count.div_ceil(4)).await;
    let start = Instant::now();
    let pair = pair.blast(count).await;
    let time = start.elapsed().as_secs_f64();
    drop(pair);
    time
}

/// Seconds that frames take on so many connections, which are warm.
async fn frames(
    client: &Options,
    server: &Options,
    connections: usize,
    way: Way,
    size: usize,
    count: usize,
) -> Result<f64, Failure> {
    let encoding = EncodeOptions { checksum: way.checksum, ..EncodeOptions::default() };
    let mut server = server.clone();
    server.limits.verify_checksum = way.checksum;
    let frame = Frame::new(Metadata::default(), vec![1; size]);
    let mut pairs = Vec::new();
    for _ in 0..connections {
        let pair = pair(client, &server).await?;
        pairs.push(send_all(pair, frame.clone(), encoding, count.div_ceil(4), way.gather).await);
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    for pair in pairs {
        running.spawn(send_all(pair, frame.clone(), encoding, count, way.gather));
    }
    let pairs = running.join_all().await;
    let time = start.elapsed().as_secs_f64();
    drop(pairs);
    Ok(time)
}

async fn send_all(
    (mut client, mut server): (Connection, Connection),
    frame: Frame,
    encoding: EncodeOptions,
    count: usize,
    gather: bool,
) -> (Connection, Connection) {
    let sending = tokio::spawn(async move {
        for _ in 0..count {
            let encoded = frame.encode(&encoding).expect("the frame encodes");
            let (sender, _) = client.halves();
            let sent = if gather { sender.feed(encoded).await } else { sender.send(encoded).await };
            sent.expect("the connection holds");
        }
        client.halves().0.flush().await.expect("the connection holds");
        client
    });
    let receiving = tokio::spawn(async move {
        for _ in 0..count {
            server.recv().await.expect("the connection holds").expect("a frame");
        }
        server
    });
    let (client, server) = tokio::join!(sending, receiving);
    (client.expect("no panic"), server.expect("no panic"))
}

/// Round trips of 1 KiB.
async fn trips(client: &Options, server: &Options) -> Result<(), Failure> {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let base = udp_trip().await?;
        let trip = frame_trip(client, server).await?;
        bare.push(base);
        ours.push((trip, trip / base));
    }
    let (trip, ratio): (Vec<f64>, Vec<f64>) = ours.into_iter().unzip();
    println!(
        "round trip of 1 KiB: bare UDP {:.1} us, frames {:.1} us, ratio {:.2}",
        median(bare) * 1e6,
        median(trip) * 1e6,
        median(ratio)
    );
    Ok(())
}

async fn udp_trip() -> Result<f64, Failure> {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0").await?, UdpSocket::bind("127.0.0.1:0").await?);
    near.connect(far.local_addr()?).await?;
    far.connect(near.local_addr()?).await?;
    let echo = tokio::spawn(async move {
        let mut buffer = vec![0; 2048];
        for _ in 0..ROUND_TRIPS {
            let len = far.recv(&mut buffer).await?;
            far.send(&buffer[..len]).await?;
        }
        std::io::Result::Ok(())
    });
    let caller = tokio::spawn(async move {
        let mut buffer = vec![0; 2048];
        let start = Instant::now();
        for _ in 0..ROUND_TRIPS {
            near.send(&buffer[..1024]).await?;
            near.recv(&mut buffer).await?;
        }
        std::io::Result::Ok(start.elapsed().as_secs_f64() / ROUND_TRIPS as f64)
    });
    echo.await??;
    Ok(caller.await??)
}

async fn frame_trip(client: &Options, server: &Options) -> Result<f64, Failure> {
    let (mut client, mut server) = pair(client, server).await?;
    let frame = Frame::new(Metadata::default(), vec![1; 1024]);
    let echo = tokio::spawn(async move {
        while let Ok(Some(frame)) = server.recv().await {
            if server.send_frame(&frame, &EncodeOptions::default()).await.is_err() {
                break;
            }
        }
        server
    });
    let caller = tokio::spawn(async move {
        let mut start = Instant::now();
        for trip in 0..ROUND_TRIPS + 200 {
            if trip == 200 {
                start = Instant::now();
            }
            client.send_frame(&frame, &EncodeOptions::default()).await?;
            client.recv().await?;
        }
        let time = start.elapsed().as_secs_f64() / ROUND_TRIPS as f64;
        client.halves().0.finish().await?;
        avp_transport::Result::<f64>::Ok(time)
    });
    let time = caller.await??;
    drop(echo.await?);
    Ok(time)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
