//! llama.cpp's own sampler for grammars, for tests alone: ours is compared with it. It ends the process, or never comes
//! back, on some grammars and wherever a token is accepted that it refuses, so no more than harmless ones go there.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use avp_backend::{Grammar, TextCodec as _};
use llama_cpp_sys_2 as sys;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Model, ModelParams};
use crate::codec::GgufCodec;

struct Theirs {
    raw: NonNull<sys::llama_sampler>,
    model: Arc<Model>,
}

impl Theirs {
    fn new(model: Arc<Model>, grammar: &str) -> Self {
        let grammar = CString::new(grammar).unwrap();
        // SAFETY: the vocabulary is the model's, which this keeps; the strings end with zero bytes and are copied.
        let raw = unsafe {
            let vocab = sys::llama_model_get_vocab(model.as_ptr());
            sys::llama_sampler_init_grammar(vocab, grammar.as_ptr(), c"root".as_ptr())
        };
        Self { raw: NonNull::new(raw).expect("llama.cpp takes it too"), model }
    }

    fn allowed(&mut self) -> Vec<bool> {
        let ids = 0..i32::try_from(self.model.vocab_size()).unwrap();
        let mut tokens: Vec<_> = ids.map(|id| sys::llama_token_data { id, logit: 0.0, p: 0.0 }).collect();
        let mut all = sys::llama_token_data_array {
            data: tokens.as_mut_ptr(),
            size: tokens.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: as many tokens as said, which live through the call.
        unsafe { sys::llama_sampler_apply(self.raw.as_ptr(), &mut all) };
        tokens.iter().map(|token| token.logit == 0.0).collect()
    }

    /// `token` must be allowed.
    fn accept(&mut self, token: u32) {
        // SAFETY: the sampler is alive.
        unsafe { sys::llama_sampler_accept(self.raw.as_ptr(), i32::try_from(token).unwrap()) };
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // SAFETY: nothing else owns it.
        unsafe { sys::llama_sampler_free(self.raw.as_ptr()) };
    }
}

/// Grammars of the forms that people write, in which every kind of element comes up.
const GRAMMARS: [&str; 7] = [
    include_str!("../../../avp-backend/tests/grammars/json.gbnf"),
    r#"root ::= "yes" | "no" | "yesterday""#,
    r#"root ::= item (", " item){0,9} "." [a-zäöü]* "é漢"
item ::= [A-Z] [a-z]{1,12} (" in " [A-Z] [a-z]+)?"#,
    r#"root ::= ("- " [^\n]{3,30} "\n")+ "end""#,
    r#"root ::= expr "=" expr "\n"
expr ::= term ([-+*/] term)*
term ::= [0-9]+ | "(" expr ")" | [a-z] [a-z0-9]{0,3}"#,
    r#"root ::= (a b | a c)* "x" | b{2,}
a ::= "a" | "aa"
b ::= "b"? "c"
c ::= [ab] | [^\x00-b]"#,
    r#"root ::= . .{2,7} [^a-z] [\U0001F300-\U0001FAFF]?"#,
];

#[test]
fn at_every_step_the_same_tokens_are_allowed_as_by_llama_cpp() {
    let (mut compared, mut ended) = (0, 0);
    for name in ["avp-demo-llama-f16", "avp-demo-qwen2-s-f16"] {
        let path = format!("{}/../models/gguf/{name}.gguf", env!("CARGO_MANIFEST_DIR"));
        let model =
            Arc::new(Model::load(Path::new(&path), ModelParams { gpu_layers: 0, threads: 1 }).unwrap());
        for (seed, grammar) in (0..).zip(GRAMMARS) {
            for walk in 0..6 {
                let (steps, has_ended) = walk_both(&model, grammar, 100 * seed + walk);
                compared += steps;
                ended += usize::from(has_ended);
            }
        }
    }
    assert!(compared > 1500 && ended > 20, "{compared} steps, {ended} ends");
}

/// Goes on with tokens by chance, and compares each time. Whether the text came to its end.
fn walk_both(model: &Arc<Model>, grammar: &str, seed: u64) -> (usize, bool) {
    let codec = GgufCodec::new(Arc::clone(model), HashMap::new(), None);
    let pieces = codec.pieces().unwrap();
    let mut theirs = Theirs::new(Arc::clone(model), grammar);
    let mut ours = grammar.parse::<Grammar>().unwrap().constraint(Arc::clone(&pieces)).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = Vec::new();
    for step in 0..60 {
        let by_them = theirs.allowed();
        let mut logits = vec![0.0; by_them.len()];
        ours.mask(&mut logits).unwrap();
        let mut allowed = Vec::new();
        for (id, (by_them, logit)) in (0_u32..).zip(by_them.iter().zip(&logits)) {
            let by_us = *logit == 0.0;
            let shown = || format!("{id} {:?} after {:?}", pieces.get(id), String::from_utf8_lossy(&text));
            if model.is_end(id) {
                assert_eq!(*by_them, ours.may_end(), "{}", shown());
                assert!(!by_us, "{}", shown());
            } else if pieces.get(id).is_empty() || !is_utf8_so_far(&[&text, pieces.get(id)].concat()) {
                // To llama.cpp control tokens write their names, and bytes of no character may begin one.
                assert!(!by_us, "{}", shown());
            } else if !pieces.get(id).contains(&0) {
                // A zero byte is the end of a piece to llama.cpp.
                assert_eq!(*by_them, by_us, "{} by {grammar}", shown());
                allowed.extend(by_us.then_some(id));
            }
        }
        let is_over = ours.may_end() && rng.random_range(0..8) == 0;
        let Some(&token) = allowed.choose(&mut rng).filter(|_| !is_over) else { return (step, true) };
        text.extend_from_slice(pieces.get(token));
        theirs.accept(token);
        ours.accept(token).unwrap();
    }
    (60, false)
}

/// Whether `bytes` are text, or become text with further ones.
fn is_utf8_so_far(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|e| e.error_len().is_none(), |_| true)
}
