//! The tasks of an HTTP/2 connection, run in the task of the connection itself.
//!
//! hyper wants a task for each stream. In tasks of the runtime they fetch what the connection's task has just read from
//! another core's cache, and each frame wakes one core by the other.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream};
use hyper::rt::Executor;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes tasks for the [`Tasks`] that it belongs to.
#[derive(Clone, Default)]
pub(crate) struct Inline(Arc<Mutex<Vec<Task>>>);

impl<F> Executor<F> for Inline
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(task));
    }
}

impl Inline {
    fn take(&self) -> Vec<Task> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The tasks of one connection. Dropping them ends them.
#[derive(Default)]
pub(crate) struct Tasks {
    started: Inline,
    running: FuturesUnordered<Task>,
}

impl Tasks {
    /// What hyper starts tasks with.
    pub(crate) fn executor(&self) -> Inline {
        self.started.clone()
    }

    /// Runs the connection that starts the tasks, and them beside it. Dropping the future stops them until the next call.
    pub(crate) async fn beside<C: Future>(&mut self, connection: C) -> C::Output {
        let mut connection = pin!(connection);
        poll_fn(|cx| {
            let outcome = connection.as_mut().poll(cx);
            let _ = self.poll(cx);
            outcome
        })
        .await
    }

    /// Runs what is left.
    pub(crate) async fn finish(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Ready when there are none.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let started = self.started.take();
            let idle = started.is_empty();
            self.running.extend(started);
            match Pin::new(&mut self.running).poll_next(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) if idle => return Poll::Ready(()),
                Poll::Pending if idle => return Poll::Pending,
                // What came in the meantime has not been looked at.
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
    }
}
