//! What may come next: all ways to read a text by a grammar at once, character by character.
//!
//! A way is a stack of what is still to come, its next step a set of characters. Stacks share what lies below
//! (each is a node that points to the next), equal ones are one node, and equal collections of stacks are one state.
//! Steps are kept, so that a state is worked out once. Nothing recurses, and whatever a grammar can blow up is counted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::error::GrammarError;
use super::rules::{Element, Rules};

/// Ways to read the same text that are followed at once.
const MAX_STACKS: usize = 1 << 14;
/// Nodes that are kept.
const MAX_NODES: usize = 1 << 20;
/// States that are kept.
const MAX_STATES: usize = 1 << 13;
/// Stacks of all states together.
const MAX_HELD: usize = 1 << 20;
/// Steps that are kept apart from those by single characters.
const MAX_CLOSED: usize = 1 << 12;

/// The stack with nothing on it: the text may end.
const BOTTOM: u32 = 0;
/// In a table of steps: not worked out.
const UNKNOWN: u32 = u32::MAX;
const ASCII: usize = 128;

/// A collection of stacks, by its place in the machine. No other machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State(u32);

impl State {
    /// No way to read the text.
    pub(super) const DEAD: Self = Self(0);
}

/// What a call may still cost. Each step to a stack costs one.
#[derive(Debug)]
pub(super) struct Work(pub(super) u32);

impl Work {
    fn spend(&mut self) -> Result<(), GrammarError> {
        self.0 = self.0.checked_sub(1).ok_or(GrammarError::TooAmbiguous)?;
        Ok(())
    }
}

/// The next element of a stack and the rest of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    at: u32,
    below: u32,
}

#[derive(Debug)]
struct Known {
    /// Sorted. Each is [`BOTTOM`] or has a set of characters next.
    stacks: Arc<[u32]>,
    ascii: Box<[u32; ASCII]>,
}

#[derive(Debug)]
pub(super) struct Machine {
    rules: Arc<Rules>,
    /// The first stands for [`BOTTOM`].
    nodes: Vec<Node>,
    node_ids: HashMap<Node, u32>,
    states: Vec<Known>,
    state_ids: HashMap<Arc<[u32]>, u32>,
    /// By what is left of stacks after a character, the state. Most characters of a set lead to the same.
    closed: HashMap<Vec<u32>, u32>,
    /// Stacks of all states together.
    held: usize,
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl Machine {
    /// A machine and its first state.
    pub(super) fn new(rules: Arc<Rules>, work: &mut Work) -> Result<(Self, State), GrammarError> {
        let mut machine = Self::empty(rules);
        let root = machine.rules.root;
        let starts = machine.expanded(root, BOTTOM)?;
        let start = machine.close(starts, work)?;
        Ok((machine, start))
    }

    fn empty(rules: Arc<Rules>) -> Self {
        let mut machine = Self {
            rules,
            nodes: vec![Node { at: 0, below: BOTTOM }],
            node_ids: HashMap::new(),
            states: Vec::new(),
            state_ids: HashMap::new(),
            closed: HashMap::new(),
            held: 0,
        };
        machine.state_of(Vec::new());
        machine
    }

    /// The state after the character `c`.
    pub(super) fn step(&mut self, from: State, c: char, work: &mut Work) -> Result<State, GrammarError> {
        let c = u32::from(c);
        let ascii = self.states.get(index(from.0)).and_then(|known| known.ascii.get(index(c))).copied();
        if let Some(to) = ascii.filter(|to| *to != UNKNOWN) {
            return Ok(State(to));
        }
        let mut left = Vec::new();
        for &stack in &*self.stacks(from) {
            work.spend()?;
            if self.top_meets(stack, c, c) {
                left.push(self.popped(stack)?);
            }
        }
        let to = match self.closed.get(&left) {
            Some(to) => State(*to),
            None => {
                let to = self.close(left.clone(), work)?;
                if self.closed.len() >= MAX_CLOSED {
                    self.closed.clear();
                }
                self.closed.insert(left, to.0);
                to
            }
        };
        let ascii = self.states.get_mut(index(from.0)).and_then(|known| known.ascii.get_mut(index(c)));
        if let Some(ascii) = ascii {
            *ascii = to.0;
        }
        Ok(to)
    }

    /// Whether one of the characters `low..=high` may come next.
    pub(super) fn meets(
        &self,
        state: State,
        low: u32,
        high: u32,
        work: &mut Work,
    ) -> Result<bool, GrammarError> {
        for &stack in &*self.stacks(state) {
            work.spend()?;
            if self.top_meets(stack, low, high) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn may_end(&self, state: State) -> bool {
        self.stacks(state).first() == Some(&BOTTOM)
    }

    /// Whether so much is kept that [`forget`](Self::forget) should be called.
    pub(super) fn is_full(&self) -> bool {
        self.nodes.len() > MAX_NODES / 2 || self.states.len() > MAX_STATES / 2 || self.held > MAX_HELD / 2
    }

    /// Forgets all but the `live` states, which get new places.
    pub(super) fn forget<'a>(
        &mut self,
        live: impl Iterator<Item = &'a mut State>,
        work: &mut Work,
    ) -> Result<(), GrammarError> {
        let mut fresh = Self::empty(Arc::clone(&self.rules));
        let mut moved = HashMap::from([(BOTTOM, BOTTOM)]);
        let mut places = Vec::new();
        for state in live {
            let mut stacks = Vec::new();
            for &stack in &*self.stacks(*state) {
                stacks.push(self.move_to(&mut fresh, stack, &mut moved, work)?);
            }
            stacks.sort_unstable();
            places.push((fresh.state_of(stacks), state));
        }
        // Too much of it is needed: what is left over would soon be full again.
        if fresh.is_full() {
            return Err(GrammarError::TooAmbiguous);
        }
        places.into_iter().for_each(|(place, state)| *state = place);
        *self = fresh;
        Ok(())
    }

    fn move_to(
        &self,
        fresh: &mut Self,
        stack: u32,
        moved: &mut HashMap<u32, u32>,
        work: &mut Work,
    ) -> Result<u32, GrammarError> {
        let mut above = Vec::new();
        let mut next = stack;
        while !moved.contains_key(&next) {
            above.push(next);
            next = self.nodes[index(next)].below;
        }
        let mut below = moved[&next];
        for old in above.into_iter().rev() {
            work.spend()?;
            below = fresh.node(Node { at: self.nodes[index(old)].at, below });
            moved.insert(old, below);
        }
        work.spend()?;
        Ok(below)
    }

    /// The state of the stacks that `todo` leads to: rules on top give way to what they say.
    fn close(&mut self, mut todo: Vec<u32>, work: &mut Work) -> Result<State, GrammarError> {
        let mut seen = HashSet::new();
        let mut stacks = Vec::new();
        while let Some(stack) = todo.pop() {
            work.spend()?;
            if !seen.insert(stack) {
                continue;
            }
            match self.top(stack) {
                Some(Element::Rule(rule)) => {
                    let below = self.popped(stack)?;
                    todo.append(&mut self.expanded(rule, below)?);
                }
                _ => stacks.push(stack),
            }
            if stacks.len() > MAX_STACKS || todo.len() > 2 * MAX_STACKS {
                return Err(GrammarError::TooAmbiguous);
            }
        }
        stacks.sort_unstable();
        if self.states.len() >= MAX_STATES || self.held + stacks.len() > MAX_HELD {
            return Err(GrammarError::TooAmbiguous);
        }
        Ok(self.state_of(stacks))
    }

    /// Stacks with each alternative of `rule` on top of `below`.
    fn expanded(&mut self, rule: u32, below: u32) -> Result<Vec<u32>, GrammarError> {
        let rules = Arc::clone(&self.rules);
        rules.alternatives(rule).iter().map(|&at| self.on_top(at, below)).collect()
    }

    /// `stack` without what is next on it.
    fn popped(&mut self, stack: u32) -> Result<u32, GrammarError> {
        match self.nodes[index(stack)] {
            Node { below, .. } if stack == BOTTOM => Ok(below),
            Node { at, below } => self.on_top(at + 1, below),
        }
    }

    /// The rest of an alternative, from `at` on, on top of `below`. An alternative that is over leaves nothing there, so
    /// that what ends with itself (a list, say) does not pile up.
    fn on_top(&mut self, at: u32, below: u32) -> Result<u32, GrammarError> {
        if self.rules.element(at) == Element::End {
            return Ok(below);
        }
        if self.nodes.len() >= MAX_NODES {
            return Err(GrammarError::TooAmbiguous);
        }
        Ok(self.node(Node { at, below }))
    }

    fn top(&self, stack: u32) -> Option<Element> {
        (stack != BOTTOM).then(|| self.rules.element(self.nodes[index(stack)].at))
    }

    fn top_meets(&self, stack: u32, low: u32, high: u32) -> bool {
        matches!(self.top(stack), Some(Element::Set { from, to }) if self.rules.set_meets(from, to, low, high))
    }

    fn stacks(&self, state: State) -> Arc<[u32]> {
        self.states.get(index(state.0)).map(|known| Arc::clone(&known.stacks)).unwrap_or_default()
    }

    fn node(&mut self, node: Node) -> u32 {
        let nodes = &mut self.nodes;
        *self.node_ids.entry(node).or_insert_with(|| {
            nodes.push(node);
            id(nodes.len() - 1)
        })
    }

    fn state_of(&mut self, stacks: Vec<u32>) -> State {
        let stacks: Arc<[u32]> = stacks.into();
        if let Some(&state) = self.state_ids.get(&stacks) {
            return State(state);
        }
        let state = id(self.states.len());
        self.held += stacks.len();
        let known = Known { stacks: Arc::clone(&stacks), ascii: Box::new([UNKNOWN; ASCII]) };
        self.states.push(known);
        self.state_ids.insert(stacks, state);
        State(state)
    }
}

fn id(index: usize) -> u32 {
    // Fewer than `MAX_NODES`.
    u32::try_from(index).unwrap_or(u32::MAX)
}
