//! How much longer an honest client takes beside attackers at the same address, and what that costs in memory:
//! `cargo run --release -p avp-transport --features testing --example abuse -- [transport ...] [--attack NAME]`
//!
//! The server and the client are this process, the attacker is one of its own (this example again), except over `avp+mem`,
//! which is of one process. Each attack is measured with an attacker that competes for the cores as any process does, and
//! with one of nice 10, whose own work counts little; what the server does for it counts in full either way.
#![allow(clippy::print_stdout)]

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use avp_transport::testing::{Attack, Ends, Reached, Service, honest_transfer, open_files_limit, resident};
use avp_transport::{Options, Scheme, TransportUrl};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

type Failure = Box<dyn std::error::Error>;

const HALF_OPEN: usize = 10_000;
const SLOW: usize = 500;
const PAYLOAD: usize = 4 << 20;
const TRANSFERS: usize = 15;
/// What the attacker is told: the attack and the address; and, in PEM, whom to trust.
const ATTACKER: &str = "--attacker";
const AUTHORITY: &str = "AVP_ABUSE_AUTHORITY";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // An attacker holds its ends also after the server has dropped its own.
    let files = open_files_limit(HALF_OPEN + 5000);
    let most = HALF_OPEN.min(files.saturating_sub(1000));
    if let [first, attack, url] = &arguments[..]
        && first == ATTACKER
    {
        return attack_from_here(attack, &url.parse()?, most).await;
    }
    let (mut transports, mut chosen) = (Vec::new(), None);
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        if argument == "--attack" { chosen = rest.next() } else { transports.push(argument) }
    }
    if transports.is_empty() {
        transports = ["avp+tcp", "avp+tls", "avp+quic", "http", "https"]
            .map(|scheme| format!("{scheme}://127.0.0.1:0"))
            .into();
        transports.push("avp+mem:abuse".to_owned());
        #[cfg(target_os = "linux")]
        transports.push(format!(
            "avp+shm://{}/avp-abuse-{}.sock",
            env::temp_dir().display(),
            std::process::id()
        ));
    }
    println!(
        "{files} open files allowed; honest transfers of {} MiB, connecting and handshake included, median of {TRANSFERS} \
         beside the attack and of {} without it (before and after); memory is the server's and the client's",
        PAYLOAD >> 20,
        2 * TRANSFERS
    );
    for transport in &transports {
        let url: TransportUrl = transport.parse()?;
        for attack in Attack::on(url.scheme()) {
            if chosen.as_ref().is_some_and(|chosen| *chosen != format!("{attack:?}")) {
                continue;
            }
            for nice in [0, 10] {
                if nice == 0 || url.scheme() != Scheme::Memory {
                    measure(&url, attack, most, nice).await?;
                }
            }
        }
    }
    Ok(())
}

/// The attacker's process. It ends with the one that started it, which its words are for.
async fn attack_from_here(name: &str, url: &TransportUrl, most: usize) -> Result<(), Failure> {
    let attack = named(name, url.scheme())?;
    let options = Ends::trusting(Options::default(), &env::var(AUTHORITY)?);
    let reached = Arc::new(Reached::default());
    tokio::spawn(attack.run(url.clone(), options, connections(attack, most), Arc::clone(&reached)));
    loop {
        let [made, held, sent] = counts(&reached);
        let mut out = std::io::stdout();
        writeln!(out, "{made} {held} {sent}")?;
        out.flush()?;
        sleep(Duration::from_millis(50)).await;
    }
}

fn named(name: &str, scheme: Scheme) -> Result<Attack, Failure> {
    let found = Attack::on(scheme).into_iter().find(|attack| format!("{attack:?}") == name);
    found.ok_or_else(|| format!("no attack {name} on {scheme}").into())
}

fn connections(attack: Attack, most: usize) -> usize {
    if attack == Attack::SlowLoris { SLOW } else { most }
}

fn counts(reached: &Reached) -> [usize; 3] {
    [&reached.connections, &reached.held, &reached.sent].map(|count| count.load(Ordering::Relaxed))
}

/// An attack that ends when this is dropped.
enum Attacker {
    Process(Child),
    Task(JoinHandle<()>),
}

impl Attacker {
    fn start(
        attack: Attack,
        url: &TransportUrl,
        ends: &Ends,
        most: usize,
        nice: u32,
        reached: &Arc<Reached>,
    ) -> Result<Self, Failure> {
        let reached = Arc::clone(reached);
        if url.scheme() == Scheme::Memory {
            let attacking = attack.run(url.clone(), ends.client.clone(), connections(attack, most), reached);
            return Ok(Self::Task(tokio::spawn(attacking)));
        }
        let mut child = Command::new("nice")
            .args(["-n", &nice.to_string()])
            .arg(env::current_exe()?)
            .args([ATTACKER, &format!("{attack:?}"), &url.to_string()])
            .env(AUTHORITY, &ends.authority)
            .stdout(Stdio::piped())
            .spawn()?;
        let words = child.stdout.take().ok_or("no output of the attacker")?;
        std::thread::spawn(move || {
            for line in BufReader::new(words).lines().map_while(Result::ok) {
                let fields: Vec<usize> = line.split(' ').filter_map(|count| count.parse().ok()).collect();
                for (count, field) in
                    [&reached.connections, &reached.held, &reached.sent].into_iter().zip(fields)
                {
                    count.store(field, Ordering::Relaxed);
                }
            }
        });
        Ok(Self::Process(child))
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        match self {
            Self::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Task(task) => task.abort(),
        }
    }
}

async fn measure(url: &TransportUrl, attack: Attack, most: usize, nice: u32) -> Result<(), Failure> {
    // Each attack meets a server of its own.
    let ends = Ends::secured(Options::default());
    let service = Service::acknowledging(url, &ends.server).await?;
    let transfers = async || -> Result<Vec<Duration>, Failure> {
        let mut times = Vec::new();
        for _ in 0..TRANSFERS {
            times.push(honest_transfer(service.url(), &ends.client, PAYLOAD).await?);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(times)
    };
    transfers().await?;
    let mut calm = transfers().await?;
    let before = resident().unwrap_or(0);
    let reached = Arc::new(Reached::default());
    let attacker = Attacker::start(attack, service.url(), &ends, most, nice, &reached)?;
    let begun = Instant::now();
    let wanted = if attack == Attack::HalfOpen { most } else { 0 };
    while (reached.connections.load(Ordering::Relaxed) == 0 || reached.held.load(Ordering::Relaxed) < wanted)
        && begun.elapsed() < Duration::from_secs(30)
    {
        sleep(Duration::from_millis(50)).await;
    }
    sleep(Duration::from_millis(500)).await;
    let disturbed = transfers().await;
    let grown = resident().unwrap_or(0).saturating_sub(before);
    let took = begun.elapsed();
    drop(attacker);
    sleep(Duration::from_millis(500)).await;
    calm.extend(transfers().await?);
    let scheme = service.url().scheme();
    service.stop().await;
    let (attack, [made, held, sent]) = (format!("{attack:?}"), counts(&reached));
    match disturbed {
        Ok(disturbed) => {
            let (alone, beside) = (median(calm), median(disturbed));
            println!(
                "{scheme:<8} {attack:<13} nice {nice:>2}: {:>7.2} ms alone {:>8.2} ms beside it, ratio {:>5.2}; \
                 {:>4} MiB more; {made} connections ({held} held), {sent} sent in {:.1} s",
                alone.as_secs_f64() * 1e3,
                beside.as_secs_f64() * 1e3,
                beside.as_secs_f64() / alone.as_secs_f64(),
                grown >> 20,
                took.as_secs_f64()
            );
        }
        Err(error) => println!("{scheme:<8} {attack:<13} nice {nice:>2}: FAILED: {error}"),
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
