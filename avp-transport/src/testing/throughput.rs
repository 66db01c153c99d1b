//! Bytes per second of a transport, and of bare sockets to hold them against.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use avp_wire::{EncodeOptions, Frame};

use crate::connection::Connection;
use crate::error::UsageError;
use crate::link::Result;

/// What a run moved, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Payload bytes that arrived.
    pub bytes: u64,
    /// From the first send to the last byte received.
    pub time: Duration,
}

impl Throughput {
    /// Bytes per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64()
    }
}

/// Blasts `count` writes of `size` bytes through a bare loopback socket of the standard library, into one warm
/// buffer of `size` bytes or 64 KiB, whichever is more.
///
/// # Errors
/// Those of the sockets.
pub fn blast(size: usize, count: usize) -> io::Result<Throughput> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_nodelay(true)?;
    let source = vec![1_u8; size];
    let mut target = vec![1_u8; size.max(64 << 10)];
    let total = size * count;
    let start = Instant::now();
    let writer = thread::spawn(move || -> io::Result<()> {
        for _ in 0..count {
            sender.write_all(&source)?;
        }
        Ok(())
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
    Ok(Throughput { bytes: total as u64, time })
}

/// Sends `frame` `count` times, encoding it each time, and receives it; `gather` lets small frames go out together.
///
/// # Errors
/// Those of the connection.
pub async fn frames_over(
    client: &mut Connection,
    server: &mut Connection,
    frame: &Frame,
    encoding: EncodeOptions,
    count: usize,
    gather: bool,
) -> Result<Throughput> {
    let (sender, _) = client.halves();
    let (_, receiver) = server.halves();
    let start = Instant::now();
    let sending = async move {
        for _ in 0..count {
            let encoded = frame.encode(&encoding).map_err(UsageError::Encode)?;
            if gather { sender.feed(encoded).await? } else { sender.send(encoded).await? }
        }
        sender.flush().await
    };
    let receiving = async move {
        let mut bytes = 0;
        for _ in 0..count {
            let frame = receiver.recv().await?;
            bytes += frame.map_or(0, |frame| frame.payload.len() as u64);
        }
        Ok(bytes)
    };
    let bytes = on_two_threads(sending, receiving).await?;
    Ok(Throughput { bytes, time: start.elapsed() })
}

/// Runs the two futures on a thread each, as two processes would be.
async fn on_two_threads<S, R>(sending: S, receiving: R) -> Result<u64>
where
    S: Future<Output = Result<()>> + Send,
    R: Future<Output = Result<u64>> + Send,
{
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        thread::scope(|scope| {
            let sender = scope.spawn(|| handle.block_on(sending));
            let bytes = handle.block_on(receiving)?;
            sender.join().expect("the sender does not panic")?;
            Ok(bytes)
        })
    })
}
