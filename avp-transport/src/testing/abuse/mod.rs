//! Peers that use up what a server has, and an honest client beside them at the same address.

mod bare;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use avp_wire::{EncodeOptions, EncodedFrame, Frame, Metadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::bare::Door;
use super::dice::Dice;
use super::proxy::socket_of;
use super::service::hello;
use crate::error::PeerFault;
use crate::link::Result;
use crate::negotiate::negotiate_client;
use crate::open::connect;
use crate::options::Options;
use crate::url::{Scheme, TransportUrl};

/// A way to abuse a server. Each runs until its future is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attack {
    /// Connections that send a byte of what comes first (a hello, a TLS handshake, a request) every 100 ms.
    SlowLoris,
    /// Connections that say nothing: held, also after the server has dropped them, and replaced one by one. Over QUIC each
    /// is the first packet of a handshake, from a port of its own.
    HalfOpen,
    /// Handshakes as fast as they go, each on a connection of its own.
    HelloFlood,
    /// TLS handshakes that are begun as fast as that goes and never gone on with; over other transports nothing. Held like
    /// half-open connections.
    ClientHellos,
    /// Frames of 8 bytes as fast as they go.
    TinyFrames,
    /// Connections that are given up while they come about, or right after.
    OpenAndCancel,
    /// HTTP requests as fast as they are answered, from another address of loopback (Linux has more than one). Over other
    /// transports nothing.
    Requests,
}

/// How far an attack came.
#[derive(Debug, Default)]
pub struct Reached {
    /// Connections that came about.
    pub connections: AtomicUsize,
    /// The most that the attacker held at once.
    pub held: AtomicUsize,
    /// Frames or bytes sent.
    pub sent: AtomicUsize,
}

/// Tasks of attacks that go as fast as they can.
const TASKS: usize = 4;

impl Attack {
    /// All that can be done to a server of this kind.
    #[must_use]
    pub fn on(scheme: Scheme) -> Vec<Self> {
        let mut attacks =
            vec![Self::SlowLoris, Self::HalfOpen, Self::HelloFlood, Self::TinyFrames, Self::OpenAndCancel];
        attacks.extend((scheme == Scheme::Http).then_some(Self::Requests));
        attacks.extend(matches!(scheme, Scheme::Tls | Scheme::Https).then_some(Self::ClientHellos));
        attacks
    }

    /// Attacks the server at `url` until the future is dropped. `most` bounds the connections held at once.
    ///
    /// # Panics
    /// Where the attacker's own sockets cannot be had.
    pub async fn run(self, url: TransportUrl, options: Options, most: usize, reached: Arc<Reached>) {
        let door = Door::find(url.clone(), options.clone()).await.unwrap();
        let target = Arc::new(Target { url, options, door, reached });
        match self {
            Self::SlowLoris => many(most, |_| slow_loris(Arc::clone(&target))).await,
            Self::HalfOpen => half_open(&target, most).await,
            Self::HelloFlood => many(TASKS, |_| hello_flood(Arc::clone(&target))).await,
            Self::ClientHellos => many(TASKS, |_| client_hellos(Arc::clone(&target), most / TASKS)).await,
            Self::TinyFrames => many(TASKS, |_| tiny_frames(Arc::clone(&target))).await,
            Self::OpenAndCancel => many(TASKS, |number| open_and_cancel(Arc::clone(&target), number)).await,
            Self::Requests => many(TASKS, |_| requests(Arc::clone(&target))).await,
        }
    }
}

struct Target {
    url: TransportUrl,
    options: Options,
    door: Door,
    reached: Arc<Reached>,
}

impl Target {
    fn connected(&self) {
        self.reached.connections.fetch_add(1, Ordering::Relaxed);
    }

    fn sent(&self, count: usize) {
        self.reached.sent.fetch_add(count, Ordering::Relaxed);
    }
}

/// Runs `task` so many times at once, for ever.
async fn many<F>(count: usize, task: impl Fn(u64) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks: JoinSet<()> = (0..count as u64).map(task).collect();
    while tasks.join_next().await.is_some() {}
}

async fn slow_loris(target: Arc<Target>) {
    let bytes = target.door.opening();
    loop {
        match target.door.slow().await {
            Ok(Some(mut stream)) => {
                target.connected();
                for byte in &bytes {
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    target.sent(1);
                    sleep(Duration::from_millis(100)).await;
                }
            }
            // Kept waiting for a whole frame.
            Ok(None) => {
                let _held = target.door.silent().await;
                target.connected();
                sleep(Duration::from_secs(5)).await;
            }
            Err(_) => {}
        }
        // Coming back at once would be a flood of connections, which is another attack.
        sleep(Duration::from_secs(1)).await;
    }
}

async fn half_open(target: &Target, most: usize) {
    let mut held = VecDeque::new();
    loop {
        if held.len() >= most {
            held.pop_front();
            sleep(Duration::from_millis(1)).await;
        }
        match timeout(Duration::from_secs(2), target.door.silent()).await {
            Ok(Ok(silent)) => {
                target.connected();
                held.push_back(silent);
            }
            _ => sleep(Duration::from_millis(10)).await,
        }
        target.reached.held.fetch_max(held.len(), Ordering::Relaxed);
    }
}

async fn hello_flood(target: Arc<Target>) {
    loop {
        let Ok(mut connection) = connect(&target.url, &target.options).await else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        target.connected();
        target.sent(1);
        let _ = negotiate_client(&mut connection, hello("flood")).await;
    }
}

async fn client_hellos(target: Arc<Target>, most: usize) {
    let (mut held, hello) = (VecDeque::new(), target.door.client_hello());
    loop {
        if held.len() >= most {
            held.pop_front();
        }
        if let Ok(Some(mut stream)) = target.door.slow().await
            && stream.write_all(&hello).await.is_ok()
        {
            target.connected();
            held.push_back(stream);
        }
        tokio::task::yield_now().await;
    }
}

async fn tiny_frames(target: Arc<Target>) {
    let frame = Frame::new(Metadata::default(), vec![1; 8]).encode(&EncodeOptions::default()).unwrap();
    loop {
        let _ = flood(&target, &frame).await;
        sleep(Duration::from_millis(5)).await;
    }
}

async fn flood(target: &Target, frame: &EncodedFrame) -> Result<()> {
    let mut connection = connect(&target.url, &target.options).await?;
    negotiate_client(&mut connection, hello("flood")).await?;
    target.connected();
    loop {
        for _ in 0..1000 {
            connection.halves().0.feed(frame.clone()).await?;
        }
        connection.halves().0.flush().await?;
        target.sent(1000);
        tokio::task::yield_now().await;
    }
}

async fn open_and_cancel(target: Arc<Target>, number: u64) {
    let mut dice = Dice::new(1, &[number]);
    loop {
        let after = dice.time(Duration::from_millis(2));
        if let Ok(Ok(connection)) = timeout(after, connect(&target.url, &target.options)).await {
            target.connected();
            drop(connection);
        }
        target.sent(1);
        tokio::task::yield_now().await;
    }
}

async fn requests(target: Arc<Target>) {
    loop {
        let _ = request_often(&target).await;
        sleep(Duration::from_millis(5)).await;
    }
}

async fn request_often(target: &Target) -> std::io::Result<()> {
    let Some(address) = socket_of(&target.url).await? else { return std::future::pending().await };
    // From an address of its own: requests are limited by address.
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 2], 0).into())?;
    let mut stream = socket.connect(address).await?;
    target.connected();
    let request = format!("GET /health HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut answer = [0; 4096];
    loop {
        stream.write_all(request.as_bytes()).await?;
        target.sent(1);
        if stream.read(&mut answer).await? == 0 {
            return Ok(());
        }
    }
}

/// One transfer of an honest client to a [`Service::acknowledging`](super::Service::acknowledging): connect, handshake,
/// a payload of `len` bytes, the answer. How long it took.
///
/// # Errors
/// The transfer did not come about.
pub async fn honest_transfer(url: &TransportUrl, options: &Options, len: usize) -> Result<Duration> {
    let begun = Instant::now();
    let mut connection = connect(url, options).await?;
    negotiate_client(&mut connection, hello("honest")).await?;
    connection.send_frame(&Frame::new(Metadata::default(), vec![1; len]), &EncodeOptions::default()).await?;
    if connection.recv().await?.is_none() {
        return Err(PeerFault::ClosedInHandshake { peer: url.to_string() }.into());
    }
    let took = begun.elapsed();
    connection.close().await?;
    Ok(took)
}

/// Lets this process open up to `wanted` files, as far as the system allows; gives how many it may open now.
#[must_use]
pub fn open_files_limit(wanted: usize) -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < wanted as u64) {
        limit.current = Some(most.min(wanted as u64));
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |current| current as usize)
}
