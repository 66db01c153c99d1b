//! An honest client beside attackers at the same address gets its transfer done, and memory stays bounded. How much
//! longer it takes is measured by the example `abuse`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use avp_transport::testing::{Attack, Ends, Reached, Service, honest_transfer, open_files_limit, resident};
use avp_transport::{Incompatible, IoFault, Options, PeerFault, Scheme, TransportError, TransportUrl};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{alone, on_threads};

/// Both ends of every connection are in this process.
const HALF_OPEN: usize = 1000;
/// Time for one honest transfer of 1 MiB.
const GENEROUS: Duration = Duration::from_secs(60);
/// What an attack may add to the memory of this process, the attacker's own included.
const MEMORY: usize = 256 << 20;

fn urls(folder: &TempDir) -> Vec<TransportUrl> {
    let sockets =
        ["avp+tcp", "avp+tls", "avp+quic", "http", "https"].map(|scheme| format!("{scheme}://127.0.0.1:0"));
    let mut urls = Vec::from(sockets);
    urls.push("avp+mem:abuse".to_owned());
    #[cfg(target_os = "linux")]
    urls.push(format!("avp+shm://{}/abuse.sock", folder.path().display()));
    urls.iter().map(|url| url.parse().unwrap()).collect()
}

/// A transfer of a client that comes again, as `avp ask` does: where too many requests come from its address, which it shares
/// with the attacker, or where its connection had to make room.
async fn patient_transfer(url: &TransportUrl, options: &Options) -> Result<(), TransportError> {
    loop {
        match honest_transfer(url, options, 1 << 20).await {
            Err(TransportError::Incompatible(Incompatible::Refused { refusal, .. }))
                if refusal.status == 429 => {}
            Err(TransportError::Io(IoFault::Broken { .. })) => {}
            Err(TransportError::Peer(PeerFault::ClosedInHandshake { .. })) => {}
            outcome => return outcome.map(drop),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn an_honest_client_gets_through(attack: Attack) {
    on_threads(async {
        let files = open_files_limit(4 * HALF_OPEN);
        let folder = tempfile::tempdir().unwrap();
        for url in urls(&folder) {
            if !Attack::on(url.scheme()).contains(&attack) {
                continue;
            }
            // Those of slow loris come back when they are dropped, all at once; a debug build has to keep up with that, and
            // over QUIC each of them is a whole handshake.
            let most = match (attack, url.scheme()) {
                (Attack::SlowLoris, Scheme::Quic) => 100,
                (Attack::SlowLoris, _) => 300,
                _ => HALF_OPEN,
            };
            let most = most.min(files / 4);
            let ends = Ends::secured(Options::default());
            let service = Service::acknowledging(&url, &ends.server).await.unwrap();
            honest_transfer(service.url(), &ends.client, 1 << 20).await.unwrap();
            let before = resident();
            let reached = Arc::new(Reached::default());
            let attacking = tokio::spawn(attack.run(
                service.url().clone(),
                ends.client.clone(),
                most,
                Arc::clone(&reached),
            ));
            for _ in 0..5 {
                sleep(Duration::from_millis(200)).await;
                let came_through = timeout(GENEROUS, patient_transfer(service.url(), &ends.client)).await;
                came_through
                    .unwrap_or_else(|_| panic!("{url}: no transfer within {GENEROUS:?} beside {attack:?}"))
                    .unwrap_or_else(|error| panic!("{url} beside {attack:?}: {error}"));
            }
            let grown = resident().unwrap_or(0).saturating_sub(before.unwrap_or(0));
            attacking.abort();
            let _ = attacking.await;
            service.stop().await;
            // Each connection that a client gives up over QUIC keeps an endpoint of its own until it has drained.
            let attackers_own = (attack, url.scheme()) == (Attack::OpenAndCancel, Scheme::Quic);
            assert!(grown < MEMORY || attackers_own, "{url} beside {attack:?}: {} MiB more", grown >> 20);
            // Given up within 2 ms, none of them may come about.
            let attempts = match attack {
                Attack::OpenAndCancel => &reached.sent,
                _ => &reached.connections,
            };
            assert!(attempts.load(Ordering::Relaxed) > 0, "{url}: {attack:?} did not attack");
        }
    });
}

#[test]
fn beside_slow_loris() {
    alone(|| an_honest_client_gets_through(Attack::SlowLoris));
}

// spec: limits 8.1
#[test]
fn beside_half_open_connections() {
    alone(|| an_honest_client_gets_through(Attack::HalfOpen));
}

#[test]
fn beside_a_flood_of_hellos() {
    alone(|| an_honest_client_gets_through(Attack::HelloFlood));
}

#[test]
fn beside_tls_handshakes_that_are_not_gone_on_with() {
    alone(|| an_honest_client_gets_through(Attack::ClientHellos));
}

#[test]
fn beside_a_flood_of_tiny_frames() {
    alone(|| an_honest_client_gets_through(Attack::TinyFrames));
}

#[test]
fn beside_connections_that_are_opened_and_given_up() {
    alone(|| an_honest_client_gets_through(Attack::OpenAndCancel));
}

#[cfg(target_os = "linux")]
#[test]
fn beside_a_flood_of_requests() {
    alone(|| an_honest_client_gets_through(Attack::Requests));
}
