//! Looking for frames instead of sleeping: what it may not cost. Beside other tests there might be no place to look.

use std::time::Duration;

use avp_transport::{Connection, Options, connect};
use avp_wire::{EncodeOptions, Frame, Metadata};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{sleep, timeout};

use crate::common::raw_shm::{Place, place, url};
use crate::{alone, on_one_thread, on_threads};

async fn pair(options: &Options) -> (Place, Connection, Connection) {
    let place = place(options).await;
    let url = url(&place.path);
    let (client, server) = tokio::join!(connect(&url, options), place.listener.accept());
    (place, client.unwrap(), server.unwrap())
}

fn busy(busy_poll: Duration) -> Options {
    let mut options = Options::default();
    options.timeouts.busy_poll = busy_poll;
    options
}

/// Frames to and fro, so often that both sides find out that looking pays.
async fn trips(client: &mut Connection, server: &mut Connection, count: u8) {
    for payload in 0..count {
        pass(client, server, payload).await;
        pass(server, client, payload).await;
    }
}

async fn pass(from: &mut Connection, to: &mut Connection, payload: u8) {
    let (frame, encoding) =
        (Frame::new(Metadata::default(), vec![payload; 1 << 10]), EncodeOptions::default());
    let (sent, got) = tokio::join!(from.send_frame(&frame, &encoding), to.recv());
    sent.unwrap();
    assert_eq!(got.unwrap().unwrap().payload, frame.payload);
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn an_idle_connection_uses_no_cpu_after_brisk_traffic() {
    let test = async {
        let (_place, mut client, mut server) = pair(&Options::default()).await;
        trips(&mut client, &mut server, 200).await;
        let before = thread_time();
        let idle = timeout(Duration::from_millis(300), async { tokio::join!(client.recv(), server.recv()) });
        assert!(idle.await.is_err(), "nothing came");
        let used = thread_time() - before;
        assert!(used < Duration::from_millis(30), "{used:?} of 300 ms");
    };
    alone(|| on_one_thread(test));
}

#[test]
fn one_that_looks_for_long_leaves_other_tasks_and_timers_their_turn() {
    let test = async {
        let (_place, mut client, mut server) = pair(&busy(Duration::from_secs(3600))).await;
        trips(&mut client, &mut server, 50).await;
        let other = tokio::spawn(async {
            for _ in 0..20 {
                sleep(Duration::from_millis(1)).await;
            }
        });
        tokio::select! {
            biased;
            _ = async { tokio::join!(client.recv(), server.recv()) } => panic!("nothing was sent"),
            done = timeout(Duration::from_secs(30), other) => done.expect("its turn").unwrap(),
        }
        trips(&mut client, &mut server, 50).await;
    };
    alone(|| on_one_thread(test));
}

#[test]
fn frames_arrive_in_whichever_way_they_are_waited_for() {
    let test = async {
        for busy_poll in [Duration::ZERO, Duration::from_micros(50), Duration::from_secs(3600)] {
            let (_place, mut client, mut server) = pair(&busy(busy_poll)).await;
            for pause in [0, 1, 0, 5] {
                trips(&mut client, &mut server, 50).await;
                sleep(Duration::from_millis(pause)).await;
            }
            drop(client);
            assert!(server.recv().await.unwrap().is_none());
        }
    };
    alone(|| on_threads(test));
}
