//! Several transfers at once over one connection: each frame goes to the transfer that its `avp.transfer` names.
//!
//! Where the transport has further streams, a transfer has one of its own, and stripes if it asks for them. Otherwise
//! the transfers share the connection's one stream: whoever waits for a frame reads for all, routes what belongs to
//! others and hands the reading on when it has its own.

mod arrivals;
mod routes;
mod shared;
mod sources;
mod transfer;

use std::sync::Arc;

use crate::connection::{Connection, Peer};
use crate::error::UsageError;
use crate::link::Result;
use shared::Shared;
pub use transfer::{Stripe, Transfer};

/// The transfers of a connection. Cheap to clone.
///
/// Frames without `avp.transfer` belong to the transfer with the empty id. Within a transfer frames keep their order.
/// Transfers should be received by tasks of their own: where the transport has one stream, one that takes nothing holds
/// up the others, and is ended after `Limits::frame_timeout`.
#[derive(Clone, Debug)]
pub struct Transfers {
    shared: Arc<Shared>,
}

impl Transfers {
    /// Takes over a connection. Over a transport with further streams this needs tokio's runtime.
    #[must_use]
    pub fn over(connection: Connection) -> Self {
        Self { shared: Arc::new(Shared::over(connection)) }
    }

    /// Begins a transfer from this side; the peer learns of it by its first frame. `id` must be new to the connection.
    ///
    /// # Errors
    /// [`LimitExceeded::Transfers`](crate::LimitExceeded::Transfers) where too many are open,
    /// [`UsageError::NameInUse`] where the id is taken.
    pub fn open(&self, id: &str) -> Result<Transfer> {
        let inlet = {
            let mut routes = self.shared.board.routes();
            if routes.is_over() {
                return Err(self.shared.closed().into());
            }
            if routes.is_known(id) {
                return Err(UsageError::NameInUse { name: id.to_owned() }.into());
            }
            routes.begin(id)?
        };
        Ok(Transfer::new(id.to_owned(), inlet, None, &self.shared))
    }

    /// The next transfer that the peer begins; `None` once the peer has finished.
    ///
    /// # Errors
    /// As [`FrameReceiver::recv`](crate::FrameReceiver::recv).
    pub async fn accept(&self) -> Result<Option<Transfer>> {
        let begun = self.shared.accept().await?;
        Ok(begun.map(|begun| Transfer::new(begun.id, begun.inlet, begun.sender, &self.shared)))
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// Ends the sending side for all transfers; the peer's transfers then give `None`.
    ///
    /// # Errors
    /// As [`FrameSender::finish`](crate::FrameSender::finish).
    pub async fn finish(&self) -> Result<()> {
        self.shared.finish().await
    }
}
