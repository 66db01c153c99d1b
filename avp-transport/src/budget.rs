//! Counters that bound what one connection may use: memory alive, tiny frames, rejected frames.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::error::LimitExceeded;
use crate::options::{Budgets, Options};

/// Accounting grain: permits are u32, so a grain of 4 KiB counts up to 16 TiB. It also charges small frames for
/// their heads.
const GRAIN: u64 = 4096;

/// What one connection may use, all of its streams together. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) memory: MemoryBudget,
    conduct: Arc<Mutex<Conduct>>,
}

impl Account {
    pub(crate) fn new(options: &Options) -> Self {
        Self::within(MemoryBudget::new(options.limits.memory_budget), options)
    }

    /// An account whose memory others use too.
    pub(crate) fn within(memory: MemoryBudget, options: &Options) -> Self {
        Self { memory, conduct: Arc::new(Mutex::new(Conduct::new(&options.budgets))) }
    }

    pub(crate) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of frames alive on one connection.
#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget {
    grains: Arc<Semaphore>,
    total: u64,
}

impl MemoryBudget {
    pub(crate) fn new(total: u64) -> Self {
        let grains = usize::try_from(total.div_ceil(GRAIN)).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { grains: Arc::new(Semaphore::new(grains)), total }
    }

    /// Bytes not in use.
    pub(crate) fn free(&self) -> u64 {
        u64::try_from(self.grains.available_permits())
            .unwrap_or(u64::MAX)
            .saturating_mul(GRAIN)
            .min(self.total)
    }

    /// Claims room for a frame, waiting up to `patience` for earlier frames to be dropped. A claim is no allocation.
    pub(crate) async fn claim(&self, bytes: u64, patience: Duration) -> Result<MemoryClaim, LimitExceeded> {
        let grains = self.grains_of(bytes)?;
        if let Ok(permit) = Arc::clone(&self.grains).try_acquire_many_owned(grains) {
            return Ok(MemoryClaim(permit));
        }
        match timeout(patience, Arc::clone(&self.grains).acquire_many_owned(grains)).await {
            Ok(Ok(permit)) => Ok(MemoryClaim(permit)),
            _ => Err(self.exceeded(bytes)),
        }
    }

    /// Claims room that must be there.
    pub(crate) fn claim_now(&self, bytes: u64) -> Result<MemoryClaim, LimitExceeded> {
        let permit = Arc::clone(&self.grains).try_acquire_many_owned(self.grains_of(bytes)?);
        permit.map(MemoryClaim).map_err(|_| self.exceeded(bytes))
    }

    fn grains_of(&self, bytes: u64) -> Result<u32, LimitExceeded> {
        if bytes > self.total {
            return Err(self.exceeded(bytes));
        }
        u32::try_from(bytes.div_ceil(GRAIN).max(1)).map_err(|_| self.exceeded(bytes))
    }

    fn exceeded(&self, needed: u64) -> LimitExceeded {
        LimitExceeded::Memory { needed, held: self.total - self.free(), budget: self.total }
    }
}

/// Room that a frame holds until it is dropped.
#[derive(Debug)]
pub(crate) struct MemoryClaim(OwnedSemaphorePermit);

impl MemoryClaim {
    /// Ties the claim to the payload's lifetime.
    pub(crate) fn attach(self, payload: Bytes) -> Bytes {
        Bytes::from_owner(Claimed { payload, _claim: self.0 })
    }
}

struct Claimed {
    payload: Bytes,
    _claim: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Claimed {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// Token bucket over tiny frames, and a count of rejected ones.
#[derive(Debug)]
pub(crate) struct Conduct {
    budgets: Budgets,
    tokens: u64,
    filled: Instant,
    rejected: u32,
}

impl Conduct {
    pub(crate) fn new(budgets: &Budgets) -> Self {
        Self { budgets: *budgets, tokens: budgets.tiny_burst, filled: Instant::now(), rejected: 0 }
    }

    /// Counts a frame by its payload's size.
    pub(crate) fn frame(&mut self, payload: u64) -> Result<(), LimitExceeded> {
        if payload >= self.budgets.tiny_payload {
            return Ok(());
        }
        if self.tokens == 0 {
            self.refill();
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(LimitExceeded::TinyFrames {
                smaller_than: self.budgets.tiny_payload,
                per_second: self.budgets.tiny_per_second,
            }),
        }
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let micros = now.duration_since(self.filled).as_micros();
        let earned = micros.saturating_mul(u128::from(self.budgets.tiny_per_second)) / 1_000_000;
        self.tokens = u64::try_from(earned).unwrap_or(u64::MAX).min(self.budgets.tiny_burst);
        if self.tokens > 0 {
            self.filled = now;
        }
    }

    /// Counts a damaged or refused frame.
    pub(crate) fn reject(&mut self) -> Result<(), LimitExceeded> {
        self.rejected = self.rejected.saturating_add(1);
        if self.rejected > self.budgets.rejects {
            return Err(LimitExceeded::Rejects { limit: self.budgets.rejects });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    // spec: limits 2.5
    #[tokio::test(start_paused = true)]
    async fn memory_comes_back_when_the_last_view_of_a_payload_is_dropped() {
        let budget = MemoryBudget::new(64 << 10);
        let claim = budget.claim(60 << 10, Duration::ZERO).await.unwrap();
        let payload = claim.attach(Bytes::from(vec![1; 100]));
        let view = payload.slice(10..20);
        drop(payload);
        let refused = budget.claim(8 << 10, Duration::from_secs(30)).await.unwrap_err();
        assert_eq!(refused, LimitExceeded::Memory { needed: 8 << 10, held: 60 << 10, budget: 64 << 10 });
        drop(view);
        budget.claim(64 << 10, Duration::ZERO).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_waits_for_room() {
        let budget = MemoryBudget::new(8 << 10);
        let held = budget.claim(8 << 10, Duration::ZERO).await.unwrap();
        let waiting = budget.clone();
        let waiter = tokio::spawn(async move { waiting.claim(4 << 10, Duration::from_secs(30)).await });
        advance(Duration::from_secs(5)).await;
        drop(held);
        waiter.await.unwrap().unwrap();
    }

    // spec: limits 12.1
    #[tokio::test(start_paused = true)]
    async fn a_flood_of_tiny_frames_is_refused_and_a_steady_stream_is_not() {
        let budgets = Budgets::default();
        let mut flood = Conduct::new(&budgets);
        let taken = (0..30_000).take_while(|_| flood.frame(0).is_ok()).count();
        assert_eq!(taken, 20_000);
        assert!((0..100_000).all(|_| Conduct::new(&budgets).frame(64).is_ok()));

        let mut steady = Conduct::new(&budgets);
        for _ in 0..60 {
            advance(Duration::from_secs(1)).await;
            assert!((0..5_000).all(|_| steady.frame(8).is_ok()));
        }
    }

    // spec: limits 12.2
    #[tokio::test]
    async fn rejects_are_counted_up_to_their_limit() {
        let mut conduct = Conduct::new(&Budgets::default());
        assert!((0..16).all(|_| conduct.reject().is_ok()));
        assert_eq!(conduct.reject(), Err(LimitExceeded::Rejects { limit: 16 }));
    }
}
