//! Bare quinn connections with this crate's configuration, to hold QUIC frames against.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};

use crate::options::Options;
use crate::quic::bare;

/// Both ends of a QUIC connection without frames, with one stream and warm buffers.
#[derive(Debug)]
pub struct BareQuic {
    send: SendStream,
    recv: RecvStream,
    payload: Bytes,
    target: Vec<u8>,
    _kept: (SendStream, RecvStream, [Connection; 2], [Endpoint; 2]),
}

impl BareQuic {
    /// Connects through loopback to the first name of the server's certificate, as [`QuicConnector`](crate::QuicConnector)
    /// and [`QuicListener`](crate::QuicListener) would; with quinn's own defaults where `tuned` is false. Payloads have
    /// `size` bytes.
    ///
    /// # Panics
    /// If the certificates do not do, or loopback does not work.
    pub async fn pair(client: &Options, server: &Options, tuned: bool, size: usize) -> Self {
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
        let (client, accepted) = (out.unwrap(), incoming.unwrap());
        if tuned {
            accepted.set_receive_window(VarInt::from_u32(server.quic.connection_window));
        }
        let (mut send, back) = client.open_bi().await.unwrap();
        send.write_all(b"open").await.unwrap();
        let (forth, mut recv) = accepted.accept_bi().await.unwrap();
        recv.read_exact(&mut [0; 4]).await.unwrap();
        Self {
            send,
            recv,
            payload: Bytes::from(vec![1; size]),
            target: vec![1; size.max(64 << 10)],
            _kept: (forth, back, [client, accepted], endpoints),
        }
    }

    /// Sends the payload of `size` bytes `count` times from one allocation into one warm buffer.
    ///
    /// # Panics
    /// If the connection fails.
    pub async fn blast(self, count: usize) -> Self {
        let Self { mut send, mut recv, payload, mut target, _kept } = self;
        let size = payload.len();
        let sending = tokio::spawn(async move {
            for _ in 0..count {
                // Piecewise, since quinn counts a piece against the send window until all of it is acknowledged.
                let mut at = 0;
                while at < size {
                    let end = size.min(at + (256 << 10));
                    send.write_chunk(payload.slice(at..end)).await.unwrap();
                    at = end;
                }
            }
            (send, payload)
        });
        let receiving = tokio::spawn(async move {
            let (mut got, mut at) = (0, 0);
            while got < size * count {
                let read = recv.read(&mut target[at..]).await.unwrap().unwrap();
                got += read;
                at = (at + read) % target.len();
            }
            (recv, target)
        });
        let (recv, target) = receiving.await.unwrap();
        let (send, payload) = sending.await.unwrap();
        Self { send, recv, payload, target, _kept }
    }
}
