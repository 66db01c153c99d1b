//! The bytes of every token of a model.

/// What each token of a vocabulary writes, by id: its bytes as they go into the text, which need not be whole
/// characters. Those that write nothing (control tokens, padding) are empty, and no grammar allows them.
#[derive(Debug)]
pub struct TokenPieces {
    pieces: Vec<Box<[u8]>>,
    /// Ids of those that write something, sorted by what they write, and how many bytes each has in common with the
    /// one before it: what a grammar says of those bytes is asked once.
    sorted: Vec<(u32, usize)>,
}

impl TokenPieces {
    /// The pieces of the tokens 0, 1, 2 and so on.
    pub fn new(pieces: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let pieces: Vec<Box<[u8]>> = pieces.into_iter().map(Vec::into_boxed_slice).collect();
        let mut order: Vec<(u32, &[u8])> = (0..).zip(pieces.iter().map(|piece| &**piece)).collect();
        order.retain(|(_, piece)| !piece.is_empty());
        order.sort_unstable_by_key(|&(id, piece)| (piece, id));
        let mut before: &[u8] = &[];
        let shared = |(id, piece)| {
            let both = before.iter().zip(piece).take_while(|(a, b)| a == b).count();
            before = piece;
            (id, both)
        };
        let sorted = order.into_iter().map(shared).collect();
        Self { pieces, sorted }
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What a token writes; nothing for ids that are none.
    #[must_use]
    pub fn get(&self, token: u32) -> &[u8] {
        usize::try_from(token).ok().and_then(|token| self.pieces.get(token)).map_or(&[], |piece| &**piece)
    }

    /// By what they write: id, and bytes in common with the one before.
    pub(super) fn sorted(&self) -> &[(u32, usize)] {
        &self.sorted
    }
}
