//! Bare quinn connections with this crate's configuration, to hold QUIC frames against.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, Endpoint, TransportConfig, VarInt};

use crate::options::Options;
use crate::quic::bare;

/// Both ends of a QUIC connection without frames.
#[derive(Debug)]
pub struct BareQuic {
    /// The connecting end.
    pub client: Connection,
    /// The accepting end.
    pub server: Connection,
    _endpoints: [Endpoint; 2],
}

impl BareQuic {
    /// Connects through loopback to the first name of the server's certificate, as [`QuicConnector`](crate::QuicConnector)
    /// and [`QuicListener`](crate::QuicListener) would; with quinn's own defaults where `tuned` is false.
    ///
    /// # Panics
    /// If the certificates do not do, or loopback does not work.
    pub async fn pair(client: &Options, server: &Options, tuned: bool) -> Self {
        let (mut ours, mut theirs) =
            (bare::client_config(client).unwrap(), bare::server_config(server).unwrap());
        let address = "127.0.0.1:0".parse().unwrap();
        let endpoints = if tuned {
            [
                bare::client(address, &client.quic).unwrap(),
                bare::server(address, theirs, &server.quic).unwrap(),
            ]
        } else {
            let defaults = Arc::new(TransportConfig::default());
            ours.transport_config(Arc::clone(&defaults));
            theirs.transport_config(defaults);
            [Endpoint::client(address).unwrap(), Endpoint::server(theirs, address).unwrap()]
        };
        let [from, to] = &endpoints;
        let connecting = from.connect_with(ours, to.local_addr().unwrap(), "localhost").unwrap();
        let (out, incoming) = tokio::join!(connecting, async { to.accept().await.unwrap().await });
        let pair = Self { client: out.unwrap(), server: incoming.unwrap(), _endpoints: endpoints };
        if tuned {
            let window = VarInt::from_u32(server.quic.connection_window);
            pair.server.set_receive_window(window);
        }
        pair
    }

    /// Sends `count` payloads of `size` bytes on a stream of their own, from one allocation into one warm buffer.
    ///
    /// # Panics
    /// If the connection fails.
    pub async fn blast(&self, size: usize, count: usize) {
        let payload = Bytes::from(vec![1_u8; size]);
        let client = self.client.clone();
        let sending = tokio::spawn(async move {
            let (mut send, _recv) = client.open_bi().await.unwrap();
            for _ in 0..count {
                // Piecewise, since quinn counts a piece against the send window until all of it is acknowledged.
                let mut at = 0;
                while at < size {
                    let end = size.min(at + (256 << 10));
                    send.write_chunk(payload.slice(at..end)).await.unwrap();
                    at = end;
                }
            }
            send.finish().unwrap();
            let _ = send.stopped().await;
        });
        let server = self.server.clone();
        let receiving = tokio::spawn(async move {
            let (_send, mut recv) = server.accept_bi().await.unwrap();
            let mut target = vec![1_u8; size.max(64 << 10)];
            let mut got = 0;
            let mut at = 0;
            while let Some(read) = recv.read(&mut target[at..]).await.unwrap() {
                got += read;
                at = (at + read) % target.len();
            }
            assert_eq!(got, size * count);
        });
        receiving.await.unwrap();
        sending.await.unwrap();
    }
}
