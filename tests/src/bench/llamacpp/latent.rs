//! A latent step beside a decode step and the projection by itself.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use avp_backend::{Backend, Input, LatentProjection, SoftmaxMix, left_out_bound};
use avp_backend_llamacpp::LlamaCppBackend;

use super::speed::ids;
use crate::measure::{Side, alternate, seconds_of_one};
use crate::report::{Bound, Figure, Group};

const ROUNDS: usize = 9;
const FROM: usize = 448;
/// Calls of each side in a round.
const STEPS: u32 = 8;
const CAPACITY: usize = FROM + STEPS as usize * (ROUNDS + 1);
/// Temperature of a distribution that is mixed densely.
const WARM: f32 = 1.5;

pub(super) fn measure(group: &mut Group, name: &str, backend: &LlamaCppBackend) -> Result<()> {
    eprintln!("  {name}, latent step ..");
    let (prompt, steps) = (ids(FROM), ids(STEPS as usize));
    let projection = LatentProjection::for_backend(backend, None)?;
    let mut decoding = backend.new_sequence(CAPACITY)?;
    decoding.forward(Input::Tokens(&prompt))?;
    let mut thinking = backend.new_sequence(CAPACITY)?;
    let hidden = RefCell::new(thinking.forward(Input::Tokens(&prompt))?);
    describe(group, name, backend, &hidden.borrow())?;
    let mut tokens = steps.iter().cycle();
    let left_out = left_out_bound(backend);
    let mut sides: [Side<'_>; 5] = [
        Box::new(|| {
            seconds_of_one(STEPS, || {
                let token = tokens.next().copied().unwrap_or_default();
                let hidden = decoding.forward(Input::Tokens(&[token]))?;
                Ok(backend.logits(&hidden)?)
            })
        }),
        Box::new(|| seconds_of_one(STEPS, || Ok(backend.logits(&hidden.borrow())?))),
        Box::new(|| seconds_of_one(STEPS, || Ok(projection.apply(backend, &hidden.borrow())?))),
        Box::new(|| {
            let hidden = hidden.borrow();
            seconds_of_one(STEPS, || {
                let logits = backend.logits(&hidden)?;
                let mix = SoftmaxMix::from_logits(&logits, WARM, left_out)?;
                Ok(backend.embed_mix(&[mix.as_token_mix()])?)
            })
        }),
        Box::new(|| {
            seconds_of_one(STEPS, || {
                let embedding = projection.apply(backend, &hidden.borrow())?;
                let next = thinking.forward(Input::Embeddings(&embedding))?;
                ensure!(next.iter().all(|value| value.is_finite()), "a hidden state is not finite");
                hidden.replace(next);
                Ok(())
            })
        }),
    ];
    let samples = alternate(ROUNDS, &mut sides)?;
    let [decode, logits, projection, dense, step] = &samples[..] else { unreachable!() };
    let of_rounds =
        |seconds: &dyn Fn(usize) -> f64| (0..ROUNDS).map(|i| seconds(i).max(0.0)).collect::<Vec<_>>();
    // A decode step has logits too, from which the projection goes on.
    let further = of_rounds(&|i| projection[i] - logits[i]);
    let sum = of_rounds(&|i| decode[i] - logits[i] + projection[i]);
    let times = |what: &str, seconds: &[f64]| Figure::milliseconds(format!("{name}, {what}"), seconds);
    group.figures.extend([
        times("latent step", step)
            .cost_beside("a decode step and the projection", step, &sum)
            .target(Bound::RatioAtMost(1.1)),
        times("latent step", step).cost_beside("a decode step", step, decode),
        times("projection, from the logits on", &further)
            .cost_beside("latent step", &further, step)
            .target(Bound::RatioAtMost(0.15)),
        times("projection with its logits", projection).cost_beside("latent step", projection, step),
        times("projection with its logits, dense mix", dense).cost_beside("latent step", dense, step),
    ]);
    Ok(())
}

pub(super) fn notes(group: &mut Group) {
    group.note(format!(
        "latent step: LatentProjection::apply and Sequence::forward of its embedding; median of {ROUNDS} alternating rounds of {STEPS} calls between positions {FROM} and {CAPACITY}; a decode step is Sequence::forward of a token and Backend::logits; the projection is softmax and the sum of the rows that it keeps, from logits that a decode step has too; by a dense mix, at temperature {WARM}, of all rows"
    ));
}

/// What the softmax keeps.
fn describe(group: &mut Group, name: &str, backend: &LlamaCppBackend, hidden: &[f32]) -> Result<()> {
    let logits = backend.logits(hidden)?;
    let left_out = left_out_bound(backend);
    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
    let variance = logits.iter().map(|l| (l - mean).powi(2)).sum::<f32>() / logits.len() as f32;
    let said = |temperature: f32| -> Result<String> {
        let mix = SoftmaxMix::from_logits(&logits, temperature, left_out)?;
        let SoftmaxMix::Dense(all) = SoftmaxMix::from_logits(&logits, temperature, 0.0)? else {
            unreachable!()
        };
        let entropy: f32 = all.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        let form = if matches!(mix, SoftmaxMix::Dense(_)) { "dense" } else { "sparse" };
        Ok(format!("{entropy:.2} nats, {form} mix of {} of {} rows", mix.kept(), logits.len()))
    };
    group.note(format!(
        "{name}: logits' standard deviation {:.2}; {}; at temperature {WARM} {}",
        variance.sqrt(),
        said(1.0)?,
        said(WARM)?
    ));
    Ok(())
}
