//! Two processes: what they hand each other, and what is left where one is killed.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use avp_transport::{IoFault, Options, PeerAddress, TransportError, connect};
use tokio::time::timeout;

use super::send;
use crate::common::raw_shm::{place, url};

/// Runs this test's other half in a process of its own.
fn process(role: &str, path: &Path) -> Child {
    let me = std::env::current_exe().unwrap();
    Command::new(me)
        .args(["--ignored", "--exact", "shm::processes::the_other_process"])
        .env("AVP_SHM_TEST", role)
        .env("AVP_SHM_PATH", path)
        .spawn()
        .unwrap()
}

const LARGE: usize = 64 << 20;

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let pages = (0..len.div_ceil(4096)).flat_map(|page| [page as u8 ^ seed; 4096]);
    pages.take(len).collect()
}

#[tokio::test]
#[ignore = "the other process of the tests below, which start it"]
async fn the_other_process() {
    let (role, path) = (std::env::var("AVP_SHM_TEST").unwrap(), std::env::var_os("AVP_SHM_PATH").unwrap());
    let mut peer = connect(&url(Path::new(&path)), &Options::default()).await.unwrap();
    match &*role {
        "hand over" => {
            let mut buffer = peer.options().pool.get(LARGE, 0);
            buffer.copy_from_slice(&pattern(LARGE, 1));
            send(&mut peer, buffer.freeze()).await.unwrap();
            let answer = peer.recv().await.unwrap().unwrap();
            assert_eq!(answer.payload, pattern(LARGE, 2));
            drop(answer);
            peer.close().await.unwrap();
        }
        "send on" => {
            for seed in 0.. {
                send(&mut peer, pattern(1 << 20, seed % 250)).await.unwrap();
            }
        }
        "hold" => {
            let mut held = Vec::new();
            while let Some(frame) = peer.recv().await.unwrap() {
                held.push(frame);
            }
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_hand_each_other_64_mib() {
    let place = place(&Options::default()).await;
    let mut child = process("hand over", &place.path);
    let mut peer = place.listener.accept().await.unwrap();
    assert!(matches!(peer.peer().address(), PeerAddress::Process { pid, .. } if *pid == Some(child.id())));
    let frame = peer.recv().await.unwrap().unwrap();
    assert_eq!(frame.payload, pattern(LARGE, 1));
    send(&mut peer, pattern(LARGE, 2)).await.unwrap();
    peer.close().await.unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(frame.payload, pattern(LARGE, 1), "also after the process is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_killed_leaves_whole_frames_and_an_end() {
    let place = place(&Options::default()).await;
    let mut child = process("send on", &place.path);
    let mut peer = place.listener.accept().await.unwrap();
    let mut held = Vec::new();
    for seed in 0..20 {
        let frame = peer.recv().await.unwrap().unwrap();
        assert_eq!(frame.payload, pattern(1 << 20, seed));
        held.push(frame);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = timeout(Duration::from_secs(10), async {
        while let Ok(Some(frame)) = peer.recv().await {
            assert_eq!(frame.payload.len(), 1 << 20);
        }
    });
    ended.await.unwrap();
    for (seed, frame) in (0..).zip(&held) {
        assert_eq!(frame.payload, pattern(1 << 20, seed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_killed_while_it_holds_memory_fails_the_sender_at_once() {
    let mut options = Options::default();
    options.shm.arena = 16 << 20;
    let place = place(&options).await;
    let mut child = process("hold", &place.path);
    let mut peer = place.listener.accept().await.unwrap();
    let (error, ()) = tokio::join!(
        async {
            loop {
                if let Err(error) = send(&mut peer, pattern(1 << 20, 0)).await {
                    break error;
                }
            }
        },
        async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            child.kill().unwrap();
        }
    );
    assert!(matches!(error, TransportError::Io(IoFault::Broken { .. })), "{error}");
    child.wait().unwrap();
}
