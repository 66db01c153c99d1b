//! How two sides come together: who the other is, which version and mode, and the socket for words about payloads.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;

use avp_wire::ErrorCode;
use tokio::net::UnixStream;

use super::arena::Arena;
use super::fault::ShmFault;
use super::lending::Lending;
use super::link::{self, Incoming};
use super::options::ShmMode;
use super::receiver::ShmInbox;
use super::returns::Returns;
use super::sender::ShmOutbox;
use super::socket::Socket;
use super::wire::{Greeting, MAX_INLINE};
use crate::connection::{Connection, Peer, PeerAddress};
use crate::descriptors::Passed;
use crate::error::{Incompatible, IoFault, PeerFault, TransportError};
use crate::link::Result;
use crate::options::Options;
use crate::sender::Sender;
use crate::telemetry::{Meter, Side};
use crate::url::Scheme;

/// The process at the other end of a socket, as the system knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) uid: u32,
    pub(super) pid: Option<u32>,
}

impl Process {
    pub(super) fn at(socket: &UnixStream) -> io::Result<Self> {
        let credentials = socket.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid != 0);
        Ok(Self { uid: credentials.uid(), pid })
    }

    fn peer(&self, path: &Path) -> Peer {
        let address = PeerAddress::Process { path: path.to_owned(), uid: self.uid, pid: self.pid };
        Peer::at(address).with_identity(format!("uid:{}", self.uid))
    }

    /// Whether processes of its user may be at the other end.
    fn check(&self, peer: &Peer, options: &Options) -> Result<()> {
        let own = rustix::process::geteuid().as_raw();
        if self.uid == own || options.shm.uids.contains(&self.uid) {
            return Ok(());
        }
        Err(Incompatible::User { peer: peer.to_string(), uid: self.uid, own }.into())
    }
}

/// The connecting side: says what it would do, and takes what the listener chooses.
pub(super) async fn greet(socket: UnixStream, path: &Path, options: &Options) -> Result<Connection> {
    let mut ends = Ends::of(socket, path, options)?;
    ends.process.check(&ends.peer, options)?;
    let ours = Greeting { mode: options.shm.mode, refusal: 0, peer_arena: options.shm.peer_arena };
    // A listener that refuses may have closed before this arrives; what it said is there all the same.
    let sent = ends.send(ours, None).await;
    let received = ends.receive().await;
    if let Ok((Greeting { refusal: code @ 1.., .. }, _)) = received {
        return Err(Incompatible::NotLetIn { peer: ends.peer.to_string(), code }.into());
    }
    sent?;
    let (theirs, channel) = received?;
    if options.shm.mode == ShmMode::Sealed && theirs.mode == ShmMode::Pooled {
        return Err(ends.fault(ShmFault::Malformed));
    }
    let channel = channel.ok_or_else(|| ends.fault(ShmFault::NoDescriptor))?;
    let channel = ends.channel(channel)?;
    ends.join(channel, theirs.mode, theirs.peer_arena, options, Side::Client)
}

/// The listening side: chooses, and passes one end of the second socket.
pub(super) async fn answer(socket: UnixStream, path: Arc<Path>, options: Options) -> Result<Connection> {
    let mut ends = Ends::of(socket, &path, &options)?;
    let own = Greeting { mode: options.shm.mode, refusal: 0, peer_arena: options.shm.peer_arena };
    if let Err(error) = ends.process.check(&ends.peer, &options) {
        let refusal = ErrorCode::Unauthorized.number();
        ends.send(Greeting { refusal, ..own }, None).await?;
        return Err(error);
    }
    let (theirs, extra) = ends.receive().await?;
    if extra.is_some() {
        return Err(ends.fault(ShmFault::ExtraDescriptor));
    }
    let sealed = [options.shm.mode, theirs.mode].contains(&ShmMode::Sealed);
    let mode = if sealed { ShmMode::Sealed } else { ShmMode::Pooled };
    let (channel, passed) = UnixStream::pair().map_err(|source| ends.broken(source))?;
    let passed = OwnedFd::from(passed.into_std().map_err(|source| ends.broken(source))?);
    ends.send(Greeting { mode, ..own }, Some(passed)).await?;
    ends.join(channel, mode, theirs.peer_arena, &options, Side::Server)
}

/// A socket whose two ends have not greeted each other.
struct Ends {
    socket: Arc<Socket>,
    incoming: Incoming,
    process: Process,
    peer: Peer,
}

impl Ends {
    fn of(stream: UnixStream, path: &Path, options: &Options) -> Result<Self> {
        let broken = |source| IoFault::Broken { peer: path.display().to_string(), source };
        let process = Process::at(&stream).map_err(broken)?;
        let peer = process.peer(path);
        let socket = Socket::new(stream).map_err(broken)?;
        let incoming = Incoming::new(socket.again().map_err(broken)?, options.timeouts.busy_poll);
        Ok(Self { socket, incoming, process, peer })
    }

    async fn send(&self, greeting: Greeting, mut fd: Option<OwnedFd>) -> Result<()> {
        let bytes = greeting.encode();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match link::send(&self.socket, rest, fd.as_ref()).await {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fd = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    /// The other side's greeting, no byte more, and the descriptor beside it.
    async fn receive(&mut self) -> Result<(Greeting, Option<OwnedFd>)> {
        let mut bytes = [0; Greeting::SIZE];
        let mut fds = VecDeque::new();
        let mut have = 0;
        while have < bytes.len() {
            let room = bytes.get_mut(have..).unwrap_or_default();
            match self.incoming.receive(room, &mut fds).await {
                Ok((0, _)) => {
                    return Err(PeerFault::ClosedInHandshake { peer: self.peer.to_string() }.into());
                }
                Ok((_, true)) => return Err(self.fault(ShmFault::ExtraDescriptor)),
                Ok((count, false)) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
            if fds.len() > 1 {
                return Err(self.fault(ShmFault::ExtraDescriptor));
            }
        }
        let greeting = Greeting::decode(&bytes).map_err(|fault| self.fault(fault))?;
        Ok((greeting, fds.pop_front()))
    }

    /// The second socket, if it is what it should be: another one could bring words of this process, in its name, to
    /// someone who takes them for something else.
    fn channel(&self, passed: OwnedFd) -> Result<UnixStream> {
        let domain = rustix::net::sockopt::socket_domain(&passed).ok();
        let kind = rustix::net::sockopt::socket_type(&passed).ok();
        if domain != Some(rustix::net::AddressFamily::UNIX) || kind != Some(rustix::net::SocketType::STREAM) {
            return Err(self.fault(ShmFault::NoDescriptor));
        }
        let passed = StdUnixStream::from(passed);
        passed.set_nonblocking(true).map_err(|source| self.broken(source))?;
        let channel = UnixStream::from_std(passed).map_err(|source| self.broken(source))?;
        match Process::at(&channel) {
            Ok(process) if process == self.process => Ok(channel),
            _ => Err(self.fault(ShmFault::NoDescriptor)),
        }
    }

    fn join(
        self,
        channel: UnixStream,
        mode: ShmMode,
        their_limit: u64,
        options: &Options,
        side: Side,
    ) -> Result<Connection> {
        let channel = Socket::new(channel).map_err(|source| self.broken(source))?;
        let meter = Meter::connection(Scheme::SharedMemory, side, &self.peer);
        let peer = self.peer.to_string();
        let budget = options.shm.arena.min(their_limit);
        let inline = options.shm.inline.min(MAX_INLINE);
        let lending = Arc::new(Lending::new(Arena::new(budget), budget, inline, Arc::clone(&channel)));
        let outbox = ShmOutbox::new(self.socket, Arc::clone(&lending), mode);
        let sender = Sender::over(outbox, peer.clone(), options, meter.clone());
        let returns = Arc::new(Returns::new(channel));
        let passed = Arc::<Passed>::default();
        let words = (returns, Arc::clone(&lending), Arc::clone(&passed));
        let receiver = ShmInbox::receiver(self.incoming, words, mode, peer, options, meter.clone());
        let mut options = options.clone();
        if mode == ShmMode::Pooled {
            // Buffers that callers fill to send them lie where the peer can see them.
            options.pool = options.pool.with_source(lending);
        }
        let connection =
            Connection::metered(self.peer, Box::new(sender), Box::new(receiver), &options, meter);
        Ok(connection.with_passed(passed))
    }

    fn fault(&self, fault: ShmFault) -> TransportError {
        PeerFault::SharedMemory { peer: self.peer.to_string(), fault }.into()
    }

    fn broken(&self, source: io::Error) -> TransportError {
        IoFault::Broken { peer: self.peer.to_string(), source }.into()
    }
}
