//! Descriptors and mappings of shared memory come back.

use std::fs;

use avp_transport::{Options, ShmMode, TransportUrl, connect, listen};
use avp_wire::{EncodeOptions, Frame, Metadata};

use crate::{alone, on_one_thread};

fn in_use() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    (fs::read_dir("/proc/self/fd").unwrap().count(), maps.matches("memfd:avp").count())
}

#[test]
fn after_200_connections_descriptors_and_mappings_are_as_before() {
    alone(|| on_one_thread(connect_200_times()));
}

async fn connect_200_times() {
    let directory = tempfile::tempdir().unwrap();
    let url = TransportUrl::SharedMemory { path: directory.path().join("avp.sock") };
    let listener = listen(&url, &Options::default()).await.unwrap();
    let mut before = None;
    for round in 0..=200 {
        // The first sets up what stays, such as the runtime's own descriptors.
        if round == 1 {
            before = Some(in_use());
        }
        let mut options = Options::default();
        options.shm.mode = if round % 2 == 0 { ShmMode::Pooled } else { ShmMode::Sealed };
        let (client, server) = tokio::join!(connect(&url, &options), listener.accept());
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        let mut buffer = client.options().pool.get(200_000, 0);
        buffer.fill(7);
        let encoded =
            Frame::new(Metadata::default(), buffer.freeze()).encode(&EncodeOptions::default()).unwrap();
        client.send(encoded.clone()).await.unwrap();
        let frame = server.recv().await.unwrap().unwrap();
        server.send(encoded).await.unwrap();
        assert!(in_use().1 > 0);
        match round % 3 {
            0 => {
                let (ours, theirs) = tokio::join!(client.close(), server.close());
                ours.unwrap();
                theirs.unwrap();
            }
            // Dropped with a frame on its way.
            1 => drop((client, server)),
            _ => drop((server, client)),
        }
        assert_eq!(frame.payload.len(), 200_000);
    }
    assert_eq!(Some(in_use()), before);
}
