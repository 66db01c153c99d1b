//! What the transports over network sockets share: looking names up, binding, dialling, accepting.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use crate::error::{Deadline, IoFault, LimitExceeded, TransportError, UsageError};
use crate::link::Result;
use crate::options::Options;
use crate::url::TransportUrl;

/// Connections that wait to be accepted. Where that is full the system drops what comes, and honest clients try again
/// after a second; the 128 of the standard library are soon full.
const BACKLOG: u32 = 1024;

/// What the system is asked to keep of bytes that are sent over loopback and not read yet. Of the 4 MiB that it would grow
/// to, much has left the caches by the time it is read, which costs a quarter of the speed. To other machines more must be
/// on its way.
const LOCAL_SEND_BUFFER: usize = 256 << 10;

/// Runs `opening` within the connect deadline.
pub(crate) async fn in_time<T>(
    url: &TransportUrl,
    options: &Options,
    opening: impl Future<Output = Result<T>>,
) -> Result<T> {
    let after = options.timeouts.connect;
    timeout(after, opening).await.unwrap_or_else(|_| {
        let (peer, which) = (url.to_string(), Deadline::Connect);
        Err(LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }.into())
    })
}

/// The addresses of a name, at least one.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let failed = |source| IoFault::Lookup { host: host.to_owned(), source };
    let found: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(failed)?.collect();
    if found.is_empty() {
        return Err(failed(io::Error::from(io::ErrorKind::AddrNotAvailable)).into());
    }
    Ok(found)
}

/// Refuses addresses beyond loopback for what is neither encrypted nor authenticated.
pub(crate) fn check_loopback(addresses: &[SocketAddr], options: &Options) -> Result<()> {
    match addresses.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
        Some(&address) if !options.allow_remote => Err(UsageError::RemoteNotAllowed { address }.into()),
        _ => Ok(()),
    }
}

/// Connects to the first address of `host` that answers.
pub(crate) async fn dial(url: &TransportUrl, host: &str, port: u16) -> Result<(TcpStream, SocketAddr)> {
    dial_any(url, &resolve(host, port).await?).await
}

/// Connects to the first of `addresses` that answers.
pub(crate) async fn dial_any(
    url: &TransportUrl,
    addresses: &[SocketAddr],
) -> Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for &address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok((stream, address)),
            Err(source) => last = source,
        }
    }
    Err(IoFault::Unreachable { url: url.clone(), source: last }.into())
}

/// Binds to the first of `addresses` that can be had; gives the address with the port that was taken.
pub(crate) async fn bind(host: &str, addresses: &[SocketAddr]) -> Result<(TcpListener, SocketAddr)> {
    let source = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut last: TransportError = IoFault::Lookup { host: host.to_owned(), source }.into();
    for &address in addresses {
        match bind_one(address).and_then(|l| l.local_addr().map(|taken| (l, taken))) {
            Ok(bound) => return Ok(bound),
            Err(source) => last = bind_fault(address, source).into(),
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port is free again at once, also while connections of an earlier listener linger. On Windows the option means
    // something else.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Settings of a connected socket.
pub(crate) fn tune(stream: &TcpStream, peer: SocketAddr) -> Result<()> {
    if peer.ip().to_canonical().is_loopback()
        && let Err(error) = socket2::SockRef::from(stream).set_send_buffer_size(LOCAL_SEND_BUFFER)
    {
        tracing::trace!(%peer, %error, "the send buffer stays as it is");
    }
    // Frames are written whole; waiting for more to fill a segment only adds delay.
    Ok(stream.set_nodelay(true).map_err(|source| IoFault::Broken { peer: peer.to_string(), source })?)
}

/// Why an address cannot be listened at.
pub(crate) fn bind_fault(address: SocketAddr, source: io::Error) -> IoFault {
    match source.kind() {
        io::ErrorKind::AddrInUse => IoFault::PortInUse { address },
        _ => IoFault::Bind { address, source },
    }
}

/// The next connection whose peer has not left without a word: a client of any of these transports speaks first, so one
/// that left in silence would only hold up the others. One peer's failure, or a shortage of descriptors that passes, does
/// not end it.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) if has_left(&stream) => {
                tracing::trace!(peer = %address, "a peer left before it was accepted");
            }
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed, trying again");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Whether the peer has closed its side, or is gone, and has said nothing.
fn has_left(stream: &TcpStream) -> bool {
    match socket2::SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]) {
        Ok(bytes) => bytes == 0,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}
