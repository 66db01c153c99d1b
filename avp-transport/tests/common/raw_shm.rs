//! The bytes of docs/spec/shm.md by hand, for peers that do not keep its rules.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use avp_transport::{Connection, Listener, Options, ShmMode, TransportUrl, listen};
use avp_wire::{EncodeOptions, Frame, Metadata};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use tempfile::TempDir;

pub(crate) const PAGE: usize = 4096;
pub(crate) const FIXED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A listener in a directory of its own, which goes with it.
pub(crate) struct Place {
    pub(crate) listener: Box<dyn Listener>,
    pub(crate) path: PathBuf,
    _directory: TempDir,
}

pub(crate) fn url(path: &Path) -> TransportUrl {
    TransportUrl::SharedMemory { path: path.to_owned() }
}

pub(crate) async fn place(options: &Options) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("avp.sock");
    let listener = listen(&url(&path), options).await.unwrap();
    Place { listener, path, _directory: directory }
}

pub(crate) fn greeting(mode: ShmMode, arena: u64) -> Vec<u8> {
    let mode = u16::from(mode == ShmMode::Sealed);
    let fields: [&[u8]; 5] = [b"AVP-SHM\n", &[1, 0], &mode.to_le_bytes(), &[0; 4], &arena.to_le_bytes()];
    fields.concat()
}

pub(crate) fn record(kind: &[u8; 2], id: u32, first: u64, second: u64) -> Vec<u8> {
    let fields: [&[u8]; 5] = [kind, &[0; 2], &id.to_le_bytes(), &first.to_le_bytes(), &second.to_le_bytes()];
    fields.concat()
}

/// The head of a frame with this payload, and the payload.
pub(crate) fn frame(payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    encode(payload, &EncodeOptions { checksum: false, ..EncodeOptions::default() })
}

pub(crate) fn encode(payload: &[u8], options: &EncodeOptions) -> (Vec<u8>, Vec<u8>) {
    let encoded = Frame::new(Metadata::default(), payload.to_vec()).encode(options).unwrap();
    (encoded.head.to_vec(), encoded.payload.to_vec())
}

/// Memory that begins with `contents`, every page of it there.
pub(crate) fn memory(len: usize, contents: &[u8], seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("raw", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    let mut bytes = vec![1; len];
    bytes[..contents.len()].copy_from_slice(contents);
    std::fs::File::from(fd.try_clone().unwrap()).write_all(&bytes).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// A peer that says what it is told to.
pub(crate) struct Raw {
    pub(crate) socket: UnixStream,
    pub(crate) channel: UnixStream,
}

impl Raw {
    /// Connects and greets as the rules say; gives the listener's end too.
    pub(crate) async fn meet(place: &Place, mode: ShmMode) -> (Self, Connection) {
        let path = place.path.clone();
        let greeted = tokio::task::spawn_blocking(move || {
            let mut socket = UnixStream::connect(path).unwrap();
            socket.write_all(&greeting(mode, 1 << 40)).unwrap();
            let (answer, fd) = receive(&socket, 24);
            assert_eq!(answer[..10], *b"AVP-SHM\n\x01\0");
            Self { socket, channel: UnixStream::from(fd.expect("the channel comes with the greeting")) }
        });
        let (raw, connection) = tokio::join!(greeted, place.listener.accept());
        (raw.unwrap(), connection.unwrap())
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub(crate) fn pass(&self, bytes: &[u8], fds: &[&OwnedFd]) {
        pass(&self.socket, bytes, fds);
    }

    /// Passes memory under an id.
    pub(crate) fn segment(&self, id: u32, size: usize, fd: &OwnedFd) {
        self.pass(&record(b"SG", id, size as u64, 0), &[fd]);
    }

    /// Sends a frame whose payload of `len` bytes lies in memory.
    pub(crate) fn refer(&mut self, id: u32, offset: u64, token: u64, len: usize) {
        let (head, _) = frame(&vec![0; len]);
        self.say(&[record(b"SP", id, offset, token), head].concat());
    }

    /// A word about a payload.
    pub(crate) fn word(&mut self, word: u64) {
        self.channel.write_all(&word.to_le_bytes()).unwrap();
    }

    /// The next word of the other side.
    pub(crate) fn hear(&mut self) -> u64 {
        let mut word = [0; 8];
        self.channel.read_exact(&mut word).unwrap();
        u64::from_le_bytes(word)
    }
}

pub(crate) fn pass(socket: &UnixStream, bytes: &[u8], fds: &[&OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent =
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    assert_eq!(sent, bytes.len());
}

/// So many bytes, and a descriptor that came beside them.
pub(crate) fn receive(socket: &UnixStream, len: usize) -> (Vec<u8>, Option<OwnedFd>) {
    let mut bytes = vec![0; len];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let got = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).unwrap();
    assert_eq!(got.bytes, len);
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (bytes, fd)
}
