//! A TCP proxy, and how an address is led through it. What happens to the bytes is its relay's.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::{JoinHandle, JoinSet};

use crate::url::TransportUrl;

/// A TCP proxy on loopback. Dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct TcpProxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl TcpProxy {
    /// Proxies to `target`. `relay` gets the number of a connection, the client's stream and the one to `target`.
    pub(crate) async fn bind<F>(
        target: SocketAddr,
        relay: impl Fn(u64, TcpStream, TcpStream) -> F + Send + Sync + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let relay = Arc::new(relay);
        let serve = move |number, client: TcpStream| {
            let relay = Arc::clone(&relay);
            async move {
                // A target that does not answer shows as a connection that closes.
                let Ok(server) = TcpStream::connect(target).await else { return };
                if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_ok() {
                    relay(number, client, server).await;
                }
            }
        };
        let accept = move |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(client, _)| client);
        let task = tokio::spawn(accept_all(accept, serve));
        Ok(Self { address, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs what `serve` makes of each connection, by its number, until accepting fails.
pub(super) async fn accept_all<S, F>(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
    serve: impl Fn(u64, S) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = poll_fn(&mut accept) => match accepted {
                Ok(client) => connections.spawn(serve(number, client)),
                Err(_) => return,
            },
            Some(_) = connections.join_next() => continue,
        };
        number += 1;
    }
}

/// The socket address that `url` names; `None` where its transport has none.
pub(crate) async fn socket_of(url: &TransportUrl) -> io::Result<Option<SocketAddr>> {
    match url {
        TransportUrl::Tcp { host, port }
        | TransportUrl::Tls { host, port }
        | TransportUrl::Quic { host, port }
        | TransportUrl::Http { host, port, .. } => {
            let found = lookup_host((host.as_str(), *port)).await?.next();
            found.map(Some).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
        }
        _ => Ok(None),
    }
}

/// `url` with the port of a proxy on loopback in front of it. The host stays, for certificates are for it.
pub(crate) fn detour(url: &TransportUrl, through: SocketAddr) -> TransportUrl {
    let mut url = url.clone();
    if let TransportUrl::Tcp { port, .. }
    | TransportUrl::Tls { port, .. }
    | TransportUrl::Quic { port, .. }
    | TransportUrl::Http { port, .. } = &mut url
    {
        *port = through.port();
    }
    url
}
