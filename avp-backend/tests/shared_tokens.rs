//! Which tokens of two large vocabularies are shared, and how long it takes to say.

#![expect(clippy::print_stdout, reason = "times are shown, not judged")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use avp_backend::{BackendError, SharedTokens, TextCodec, TokenPieces};

const TOKENS: u32 = 150_000;

/// A vocabulary of words: the number of each, from `first` on, in letters. Ids are in an order of their own.
struct Words {
    vocab: HashMap<String, u32>,
    pieces: Arc<TokenPieces>,
}

impl Words {
    fn new(first: u32, stride: u32) -> Self {
        let id = |index: u32| (u64::from(index) * u64::from(stride) % u64::from(TOKENS)) as u32;
        let vocab: HashMap<String, u32> = (0..TOKENS).map(|index| (word(first + index), id(index))).collect();
        let mut pieces = vec![Vec::new(); TOKENS as usize];
        for (token, id) in &vocab {
            pieces[*id as usize] = token.replace('Ġ', " ").into_bytes();
        }
        Self { vocab, pieces: Arc::new(TokenPieces::new(pieces)) }
    }
}

fn word(mut number: u32) -> String {
    let mut word = String::from(if number.is_multiple_of(2) { "Ġ" } else { "" });
    for _ in 0..4 + number % 5 {
        word.push(char::from(b'a' + (number % 26) as u8));
        number = number / 26 + number % 7 * 1_000_003;
    }
    word
}

impl TextCodec for Words {
    fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>, BackendError> {
        Ok(Vec::new())
    }

    fn decode(&self, _: &[u32], _: bool) -> Result<String, BackendError> {
        Ok(String::new())
    }

    fn vocab(&self) -> HashMap<String, u32> {
        self.vocab.clone()
    }

    fn pieces(&self) -> Result<Arc<TokenPieces>, BackendError> {
        Ok(Arc::clone(&self.pieces))
    }
}

#[test]
fn shared_tokens_are_those_of_both_by_ascending_id_of_the_source() {
    let (source, target) = (Words::new(0, 7), Words::new(TOKENS / 2, 11));
    let mut expected: Vec<(u32, u32)> = Vec::new();
    for (token, id) in &source.vocab {
        expected.extend(target.vocab.get(token).map(|other| (*id, *other)));
    }
    expected.sort_unstable();
    assert!(expected.len() as u32 >= TOKENS / 4);
    let expected = SharedTokens::Pairs(expected);
    assert_eq!(SharedTokens::by_string(&source.vocab, &target.vocab), expected);
    assert_eq!(SharedTokens::by_meaning(&source, &target).unwrap(), expected);
    let far = HashMap::from([("a".to_owned(), u32::MAX), ("b".to_owned(), 3)]);
    let pairs = SharedTokens::Pairs(vec![(3, 3), (u32::MAX, u32::MAX)]);
    assert_eq!(SharedTokens::by_string(&far, &far), pairs);
}

// spec: projection 6.1
#[test]
fn tokens_of_one_meaning_write_the_same_bytes_or_are_control_tokens_of_one_name() {
    let of = |tokens: &[(&str, &[u8])]| Words {
        vocab: (0..).zip(tokens).map(|(id, (token, _))| ((*token).to_owned(), id)).collect(),
        pieces: Arc::new(TokenPieces::new(tokens.iter().map(|(_, piece)| piece.to_vec()))),
    };
    let source = of(&[
        ("<|end|>", b""),
        ("Ġthe", b" the"),
        ("Ċ", b"\n"),
        ("▁the", b" the"),
        ("<unk>", b""),
        ("a", b"a"),
        ("only", b"only"),
        ("<0x41>", b"A"),
    ]);
    let target = of(&[
        ("<0x0A>", b"\n"),
        ("<unk>", b"<unk>"),
        ("<0x61>", b"a"),
        ("the", b" the"),
        ("<|end|>", b""),
        ("a", b"a"),
        ("aa", b"a"),
        ("zz", b"zz"),
        ("<0x41>", b"A"),
    ]);
    let pairs = vec![(0, 4), (1, 3), (2, 0), (3, 3), (5, 5), (7, 8)];
    assert_eq!(SharedTokens::by_meaning(&source, &target).unwrap(), SharedTokens::Pairs(pairs));
    let nothing = of(&[]);
    assert!(SharedTokens::by_meaning(&nothing, &target).is_err(), "no vocabulary is empty");
}

/// `cargo test --release -p avp-backend --test shared_tokens -- --ignored --nocapture`
#[test]
#[ignore = "shows times"]
fn times_of_shared_tokens() {
    let (source, target) = (Words::new(0, 7), Words::new(TOKENS / 3, 11));
    let time = |name: &str, run: &dyn Fn() -> usize| {
        let mut times: Vec<_> = (0..15)
            .map(|_| {
                let start = Instant::now();
                (run(), start.elapsed())
            })
            .collect();
        times.sort_unstable_by_key(|run| run.1);
        println!("{name}: {} shared, {:.1?} at best, {:.1?} median", times[0].0, times[0].1, times[7].1);
    };
    time("vocab", &|| source.vocab().len() + target.vocab().len());
    time("by_string", &|| SharedTokens::by_string(&source.vocab, &target.vocab).len());
    time("by_meaning", &|| SharedTokens::by_meaning(&source, &target).unwrap().len());
}
