//! QUIC (RFC 9000) on quinn: TLS 1.3 built in, streams that do not wait for one another, connections that survive a
//! change of address.
//!
//! The client opens the first bidirectional stream and speaks first on it; that is the ordered stream of a
//! [`Connection`](crate::Connection). Further streams are [`Streams`](crate::Streams). docs/spec/transports.md, 3.

mod endpoint;
mod fault;
mod link;
mod options;
mod receiver;
mod sender;
mod transport;
mod verifier;

pub use options::{Congestion, QuicOptions};
pub use transport::{QuicConnector, QuicListener};

/// The parts of a connection, to measure frames against.
#[cfg(feature = "testing")]
pub(crate) mod bare {
    use super::transport;
    use crate::error::UsageError;
    use crate::options::Options;

    pub(crate) use super::endpoint::{client, server};

    pub(crate) fn client_config(options: &Options) -> Result<quinn::ClientConfig, UsageError> {
        Ok(transport::client_config(&transport::remembering(options)?, options)?)
    }

    pub(crate) fn server_config(options: &Options) -> Result<quinn::ServerConfig, UsageError> {
        Ok(transport::server_config(options)?)
    }
}

use quinn::VarInt;

/// Code with which streams and connections end that nobody needs any more.
const DONE: VarInt = VarInt::from_u32(0);
/// Code with which a stream is reset that ends within a frame, or is not wanted.
const CANCELLED: VarInt = VarInt::from_u32(1);
