//! The activation of a gated MLP on the CPU: `act(gate) * up` in one pass over both.

use avp_backend::exp_of_nonpositive;
use candle_core::{Device, Storage, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::Values;
use crate::config::Activation;

/// Values per rayon task.
const TASK: usize = 1 << 14;

/// `act(gate) * up` `[n, width]` of rows `gate, up` `[n, 2 width]` in f32, on the CPU.
pub(crate) fn gated(activation: Activation, gate_up: &Tensor) -> candle_core::Result<Tensor> {
    let (n, both) = gate_up.dims2()?;
    let width = both / 2;
    let (storage, layout) = gate_up.storage_and_layout();
    let Storage::Cpu(values) = &*storage else {
        candle_core::bail!("activations on another device");
    };
    let Values::F32(values) = Values::new(values, layout)? else {
        candle_core::bail!("activations that are not f32");
    };
    let mut out = vec![0f32; n * width];
    if width > 0 {
        // A task is a part of one row, or several rows.
        let (part, rows) = (width.min(TASK), (TASK / width).max(1));
        let tasks = out.par_chunks_mut(width * rows).zip(values.par_chunks(both * rows));
        tasks.for_each(|(out, values)| {
            for (out, values) in out.chunks_exact_mut(width).zip(values.chunks_exact(both)) {
                let (gates, ups) = values.split_at(width);
                let parts = out.par_chunks_mut(part).zip(gates.par_chunks(part)).zip(ups.par_chunks(part));
                parts.for_each(|((out, gates), ups)| {
                    Arch::new().dispatch(|| match activation {
                        Activation::Silu => each(out, gates, ups, |x| x * sigmoid(x)),
                        Activation::GeluTanh => each(out, gates, ups, gelu),
                    });
                });
            }
        });
    }
    Tensor::from_vec(out, (n, width), &Device::Cpu)
}

#[inline(always)]
fn each(out: &mut [f32], gates: &[f32], ups: &[f32], activation: impl Fn(f32) -> f32) {
    for ((out, gate), up) in out.iter_mut().zip(gates).zip(ups) {
        *out = activation(*gate) * up;
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    // Of -|x|, so that nothing overflows.
    let e = exp_of_nonpositive(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// The approximation by tanh, with `(1 + tanh(u)) / 2 = sigmoid(2u)`.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    const FACTOR: f32 = 2.0 * 0.797_884_6;
    x * sigmoid(FACTOR * (x + 0.044_715 * x * x * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_gives_what_candles_operations_give() {
        for (rows, n) in [(1, 1), (3, 15), (1, 16), (400, 100), (1, TASK + 3), (2, 2 * TASK)] {
            let values: Vec<f32> = (0..rows * n).map(|i| (i as f32 * 0.37).sin() * 30.0).collect();
            let gate = Tensor::from_vec(values.clone(), (rows, n), &Device::Cpu).unwrap();
            let up = gate.affine(0.5, 0.25).unwrap();
            let gate_up = Tensor::cat(&[&gate, &up], 1).unwrap();
            for (activation, expected) in
                [(Activation::Silu, gate.silu().unwrap()), (Activation::GeluTanh, gate.gelu().unwrap())]
            {
                let expected = (expected * &up).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let got =
                    gated(activation, &gate_up).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for ((got, expected), x) in got.iter().zip(&expected).zip(&values) {
                    assert!(
                        (got - expected).abs() <= 2e-6 * expected.abs().max(1.0),
                        "{x}: {got} for {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let gate = Tensor::from_vec(vec![f32::NAN, f32::INFINITY], (1, 2), &Device::Cpu).unwrap();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let gate_up = Tensor::cat(&[&gate, &gate.ones_like().unwrap()], 1).unwrap();
            let got = gated(activation, &gate_up).unwrap();
            let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(got.iter().all(|x| !x.is_finite()), "{got:?}");
        }
    }
}
