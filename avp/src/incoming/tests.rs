//! Transfers whose end takes its time, or goes wrong.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use avp_transport::{Peer, PeerAddress};
use avp_wire::{KvDtype, KvHeader, KvPayload, ext};

use super::*;
use crate::places::Room;

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Says that its end has begun, and waits for leave to end.
struct Gate {
    begun: Sender<()>,
    leave: Receiver<()>,
}

impl SlabSink for Gate {
    type Whole = u32;

    fn insert(&mut self, _slab: &Slab) -> Result<(), Reject> {
        Ok(())
    }

    fn finish(self) -> Result<u32, Reject> {
        self.begun.send(()).unwrap();
        self.leave.recv_timeout(LONG).expect("leave to end");
        Ok(7)
    }
}

/// A transfer of two slabs: its manifest, and they.
fn frames() -> (Frame, Vec<Frame>) {
    let kv = KvHeader { num_layers: 2, num_kv_heads: 1, head_dim: 2, seq_len: 3, dtype: KvDtype::F16 };
    let mut payload = vec![0; kv.payload_len().unwrap()];
    kv.write_to(&mut payload).unwrap();
    let cache = KvPayload::parse(payload.into()).unwrap();
    let (manifest, id) = (Manifest::new(kv, 1, 3), "t".parse::<TransferId>().unwrap());
    let slabs = manifest.slabs().map(|slab| {
        let mut out = vec![0; manifest.slab_header(&slab).payload_len().unwrap()];
        manifest.extract(&cache, &slab, &mut out).unwrap();
        manifest.slab_frame(Metadata::default(), &id, &slab, out.into()).unwrap()
    });
    (manifest.to_frame(Metadata::default(), &id), slabs.collect())
}

fn gate() -> (Gate, Receiver<()>, Sender<()>) {
    let ((begun, has_begun), (may_end, leave)) = (channel(), channel());
    (Gate { begun, leave }, has_begun, may_end)
}

fn somebody() -> Peer {
    peer("somebody")
}

fn peer(name: &str) -> Peer {
    Peer::at(PeerAddress::Memory(name.into())).with_identity(name.into())
}

/// Takes everything.
struct Hollow;

impl SlabSink for Hollow {
    type Whole = ();

    fn insert(&mut self, _slab: &Slab) -> Result<(), Reject> {
        Ok(())
    }

    fn finish(self) -> Result<(), Reject> {
        Ok(())
    }
}

/// The manifest of a transfer called `id`.
fn manifest(id: &str) -> Frame {
    let (mut manifest, _) = frames();
    manifest.metadata.extra.insert(ext::TRANSFER.to_owned(), id.to_owned());
    manifest
}

fn transfers() -> Transfers<Gate> {
    Transfers::new(Room { things: 4, bytes: u64::MAX }, LONG, Limits::default())
}

#[test]
fn a_transfer_that_ends_slowly_holds_no_lock_and_is_whole_for_all_who_wait() {
    let (transfers, (manifest, slabs)) = (transfers(), frames());
    let (gate, has_begun, may_end) = gate();
    let (shared, _, mut round) = transfers.manifest(&somebody(), &manifest, |_, _| Ok(gate)).unwrap();
    assert!(shared.slab(&slabs[0], &mut round).ack.is_none());
    thread::scope(|scope| {
        let last = scope.spawn(|| shared.slab(&slabs[1], &mut round));
        has_begun.recv_timeout(LONG).expect("the end begins");
        assert!(shared.incoming.try_lock().is_ok(), "nobody holds the transfer while it ends");
        assert_eq!(shared.progress().0, 2);
        assert!(shared.whole_now().is_none());
        // The sender comes back on another connection, and a question waits.
        let again = scope.spawn(|| transfers.manifest(&somebody(), &manifest, |_, _| panic!("it is known")));
        let question = scope.spawn(|| shared.whole_or(|_| panic!("nothing is missing")));
        thread::sleep(Duration::from_millis(50));
        assert!(
            !again.is_finished() && !question.is_finished(),
            "nothing is acknowledged before it is there"
        );
        may_end.send(()).unwrap();
        let last = last.join().unwrap();
        assert!(last.completed && last.ack.unwrap().is_complete());
        assert!(again.join().unwrap().is_ok_and(|(_, ack, _)| ack.is_complete()));
        assert!(matches!(question.join().unwrap(), Ok(Ok(7))));
    });
}

#[test]
fn a_transfer_whose_end_panics_has_failed_for_all_who_wait() {
    let (transfers, (manifest, slabs)) = (transfers(), frames());
    let (gate, has_begun, may_end) = gate();
    let (shared, _, mut round) = transfers.manifest(&somebody(), &manifest, |_, _| Ok(gate)).unwrap();
    shared.slab(&slabs[0], &mut round);
    thread::scope(|scope| {
        let last = scope.spawn(|| shared.slab(&slabs[1], &mut round));
        has_begun.recv_timeout(LONG).expect("the end begins");
        let waiting = scope.spawn(|| shared.whole());
        drop(may_end);
        assert!(last.join().is_err(), "it panicked");
        let reject = waiting.join().unwrap().unwrap().unwrap_err();
        assert_eq!(reject.code, Some(ErrorCode::Internal));
    });
    // What made it fail may be over.
    let (another, ..) = self::gate();
    let (_, ack, _) = transfers.manifest(&somebody(), &manifest, |_, _| Ok(another)).unwrap();
    assert_eq!(ack.missing(), 2);
}

fn refused<T>(outcome: Result<T, Reject>) -> Option<ErrorCode> {
    outcome.err().and_then(|reject| reject.code)
}

// spec: limits 8.2
#[test]
fn a_peer_that_announced_all_the_contexts_there_is_room_for_keeps_nobody_out() {
    let transfers = Transfers::<Hollow>::new(Room { things: 3, bytes: u64::MAX }, LONG, Limits::default());
    let begin = |name: &str, id: &str| transfers.manifest(&peer(name), &manifest(id), |_, _| Ok(Hollow));
    let (first, mut kept) = (begin("a", "1").unwrap(), Vec::new());
    kept.extend(["2", "3"].map(|id| begin("a", id).unwrap()));
    let (used, .., mut round) = first;
    used.slab(&frames().1[0], &mut round);
    assert_eq!(refused(begin("a", "4")), Some(ErrorCode::Busy));
    let honest = begin("b", "1").unwrap();
    let codes = kept.iter().map(|(shared, ..)| shared.whole_now().and_then(refused));
    assert_eq!(codes.collect::<Vec<_>>(), [Some(ErrorCode::Busy), None], "the longest unused one");
    assert!(used.whole_now().is_none());
    // Two and one: the newcomer has its share, and may not take more.
    assert_eq!(refused(begin("b", "2")), Some(ErrorCode::Busy));
    assert!(honest.0.whole_now().is_none());
    // What is given up says so to whoever goes on with it.
    let (gone, .., round) = &mut kept[0];
    let answer = gone.slab(&frames().1[0], round);
    assert_eq!(answer.refusal.unwrap().code, Some(ErrorCode::Busy));
}

#[test]
fn a_peer_that_announced_all_the_bytes_there_are_keeps_nobody_out() {
    let bytes =
        bytes_of(&KvHeader { num_layers: 2, num_kv_heads: 1, head_dim: 2, seq_len: 3, dtype: KvDtype::F16 });
    let transfers = Transfers::<Hollow>::new(Room { things: 64, bytes: 3 * bytes }, LONG, Limits::default());
    let begin = |name: &str, id: &str| transfers.manifest(&peer(name), &manifest(id), |_, _| Ok(Hollow));
    let held = ["1", "2", "3"].map(|id| begin("a", id).unwrap());
    let honest = begin("b", "1").unwrap();
    assert_eq!(held.iter().filter(|(shared, ..)| shared.whole_now().is_some()).count(), 1);
    assert!(begin("b", "2").is_err() && honest.0.whole_now().is_none());
    let small = Transfers::<Hollow>::new(Room { things: 64, bytes: bytes - 1 }, LONG, Limits::default());
    let never = small.manifest(&peer("c"), &manifest("1"), |_, _| panic!("it is not judged any further"));
    assert_eq!(refused(never), Some(ErrorCode::Busy));
}
