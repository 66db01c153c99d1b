//! A socket that the runtime watches only while somebody waits for it. One that is watched all the time wakes a sleeping
//! thread for every read of the peer, which makes room to write, and for every frame that was found by looking.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::runtime::Handle;

/// One end of a pair of connected sockets, which never blocks. At most one waits for it at a time.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    runtime: Handle,
}

/// A socket that is being watched.
pub(super) type Watch = AsyncFd<Arc<Socket>>;

impl Socket {
    /// Within a runtime, which is the one that watches.
    pub(super) fn new(stream: UnixStream) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { fd: stream.into_std()?.into(), runtime: Handle::current() }))
    }

    /// The same end, for someone else to wait for.
    pub(super) fn again(&self) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { fd: self.fd.try_clone()?, runtime: self.runtime.clone() }))
    }

    pub(super) fn watch(self: &Arc<Self>, interest: Interest) -> io::Result<Watch> {
        let _within = self.runtime.enter();
        // SAFETY: the watch holds the socket, which holds its descriptor open and never exchanges it.
        Ok(unsafe { AsyncFd::register_with_interest(Arc::clone(self), interest) }?)
    }

    /// Waits until a read or a write may succeed.
    pub(super) async fn ready(self: &Arc<Self>, interest: Interest) -> io::Result<()> {
        self.watch(interest)?.ready(interest).await?.retain_ready();
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
