//! Connecting and listening at a socket path.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use super::greeting::{Process, answer, greet};
use super::path::{self, SocketFile};
use crate::connection::Connection;
use crate::error::{Incompatible, IoFault, TransportError};
use crate::half_open::{HalfOpenGate, PeerKey};
use crate::handshaking::Handshaking;
use crate::link::{BoxFuture, Connector, Listener, Result};
use crate::options::Options;
use crate::socket;
use crate::telemetry::connecting;
use crate::url::{Scheme, TransportUrl};

/// Connects through shared memory. [`Options::shm`] says how.
#[derive(Clone, Debug, Default)]
pub struct ShmConnector {
    options: Options,
}

impl ShmConnector {
    /// A connector with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    async fn open(&self, url: &TransportUrl) -> Result<Connection> {
        let path = path_of(url)?;
        path::check(path)?;
        greet(dial(url, path).await?, path, &self.options).await
    }
}

impl Connector for ShmConnector {
    fn connect<'a>(&'a self, url: &'a TransportUrl) -> BoxFuture<'a, Result<Connection>> {
        Box::pin(async move {
            connecting(Scheme::SharedMemory, socket::in_time(url, &self.options, self.open(url)).await)
        })
    }
}

/// Accepts connections through shared memory. Its socket file is removed when it is dropped.
#[derive(Debug)]
pub struct ShmListener {
    listener: UnixListener,
    path: Arc<Path>,
    url: TransportUrl,
    options: Options,
    gate: HalfOpenGate,
    handshaking: Handshaking<Connection>,
    _file: SocketFile,
}

impl ShmListener {
    /// Makes the socket of an `avp+shm` URL, which this process's user alone may connect to.
    ///
    /// # Errors
    /// The path is too long, another process listens there, or something else lies there.
    pub async fn bind(url: &TransportUrl, options: Options) -> Result<Self> {
        let path = path_of(url)?;
        let (listener, file) = path::bind(path).await?;
        let gate = HalfOpenGate::new(options.limits.max_half_open_per_peer);
        let (path, url) = (Arc::from(path), url.clone());
        Ok(Self {
            listener,
            path,
            url,
            options,
            gate,
            handshaking: Handshaking::new(Scheme::SharedMemory),
            _file: file,
        })
    }

    async fn next(&self) -> Connection {
        let next = || async {
            self.gate.ready().await;
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed, trying again");
                    sleep(Duration::from_millis(50)).await;
                    return None;
                }
            };
            let uid = Process::at(&stream).ok()?.uid;
            let place = self.gate.enter(PeerKey::user(uid));
            Some((place, answer(stream, Arc::clone(&self.path), self.options.clone())))
        };
        let (connection, place) = self.handshaking.accept(next, self.options.limits.handshake_timeout).await;
        connection.with_half_open(place)
    }
}

impl Listener for ShmListener {
    fn accept(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async { Ok(self.next().await) })
    }

    fn local_url(&self) -> &TransportUrl {
        &self.url
    }
}

/// Connects, waiting where so many wait already that there is no place. The caller sets the deadline.
async fn dial(url: &TransportUrl, path: &Path) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(5)).await,
            Err(source) => return Err(IoFault::Unreachable { url: url.clone(), source }.into()),
        }
    }
}

fn path_of(url: &TransportUrl) -> Result<&Path> {
    match url {
        TransportUrl::SharedMemory { path } => Ok(path),
        other => Err(not_shm(other)),
    }
}

fn not_shm(url: &TransportUrl) -> TransportError {
    Incompatible::Transport { url: url.clone(), scheme: url.scheme() }.into()
}
