//! Peers that break the rules of docs/spec/shm.md: each is a typed error, and never a crash, a hang or a leak.

use std::io::Read as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use avp_transport::{
    Deadline, LimitExceeded, Options, PeerFault, ShmFault, ShmMode, Transfers, TransportError, connect,
};
use avp_wire::{Bytes, Compression, EncodeOptions, ErrorCode, Frame, Metadata};
use rustix::fs::{FallocateFlags, SealFlags};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::common::raw_shm::{self, FIXED, PAGE, Place, Raw, frame, memory, place, record, url};

const SIZE: usize = 64 << 10;

/// What the victim makes of a peer that does this.
async fn outcome(options: &Options, mode: ShmMode, hostile: impl FnOnce(&mut Raw)) -> TransportError {
    let place = place(options).await;
    let (mut raw, mut victim) = Raw::meet(&place, mode).await;
    hostile(&mut raw);
    let error = timeout(Duration::from_secs(10), async {
        loop {
            match victim.recv().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the peer did not finish"),
                Err(error) => break error,
            }
        }
    });
    let error = error.await.expect("found out at once");
    assert!(!error.is_recoverable(), "{error}");
    assert!(victim.recv().await.is_err(), "nothing is read after it");
    error
}

async fn fault(mode: ShmMode, hostile: impl FnOnce(&mut Raw)) -> ShmFault {
    match outcome(&Options::default(), mode, hostile).await {
        error @ TransportError::Peer(PeerFault::SharedMemory { fault, .. }) => {
            assert_eq!(error.code(), ErrorCode::UnexpectedFrame);
            fault
        }
        other => panic!("{other}"),
    }
}

async fn pooled(hostile: impl FnOnce(&mut Raw)) -> ShmFault {
    fault(ShmMode::Pooled, hostile).await
}

// spec: shm 3.1, shm 3.2
#[tokio::test]
async fn memory_without_its_seals_is_not_mapped() {
    let all = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL];
    for missing in all {
        let seals = all.into_iter().filter(|seal| *seal != missing).collect();
        let found = pooled(|raw| raw.segment(0, SIZE, &memory(SIZE, b"", seals))).await;
        assert_eq!(found, ShmFault::Unsealed { write: false });
    }
    for seals in [FIXED, FIXED | SealFlags::FUTURE_WRITE] {
        let hostile = |raw: &mut Raw| raw.segment(0, SIZE, &memory(SIZE, b"", seals));
        assert_eq!(fault(ShmMode::Sealed, hostile).await, ShmFault::Unsealed { write: true });
    }
}

// spec: shm 3.3, shm 3.4, shm 3.5
#[tokio::test]
async fn memory_of_another_size_or_kind_or_with_holes_is_not_mapped() {
    for said in [SIZE + 1, SIZE - 1, 2 * SIZE, 0, usize::MAX / 2] {
        let mut options = Options::default();
        options.shm.peer_arena = u64::MAX;
        let hostile = |raw: &mut Raw| raw.segment(0, said, &memory(SIZE, b"", FIXED));
        let error = outcome(&options, ShmMode::Pooled, hostile).await;
        let expected = ShmFault::Size { said: said as u64, got: SIZE as u64 };
        assert!(
            matches!(error, TransportError::Peer(PeerFault::SharedMemory { fault, .. }) if fault == expected)
        );
    }
    let empty = pooled(|raw| raw.segment(0, 0, &memory(0, b"", FIXED))).await;
    assert_eq!(empty, ShmFault::Size { said: 0, got: 0 });
    let sparse = pooled(|raw| {
        let fd = memory(PAGE, b"", SealFlags::empty());
        rustix::fs::ftruncate(&fd, SIZE as u64).unwrap();
        rustix::fs::fcntl_add_seals(&fd, FIXED).unwrap();
        raw.segment(0, SIZE, &fd);
    });
    assert_eq!(sparse.await, ShmFault::Sparse);
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE as u64).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    for fd in [OwnedFd::from(file), pipe.into(), null.into()] {
        let found = pooled(|raw| raw.segment(0, SIZE, &fd)).await;
        assert!(matches!(found, ShmFault::NotMemory | ShmFault::Unsealed { .. }), "{found}");
    }
}

// spec: shm 4.5
#[tokio::test]
async fn a_payload_outside_of_its_memory_is_not_read() {
    let size = SIZE as u64;
    for (offset, len) in
        [(size, 1), (size - 10, 11), (1, SIZE), (u64::MAX, 1), (u64::MAX - 5, 100), (0, SIZE + 1)]
    {
        let found = pooled(|raw| {
            raw.segment(0, SIZE, &memory(SIZE, b"", FIXED));
            raw.refer(0, offset, 0, len);
        });
        assert_eq!(found.await, ShmFault::OutOfRange { offset, len: len as u64, size });
    }
}

// spec: shm 4.4, shm 4.6
#[tokio::test]
async fn ids_that_are_unknown_or_in_use_are_refused() {
    let fd = memory(SIZE, b"", FIXED);
    assert_eq!(pooled(|raw| raw.refer(7, 0, 0, 10)).await, ShmFault::Segment { id: 7 });
    assert_eq!(pooled(|raw| raw.say(&record(b"SR", 7, 0, 0))).await, ShmFault::Segment { id: 7 });
    let twice = |raw: &mut Raw| (0..2).for_each(|_| raw.segment(7, SIZE, &fd));
    assert_eq!(pooled(twice).await, ShmFault::Segment { id: 7 });
    let retired = |raw: &mut Raw| {
        raw.segment(7, SIZE, &fd);
        raw.say(&record(b"SR", 7, 0, 0));
        raw.refer(7, 0, 0, 10);
    };
    assert_eq!(pooled(retired).await, ShmFault::Segment { id: 7 });
    let sealed = memory(SIZE, b"", FIXED | SealFlags::WRITE);
    let again = |raw: &mut Raw| {
        raw.segment(7, SIZE, &sealed);
        (0..2).for_each(|token| raw.refer(7, 0, token, 10));
    };
    assert_eq!(fault(ShmMode::Sealed, again).await, ShmFault::Segment { id: 7 });
}

// spec: shm 4.2, shm 4.3
#[tokio::test]
async fn descriptors_come_with_their_record_and_only_there() {
    let fd = memory(SIZE, b"", FIXED);
    let (head, payload) = frame(&[1; 100_000]);
    let missing = pooled(|raw| raw.say(&record(b"SG", 0, SIZE as u64, 0))).await;
    assert_eq!(missing, ShmFault::NoDescriptor);
    for hostile in [
        Box::new(|raw: &mut Raw| raw.pass(&[&head[..], &payload].concat()[..], &[&fd]))
            as Box<dyn FnOnce(&mut Raw)>,
        Box::new(|raw: &mut Raw| raw.pass(&record(b"SG", 0, SIZE as u64, 0), &[&fd, &fd])),
        Box::new(|raw: &mut Raw| raw.pass(&record(b"SG", 0, SIZE as u64, 0), &[&fd; 8])),
        // A flood within one payload, a byte at a time.
        Box::new(|raw: &mut Raw| {
            raw.say(&head);
            (0..50).for_each(|_| raw.pass(b"x", &[&fd]));
        }),
    ] {
        assert_eq!(pooled(hostile).await, ShmFault::ExtraDescriptor);
    }
}

// spec: shm 4.2, shm 4.7, shm 7.3
#[tokio::test]
async fn descriptors_that_nobody_asked_for_are_closed_and_bounded() {
    let missing = pooled(|raw| raw.say(&record(b"SD", 0, 0, 1))).await;
    assert_eq!(missing, ShmFault::NoDescriptor);
    let malformed = pooled(|raw| raw.say(&record(b"SD", 1, 0, 1))).await;
    assert_eq!(malformed, ShmFault::Malformed);
    let fd = memory(PAGE, b"", SealFlags::empty());
    let many = |raw: &mut Raw| (0..131).for_each(|token| raw.pass(&record(b"SD", 0, 0, token), &[&fd]));
    assert_eq!(pooled(many).await, ShmFault::Churn);

    let place = place(&Options::default()).await;
    let (mut raw, victim) = Raw::meet(&place, ShmMode::Pooled).await;
    let victim = Transfers::over(victim);
    let mut lane = victim.open("").unwrap();
    let (head, payload) = frame(b"payload");
    let mut ends = Vec::new();
    for token in 0..100 {
        let (end, pipe) = std::io::pipe().unwrap();
        raw.pass(&record(b"SD", 0, 0, token), &[&OwnedFd::from(pipe)]);
        raw.say(&[&head[..], &payload].concat());
        lane.recv().await.unwrap().unwrap();
        ends.push(end);
    }
    // A pipe ends when nobody holds its other end any more.
    for end in &mut ends[..92] {
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }
    let waiting = (0..100).filter(|&token| lane.claim(token).is_some()).collect::<Vec<_>>();
    assert_eq!(waiting, (92..100).collect::<Vec<_>>());
}

// spec: shm 3.6, shm 4.7
#[tokio::test]
async fn more_memory_or_records_than_the_limits_are_refused() {
    let fd = memory(PAGE, b"", FIXED);
    let many = |raw: &mut Raw| (0..65).for_each(|id| raw.segment(id, PAGE, &fd));
    assert!(matches!(pooled(many).await, ShmFault::TooMuchMemory { .. }));
    let mut options = Options::default();
    options.shm.peer_arena = 3 * PAGE as u64;
    let large = |raw: &mut Raw| (0..4).for_each(|id| raw.segment(id, PAGE, &fd));
    let error = outcome(&options, ShmMode::Pooled, large).await;
    assert!(error.to_string().contains("shm.peer_arena"), "{error}");
    let churn = |raw: &mut Raw| {
        for _ in 0..66 {
            raw.segment(0, PAGE, &fd);
            raw.say(&record(b"SR", 0, 0, 0));
        }
    };
    assert_eq!(pooled(churn).await, ShmFault::Churn);
}

// spec: shm 4.8, shm 5.1
#[tokio::test]
async fn what_is_neither_record_nor_short_frame_is_refused() {
    for bytes in [record(b"SX", 0, 0, 0), record(b"SR", 0, 1, 0), record(b"SP", 0, 0, 1 << 62)] {
        assert_eq!(pooled(|raw| raw.say(&bytes)).await, ShmFault::Malformed);
    }
    let (head, _) = frame(&vec![0; (1 << 20) + 1]);
    assert_eq!(pooled(|raw| raw.say(&head)).await, ShmFault::LongInline { len: (1 << 20) + 1 });
    let error = outcome(&Options::default(), ShmMode::Pooled, |raw| raw.say(b"GET / HTTP/1.1\r\n")).await;
    assert!(matches!(error, TransportError::Peer(PeerFault::NotAvp { .. })), "{error}");
}

#[tokio::test]
async fn a_peer_that_stalls_within_a_record_or_head_is_given_up() {
    let mut options = Options::default();
    options.limits.frame_timeout = Duration::from_millis(200);
    let (head, _) = frame(&[0; 100]);
    for bytes in [b"S".to_vec(), record(b"SP", 0, 0, 0), head[..5].to_vec(), head] {
        let error = outcome(&options, ShmMode::Pooled, |raw| {
            raw.segment(0, SIZE, &memory(SIZE, b"", FIXED));
            raw.say(&bytes);
        });
        let TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Receive, .. }) = error.await
        else {
            panic!("no deadline");
        };
    }
}

// spec: shm 3.8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_writes_and_punches_holes_meanwhile_costs_frames_and_never_a_crash() {
    let mut options = Options::default();
    options.budgets.rejects = u32::MAX;
    let place = place(&options).await;
    let (mut raw, mut victim) = Raw::meet(&place, ShmMode::Pooled).await;
    let payload: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
    let zstd = EncodeOptions { compression: Some(Compression::Fast), ..EncodeOptions::default() };
    let frames = [raw_shm::encode(&payload, &EncodeOptions::default()), raw_shm::encode(&payload, &zstd)];
    let size = 4 << 20;
    let fd = memory(size, &[&frames[0].1[..], &frames[1].1].concat(), FIXED);
    let offsets = [0, frames[0].1.len() as u64];
    raw.segment(0, size, &fd);
    // Mapped while it is in order, or its first hole would be found out.
    raw.say(&[record(b"SP", 0, 0, 0), frames[0].0.clone()].concat());
    assert_eq!(victim.recv().await.unwrap().unwrap().payload, payload);
    assert_eq!((raw.hear(), raw.hear()), (0, 1 << 63));
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let scribbling = std::thread::spawn({
        let (fd, done) = (fd.try_clone().unwrap(), std::sync::Arc::clone(&done));
        move || {
            for at in (0..).map(|i: u64| i.wrapping_mul(7919) % (size as u64 - 4096)) {
                rustix::io::pwrite(&fd, &at.to_le_bytes(), at).unwrap();
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&fd, hole, at, 4096).unwrap();
                assert!(rustix::fs::ftruncate(&fd, 0).is_err(), "the size is sealed");
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
    for round in 1..60_u64 {
        let which = usize::try_from(round % 2).unwrap();
        raw.say(&[record(b"SP", 0, offsets[which], round), frames[which].0.clone()].concat());
        match victim.recv().await {
            Ok(frame) => assert_eq!(frame.unwrap().payload.len(), payload.len()),
            Err(error) => assert!(error.is_recoverable(), "{error}"),
        }
        assert_eq!((raw.hear(), raw.hear()), (round, round | 1 << 63), "taken and given back");
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    scribbling.join().unwrap();
}

/// The listener's end, which sends, and a peer that takes nothing of its own accord.
async fn sending(options: &Options) -> (Place, Raw, avp_transport::Connection) {
    let place = place(options).await;
    let (raw, victim) = Raw::meet(&place, ShmMode::Pooled).await;
    (place, raw, victim)
}

fn large(len: usize) -> avp_wire::EncodedFrame {
    let plain = EncodeOptions { checksum: false, ..EncodeOptions::default() };
    Frame::new(Metadata::default(), Bytes::from(vec![1; len])).encode(&plain).unwrap()
}

#[tokio::test]
async fn words_about_payloads_that_are_not_out_end_the_sending() {
    for words in [&[9_u64][..], &[9 | 1 << 63], &[1 << 63, 1 << 63], &[0, 0]] {
        let (_place, mut raw, mut victim) = sending(&Options::default()).await;
        victim.send(large(SIZE + 1)).await.unwrap();
        words.iter().for_each(|&word| raw.word(word));
        let error = victim.send(large(SIZE + 1)).await.unwrap_err();
        let TransportError::Peer(PeerFault::SharedMemory { fault, .. }) = error else { panic!("{error}") };
        assert_eq!(fault, ShmFault::UnknownLoan);
        assert!(victim.send(large(10)).await.is_err());
    }
}

// spec: shm 6.4
#[tokio::test]
async fn words_about_payloads_that_are_not_out_end_a_connection_that_lends_nothing() {
    for words in [&[9_u64][..], &[9 | 1 << 63], &[0], &[1 << 63]] {
        let found = pooled(|raw| words.iter().for_each(|&word| raw.word(word))).await;
        assert_eq!(found, ShmFault::UnknownLoan, "while no frame comes");
        // Frames keep coming, faster than anybody falls asleep.
        let found = pooled(|raw| {
            words.iter().for_each(|&word| raw.word(word));
            let (head, payload) = frame(&[1; 50]);
            (0..100).for_each(|_| raw.say(&[&head[..], &payload].concat()));
        });
        assert_eq!(found.await, ShmFault::UnknownLoan, "while frames come");

        let (_place, mut raw, mut victim) = sending(&Options::default()).await;
        words.iter().for_each(|&word| raw.word(word));
        let mut sent = Ok(());
        for _ in 0..64 {
            sent = sent.and(victim.send(large(10)).await);
        }
        let error = sent.unwrap_err();
        let TransportError::Peer(PeerFault::SharedMemory { fault, .. }) = error else { panic!("{error}") };
        assert_eq!(fault, ShmFault::UnknownLoan);
        assert!(victim.send(large(10)).await.is_err(), "nothing is sent after it");
    }
}

// spec: shm 6.3
#[tokio::test]
async fn a_peer_that_takes_nothing_is_waited_for_until_the_frame_deadline() {
    let mut options = Options::default();
    options.limits.frame_timeout = Duration::from_millis(300);
    let (_place, _raw, mut victim) = sending(&options).await;
    victim.send(large(40 << 20)).await.unwrap();
    let error = victim.send(large(40 << 20)).await.unwrap_err();
    let TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Send, .. }) = error else {
        panic!("{error}");
    };
}

#[tokio::test]
async fn memory_that_is_never_given_back_costs_the_frame_that_needs_it() {
    let mut options = Options::default();
    options.limits.frame_timeout = Duration::from_millis(300);
    options.shm.arena = 8 << 20;
    let (_place, mut raw, mut victim) = sending(&options).await;
    victim.send(large(5 << 20)).await.unwrap();
    raw.word(0);
    let error = victim.send(large(5 << 20)).await.unwrap_err();
    assert!(
        matches!(error, TransportError::Limit(LimitExceeded::SharedMemory { held, .. }) if held == 5 << 20)
    );
    assert!(error.is_recoverable(), "{error}");
    let error = victim.send(large(9 << 20)).await.unwrap_err();
    assert!(error.to_string().contains("shm.arena"), "{error}");
    raw.word(1 << 63);
    victim.send(large(5 << 20)).await.unwrap();
    drop(raw);
    let error = victim.send(large(5 << 20)).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(_)), "{error}");
}

// spec: shm 2.3, shm 2.4
#[tokio::test]
async fn a_listener_that_greets_wrongly_is_found_out_by_the_connector() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fake");
    let fake = UnixListener::bind(&path).unwrap();
    let (tcp, _) = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener)
    };
    let (pipe, _writer) = std::io::pipe().unwrap();
    let good = raw_shm::greeting(ShmMode::Pooled, 1 << 30);
    let cases: [(Vec<u8>, Option<OwnedFd>, ShmFault); 4] = [
        (b"220 mail.example.org ESMTP".to_vec(), None, ShmFault::NotAvp),
        (good.clone(), None, ShmFault::NoDescriptor),
        (good.clone(), Some(tcp.into()), ShmFault::NoDescriptor),
        (good, Some(pipe.into()), ShmFault::NoDescriptor),
    ];
    for (bytes, fd, expected) in cases {
        let listener = fake.try_clone().unwrap();
        let answering = tokio::task::spawn_blocking(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.read_exact(&mut [0; 24]).unwrap();
            raw_shm::pass(&socket, &bytes, &fd.iter().collect::<Vec<_>>());
            socket
        });
        let error = connect(&url(&path), &Options::default()).await.unwrap_err();
        let TransportError::Peer(PeerFault::SharedMemory { fault, .. }) = error else { panic!("{error}") };
        assert_eq!(fault, expected);
        answering.await.unwrap();
    }
}

// spec: shm 2.5
#[tokio::test]
async fn a_side_that_does_not_greet_holds_up_nobody() {
    let mut options = Options::default();
    options.timeouts.connect = Duration::from_millis(200);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("silent");
    let _silent = UnixListener::bind(&path).unwrap();
    let error = connect(&url(&path), &options).await.unwrap_err();
    let TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Connect, .. }) = error else {
        panic!("{error}");
    };
    options.limits.handshake_timeout = Duration::from_secs(1);
    let place = place(&options).await;
    let mut silent = UnixStream::connect(&place.path).await.unwrap();
    let (_raw, _victim) = Raw::meet(&place, ShmMode::Pooled).await;
    let mut byte = [0];
    tokio::select! {
        _ = place.listener.accept() => panic!("accepted without a greeting"),
        read = timeout(Duration::from_secs(30), silent.read(&mut byte)) => {
            assert_eq!(read.expect("it is closed at the deadline").unwrap(), 0);
        }
    }
}
