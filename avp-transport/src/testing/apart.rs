//! Two ends of a connection, each with a thread and a runtime of its own, as two processes would be.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use avp_wire::{BufferPool, EncodeOptions, Frame};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Barrier;

use super::Ends;
use crate::connection::Connection;
use crate::error::UsageError;
use crate::link::{Listener, Result};
use crate::open::{connect, listen};
use crate::url::TransportUrl;

/// The runtimes of a client and a server.
#[derive(Debug)]
pub struct Apart {
    client: Runtime,
    server: Runtime,
}

/// A client's and a server's end of a connection, and what keeps them going.
#[derive(Debug)]
pub struct ApartPair {
    runtimes: Apart,
    client: Connection,
    server: Connection,
    _listener: Box<dyn Listener>,
}

impl Apart {
    /// Both runtimes.
    ///
    /// # Errors
    /// The system has no room for them.
    pub fn new() -> io::Result<Self> {
        let runtime = || Builder::new_current_thread().enable_all().build();
        Ok(Self { client: runtime()?, server: runtime()? })
    }

    /// Runs both futures, each on its side, and both sides until both futures are done: what one has sent may still be
    /// on its way.
    ///
    /// # Panics
    /// Where one of them does.
    pub fn run<C: Send, S>(
        &self,
        client: impl Future<Output = C> + Send,
        server: impl Future<Output = S>,
    ) -> (C, S) {
        let both = Barrier::new(2);
        thread::scope(|scope| {
            let client = scope.spawn(|| self.client.block_on(done_by(client, &both)));
            let server = self.server.block_on(done_by(server, &both));
            (client.join().expect("the client's side does not panic"), server)
        })
    }

    /// Connects the two through a listener at `url`.
    ///
    /// # Errors
    /// Those of the transport.
    pub fn pair(self, url: &TransportUrl, ends: &Ends) -> Result<ApartPair> {
        let listener = self.server.block_on(listen(url, &ends.server))?;
        let connecting = connect(listener.local_url(), &ends.client);
        let (client, server) = self.run(connecting, listener.accept());
        Ok(ApartPair { client: client?, server: server?, runtimes: self, _listener: listener })
    }
}

async fn done_by<T>(future: impl Future<Output = T>, both: &Barrier) -> T {
    let done = future.await;
    both.wait().await;
    done
}

impl ApartPair {
    /// Sends `frame` so many times, encoding it each time, and receives it; `gather` lets small frames go out together.
    /// The time from the first send to the last frame received.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn frames(
        &mut self,
        frame: &Frame,
        encoding: EncodeOptions,
        count: usize,
        gather: bool,
    ) -> Result<Duration> {
        let Self { runtimes, client, server, _listener } = self;
        let start = Instant::now();
        let sending = async {
            let (sender, _) = client.halves();
            for _ in 0..count {
                let encoded = frame.encode(&encoding).map_err(UsageError::Encode)?;
                if gather { sender.feed(encoded).await? } else { sender.send(encoded).await? }
            }
            sender.flush().await
        };
        let receiving = async {
            for _ in 0..count {
                server.recv().await?;
            }
            Ok(start.elapsed())
        };
        let (sent, received) = runtimes.run(sending, receiving);
        sent?;
        received
    }

    /// Where the client's payloads come from.
    #[must_use]
    pub fn client_pool(&self) -> &BufferPool {
        &self.client.options().pool
    }

    /// Sends a frame to a receiver that waits already; what it gets, and the time that this took.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn hand_over(&mut self, frame: &Frame, encoding: EncodeOptions) -> Result<(Frame, Duration)> {
        let Self { runtimes, client, server, _listener } = self;
        let encoded = frame.encode(&encoding).map_err(UsageError::Encode)?;
        let sending = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let start = Instant::now();
            client.send(encoded).await?;
            Ok(start)
        };
        let receiving = async {
            let frame = server.recv().await?.ok_or(UsageError::NoHead)?;
            Ok((frame, Instant::now()))
        };
        let (start, received): (Result<Instant>, Result<(Frame, Instant)>) = runtimes.run(sending, receiving);
        let (start, (frame, end)) = (start?, received?);
        Ok((frame, end - start))
    }

    /// Sends a frame there and back so many times; the time of one round trip.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn round_trip(&mut self, frame: &Frame, encoding: EncodeOptions, count: u32) -> Result<Duration> {
        let Self { runtimes, client, server, _listener } = self;
        let encode = || frame.encode(&encoding).map_err(UsageError::Encode);
        let asking = async {
            let start = Instant::now();
            for _ in 0..count {
                client.send(encode()?).await?;
                client.recv().await?;
            }
            Ok(start.elapsed() / count.max(1))
        };
        let answering = async {
            for _ in 0..count {
                server.recv().await?;
                server.send(encode()?).await?;
            }
            Ok(())
        };
        let (time, answered): (Result<Duration>, Result<()>) = runtimes.run(asking, answering);
        answered?;
        time
    }
}
