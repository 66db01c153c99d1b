//! An emulated link in front of an address: rate, delay, loss and queue, in user space and without privileges.
//!
//! Datagrams (QUIC) go through it as they would through a router: each is delayed, lost, overtaken or doubled by
//! itself, and the sender's own congestion control reacts.
//!
//! Streams (TCP, TLS) end at the proxy: the kernel's TCP on either side of it runs over loopback, knows nothing of the
//! link and reacts to none of it. So what TCP would do is modelled. A lost segment arrives one round trip later, as a
//! fast retransmission would, and holds up everything behind it; a retransmission that is lost too costs a timeout
//! that doubles, from 200 ms. With [`Link::reno`] the model also has a congestion window: slow start, halved by a loss,
//! a segment more each round trip. Without it the window is that of [`Link::queue`], which only a path without
//! congestion control would have: delays are right then, rates under loss are too good.

mod datagram;
mod reno;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::bucket::Bucket;
use super::datagrams::{DatagramProxy, Direction, Fate};
use super::dice::Dice;
use super::proxy::{TcpProxy, detour, socket_of};
use crate::url::{Scheme, TransportUrl};

/// Payload of a TCP segment on an Ethernet path.
const SEGMENT: usize = 1448;

/// What a link does, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Link {
    /// Bits a second; `None` for no limit.
    pub rate: Option<u64>,
    /// One way; a round trip takes twice this.
    pub delay: Duration,
    /// Share of segments or datagrams that are lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams that are held back by up to [`delay`](Self::delay) and overtaken. Not for streams.
    pub reorder: f64,
    /// Share of datagrams that come twice. Not for streams.
    pub duplicate: f64,
    /// Bytes that wait to be sent. A datagram beyond is dropped, a stream is not read from. At high rates give it some
    /// milliseconds' worth, since timers are no finer than one.
    pub queue: usize,
    /// Whether streams have the congestion window of TCP Reno.
    pub reno: bool,
}

impl Default for Link {
    /// A link that changes nothing, with a queue of 4 MiB.
    fn default() -> Self {
        Self {
            rate: None,
            delay: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            queue: 4 << 20,
            reno: false,
        }
    }
}

impl Link {
    fn bucket(&self) -> Bucket {
        Bucket::new(self.rate.map(|bits| bits / 8), SEGMENT)
    }
}

/// A link that stands in front of an address. Dropping it cuts everything that goes through it.
#[derive(Debug)]
pub struct EmulatedLink {
    url: TransportUrl,
    _proxy: Box<dyn std::fmt::Debug + Send + Sync>,
}

impl EmulatedLink {
    /// Puts a link in front of `target`; connect to [`url`](Self::url) to go through it.
    ///
    /// # Errors
    /// Those of sockets; `Unsupported` where the transport of `target` does not use any.
    pub async fn before(target: &TransportUrl, link: Link, seed: u64) -> io::Result<Self> {
        let address = socket_of(target).await?.ok_or(io::ErrorKind::Unsupported)?;
        let dice = move |number, direction: Direction| Dice::new(seed, &[number, direction as u64]);
        if target.scheme() == Scheme::Quic {
            let fates = move |number, direction| -> Box<dyn Fate> {
                Box::new(datagram::Hop::new(link, dice(number, direction)))
            };
            let proxy = DatagramProxy::bind(address, Arc::new(fates)).await?;
            return Ok(Self { url: detour(target, proxy.address()), _proxy: Box::new(proxy) });
        }
        let relay = move |number, client, server| {
            stream::both_ways(
                client,
                server,
                link,
                [dice(number, Direction::Up), dice(number, Direction::Down)],
            )
        };
        let proxy = TcpProxy::bind(address, relay).await?;
        Ok(Self { url: detour(target, proxy.address()), _proxy: Box::new(proxy) })
    }

    /// The address that leads through the link.
    #[must_use]
    pub fn url(&self) -> &TransportUrl {
        &self.url
    }
}
