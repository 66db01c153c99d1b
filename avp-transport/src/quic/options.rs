//! What QUIC can be told, with defaults for networks of data centres and for loopback.

use std::sync::Arc;
use std::time::Duration;

use avp_wire::Limits;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

/// What a peer may have in flight before the handshake is done: a hello and its packets, and room to spare.
const HALF_OPEN_WINDOW: VarInt = VarInt::from_u32(128 << 10);

/// Timers, windows and sizes of QUIC connections. The number of streams follows from
/// `Limits::max_concurrent_transfers` and [`max_stripes`](Self::max_stripes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuicOptions {
    /// How often an idle connection shows that it lives (10 s); `None` never.
    pub keep_alive: Option<Duration>,
    /// How long nothing may be heard of the peer before the connection is given up (30 s). The shorter one of both
    /// sides holds.
    pub idle_timeout: Duration,
    /// Bytes that the peer may send on one stream before they are read (16 MiB: 10 Gbit/s over 13 ms).
    pub stream_window: u32,
    /// Bytes that the peer may send on all streams before they are read (256 MiB). This memory comes on top of
    /// `Limits::memory_budget`; before the handshake is done it is 128 KiB.
    pub connection_window: u32,
    /// Bytes sent and not acknowledged, on all streams (64 MiB). They are kept alive, not copied.
    pub send_window: u64,
    /// Size of a packet's UDP payload until the path is known to carry more (1200, which every path does).
    pub initial_mtu: u16,
    /// Largest UDP payload that is tried on the path (8952, for Ethernet with jumbo frames). At most `initial_mtu` turns
    /// the search off.
    pub max_mtu: u16,
    /// How the rate follows the network ([`Congestion::Cubic`]). The example `link_rates` shows what each makes of a lossy
    /// path.
    pub congestion: Congestion,
    /// Streams that the peer may have open beyond one for each transfer (64).
    pub max_stripes: usize,
    /// Connections in their handshake beyond which clients must first show that they receive at their address (32).
    pub retry_above: usize,
    /// Connection attempts that wait for the listener to accept (1024), with 64 KiB for packets each and 8 MiB in all;
    /// more are refused.
    pub max_incoming: usize,
    /// What is asked of the system for each direction of the UDP socket (8 MiB); it may give less.
    pub socket_buffer: usize,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self {
            keep_alive: Some(Duration::from_secs(10)),
            idle_timeout: Duration::from_secs(30),
            stream_window: 16 << 20,
            connection_window: 256 << 20,
            send_window: 64 << 20,
            initial_mtu: 1200,
            max_mtu: 8952,
            congestion: Congestion::Cubic,
            max_stripes: 64,
            retry_above: 32,
            max_incoming: 1024,
            socket_buffer: 8 << 20,
        }
    }
}

/// How the sending rate follows the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Congestion {
    /// CUBIC (RFC 9438), as TCP does by default.
    #[default]
    Cubic,
    /// NewReno (RFC 9002).
    NewReno,
    /// BBR, which goes by the rate that arrives and not by loss: for long paths that lose packets now and then.
    Bbr,
}

impl Congestion {
    fn factory(self, initial_window: u64) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => {
                let mut config = CubicConfig::default();
                config.initial_window(initial_window);
                Arc::new(config)
            }
            Self::NewReno => {
                let mut config = NewRenoConfig::default();
                config.initial_window(initial_window);
                Arc::new(config)
            }
            Self::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(initial_window);
                Arc::new(config)
            }
        }
    }
}

impl QuicOptions {
    /// The largest UDP payload that this side sends and takes.
    pub(super) fn largest_payload(&self) -> u16 {
        self.max_mtu.max(self.initial_mtu).max(1472)
    }

    /// Bytes in flight before the path is known: ten common packets, or four of the largest, so that one that is tried
    /// does not hold up the rest.
    fn initial_window(&self) -> u64 {
        u64::from(self.largest_payload()).saturating_mul(4).max(14_720)
    }

    /// The configuration of a connection, for quinn.
    pub(super) fn transport(&self, limits: &Limits) -> TransportConfig {
        // The first stream, one for each transfer, and stripes.
        let streams = limits.max_concurrent_transfers.saturating_add(self.max_stripes).saturating_add(1);
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(u32::try_from(streams).map_or(VarInt::MAX, VarInt::from_u32))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(self.keep_alive)
            .max_idle_timeout(Some(
                IdleTimeout::try_from(self.idle_timeout).unwrap_or_else(|_| IdleTimeout::from(VarInt::MAX)),
            ))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(HALF_OPEN_WINDOW.min(VarInt::from_u32(self.connection_window)))
            .send_window(self.send_window)
            .initial_mtu(self.initial_mtu)
            .mtu_discovery_config((self.max_mtu > self.initial_mtu).then(|| {
                let mut search = MtuDiscoveryConfig::default();
                search.upper_bound(self.max_mtu);
                search
            }))
            .congestion_controller_factory(self.congestion.factory(self.initial_window()));
        config
    }
}
