//! A proxy that does to a connection what networks and middleboxes do, and worse, as a seed says.
//!
//! Streams are split, delayed, changed, stalled, cut short, closed and reset; datagrams are dropped, overtaken, doubled,
//! changed and cut. One fault strikes each direction of a stream at most, so that it is known what must be noticed: the
//! checksum of a frame is sure to find a change within 32 bits of its payload.
//!
//! Over shared memory the proxy stands in the Unix socket and passes on the descriptors of the memory. The second socket,
//! for words about payloads, crosses it as a descriptor too and so is undisturbed. [`Chaos::before`] gives `None` for
//! addresses that it cannot stand in front of; faults come from the peers alone there ([`super::driver`]).

mod datagram;
mod plan;
mod stream;
#[cfg(target_os = "linux")]
mod unix;

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex, split};
use tokio::task::JoinHandle;

pub use plan::{Fault, Plan};

use super::datagrams::{DatagramProxy, Direction, Fate};
use super::dice::Dice;
use super::proxy::{TcpProxy, detour, socket_of};
use crate::url::{Scheme, TransportUrl};

/// Faults strike within so many bytes, twice the largest transfer of the driver.
const REACH: u64 = 8 << 20;

/// A proxy that stands in front of an address. Dropping it cuts everything that goes through it.
#[derive(Debug)]
pub struct Chaos {
    url: TransportUrl,
    _proxy: Box<dyn std::fmt::Debug + Send + Sync>,
}

impl Chaos {
    /// Stands in front of `target`, with the faults of `seed` for each connection and direction; `None` where the
    /// transport uses no sockets.
    ///
    /// # Errors
    /// Those of sockets.
    pub async fn before(target: &TransportUrl, seed: u64) -> io::Result<Option<Self>> {
        let dice = move |number, direction: Direction| Dice::new(seed, &[number, direction as u64]);
        #[cfg(target_os = "linux")]
        if let TransportUrl::SharedMemory { path } = target {
            let proxy = unix::UnixProxy::bind(path, move |number| {
                [Direction::Up, Direction::Down].map(|direction| {
                    let mut dice = dice(number, direction);
                    (Plan::draw(&mut dice, REACH), dice)
                })
            })?;
            let url = TransportUrl::SharedMemory { path: proxy.path().to_owned() };
            return Ok(Some(Self { url, _proxy: Box::new(proxy) }));
        }
        let Some(address) = socket_of(target).await? else { return Ok(None) };
        if target.scheme() == Scheme::Quic {
            let fates = move |number, direction| -> Box<dyn Fate> {
                Box::new(datagram::Unruly::draw(dice(number, direction)))
            };
            let proxy = DatagramProxy::bind(address, Arc::new(fates)).await?;
            return Ok(Some(Self { url: detour(target, proxy.address()), _proxy: Box::new(proxy) }));
        }
        let relay = move |number, client, server| {
            let mut dice = [dice(number, Direction::Up), dice(number, Direction::Down)];
            let plans = dice.each_mut().map(|dice| Plan::draw(dice, REACH));
            stream::both_ways(client, server, plans, dice)
        };
        let proxy = TcpProxy::bind(address, relay).await?;
        Ok(Some(Self { url: detour(target, proxy.address()), _proxy: Box::new(proxy) }))
    }

    /// The address that leads through the proxy.
    #[must_use]
    pub fn url(&self) -> &TransportUrl {
        &self.url
    }
}

/// A pipe whose directions are treated by two plans, up and down: for byte streams without an address.
/// The relay in its middle lasts as long as what is given third.
#[must_use]
pub fn unruly_pipe(plans: [Plan; 2], seed: u64) -> (DuplexStream, DuplexStream, Relay) {
    const CAPACITY: usize = 64 << 10;
    let (client, near) = duplex(CAPACITY);
    let (far, server) = duplex(CAPACITY);
    let relay = tokio::spawn(async move {
        let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
        let [up, down] = plans;
        let _ = tokio::try_join!(
            carry(near_read, far_write, up, Dice::new(seed, &[0])),
            carry(far_read, near_write, down, Dice::new(seed, &[1])),
        );
    });
    (client, server, Relay(relay))
}

/// The task in the middle of a pipe. Dropping it closes both ends.
#[derive(Debug)]
pub struct Relay(JoinHandle<()>);

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn carry<R, W>(from: R, to: W, plan: Plan, dice: Dice) -> Result<(), stream::Cut>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    stream::one_way(from, to, plan, dice).await
}
