//! Which tokens a grammar allows next.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::GrammarError;
use super::machine::{Machine, State, Work};
use super::pieces::TokenPieces;
use super::rules::Rules;
use super::utf8::{Partial, Utf8};

/// What it may cost to follow one token, and to ask about all of them.
const TOKEN_WORK: u32 = 1 << 21;
const MASK_WORK: u32 = 1 << 22;
/// Masks that are kept: within a string or a list the same ones come up again and again.
const MAX_MASKS: usize = 64;

/// A text that a grammar is followed by, token by token ([`Grammar::constraint`](super::Grammar::constraint)).
#[derive(Debug)]
pub struct GrammarConstraint {
    machine: Machine,
    pieces: Arc<TokenPieces>,
    position: Position,
    masks: HashMap<Position, Arc<[bool]>>,
}

/// Where in the grammar a text is: after whole characters, and the begun one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Position {
    state: State,
    partial: Partial,
}

impl GrammarConstraint {
    pub(super) fn new(rules: Arc<Rules>, pieces: Arc<TokenPieces>) -> Result<Self, GrammarError> {
        let (machine, state) = Machine::new(rules, &mut Work(TOKEN_WORK))?;
        let position = Position { state, partial: Partial::default() };
        Ok(Self { machine, pieces, position, masks: HashMap::new() })
    }

    /// Whether `token` may come next. Cheap, so that the likeliest token can be tried before all are masked.
    ///
    /// # Errors
    /// [`GrammarError::TooAmbiguous`]. Nothing has changed then.
    pub fn allows(&mut self, token: u32) -> Result<bool, GrammarError> {
        Ok(self.after(token)?.is_some())
    }

    /// Sets the logits `[vocab_size]` of the tokens that may not come next to negative infinity. Stop tokens write
    /// nothing and are among them; they may come where the text [may end](Self::may_end).
    ///
    /// # Errors
    /// [`GrammarError::TooAmbiguous`]. Nothing has changed then.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        let allowed = self.allowed()?;
        let allowed = allowed.iter().copied().chain(std::iter::repeat(false));
        for (logit, allowed) in logits.iter_mut().zip(allowed) {
            if !allowed {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// The text goes on with `token`.
    ///
    /// # Errors
    /// [`GrammarError::Refused`] if it may not come next, [`GrammarError::TooAmbiguous`]. Nothing has changed then.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        self.position = self.after(token)?.ok_or(GrammarError::Refused { token })?;
        Ok(())
    }

    /// Whether the text may end here.
    #[must_use]
    pub fn may_end(&self) -> bool {
        self.position.partial.is_none() && self.machine.may_end(self.position.state)
    }

    /// Where `token` leads; `None` if it may not come next.
    fn after(&mut self, token: u32) -> Result<Option<Position>, GrammarError> {
        let mut work = Work(TOKEN_WORK);
        self.tidy(&mut [], &mut work)?;
        let pieces = Arc::clone(&self.pieces);
        let piece = pieces.get(token);
        let mut position = (!piece.is_empty()).then_some(self.position);
        for &byte in piece {
            let Some(from) = position else { break };
            position = self.machine.follow(from, byte, &mut work)?;
        }
        Ok(position)
    }

    /// By id, whether a token may come next.
    fn allowed(&mut self) -> Result<Arc<[bool]>, GrammarError> {
        let mut work = Work(MASK_WORK);
        self.tidy(&mut [], &mut work)?;
        if let Some(mask) = self.masks.get(&self.position) {
            return Ok(Arc::clone(mask));
        }
        let pieces = Arc::clone(&self.pieces);
        let mut allowed = vec![false; pieces.len()];
        // Where each byte of the piece leads, up to the first that is refused.
        let mut path = vec![self.position];
        for &(id, shared) in pieces.sorted() {
            if shared >= path.len() {
                // It begins as the one before, with what was refused.
                continue;
            }
            let piece = pieces.get(id);
            path.truncate(shared + 1);
            for &byte in piece.get(shared..).unwrap_or_default() {
                self.tidy(&mut path, &mut work)?;
                let Some(&from) = path.last() else { break };
                let Some(to) = self.machine.follow(from, byte, &mut work)? else { break };
                path.push(to);
            }
            if let (true, Some(allowed)) = (path.len() > piece.len(), allowed.get_mut(index(id))) {
                *allowed = true;
            }
        }
        let mask: Arc<[bool]> = allowed.into();
        if self.masks.len() >= MAX_MASKS {
            self.masks.clear();
        }
        self.masks.insert(self.position, Arc::clone(&mask));
        Ok(mask)
    }

    /// Makes room in the machine where it is full, keeping the states of `path`.
    fn tidy(&mut self, path: &mut [Position], work: &mut Work) -> Result<(), GrammarError> {
        if !self.machine.is_full() {
            return Ok(());
        }
        self.masks.clear();
        let live = path.iter_mut().chain([&mut self.position]);
        self.machine.forget(live.map(|position| &mut position.state), work)
    }
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl Machine {
    fn follow(
        &mut self,
        from: Position,
        byte: u8,
        work: &mut Work,
    ) -> Result<Option<Position>, GrammarError> {
        let Position { state, partial } = from;
        Ok(match partial.push(byte) {
            Utf8::Char(c) => {
                let state = self.step(state, c, work)?;
                (state != State::DEAD).then_some(Position { state, partial: Partial::default() })
            }
            Utf8::Partial(partial, low, high) => {
                self.meets(state, low, high, work)?.then_some(Position { state, partial })
            }
            Utf8::Invalid => None,
        })
    }
}
