//! The memory that a connection sends payloads from: a few large segments, cut into blocks that are recycled.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::memory::{OwnSegment, Part};
use super::wire::MAX_SEGMENTS;

/// Blocks begin and end at multiples of this.
const STEP: usize = 64 << 10;
/// Segments are at least so large, then as large as all before together, up to `MOST_AHEAD`.
const FIRST: usize = 4 << 20;
const MOST_AHEAD: usize = 64 << 20;

/// Why there is no block.
#[derive(Debug)]
pub(super) enum NoBlock {
    /// The budget is in use.
    Full,
    /// It would not fit the whole budget.
    TooLarge,
    /// The connection is over.
    Closed,
    /// The system gave no memory.
    System(io::Error),
}

/// What the peer has to be told before a block of a segment is sent.
#[derive(Debug)]
pub(super) struct News {
    pub(super) retired: Vec<u32>,
    /// The descriptor and size, where the segment is new to the peer.
    pub(super) segment: Option<(OwnedFd, u64)>,
}

pub(super) struct Arena {
    budget: usize,
    state: Mutex<State>,
    /// Woken when a block comes back.
    freed: Notify,
}

#[derive(Default)]
struct State {
    segments: BTreeMap<u32, Entry>,
    /// Segments that the peer knows and that are gone.
    retired: Vec<u32>,
    next_id: u32,
    /// Bytes of all segments, those being made included.
    bytes: usize,
    /// Segments being made.
    making: usize,
    closed: bool,
}

struct Entry {
    segment: Arc<OwnSegment>,
    /// Offset and length of what no block has.
    free: BTreeMap<usize, usize>,
    announced: bool,
}

impl Arena {
    pub(super) fn new(budget: u64) -> Arc<Self> {
        let budget = usize::try_from(budget).unwrap_or(usize::MAX) / STEP * STEP;
        Arc::new(Self { budget, state: Mutex::default(), freed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least `len` bytes. Makes a segment where none has room, which takes as long as its pages take.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Result<Block, NoBlock> {
        let needed = len.max(1).checked_next_multiple_of(STEP).ok_or(NoBlock::TooLarge)?;
        if needed > self.budget {
            return Err(NoBlock::TooLarge);
        }
        let mut state = self.state();
        if state.closed {
            return Err(NoBlock::Closed);
        }
        if let Some((id, offset)) = state.cut(needed) {
            return self.block(&state, id, offset, needed).ok_or(NoBlock::Full);
        }
        let (size, unused) = state.reserve(needed, self.budget)?;
        drop(state);
        drop(unused);
        let made = OwnSegment::new(size);
        let mut state = self.state();
        state.making -= 1;
        let segment = match made {
            Ok(segment) => Arc::new(segment),
            Err(error) => {
                state.bytes -= size;
                return Err(NoBlock::System(error));
            }
        };
        if state.closed {
            return Err(NoBlock::Closed);
        }
        let id = state.next_id;
        state.next_id = state.next_id.wrapping_add(1);
        let mut free = BTreeMap::new();
        if size > needed {
            free.insert(needed, size - needed);
        }
        state.segments.insert(id, Entry { segment, free, announced: false });
        self.block(&state, id, 0, needed).ok_or(NoBlock::Full)
    }

    #[allow(unsafe_code)]
    fn block(self: &Arc<Self>, state: &State, id: u32, offset: usize, len: usize) -> Option<Block> {
        let segment = &state.segments.get(&id)?.segment;
        // SAFETY: `offset..offset + len` was just taken out of `free`, where only the drop of its block puts it back, so
        // no other part overlaps it.
        let part = unsafe { segment.part(offset, len)? };
        Some(Block { part: Some(part), id, offset, len, arena: Arc::downgrade(self) })
    }

    /// Where `payload` lies, if it is memory of this arena, and what the peer has to be told first.
    ///
    /// The payload is borrowed, so its block is alive, and with it the segment.
    pub(super) fn locate(&self, payload: &[u8]) -> Option<(u32, usize)> {
        let state = self.state();
        state.segments.iter().find_map(|(&id, entry)| Some((id, entry.segment.offset_of(payload)?)))
    }

    /// What the peer has to be told before a payload of segment `id`; it is told once.
    pub(super) fn news(&self, id: u32) -> io::Result<News> {
        let mut state = self.state();
        let segment = match state.segments.get_mut(&id) {
            Some(entry) if !entry.announced => {
                let descriptor = entry.segment.descriptor()?;
                entry.announced = true;
                Some((descriptor, u64::try_from(entry.segment.len()).unwrap_or(u64::MAX)))
            }
            _ => None,
        };
        Ok(News { retired: std::mem::take(&mut state.retired), segment })
    }

    /// Ends the arena: blocks live on until they are dropped, and there are no new ones.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let segments = std::mem::take(&mut state.segments);
        drop(state);
        drop(segments);
    }

    fn give_back(&self, id: u32, offset: usize, len: usize) {
        if let Some(entry) = self.state().segments.get_mut(&id) {
            entry.put_back(offset, len);
        }
        self.freed.notify_one();
    }

    /// Waits until a block has come back since the last call.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl State {
    /// Takes `needed` bytes out of the smallest free range that holds them.
    fn cut(&mut self, needed: usize) -> Option<(u32, usize)> {
        let ranges = self.segments.iter().flat_map(|(&id, entry)| {
            entry.free.iter().filter(|&(_, &len)| len >= needed).map(move |(&at, &len)| (len, id, at))
        });
        let (len, id, offset) = ranges.min()?;
        let entry = self.segments.get_mut(&id)?;
        entry.free.remove(&offset);
        if len > needed {
            entry.free.insert(offset + needed, len - needed);
        }
        Some((id, offset))
    }

    /// Sets bytes of the budget aside for a segment, giving up unused ones where it has to be. Gives its size, and what is
    /// to be unmapped once the lock is free.
    fn reserve(&mut self, needed: usize, budget: usize) -> Result<(usize, Vec<Entry>), NoBlock> {
        let mut unused = Vec::new();
        let fits = |state: &Self| {
            needed <= budget.saturating_sub(state.bytes) && state.segments.len() + state.making < MAX_SEGMENTS
        };
        while !fits(self) {
            let idle = self.segments.iter().find(|(_, entry)| entry.is_unused()).map(|(&id, _)| id);
            let Some((id, entry)) = idle.and_then(|id| self.segments.remove_entry(&id)) else {
                self.restore(unused);
                return Err(NoBlock::Full);
            };
            self.bytes -= entry.segment.len();
            unused.push((id, entry));
        }
        self.retired.extend(unused.iter().filter(|(_, entry)| entry.announced).map(|(id, _)| *id));
        let ahead = self.bytes.clamp(FIRST, MOST_AHEAD).max(needed);
        let size = ahead.min(budget - self.bytes);
        self.bytes += size;
        self.making += 1;
        Ok((size, unused.into_iter().map(|(_, entry)| entry).collect()))
    }

    fn restore(&mut self, unused: Vec<(u32, Entry)>) {
        for (id, entry) in unused {
            self.bytes += entry.segment.len();
            self.segments.insert(id, entry);
        }
    }
}

impl Entry {
    fn is_unused(&self) -> bool {
        self.free.get(&0).is_some_and(|&len| len == self.segment.len())
    }

    fn put_back(&mut self, mut offset: usize, mut len: usize) {
        if let Some((&before, &its)) = self.free.range(..offset).next_back()
            && before + its == offset
        {
            self.free.remove(&before);
            (offset, len) = (before, its + len);
        }
        if let Some(its) = self.free.remove(&(offset + len)) {
            len += its;
        }
        self.free.insert(offset, len);
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Arena")
            .field("budget", &self.budget)
            .field("bytes", &state.bytes)
            .field("segments", &state.segments.len())
            .finish()
    }
}

/// Memory of an arena for one payload. It goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Block {
    /// `None` only while it is dropped.
    part: Option<Part>,
    id: u32,
    offset: usize,
    len: usize,
    arena: Weak<Arena>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.part.as_ref().map(AsRef::as_ref).unwrap_or_default()
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self.part.as_mut().map(AsMut::as_mut).unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // The access ends before another block can have the range.
        self.part = None;
        if let Some(arena) = self.arena.upgrade() {
            arena.give_back(self.id, self.offset, self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(block: &Block) -> (u32, usize, usize) {
        (block.id, block.offset, block.len)
    }

    #[test]
    fn blocks_never_overlap_and_are_recycled() {
        let arena = Arena::new(64 << 20);
        let mut seed = 1_u32;
        let mut held: Vec<Block> = Vec::new();
        for round in 0..2000_u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let len = usize::try_from(seed >> 12).unwrap() % (2 << 20);
            if held.len() > 20 {
                drop(held.swap_remove(usize::try_from(seed >> 8).unwrap() % held.len()));
            }
            let mut block = arena.take(len).unwrap();
            assert!(block.as_ref().len() >= len);
            let mark = round.to_le_bytes();
            block.as_mut()[..4].copy_from_slice(&mark);
            let (id, start, len) = range(&block);
            for other in &held {
                let (other_id, other_start, other_len) = range(other);
                assert!(id != other_id || start + len <= other_start || other_start + other_len <= start);
            }
            held.push(block);
        }
        drop(held);
        let state = arena.state();
        assert!(state.segments.values().all(Entry::is_unused));
        assert!(state.bytes <= 64 << 20 && state.segments.len() < 8);
    }

    #[test]
    fn the_budget_holds_and_unused_segments_make_way() {
        let arena = Arena::new(8 << 20);
        let small = arena.take(100).unwrap();
        assert!(arena.news(small.id).unwrap().segment.is_some());
        assert!(arena.news(small.id).unwrap().segment.is_none(), "a segment is announced once");
        assert!(matches!(arena.take(9 << 20), Err(NoBlock::TooLarge)));
        assert!(matches!(arena.take(8 << 20), Err(NoBlock::Full)));
        let first = small.id;
        drop(small);
        let whole = arena.take(8 << 20).unwrap();
        assert_eq!(arena.news(whole.id).unwrap().retired, [first]);
        assert!(matches!(arena.take(1), Err(NoBlock::Full)));
        assert_eq!(arena.state().bytes, 8 << 20);
    }

    #[test]
    fn a_payload_is_found_wherever_in_a_block_it_lies() {
        let arena = Arena::new(8 << 20);
        let (first, second) = (arena.take(100_000).unwrap(), arena.take(100_000).unwrap());
        let view = &second.as_ref()[17..90_000];
        assert_eq!(arena.locate(view), Some((second.id, second.offset + 17)));
        assert_eq!(arena.locate(&first.as_ref()[5..10]), Some((first.id, first.offset + 5)));
        assert_eq!(arena.locate(&[1, 2, 3]), None);
    }

    #[test]
    fn a_closed_arena_leaves_its_blocks_alone_and_makes_no_more() {
        let arena = Arena::new(8 << 20);
        let mut block = arena.take(100).unwrap();
        arena.close();
        block.as_mut()[0] = 1;
        assert!(matches!(arena.take(100), Err(NoBlock::Closed)));
        drop(block);
    }
}
