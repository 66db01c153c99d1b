//! UDP sockets and quinn's endpoints on them.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime, UdpPoller, default_runtime,
};

use super::QuicOptions;

/// What one call to the system moves at most: an IP packet, however many datagrams it is cut into.
const LARGEST_BATCH: usize = 65_507;

/// An endpoint for one connection to `peer`.
pub(crate) fn client(peer: SocketAddr, options: &QuicOptions) -> io::Result<Endpoint> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    endpoint(any, None, options)
}

/// An endpoint at `address` that accepts connections.
pub(crate) fn server(
    address: SocketAddr,
    config: ServerConfig,
    options: &QuicOptions,
) -> io::Result<Endpoint> {
    endpoint(address, Some(config), options)
}

fn endpoint(
    address: SocketAddr,
    server: Option<ServerConfig>,
    options: &QuicOptions,
) -> io::Result<Endpoint> {
    let socket = UdpSocket::bind(address)?;
    enlarge(&socket, options.socket_buffer);
    let mut config = EndpointConfig::default();
    let largest = options.largest_payload();
    config.max_udp_payload_size(largest).map_err(io::Error::other)?;
    let runtime = default_runtime().ok_or_else(|| io::Error::other("no tokio runtime is running"))?;
    let inner = TokioRuntime.wrap_udp_socket(socket)?;
    let segments = (LARGEST_BATCH / usize::from(largest)).max(1);
    Endpoint::new_with_abstract_socket(config, server, Arc::new(Segmented { inner, segments }), runtime)
}

/// Asks for large socket buffers; the system gives what it lets anyone have.
fn enlarge(socket: &UdpSocket, bytes: usize) {
    let enlarged = UdpSocketState::new(socket.into()).and_then(|state| {
        state.set_recv_buffer_size(socket.into(), bytes)?;
        state.set_send_buffer_size(socket.into(), bytes)
    });
    if let Err(error) = enlarged {
        tracing::debug!(%error, "UDP socket buffers stay as they are");
    }
}

/// A socket that hands over no more datagrams at once than fit in one call to the system. Quinn takes ten of any size
/// together; with large datagrams that is more than an IP packet, and the system refuses all of them.
#[derive(Debug)]
struct Segmented {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: usize,
}

impl AsyncUdpSocket for Segmented {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(self.segments)
    }

    fn max_receive_segments(&self) -> usize {
        // One more, so that a whole IP packet of small datagrams fits.
        self.inner.max_receive_segments().min(self.segments + 1)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
