//! What bare sockets carry, to hold transports against.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::Ends;
use crate::tls::ALPN;

/// The time of `count` writes of `size` bytes through a bare loopback socket of the standard library, into one warm
/// buffer of `size` bytes or 64 KiB, whichever is more.
///
/// # Errors
/// Those of the sockets.
pub fn blast(size: usize, count: usize) -> io::Result<Duration> {
    let (sender, receiver) = sockets()?;
    through(sender, receiver, size, count)
}

/// As [`blast`], under TLS with the configurations that [`TlsConnector`](crate::TlsConnector) and
/// [`TlsListener`](crate::TlsListener) have.
///
/// # Errors
/// Those of the sockets and of TLS.
pub fn blast_tls(ends: &Ends, size: usize, count: usize) -> io::Result<Duration> {
    let (mut near, mut far) = sockets()?;
    let client = ends.client.tls.client(&[ALPN]).map_err(io::Error::other)?;
    let server = ends.server.tls.server(&[ALPN]).map_err(io::Error::other)?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut client = ClientConnection::new(Arc::new(client), name).map_err(io::Error::other)?;
    let mut server = ServerConnection::new(Arc::new(server)).map_err(io::Error::other)?;
    thread::scope(|scope| {
        let shaking = scope.spawn(|| client.complete_io(&mut near));
        while server.is_handshaking() {
            server.complete_io(&mut far)?;
        }
        shaking.join().expect("the client does not panic")
    })?;
    through(StreamOwned::new(client, near), StreamOwned::new(server, far), size, count)
}

pub(super) fn sockets() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

fn through(
    mut sender: impl Write + Send,
    mut receiver: impl Read,
    size: usize,
    count: usize,
) -> io::Result<Duration> {
    let source = vec![1_u8; size];
    let mut target = vec![1_u8; size.max(64 << 10)];
    let total = size * count;
    let start = Instant::now();
    thread::scope(|scope| {
        // The sender's end lives until everything has been read.
        let sender = &mut sender;
        let writer = scope.spawn(move || {
            for _ in 0..count {
                sender.write_all(&source)?;
            }
            sender.flush()
        });
        let (mut got, mut at) = (0, 0);
        while got < total {
            let read = receiver.read(&mut target[at..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got += read;
            at = (at + read) % target.len();
        }
        let time = start.elapsed();
        writer.join().expect("the writer does not panic")?;
        Ok(time)
    })
}
