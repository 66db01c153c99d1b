//! A relay between a client and a server, whose port can change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::sleep;

/// Passes datagrams on between a client and a server, from a port that can change, or not at all.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    port: watch::Sender<Option<Arc<UdpSocket>>>,
    /// The server's socket has something of the client.
    asked: Arc<AtomicBool>,
    /// The port at which the server was last heard.
    heard_at: Arc<AtomicU16>,
}

impl Relay {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let (port, ports) = watch::channel(Some(port_to(server).await));
        let (asked, heard_at) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU16::new(0)));
        tokio::spawn(pass_on(front, ports, Arc::clone(&asked), Arc::clone(&heard_at)));
        Self { address, port, asked, heard_at }
    }

    /// Goes on at another port, which is given.
    pub(super) async fn change_port(&self, server: SocketAddr) -> u16 {
        let next = port_to(server).await;
        let port = next.local_addr().unwrap().port();
        self.port.send(Some(next)).unwrap();
        port
    }

    /// Passes nothing on from now on.
    pub(super) fn fall_silent(&self) {
        self.port.send(None).unwrap();
    }

    pub(super) fn heard_at(&self) -> u16 {
        self.heard_at.load(Ordering::Relaxed)
    }

    /// Waits until the server has had something of the client.
    pub(super) async fn asked(&self) {
        while !self.asked.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(1)).await;
        }
        // It lies in the server's socket. This runtime looks at sockets before timers, so the server has it before the
        // second of two waits is over.
        for _ in 0..2 {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn port_to(server: SocketAddr) -> Arc<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    Arc::new(socket)
}

async fn pass_on(
    front: UdpSocket,
    mut ports: watch::Receiver<Option<Arc<UdpSocket>>>,
    asked: Arc<AtomicBool>,
    heard_at: Arc<AtomicU16>,
) {
    let mut client = None;
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let back = ports.borrow_and_update().clone();
        let from_back = async {
            match &back {
                Some(back) => back.recv(&mut down).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok((len, from)) = front.recv_from(&mut up) => {
                client = Some(from);
                if let Some(back) = &back {
                    let _ = back.send(&up[..len]).await;
                    asked.store(true, Ordering::Relaxed);
                }
            }
            Ok(len) = from_back => {
                let port = back.as_ref().and_then(|back| back.local_addr().ok()).map_or(0, |address| address.port());
                heard_at.store(port, Ordering::Relaxed);
                let _ = front.send_to(&down[..len], client.unwrap()).await;
            }
            changed = ports.changed() => if changed.is_err() { return },
        }
    }
}
