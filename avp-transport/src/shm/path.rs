//! The socket file: made so that nobody else can connect, never taken from a living listener, never over other files.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use tokio::time::sleep;

use crate::error::{IoFault, UsageError};
use crate::link::Result;

/// Longest path that the system can connect to.
const MAX_PATH: usize = 107;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Refuses a path that no socket can have.
pub(super) fn check(path: &Path) -> Result<()> {
    let len = path.as_os_str().len();
    let fits = len <= MAX_PATH && !path.as_os_str().as_bytes().contains(&0) && path.file_name().is_some();
    if fits {
        Ok(())
    } else {
        Err(UsageError::SocketPath { path: path.to_owned(), len, limit: MAX_PATH }.into())
    }
}

/// A socket file that goes when this is dropped, if it is still the one that was made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, with a file that its user alone can connect to. A file left over from a dead process is replaced.
pub(super) async fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    check(path)?;
    let failed = |source: io::Error| IoFault::BindSocket { path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    // Of several processes that find the same dead socket one replaces it, and the others find that one alive.
    lock(&directory).await.map_err(failed)?;
    let (socket, temporary) = listen_aside(&directory).map_err(failed)?;
    match publish(&directory, &temporary, path) {
        Ok(()) => {}
        Err(error) => {
            let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
            return Err(error);
        }
    }
    let listener = std::os::unix::net::UnixListener::from(socket);
    let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    let file = fs::symlink_metadata(path).map_err(failed)?;
    let file = SocketFile { path: path.to_owned(), identity: (file.dev(), file.ino()) };
    Ok((listener.map_err(failed)?, file))
}

/// Locks a directory for as long as its descriptor is open.
async fn lock(directory: &OwnedFd) -> io::Result<()> {
    const TRIES: u32 = 500;
    for _ in 0..TRIES {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => sleep(Duration::from_millis(10)).await,
            locked => return Ok(locked?),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another process keeps the directory locked"))
}

/// A listening socket under a temporary name of `directory`, for its owner alone.
fn listen_aside(directory: &OwnedFd) -> io::Result<(OwnedFd, String)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let temporary = format!(".avp-{:016x}", rand::random::<u64>());
    // By the descriptor, so that a temporary name never makes a path too long.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{temporary}", directory.as_raw_fd()))?;
    rustix::net::bind(&socket, &address)?;
    // Nobody can connect before `listen`, so nobody sees the rights that the umask gave.
    let ready = rustix::fs::chmodat(directory, &temporary, Mode::RUSR | Mode::WUSR, AtFlags::empty())
        .and_then(|()| rustix::net::listen(&socket, BACKLOG));
    if let Err(error) = ready {
        let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
        return Err(error.into());
    }
    Ok((socket, temporary))
}

/// Gives the socket its name, unless something is there that is not a dead socket.
fn publish(directory: &OwnedFd, temporary: &str, path: &Path) -> Result<()> {
    let failed = |error: Errno| IoFault::BindSocket { path: path.to_owned(), source: error.into() };
    let name = path.file_name().unwrap_or_default();
    match rustix::fs::renameat_with(directory, temporary, directory, name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => {}
        renamed => return Ok(renamed.map_err(failed)?),
    }
    let there =
        fs::symlink_metadata(path).map_err(|source| IoFault::BindSocket { path: path.to_owned(), source })?;
    if !there.file_type().is_socket() {
        return Err(UsageError::NotASocket { path: path.to_owned() }.into());
    }
    if is_alive(path).map_err(failed)? {
        return Err(IoFault::SocketInUse { path: path.to_owned() }.into());
    }
    Ok(rustix::fs::renameat(directory, temporary, directory, name).map_err(failed)?)
}

/// Whether a process listens at a socket.
fn is_alive(path: &Path) -> rustix::io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(path)?) {
        // With `WOULDBLOCK` so many wait already that there is no place.
        Ok(()) | Err(Errno::WOULDBLOCK) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error),
    }
}
