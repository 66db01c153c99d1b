//! A UDP proxy. What becomes of each datagram is its [`Fate`]'s: dropped, late, twice, changed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Which way a datagram or a byte goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Decides about the datagrams of one flow in one direction.
pub(crate) trait Fate: Send {
    /// When to deliver what in place of `datagram`, which came at `now`.
    fn decide(&mut self, datagram: Bytes, now: Instant, deliver: &mut Vec<(Instant, Bytes)>);
}

/// Makes the fate of a flow, by its number.
pub(crate) type Fates = Arc<dyn Fn(u64, Direction) -> Box<dyn Fate> + Send + Sync>;

/// Datagrams of one client that wait for its flow's task; more are dropped, as a full queue does.
const INBOX: usize = 1024;
/// Largest datagram of UDP.
const DATAGRAM: usize = 64 << 10;

/// A UDP proxy on loopback: each client address is a flow with a socket of its own to the target.
#[derive(Debug)]
pub(crate) struct DatagramProxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl DatagramProxy {
    pub(crate) async fn bind(target: SocketAddr, fates: Fates) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let task = tokio::spawn(dispatch(Arc::new(socket), target, fates));
        Ok(Self { address, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DatagramProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn dispatch(socket: Arc<UdpSocket>, target: SocketAddr, fates: Fates) {
    let mut flows: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // An error here is an ICMP answer to an earlier datagram; the socket goes on.
        let Ok((len, client)) = socket.recv_from(&mut buffer).await else { continue };
        let number = flows.len() as u64;
        let flow = flows.entry(client).or_insert_with(|| {
            let (inbox, datagrams) = mpsc::channel(INBOX);
            let socket = Arc::clone(&socket);
            let fates = [fates(number, Direction::Up), fates(number, Direction::Down)];
            tasks.spawn(async move {
                if let Ok(upstream) = upstream(target).await {
                    Flow { socket, client, upstream, fates, queue: BinaryHeap::new() }.run(datagrams).await;
                }
            });
            inbox
        });
        let _ = flow.try_send(Bytes::copy_from_slice(&buffer[..len]));
    }
}

async fn upstream(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = if target.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

struct Flow {
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    upstream: UdpSocket,
    fates: [Box<dyn Fate>; 2],
    /// By time of delivery, then in the order in which they came.
    queue: BinaryHeap<Reverse<(Instant, u64, Direction, Bytes)>>,
}

impl Flow {
    async fn run(mut self, mut inbox: mpsc::Receiver<Bytes>) {
        let mut buffer = vec![0; DATAGRAM];
        let (mut number, mut deliver) = (0, Vec::new());
        loop {
            let due = self.queue.peek().map(|Reverse((due, ..))| *due);
            let next = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let (direction, datagram) = tokio::select! {
                () = next => {
                    self.deliver_due().await;
                    continue;
                }
                datagram = inbox.recv() => match datagram {
                    Some(datagram) => (Direction::Up, datagram),
                    None => return,
                },
                received = self.upstream.recv(&mut buffer) => match received {
                    Ok(len) => (Direction::Down, Bytes::copy_from_slice(&buffer[..len])),
                    // The target's port is closed. It may open again.
                    Err(_) => continue,
                },
            };
            self.fates[direction as usize].decide(datagram, Instant::now(), &mut deliver);
            for (due, datagram) in deliver.drain(..) {
                self.queue.push(Reverse((due, number, direction, datagram)));
                number += 1;
            }
        }
    }

    async fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.queue.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((.., direction, datagram))) = self.queue.pop() else { return };
            // What cannot be delivered is lost, as datagrams are.
            let _ = match direction {
                Direction::Up => self.upstream.send(&datagram).await,
                Direction::Down => self.socket.send_to(&datagram, self.client).await,
            };
        }
    }
}
