//! Tests that count what a process holds or set what it has once: descriptors, memory, panics, receivers that look for
//! frames, the subscriber of spans. Each runs in a process of its own, one after the other, where nothing else changes
//! what is counted.

#[path = "../common/mod.rs"]
mod common;

mod abuse;
mod chaos;
#[cfg(target_os = "linux")]
mod shm_busy;
#[cfg(target_os = "linux")]
mod shm_leaks;
mod telemetry_secrets;

use std::any::type_name;
use std::env;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Names the test that a process is for.
const ALONE: &str = "AVP_TEST_ALONE";

/// Runs the test that calls this in a process of its own. `test` has to be a closure written in that test, since its
/// type's name tells which one.
fn alone<F: FnOnce()>(test: F) {
    static TURN: Mutex<()> = Mutex::new(());
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, name) = path.split_once("::").unwrap();
    if env::var(ALONE).is_ok_and(|alone| alone == name) {
        return test();
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let me = env::current_exe().unwrap();
    let run = Command::new(me).args(["--exact", name, "--nocapture"]).env(ALONE, name).output().unwrap();
    let (said, cried) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{name} by itself: {}\n{said}\n{cried}",
        run.status
    );
}

fn on_one_thread(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn on_threads(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}
