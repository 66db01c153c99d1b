//! Memory that goes without a copy, paths, and users.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use avp_transport::{
    Incompatible, IoFault, Options, PeerAddress, ShmMode, Transfers, TransportError, UsageError, connect,
    listen, memory_pair,
};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata};
use tokio::time::timeout;

use super::{pair, send};
use crate::common::raw_shm::{place, url};

#[tokio::test]
async fn a_buffer_of_the_connection_s_pool_goes_without_a_copy_and_comes_back() {
    const LEN: usize = 6 << 20;
    let mut options = Options::default();
    // No room for the buffer and a copy.
    options.shm.arena = 8 << 20;
    let (_place, mut client, mut server) = pair(&options, &Options::default()).await;
    let mut address = None;
    for round in 0..3 {
        let mut buffer = client.options().pool.get(LEN, 0);
        assert_eq!(*address.get_or_insert(buffer.as_ptr()), buffer.as_ptr(), "the same memory again");
        buffer.fill(round);
        let payload = buffer.freeze();
        // Parts of a buffer go too.
        send(&mut client, payload.slice(1000..)).await.unwrap();
        send(&mut client, payload).await.unwrap();
        for len in [LEN - 1000, LEN] {
            let frame = server.recv().await.unwrap().unwrap();
            assert!(frame.payload.len() == len && frame.payload.iter().all(|&byte| byte == round));
        }
    }
    let error = send(&mut client, vec![0; 9 << 20]).await.unwrap_err();
    assert!(error.to_string().contains("shm.arena"), "{error}");
    let held = client.options().pool.get(LEN, 0);
    assert_eq!(
        client.options().pool.get(LEN, 0).len(),
        LEN,
        "ordinary memory where shared memory is used up"
    );
    drop(held);
}

// spec: shm 7.1, shm 7.2
#[tokio::test]
async fn a_descriptor_goes_before_the_frame_that_names_it() {
    let (_place, client, server) = pair(&Options::default(), &Options::default()).await;
    assert!(client.passes_descriptors() && server.passes_descriptors());
    let (client, server) = (Transfers::over(client), Transfers::over(server));
    for round in 0..20 {
        let sender = client.open(&format!("{round}")).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(format!("round {round}").as_bytes()).unwrap();
        let token = sender.pass(file.into()).await.unwrap();
        let frame = Frame::new(Metadata::default(), token.to_le_bytes().to_vec());
        sender.send(frame, &EncodeOptions::default()).await.unwrap();
        let mut receiver = server.accept().await.unwrap().unwrap();
        let named = receiver.recv().await.unwrap().unwrap();
        let token = u64::from_le_bytes(named.payload[..].try_into().unwrap());
        let mut file = File::from(receiver.claim(token).unwrap());
        file.rewind().unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), format!("round {round}"));
        assert!(receiver.claim(token).is_none(), "claimed once");
    }
}

#[tokio::test]
async fn other_transports_pass_no_descriptors() {
    let (client, _server) = memory_pair("alone", &Options::default());
    assert!(!client.passes_descriptors());
    let lane = Transfers::over(client).open("t").unwrap();
    let error = lane.pass(File::open("/dev/null").unwrap().into()).await.unwrap_err();
    assert!(error.to_string().contains("shared memory"), "{error}");
    assert!(lane.claim(0).is_none());
}

#[tokio::test]
async fn a_frame_outlives_its_connection() {
    for mode in [ShmMode::Pooled, ShmMode::Sealed] {
        let mut options = Options::default();
        options.shm.mode = mode;
        let (place, mut client, mut server) = pair(&options, &Options::default()).await;
        send(&mut client, vec![7; 1 << 20]).await.unwrap();
        let frame = server.recv().await.unwrap().unwrap();
        drop((client, server, place));
        assert!(frame.payload.len() == 1 << 20 && frame.payload.iter().all(|&byte| byte == 7));
    }
}

// spec: shm 2.2
#[tokio::test]
async fn the_side_that_asks_for_sealed_memory_gets_it() {
    let mut sealed = Options::default();
    sealed.shm.mode = ShmMode::Sealed;
    let plain = Options::default();
    for (client, server, pooled) in
        [(&sealed, &plain, false), (&plain, &sealed, false), (&plain, &plain, true)]
    {
        let (_place, client, server) = pair(client, server).await;
        for side in [client, server] {
            assert_eq!(format!("{:?}", side.options().pool).contains("Arena"), pooled);
        }
    }
}

#[tokio::test]
async fn the_process_at_the_other_end_is_known() {
    let (place, client, server) = pair(&Options::default(), &Options::default()).await;
    let uid = rustix::process::geteuid().as_raw();
    let address = PeerAddress::Process { path: place.path.clone(), uid, pid: Some(std::process::id()) };
    for side in [&client, &server] {
        assert_eq!(side.peer().address(), &address);
        assert_eq!(side.peer().identity(), Some(&*format!("uid:{uid}")));
    }
}

// spec: shm 1.1
#[tokio::test]
async fn a_path_that_no_socket_can_have_is_refused_with_its_length() {
    let path = Path::new("/tmp").join("x".repeat(103));
    for error in [
        listen(&url(&path), &Options::default()).await.map(drop).unwrap_err(),
        connect(&url(&path), &Options::default()).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, TransportError::Usage(UsageError::SocketPath { len: 108, limit: 107, .. })));
        assert!(error.to_string().contains("108 bytes, at most 107"), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    let room = 107 - directory.path().as_os_str().len() - 1;
    let longest = directory.path().join("x".repeat(room));
    let options = Options::default();
    let listener = listen(&url(&longest), &options).await.unwrap();
    let (client, server) = tokio::join!(connect(listener.local_url(), &options), listener.accept());
    assert!(client.is_ok() && server.is_ok());
}

// spec: shm 1.2, shm 1.3
#[tokio::test]
async fn only_dead_sockets_are_replaced_and_only_own_ones_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("avp.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err(), "left over from a dead process");
    let listener = listen(&url(&path), &Options::default()).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = listen(&url(&path), &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::SocketInUse { .. })), "{error}");
    assert!(UnixStream::connect(&path).is_ok(), "it was left alone");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing temporary is left");

    fs::remove_file(&path).unwrap();
    let other = listen(&url(&path), &Options::default()).await.unwrap();
    drop(listener);
    assert!(UnixStream::connect(&path).is_ok(), "another one's file stays");
    drop(other);
    assert!(!path.exists());

    for make in
        [|path: &Path| fs::write(path, "precious").unwrap(), |path: &Path| fs::create_dir(path).unwrap()]
    {
        make(&path);
        let error = listen(&url(&path), &Options::default()).await.unwrap_err();
        assert!(matches!(error, TransportError::Usage(UsageError::NotASocket { .. })), "{error}");
        assert!(path.exists());
        let _ = fs::remove_file(&path);
    }
    let error = listen(&url(&directory.path().join("no/such")), &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::BindSocket { .. })), "{error}");
    let error = connect(&url(&directory.path().join("nobody")), &Options::default()).await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Unreachable { .. })), "{error}");
}

/// Runs `then` on a thread that belongs to another user; `None` where this process may not do that.
fn as_another_user<T: Send + 'static>(then: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let nobody = rustix::fs::Uid::from_raw(65_534);
    let switched = move || rustix::thread::set_thread_res_uid(nobody, nobody, nobody).is_ok().then(then);
    std::thread::spawn(switched).join().unwrap()
}

// spec: shm 1.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_is_refused_by_both_sides_unless_it_is_listed() {
    let mut listed = Options::default();
    listed.shm.uids = vec![65_534];
    for (server, connects) in [(Options::default(), false), (listed, true)] {
        let place = place(&server).await;
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(place.path.parent().unwrap(), 0o755);
        open(&place.path, 0o666);
        let path = place.path.clone();
        let visiting = tokio::task::spawn_blocking(move || {
            as_another_user(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let mut trusting = Options::default();
                trusting.shm.uids = vec![0];
                let wary = runtime.block_on(connect(&url(&path), &Options::default())).map(drop);
                (wary, runtime.block_on(connect(&url(&path), &trusting)).map(drop))
            })
        });
        let patience = Duration::from_secs(if connects { 30 } else { 2 });
        let (visited, accepted) = tokio::join!(visiting, timeout(patience, place.listener.accept()));
        // Only the superuser can become another user.
        let Some((wary, trusting)) = visited.unwrap() else { return };
        let error = wary.unwrap_err();
        assert!(matches!(error, TransportError::Incompatible(Incompatible::User { uid: 0, .. })), "{error}");
        assert_eq!(error.code(), ErrorCode::Unauthorized);
        assert_eq!((trusting.is_ok(), accepted.is_ok()), (connects, connects));
        if let Err(error) = trusting {
            assert!(
                matches!(error, TransportError::Incompatible(Incompatible::NotLetIn { code: 509, .. })),
                "{error}"
            );
        }
    }
}
