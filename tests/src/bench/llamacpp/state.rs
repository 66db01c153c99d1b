//! Capture and inject of a KV cache, beside memcpy of the same bytes.

use std::cell::RefCell;

use anyhow::Result;
use avp_backend::{Backend, Input, KvRange, Sequence};
use avp_backend_llamacpp::LlamaCppBackend;
use avp_wire::KvDtype;

use crate::measure::{Side, alternate, seconds};
use crate::report::{Bound, Figure, Group};
use crate::shape::uniform;

const ROUNDS: usize = 15;
const TOKENS: [usize; 2] = [2048, 8192];
const MEMCPY: &str = "memcpy";
const LEAST: Bound = Bound::RatioAtLeast(0.5);

pub(super) fn measure(group: &mut Group, name: &str, backend: &LlamaCppBackend) -> Result<()> {
    for tokens in TOKENS {
        eprintln!("  KV cache of {name}, {tokens} tokens ..");
        one(group, name, backend, tokens)?;
    }
    Ok(())
}

pub(super) fn notes(group: &mut Group) {
    group.note(format!(
        "KV cache: of the Qwen2.5-0.5B shape (24 layers, 2 heads of 64), on a model that is otherwise small; median of {ROUNDS} alternating rounds; memcpy copies the exported bytes, on one thread, between warm buffers; a cache of q8_0 is handed over as f32, 3.8 times its bytes"
    ));
    group.note("capture: export_kv of everything to a warm buffer, after a pass");
    group.note("inject: import_kv of everything into a new sequence and the forward of one token, less the forward of the next token; the backend keeps contexts that a sequence before has left, and where none has room it makes one");
}

fn one(group: &mut Group, name: &str, backend: &LlamaCppBackend, tokens: usize) -> Result<()> {
    let capacity = tokens + ROUNDS + 8;
    let sequence = RefCell::new(backend.new_sequence(capacity)?);
    let dtype = sequence.borrow().kv_dtype();
    let layers = 0..backend.info().identity.num_layers as usize;
    let range = KvRange { layers, tokens: 0..tokens };
    let planes = planes(backend, dtype, tokens);
    sequence.borrow_mut().import_kv(&range, dtype, &planes)?;
    let mut out = vec![1_u8; planes.len()];
    let mut copy = out.clone();
    let mut larger = capacity;
    let inject = |sequence: &mut dyn Sequence| {
        let injected = seconds(|| {
            sequence.import_kv(&range, dtype, &planes)?;
            pass(sequence)
        })?;
        Ok(injected - seconds(|| pass(sequence))?)
    };
    let mut sides: [Side<'_>; 4] = [
        Box::new(|| {
            seconds(|| {
                copy.copy_from_slice(&planes);
                std::hint::black_box(&copy);
                Ok(())
            })
        }),
        Box::new(|| {
            let mut sequence = sequence.borrow_mut();
            pass(sequence.as_mut())?;
            seconds(|| Ok(sequence.export_kv(&range, &mut out)?))
        }),
        Box::new(|| inject(backend.new_sequence(capacity)?.as_mut())),
        Box::new(|| {
            // More room than any context has that is kept from a sequence before.
            larger += 256;
            inject(backend.new_sequence(larger)?.as_mut())
        }),
    ];
    let samples = alternate(ROUNDS, &mut sides)?;
    let [memcpy, capture, inject, inject_anew] = &samples[..] else { unreachable!() };
    let rate = |what: &str, seconds: &[f64]| {
        let size = planes.len() / 1_000_000;
        let figure =
            Figure::rate(format!("{what}, {tokens} tokens, {name}, {size} MB"), planes.len(), seconds);
        figure.speed_beside(MEMCPY, seconds, memcpy)
    };
    group.figures.extend([
        rate("capture", capture).target(LEAST),
        rate("inject", inject).target(LEAST),
        rate("inject, the context made for it", inject_anew),
    ]);
    Ok(())
}

fn pass(sequence: &mut dyn Sequence) -> Result<Vec<f32>> {
    Ok(sequence.forward(Input::Tokens(&[300]))?)
}

/// Canonical planes of `tokens` tokens with random values.
fn planes(backend: &LlamaCppBackend, dtype: KvDtype, tokens: usize) -> Vec<u8> {
    let identity = &backend.info().identity;
    let elements = [2, identity.num_layers, identity.num_kv_heads, identity.head_dim].into_iter();
    let elements = elements.map(|count| count as usize).product::<usize>() * tokens;
    let mut planes = Vec::with_capacity(elements * dtype.size());
    for place in 0..elements as u64 {
        let value = uniform(place);
        match dtype {
            KvDtype::F32 => planes.extend(value.to_le_bytes()),
            KvDtype::F16 => planes.extend(half::f16::from_f32(value).to_le_bytes()),
            KvDtype::Bf16 => planes.extend(half::bf16::from_f32(value).to_le_bytes()),
        }
    }
    planes
}
