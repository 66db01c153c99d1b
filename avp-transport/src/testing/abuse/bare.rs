//! Connections of attackers: as little of each transport's opening as makes the server keep something for them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use avp_wire::{EncodeOptions, Frame, Metadata};
use tokio::io::AsyncWrite;
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::open::connect;
use crate::options::Options;
use crate::quic::bare;
use crate::testing::proxy::socket_of;
use crate::tls::ALPN;
use crate::url::{Scheme, TransportUrl};

/// Where an attacker connects to.
pub(super) struct Door {
    url: TransportUrl,
    options: Options,
    at: At,
}

enum At {
    Socket(SocketAddr),
    Datagrams(SocketAddr, Box<Initials>),
    Path(PathBuf),
    /// No more of the transport than its connector does.
    Whole,
}

/// A connection on which nothing was said, as bare as the transport allows.
#[expect(dead_code, reason = "held, not used")]
pub(super) enum Silent {
    Socket(TcpStream),
    Datagrams(UdpSocket),
    Path(UnixStream),
    Whole(Box<Connection>),
}

impl Door {
    pub(super) async fn find(url: TransportUrl, options: Options) -> io::Result<Self> {
        let at = match (&url, socket_of(&url).await?) {
            (TransportUrl::SharedMemory { path }, _) => At::Path(path.clone()),
            (TransportUrl::Quic { .. }, Some(address)) => {
                At::Datagrams(address, Box::new(Initials::new(&options).await?))
            }
            (_, Some(address)) => At::Socket(address),
            (_, None) => At::Whole,
        };
        Ok(Self { url, options, at })
    }

    /// TCP and Unix sockets without a word on them; for QUIC a first packet that no second one follows.
    pub(super) async fn silent(&self) -> io::Result<Silent> {
        Ok(match &self.at {
            At::Socket(address) => Silent::Socket(TcpStream::connect(address).await?),
            At::Path(path) => Silent::Path(UnixStream::connect(path).await?),
            At::Datagrams(address, initials) => {
                let socket = UdpSocket::bind("127.0.0.1:0").await?;
                socket.send_to(&initials.next().await?, address).await?;
                Silent::Datagrams(socket)
            }
            At::Whole => {
                Silent::Whole(Box::new(connect(&self.url, &self.options).await.map_err(io::Error::other)?))
            }
        })
    }

    /// Something to say an opening on byte by byte; `None` where a transport cannot send a part of a frame.
    pub(super) async fn slow(&self) -> io::Result<Option<Box<dyn AsyncWrite + Unpin + Send>>> {
        Ok(match &self.at {
            At::Socket(address) => Some(Box::new(TcpStream::connect(address).await?)),
            At::Path(path) => Some(Box::new(UnixStream::connect(path).await?)),
            At::Datagrams(address, initials) => Some(Box::new(initials.stream(*address).await?)),
            At::Whole => None,
        })
    }

    /// What a client of TLS says first, in full.
    pub(super) fn client_hello(&self) -> Vec<u8> {
        let alpn: &[&[u8]] = if self.url.scheme() == Scheme::Https { &[b"http/1.1"] } else { &[ALPN] };
        let config = Arc::new(self.options.tls.client(alpn).unwrap());
        let mut session = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        hello
    }

    /// The beginning of what an honest client says first.
    pub(super) fn opening(&self) -> Vec<u8> {
        match self.url.scheme() {
            Scheme::Tls | Scheme::Https => {
                // A ClientHello of 508 bytes in one record.
                let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
                hello.resize(517, 0x55);
                hello
            }
            Scheme::Http => format!("GET / HTTP/1.1\r\nhost: {}\r\nx: {}", self.url, "y".repeat(900)).into(),
            // A greeting, without the magic at its beginning: that is looked at when all of it is there.
            Scheme::SharedMemory => vec![0; 23],
            _ => {
                let metadata = Metadata { session_id: "s".repeat(200), ..Metadata::default() };
                let hello = Frame::new(metadata, vec![b' '; 1000]);
                hello.encode(&EncodeOptions::default()).unwrap().to_vec()
            }
        }
    }
}

/// Makes first packets of QUIC connections, which it never goes on with.
struct Initials {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    catcher: Mutex<Catcher>,
}

/// A socket that the packets go to in place of the server's.
struct Catcher {
    socket: UdpSocket,
    /// Connection ids of late packets: retransmissions, and goodbyes.
    known: VecDeque<Vec<u8>>,
}

impl Initials {
    async fn new(options: &Options) -> io::Result<Self> {
        let config = bare::client_config(options).map_err(io::Error::other)?;
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let catcher = Mutex::new(Catcher { socket, known: VecDeque::new() });
        Ok(Self { endpoint, config, catcher })
    }

    /// A first packet with a connection id of its own.
    async fn next(&self) -> io::Result<Vec<u8>> {
        const WHILE: Duration = Duration::from_secs(1);
        let mut catcher = self.catcher.lock().await;
        let Catcher { socket, known } = &mut *catcher;
        let connecting = self.endpoint.connect_with(self.config.clone(), socket.local_addr()?, "localhost");
        let _connecting = connecting.map_err(io::Error::other)?;
        let mut packet = vec![0; 2048];
        loop {
            let len = timeout(WHILE, socket.recv(&mut packet)).await??;
            // RFC 9000, 17.2: flags, version, length of the destination's connection id, that id.
            let id = packet[6..6 + usize::from(packet[5])].to_vec();
            if !known.contains(&id) {
                known.push_back(id);
                if known.len() > 1000 {
                    known.pop_front();
                }
                packet.truncate(len);
                return Ok(packet);
            }
        }
    }

    /// The first stream of a connection to the server.
    async fn stream(&self, server: SocketAddr) -> io::Result<quinn::SendStream> {
        let connecting = self.endpoint.connect_with(self.config.clone(), server, "localhost");
        let connection = connecting.map_err(io::Error::other)?.await?;
        Ok(connection.open_bi().await?.0)
    }
}
