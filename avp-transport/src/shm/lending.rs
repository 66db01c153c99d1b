//! What is out at the peer: payloads on their way or in use there, kept alive until the peer gives them back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use avp_wire::{BufferSource, Bytes, SourceMemory};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::Interest;

use super::arena::{Arena, Block, NoBlock};
use super::fault::ShmFault;
use super::socket::Socket;
use super::wire::Word;

/// Reads of what the peer has said that are made at a time; one that goes on and on holds up nobody else.
const READS: usize = 64;
/// How often it is looked whether the peer's words about payloads are in order, where small frames follow one another.
pub(super) const LOOK_FRAMES: u32 = 64;
/// Bytes of payloads that the peer has not taken yet; a larger one travels alone.
const WINDOW: u64 = 64 << 20;

/// Why nothing more can be lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The peer receives no more.
    Gone,
    /// It broke the rules.
    Fault(ShmFault),
}

/// The lending side of a connection.
#[derive(Debug)]
pub(super) struct Lending {
    pub(super) arena: Arc<Arena>,
    /// Bytes that may be out.
    pub(super) budget: u64,
    /// Longest payload that goes through the socket.
    pub(super) inline: usize,
    channel: Arc<Socket>,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    loans: HashMap<u64, Loan>,
    next: u64,
    untaken: u64,
    held: u64,
    /// The peer drops everything unseen.
    discarding: bool,
    ended: Option<Ended>,
    /// The start of a word that has not come whole.
    rest: Vec<u8>,
}

#[derive(Debug)]
struct Loan {
    bytes: u64,
    taken: bool,
    /// Keeps the memory from being used again. Empty where the memory is the peer's alone.
    payload: Bytes,
}

impl Lending {
    pub(super) fn new(arena: Arc<Arena>, budget: u64, inline: usize, channel: Arc<Socket>) -> Self {
        Self { arena, budget, inline, channel, book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the peer has said.
    pub(super) fn collect(&self) -> Result<(), Ended> {
        let mut returned = Vec::new();
        let mut book = self.book();
        let mut bytes = [0; 2048];
        for _ in 0..READS {
            if book.ended.is_some() {
                break;
            }
            match rustix::net::recv(&*self.channel, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => book.ended = Some(Ended::Gone),
                Ok((count, _)) => book.apply(bytes.get(..count).unwrap_or_default(), &mut returned),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => book.ended = Some(Ended::Gone),
            }
        }
        let ended = book.ended;
        // Memory goes back to the arena outside the lock.
        drop(book);
        drop(returned);
        ended.map_or(Ok(()), Err)
    }

    /// The rule that the peer has broken, if it has. For those who lend nothing and would not learn of it.
    pub(super) fn fault(&self) -> Option<ShmFault> {
        match self.collect() {
            Err(Ended::Fault(fault)) => Some(fault),
            Ok(()) | Err(Ended::Gone) => None,
        }
    }

    /// Waits until the peer has said something.
    pub(super) async fn news(&self) {
        // An error shows again where it is dealt with, in `collect`.
        let _ = self.channel.ready(Interest::READABLE).await;
    }

    /// Whether a payload may go now: not too much on its way. `None` where the peer drops it anyway.
    pub(super) fn may_send(&self, bytes: u64) -> Option<bool> {
        let book = self.book();
        (!book.discarding).then(|| book.untaken == 0 || book.untaken.saturating_add(bytes) <= WINDOW)
    }

    /// Bytes that are out.
    pub(super) fn held(&self) -> u64 {
        self.book().held
    }

    /// Books a payload of `bytes`, kept alive by `payload`; gives the token to send with it.
    pub(super) fn lend(&self, bytes: u64, payload: Bytes) -> u64 {
        let mut book = self.book();
        let token = book.next;
        book.next = (book.next + 1) & Word::MAX_TOKEN;
        book.untaken = book.untaken.saturating_add(bytes);
        book.held = book.held.saturating_add(bytes);
        book.loans.insert(token, Loan { bytes, taken: false, payload });
        token
    }

    /// Ends the lending: nothing more is lent, and what is out is the peer's alone.
    pub(super) fn end(&self) {
        self.arena.close();
        let mut book = self.book();
        // What the peer still says of them is no news, and no fault of its.
        book.ended.get_or_insert(Ended::Gone);
        let loans = std::mem::take(&mut book.loans);
        drop(book);
        drop(loans);
    }

    /// Takes back a payload that was not sent.
    pub(super) fn cancel(&self, token: u64) {
        let returned = self.book().release(token);
        drop(returned);
    }
}

impl BufferSource for Lending {
    fn take(&self, len: usize) -> Option<Box<dyn SourceMemory>> {
        if len <= self.inline {
            return None;
        }
        let block = self.arena.take(len).or_else(|why| match why {
            // What the peer has given back may not be taken in yet.
            NoBlock::Full if self.collect().is_ok() => self.arena.take(len),
            why => Err(why),
        });
        match block {
            Ok(block) => Some(Box::new(block)),
            Err(why) => {
                tracing::debug!(?why, len, "no shared memory for a buffer; its payload will be copied");
                None
            }
        }
    }
}

impl Book {
    fn apply(&mut self, bytes: &[u8], returned: &mut Vec<Bytes>) {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let (words, rest) = rest.as_chunks::<{ Word::SIZE }>();
        self.rest.extend_from_slice(rest);
        for &word in words {
            let known = match Word::decode(word) {
                Word::Taken(token) => self.taken(token),
                Word::Released(token) => match self.release(token) {
                    Some(payload) => {
                        returned.push(payload);
                        true
                    }
                    None => false,
                },
                Word::Discarding => {
                    self.discard(returned);
                    true
                }
            };
            if !known {
                self.ended = Some(Ended::Fault(ShmFault::UnknownLoan));
                return;
            }
        }
    }

    fn taken(&mut self, token: u64) -> bool {
        match self.loans.get_mut(&token) {
            Some(loan) if !loan.taken => {
                loan.taken = true;
                self.untaken = self.untaken.saturating_sub(loan.bytes);
                true
            }
            _ => false,
        }
    }

    fn release(&mut self, token: u64) -> Option<Bytes> {
        let loan = self.loans.remove(&token)?;
        self.held = self.held.saturating_sub(loan.bytes);
        if !loan.taken {
            self.untaken = self.untaken.saturating_sub(loan.bytes);
        }
        Some(loan.payload)
    }

    fn discard(&mut self, returned: &mut Vec<Bytes>) {
        self.discarding = true;
        let untaken: Vec<u64> =
            self.loans.iter().filter(|(_, loan)| !loan.taken).map(|(&token, _)| token).collect();
        returned.extend(untaken.into_iter().filter_map(|token| self.release(token)));
    }
}

/// A copy of `payload` in a block.
pub(super) fn copy_into(mut block: Block, payload: &[u8]) -> Bytes {
    if let Some(to) = block.as_mut().get_mut(..payload.len()) {
        to.copy_from_slice(payload);
    }
    Bytes::from_owner(block).slice(..payload.len())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    fn lending() -> (Lending, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Lending::new(Arena::new(1 << 20), 1 << 20, 64, Socket::new(ours).unwrap()), theirs)
    }

    async fn say(channel: &UnixStream, words: &[Word]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.encode()).collect();
        // In odd pieces, as a hostile peer may.
        for piece in bytes.chunks(5) {
            channel.writable().await.unwrap();
            assert_eq!(channel.try_write(piece).unwrap(), piece.len());
        }
    }

    // spec: shm 6.4
    #[tokio::test]
    async fn what_is_not_held_cannot_be_taken_or_given_back() {
        for words in [
            &[Word::Released(9)][..],
            &[Word::Taken(9)],
            &[Word::Released(0), Word::Released(0)],
            &[Word::Taken(0), Word::Taken(0)],
            &[Word::Released(0), Word::Taken(0)],
        ] {
            let (lending, theirs) = lending();
            assert_eq!(lending.lend(100, Bytes::new()), 0);
            say(&theirs, words).await;
            assert_eq!(lending.collect(), Err(Ended::Fault(ShmFault::UnknownLoan)), "{words:?}");
            assert_eq!(lending.collect(), Err(Ended::Fault(ShmFault::UnknownLoan)), "it stays so");
        }
    }

    // spec: shm 3.7
    #[tokio::test]
    async fn a_payload_stays_alive_until_it_is_given_back() {
        let (lending, theirs) = lending();
        let block = lending.arena.take(1 << 20).unwrap();
        let token = lending.lend(1 << 20, copy_into(block, &[1; 100]));
        assert!(matches!(lending.arena.take(1), Err(NoBlock::Full)));
        say(&theirs, &[Word::Taken(token), Word::Released(token)]).await;
        lending.news().await;
        lending.collect().unwrap();
        assert_eq!(lending.held(), 0);
        assert!(lending.take(1 << 19).is_some());
        drop(theirs);
        assert_eq!(lending.collect(), Err(Ended::Gone));
    }

    #[tokio::test]
    async fn words_about_what_was_out_when_the_lending_ended_are_no_fault() {
        let (lending, theirs) = lending();
        let token = lending.lend(100, Bytes::new());
        lending.end();
        say(&theirs, &[Word::Taken(token), Word::Released(token)]).await;
        assert_eq!(lending.fault(), None);
        assert_eq!(lending.collect(), Err(Ended::Gone));
    }

    // spec: shm 6.5
    #[tokio::test]
    async fn a_peer_that_discards_has_given_back_what_it_has_not_taken() {
        let (lending, theirs) = lending();
        let (kept, dropped) = (lending.lend(10, Bytes::new()), lending.lend(20, Bytes::new()));
        say(&theirs, &[Word::Taken(kept), Word::Discarding]).await;
        lending.collect().unwrap();
        assert_eq!((lending.held(), lending.may_send(1)), (10, None));
        say(&theirs, &[Word::Released(dropped)]).await;
        assert_eq!(lending.collect(), Err(Ended::Fault(ShmFault::UnknownLoan)));
    }
}
