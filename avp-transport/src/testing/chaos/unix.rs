//! A proxy for Unix sockets that passes on the descriptors beside the bytes (`SCM_RIGHTS`).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown,
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::plan::Plan;
use super::stream::one_way;
use crate::testing::dice::Dice;
use crate::testing::proxy::accept_all;

/// Descriptors that pass at once.
const DESCRIPTORS: usize = 8;

/// A proxy beside the socket that it leads to. Dropping it ends its connections and removes its file.
#[derive(Debug)]
pub(super) struct UnixProxy {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl UnixProxy {
    /// Proxies to `target`. `draw` gives the plans and dice of a connection by its number, up and down.
    pub(super) fn bind(
        target: &Path,
        draw: impl Fn(u64) -> [(Plan, Dice); 2] + Send + Sync + 'static,
    ) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut path = target.as_os_str().to_owned();
        path.push(format!(".{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let path = PathBuf::from(path);
        let listener = UnixListener::bind(&path)?;
        let target = target.to_owned();
        let serve = move |number, client| {
            let (target, plans) = (target.clone(), draw(number));
            async move {
                // A target that does not answer shows as a connection that closes.
                if let Ok(server) = UnixStream::connect(target).await {
                    both_ways(client, server, plans).await;
                }
            }
        };
        let accept = move |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(client, _)| client);
        let task = tokio::spawn(accept_all(accept, serve));
        Ok(Self { path, task })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixProxy {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Carries both directions of a connection. Unix sockets know no reset: both sides are closed.
async fn both_ways(client: UnixStream, server: UnixStream, plans: [(Plan, Dice); 2]) {
    let (client, server) = (Arc::new(client), Arc::new(server));
    let [(up, up_dice), (down, down_dice)] = plans;
    let (from_client, to_server) = direction(&client, &server);
    let (from_server, to_client) = direction(&server, &client);
    let _ = tokio::try_join!(
        one_way(from_client, to_server, up, up_dice),
        one_way(from_server, to_client, down, down_dice),
    );
}

fn direction(from: &Arc<UnixStream>, to: &Arc<UnixStream>) -> (Reader, Writer) {
    let passing = Passing::default();
    let reader = Reader { socket: Arc::clone(from), passing: passing.clone() };
    (reader, Writer { socket: Arc::clone(to), passing })
}

/// Descriptors that were read and go with the next bytes.
#[derive(Clone, Debug, Default)]
struct Passing(Arc<Mutex<VecDeque<OwnedFd>>>);

impl Passing {
    fn lock(&self) -> MutexGuard<'_, VecDeque<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    socket: Arc<UnixStream>,
    passing: Passing,
}

impl Reader {
    fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&*self.socket, &mut [IoSliceMut::new(room)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.passing.lock().extend(fds);
            }
        }
        Ok(got.bytes)
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let room = buffer.initialize_unfilled();
            match self.socket.try_io(Interest::READABLE, || self.receive(room)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(got) => {
                    buffer.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

struct Writer {
    socket: Arc<UnixStream>,
    passing: Passing,
}

impl Writer {
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut passing = self.passing.lock();
        let count = passing.len().min(DESCRIPTORS);
        let fds: Vec<_> = passing.iter().take(count).map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::net::sendmsg(&*self.socket, &[IoSlice::new(bytes)], &mut control, flags)?;
        passing.drain(..count);
        Ok(sent)
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_io(Interest::WRITABLE, || self.send(bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&*self.socket, Shutdown::Write)?))
    }
}
