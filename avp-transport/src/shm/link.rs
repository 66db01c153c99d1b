//! Bytes and descriptors over a Unix socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::task::coop::consume_budget;

use super::socket::{Socket, Watch};
use crate::busy_poll::BusyPoll;

/// Descriptors that one read takes; the kernel closes what is beyond.
const DESCRIPTORS: usize = 2;
/// Looks this long until other tasks have a turn.
const TURN: Duration = Duration::from_micros(10);

/// Writes some of `bytes`, with `fd` beside the first of them.
pub(super) async fn send(socket: &Arc<Socket>, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    loop {
        match try_send(socket, bytes, fd) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
        socket.ready(Interest::WRITABLE).await?;
    }
}

fn try_send(socket: &Socket, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let Some(fd) = fd else {
        return Ok(rustix::net::send(socket, bytes, flags)?);
    };
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// What comes through a socket.
#[derive(Debug)]
pub(super) struct Incoming {
    socket: Arc<Socket>,
    busy: BusyPoll,
    /// Kept from one sleep to the next, but not where looking finds what comes.
    watch: Option<Watch>,
}

impl Incoming {
    /// Looks for so long before it sleeps, while traffic is brisk.
    pub(super) fn new(socket: Arc<Socket>, busy_poll: Duration) -> Self {
        Self { socket, busy: BusyPoll::new(busy_poll, TURN), watch: None }
    }

    /// Reads into `room`; descriptors that come beside are added to `fds`. The second value says whether more
    /// descriptors came than anybody may send.
    pub(super) async fn receive(
        &mut self,
        room: &mut [u8],
        fds: &mut VecDeque<OwnedFd>,
    ) -> io::Result<(usize, bool)> {
        if let Some(mut looks) = self.busy.begin() {
            // What is always there already must leave other tasks their turn too.
            consume_budget().await;
            loop {
                match try_receive(&self.socket, room, fds) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => {
                        self.busy.found(&looks);
                        self.watch = None;
                        return received;
                    }
                }
                if !looks.again().await {
                    break;
                }
            }
        }
        let start = Instant::now();
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(self.socket.watch(Interest::READABLE)?),
        };
        let received = watch.async_io(Interest::READABLE, |socket| try_receive(socket, room, fds)).await;
        self.busy.slept(start.elapsed());
        received
    }
}

fn try_receive(socket: &Socket, room: &mut [u8], fds: &mut VecDeque<OwnedFd>) -> io::Result<(usize, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(room)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((got.bytes, got.flags.contains(ReturnFlags::CTRUNC)))
}
