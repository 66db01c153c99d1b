//! An application over HTTP that keeps nothing.

use std::sync::Arc;

use avp_handshake::Session;
use avp_wire::Frame;
use tokio::sync::Semaphore;

use crate::http::{HttpCaller, HttpHandler, HttpRefusal, HttpReply};
use crate::link::{BoxFuture, Result};

/// Drops the frames that come, and answers at once or when it is told to. Clones are the same.
#[derive(Clone, Debug)]
pub struct Discard {
    came: Arc<Semaphore>,
    go: Arc<Semaphore>,
    waits: bool,
}

impl Default for Discard {
    /// Answers at once.
    fn default() -> Self {
        Self { waits: false, ..Self::when_told() }
    }
}

impl Discard {
    /// Keeps each frame until [`go`](Self::go), and answers then.
    #[must_use]
    pub fn when_told() -> Self {
        let none = || Arc::new(Semaphore::new(0));
        Self { came: none(), go: none(), waits: true }
    }

    /// Waits for a frame that nobody has waited for.
    ///
    /// # Panics
    /// Never: what it waits for is never closed.
    pub async fn came(&self) {
        self.came.acquire().await.unwrap().forget();
    }

    /// Lets one frame go.
    pub fn go(&self) {
        self.go.add_permits(1);
    }
}

impl HttpHandler for Discard {
    fn frame<'a>(
        &'a self,
        _: &'a HttpCaller,
        _: Option<Session>,
        _frame: Frame,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        Box::pin(async {
            if self.waits {
                self.came.add_permits(1);
                self.go.acquire().await.unwrap().forget();
            }
            Ok(HttpReply::default())
        })
    }
}
