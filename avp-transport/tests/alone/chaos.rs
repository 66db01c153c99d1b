//! Every transport under faults: exactly what was sent or a typed error, in time, and nothing left behind.
//!
//! `AVP_CHAOS_TRANSFERS=1000 cargo test --release -p avp-transport --test alone chaos` runs more than CI does, and
//! `AVP_CHAOS_SEED` other faults; the example `chaos` prints the tables.

use std::env;
use std::time::Duration;

use avp_transport::testing::{Census, ChaosRun, Dice, Ends, Service, honest_transfer};
use avp_transport::{Options, TransportUrl};

use crate::{alone, on_threads};

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number")))
}

/// Runs transfers over `url` and holds the report against what is promised.
fn survives_chaos(url: Option<&str>) {
    on_threads(async {
        let (seed, transfers) = (number("AVP_CHAOS_SEED", 1), number("AVP_CHAOS_TRANSFERS", 100));
        let url: Option<TransportUrl> = url.map(|url| url.parse().unwrap());
        // The first few make what a process makes once: threads, warm buffers, the allocator's arenas.
        ChaosRun::new(url.clone(), seed + 1, 16).run().await.unwrap();
        let report = ChaosRun::new(url, seed, transfers).run().await.unwrap();
        assert_eq!(report.broken_promises(), Vec::<String>::new(), "{report}");
        assert!(report.exact * 10 > transfers * 3, "too little came through to tell: {report}");
        assert!(report.exact < transfers, "nothing went wrong: {report}");
    });
}

#[test]
fn tcp_survives_chaos() {
    alone(|| survives_chaos(Some("avp+tcp://127.0.0.1:0")));
}

#[test]
fn tls_survives_chaos() {
    alone(|| survives_chaos(Some("avp+tls://127.0.0.1:0")));
}

#[test]
fn quic_survives_chaos() {
    alone(|| survives_chaos(Some("avp+quic://127.0.0.1:0")));
}

#[test]
fn http_survives_chaos() {
    alone(|| survives_chaos(Some("http://127.0.0.1:0")));
}

#[test]
fn https_survives_chaos() {
    alone(|| survives_chaos(Some("https://127.0.0.1:0")));
}

#[cfg(target_os = "linux")]
#[test]
fn shared_memory_survives_chaos() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        survives_chaos(Some(&format!("avp+shm://{}/chaos.sock", folder.path().display())));
    });
}

#[test]
fn memory_survives_chaos() {
    alone(|| survives_chaos(Some("avp+mem:chaos")));
}

#[test]
fn byte_streams_survive_chaos() {
    alone(|| survives_chaos(None));
}

#[test]
fn repeated_transfers_do_not_grow_memory() {
    let test = async {
        for url in ["avp+tcp://127.0.0.1:0", "avp+tls://127.0.0.1:0", "avp+mem:growth"] {
            let ends = Ends::secured(Options::default());
            let service = Service::acknowledging(&url.parse().unwrap(), &ends.server).await.unwrap();
            let mut dice = Dice::new(5, &[]);
            let mut round = async || {
                for _ in 0..60 {
                    let len = 64 + dice.below_by_magnitude(4 << 20) as usize;
                    honest_transfer(service.url(), &ends.client, len).await.unwrap();
                }
            };
            round().await;
            let warm = Census::take(&ends.server.pool);
            for _ in 0..4 {
                round().await;
            }
            let after = Census::settled(&warm, &ends.server.pool, Duration::from_secs(30)).await;
            assert_eq!(after.leaks(&warm), None, "{url}: {warm}; {after}");
            assert!(after.growth(&warm) < 32 << 20, "{url}: {warm}; {after}");
        }
    };
    alone(|| on_threads(test));
}
