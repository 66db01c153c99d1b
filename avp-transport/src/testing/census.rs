//! What a process holds, to find out what it does not give back: descriptors, tasks, buffers, memory.

use std::fmt;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use avp_wire::BufferPool;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

/// What the process and this runtime hold at one moment. Descriptors and memory are the whole process's, so nothing
/// else may run in it meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Open file descriptors; `None` where the system does not tell (`/proc`).
    pub descriptors: Option<usize>,
    /// Tasks of this runtime that have not ended.
    pub tasks: usize,
    /// Bytes of the pool's buffers that someone still holds.
    pub lent: usize,
    /// Resident memory in bytes; `None` where the system does not tell.
    pub resident: Option<usize>,
    /// Panics of the process since the first census.
    pub panics: usize,
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

impl Census {
    /// Counts now. Called within a runtime.
    #[must_use]
    pub fn take(pool: &BufferPool) -> Self {
        count_panics();
        Self {
            descriptors: descriptors(),
            tasks: Handle::current().metrics().num_alive_tasks(),
            lent: pool.lent_bytes(),
            resident: resident(),
            panics: PANICS.load(Ordering::Relaxed),
        }
    }

    /// Counts again until no more is held than at `before`, at most for `patience`: sockets and tasks end a little
    /// after their owners. Resident memory is not waited for.
    pub async fn settled(before: &Self, pool: &BufferPool, patience: Duration) -> Self {
        let end = Instant::now() + patience;
        loop {
            let now = Self::take(pool);
            if now.leaks(before).is_none() || Instant::now() > end {
                return now;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is held beyond `before`, in words; `None` where nothing is.
    #[must_use]
    pub fn leaks(&self, before: &Self) -> Option<String> {
        let counts = [
            ("descriptors", self.descriptors.unwrap_or(0), before.descriptors.unwrap_or(0)),
            ("tasks", self.tasks, before.tasks),
            ("bytes of buffers", self.lent, before.lent),
        ];
        let more: Vec<String> = counts
            .into_iter()
            .filter(|(_, now, then)| now > then)
            .map(|(what, now, then)| format!("{} {what}", now - then))
            .collect();
        (!more.is_empty()).then(|| more.join(", "))
    }

    /// Bytes by which resident memory has grown since `before`.
    #[must_use]
    pub fn growth(&self, before: &Self) -> usize {
        self.resident.unwrap_or(0).saturating_sub(before.resident.unwrap_or(0))
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |count: Option<usize>| count.map_or("unknown".into(), |count| count.to_string());
        write!(
            f,
            "{} descriptors, {} tasks, {} bytes lent, {} KiB resident, {} panics",
            or_unknown(self.descriptors),
            self.tasks,
            self.lent,
            or_unknown(self.resident.map(|bytes| bytes >> 10)),
            self.panics
        )
    }
}

/// Counts panics of all threads from the first call on.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(info);
        }));
    });
}

fn descriptors() -> Option<usize> {
    // One of them is the folder being read.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// Resident memory of this process in bytes.
#[must_use]
pub fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
