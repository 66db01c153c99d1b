//! Bare round trips between two threads, to hold those of frames against.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use super::throughput::sockets;

/// A round trip of two threads that wake each other by eventfds, without any bytes.
///
/// # Errors
/// Those of the system.
#[cfg(target_os = "linux")]
pub fn ping_pong_eventfd(count: u32) -> io::Result<Duration> {
    use rustix::event::{EventfdFlags, eventfd};
    let make = || eventfd(0, EventfdFlags::empty()).map(File::from);
    let (there, back) = (make()?, make()?);
    let one = 1_u64.to_ne_bytes();
    let wait = |file: &File| (&mut &*file).read_exact(&mut [0; 8]);
    let wake = |file: &File| (&mut &*file).write_all(&one);
    back_and_forth(
        count,
        || {
            wake(&there)?;
            wait(&back)
        },
        || {
            wait(&there)?;
            wake(&back)
        },
    )
}

/// A round trip of `size` bytes over TCP sockets of the standard library.
///
/// # Errors
/// Those of the sockets.
pub fn ping_pong_tcp(size: usize, count: u32) -> io::Result<Duration> {
    let (mut near, mut far) = sockets()?;
    let (mut sent, mut echoed) = (vec![1; size], vec![1; size]);
    back_and_forth(
        count,
        || {
            near.write_all(&sent)?;
            near.read_exact(&mut sent)
        },
        || {
            far.read_exact(&mut echoed)?;
            far.write_all(&echoed)
        },
    )
}

/// A round trip of `size` bytes over UDP sockets of the standard library.
///
/// # Errors
/// Those of the sockets; a lost datagram is one.
pub fn ping_pong_udp(size: usize, count: u32) -> io::Result<Duration> {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    let (mut sent, mut echoed) = (vec![1; size], vec![1; size]);
    back_and_forth(
        count,
        || {
            near.send(&sent)?;
            near.recv(&mut sent).map(drop)
        },
        || {
            let len = far.recv(&mut echoed)?;
            far.send(&echoed[..len]).map(drop)
        },
    )
}

/// The time of one of `count` rounds of two threads.
fn back_and_forth(
    count: u32,
    mut ask: impl FnMut() -> io::Result<()>,
    mut answer: impl FnMut() -> io::Result<()> + Send,
) -> io::Result<Duration> {
    thread::scope(|scope| {
        let answering = scope.spawn(move || (0..count).try_for_each(|_| answer()));
        let start = Instant::now();
        (0..count).try_for_each(|_| ask())?;
        let time = start.elapsed() / count.max(1);
        answering.join().expect("the answering side does not panic")?;
        Ok(time)
    })
}
