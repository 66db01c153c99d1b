//! What shared memory costs, beside what the same machine does without it, in the same run:
#![allow(clippy::print_stdout, clippy::unwrap_used)]
//! `cargo run --release -p avp-transport --features testing --example shm_rate`

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::hint::black_box;
    use std::io::{Read, Write};
    use std::thread;
    use std::time::{Duration, Instant};

    use avp_transport::{Connection, Options, TransportUrl, connect, listen};
    use avp_wire::{EncodeOptions, Frame, Metadata};
    use rustix::event::{EventfdFlags, eventfd};
    use tokio::runtime::{Builder, Runtime};

    const ROUNDS: usize = 9;
    const LARGE: usize = 1 << 30;
    const TRIPS: usize = 5_000;

    pub(super) fn main() {
        let directory = tempfile::tempdir().unwrap();
        let url = TransportUrl::SharedMemory { path: directory.path().join("rate.sock") };
        hand_over(&url);
        println!("bare eventfd ping-pong, 1 KiB frame round trip, in us");
        for (name, busy_poll, runtime) in [
            ("as it is", None, one_thread as fn() -> Runtime),
            ("in a task of a pool of 2 threads", None, two_threads),
            ("without busy polling", Some(Duration::ZERO), one_thread),
        ] {
            let mut options = options();
            options.shm.busy_poll = busy_poll.unwrap_or(options.shm.busy_poll);
            round_trips(name, &url, &options, runtime);
        }
    }

    fn one_thread() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn two_threads() -> Runtime {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    fn options() -> Options {
        let mut options = Options::default();
        options.limits.verify_checksum = false;
        options
    }

    /// Two ends, each to be used on a thread of its own, as two processes would be.
    fn pair(
        client: &Runtime,
        server: &Runtime,
        url: &TransportUrl,
        options: &Options,
    ) -> (Connection, Connection) {
        let listener = server.block_on(listen(url, options)).unwrap();
        thread::scope(|scope| {
            let accepting = scope.spawn(|| server.block_on(listener.accept()).unwrap());
            (client.block_on(connect(url, options)).unwrap(), accepting.join().unwrap())
        })
    }

    fn hand_over(url: &TransportUrl) {
        let (client_runtime, server_runtime) = (one_thread(), one_thread());
        let (mut client, mut server) = pair(&client_runtime, &server_runtime, url, &options());
        let plain = EncodeOptions { checksum: false, ..EncodeOptions::default() };
        let source = vec![3_u8; LARGE];
        let mut target = vec![1_u8; LARGE];
        let (mut times, mut fills) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let start = Instant::now();
            target.copy_from_slice(&source);
            black_box(&mut target);
            let warm = start.elapsed();
            let mut buffer = client.options().pool.get(LARGE, 0);
            let start = Instant::now();
            buffer.copy_from_slice(&source);
            let fill = start.elapsed();
            let frame = Frame::new(Metadata::default(), buffer.freeze()).encode(&plain).unwrap();
            let taken = thread::scope(|scope| {
                let receiving = scope.spawn(|| {
                    let frame = server_runtime.block_on(server.recv()).unwrap().unwrap();
                    let at = Instant::now();
                    assert_eq!((frame.payload.len(), frame.payload[LARGE - 1]), (LARGE, 3));
                    at
                });
                // The receiver waits already.
                thread::sleep(Duration::from_millis(20));
                let start = Instant::now();
                client_runtime.block_on(client.send(frame)).unwrap();
                receiving.join().unwrap() - start
            });
            // The first makes the arena.
            if round > 0 {
                times.push(taken.as_secs_f64());
                fills.push(warm.as_secs_f64() / fill.as_secs_f64());
            }
        }
        println!("median of {ROUNDS} rounds");
        println!("1 GiB handed over after it was filled   {:8.1} us", median(times) * 1e6);
        println!("filling a warm arena buffer / memcpy into warm memory   rate ratio {:.2}", median(fills));
    }

    fn round_trips(name: &str, url: &TransportUrl, options: &Options, runtime: fn() -> Runtime) {
        let (client_runtime, server_runtime) = (runtime(), runtime());
        let (mut client, mut server) = pair(&client_runtime, &server_runtime, url, options);
        let frame =
            Frame::new(Metadata::default(), vec![1; 1 << 10]).encode(&EncodeOptions::default()).unwrap();
        let echoed = frame.clone();
        let echoing = server_runtime.spawn(async move {
            while let Some(_frame) = server.recv().await.unwrap() {
                server.send(echoed.clone()).await.unwrap();
            }
        });
        let (mut ratios, mut bare, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        // A runtime of one thread runs its tasks within `block_on`.
        let serving = thread::spawn(move || server_runtime.block_on(echoing).unwrap());
        for _ in 0..ROUNDS {
            let base = eventfds();
            let frame = frame.clone();
            let trips = client_runtime.spawn(async move {
                let start = Instant::now();
                for _ in 0..TRIPS {
                    client.send(frame.clone()).await.unwrap();
                    client.recv().await.unwrap().unwrap();
                }
                (client, start.elapsed().as_secs_f64() / TRIPS as f64)
            });
            let (back, trip) = client_runtime.block_on(trips).unwrap();
            client = back;
            bare.push(base * 1e6);
            ours.push(trip * 1e6);
            ratios.push(trip / base);
        }
        drop(client);
        serving.join().unwrap();
        let (bare, ours, ratio) = (median(bare), median(ours), median(ratios));
        println!("{name:34} {bare:6.2} {ours:6.2}, ratio {ratio:.2}");
    }

    /// Seconds of a round trip between two threads that wake each other by eventfds.
    fn eventfds() -> f64 {
        let make = || File::from(eventfd(0, EventfdFlags::empty()).unwrap());
        let (there, back) = (make(), make());
        let one = 1_u64.to_ne_bytes();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..TRIPS {
                    (&there).read_exact(&mut [0; 8]).unwrap();
                    (&back).write_all(&one).unwrap();
                }
            });
            let start = Instant::now();
            for _ in 0..TRIPS {
                (&there).write_all(&one).unwrap();
                (&back).read_exact(&mut [0; 8]).unwrap();
            }
            start.elapsed().as_secs_f64() / TRIPS as f64
        })
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    }
}
