//! Bytes and descriptors over a Unix socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors that one read takes; the kernel closes what is beyond.
const DESCRIPTORS: usize = 2;

/// Writes some of `bytes`, with `fd` beside the first of them.
pub(super) async fn send(socket: &UnixStream, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<usize> {
    socket
        .async_io(Interest::WRITABLE, || {
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
        })
        .await
}

/// Reads into `room`; descriptors that come beside are added to `fds`. The second value says whether more descriptors
/// came than anybody may send.
pub(super) async fn receive(
    socket: &UnixStream,
    room: &mut [u8],
    fds: &mut VecDeque<OwnedFd>,
) -> io::Result<(usize, bool)> {
    socket
        .async_io(Interest::READABLE, || {
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
        })
        .await
}
