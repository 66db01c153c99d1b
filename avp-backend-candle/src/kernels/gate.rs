//! The activation of a gated MLP on the CPU: `act(gate) * up` in one pass over both.

use avp_backend::exp_of_nonpositive;
use candle_core::{Device, Storage, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::Values;
use crate::config::Activation;

/// Values per rayon task.
const TASK: usize = 1 << 14;

/// `act(gate) * up`, all f32 of one shape, on the CPU.
pub(crate) fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> candle_core::Result<Tensor> {
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
    let (gate_storage, gate_layout) = gate.storage_and_layout();
    let (up_storage, up_layout) = up.storage_and_layout();
    let (Storage::Cpu(gates), Storage::Cpu(ups)) = (&*gate_storage, &*up_storage) else {
        candle_core::bail!("activations on another device");
    };
    let (Values::F32(gates), Values::F32(ups)) =
        (Values::new(gates, gate_layout)?, Values::new(ups, up_layout)?)
    else {
        candle_core::bail!("activations that are not f32");
    };
    if gates.len() != ups.len() {
        candle_core::bail!("a gate of {} values for {}", gates.len(), ups.len());
    }
    let mut out = vec![0f32; gates.len()];
    let tasks = out.par_chunks_mut(TASK).zip(gates.par_chunks(TASK)).zip(ups.par_chunks(TASK));
    tasks.for_each(|((out, gates), ups)| {
        Arch::new().dispatch(|| match activation {
            Activation::Silu => each(out, gates, ups, |x| x * sigmoid(x)),
            Activation::GeluTanh => each(out, gates, ups, gelu),
        });
    });
    Tensor::from_vec(out, gate.shape(), &Device::Cpu)
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
        for n in [1, 15, 16, 100, TASK + 3] {
            let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 30.0).collect();
            let gate = Tensor::from_vec(values.clone(), (1, n), &Device::Cpu).unwrap();
            let up = gate.affine(0.5, 0.25).unwrap();
            for (activation, expected) in
                [(Activation::Silu, gate.silu().unwrap()), (Activation::GeluTanh, gate.gelu().unwrap())]
            {
                let expected = (expected * &up).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let got =
                    gated(activation, &gate, &up).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
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
            let got = gated(activation, &gate, &gate.ones_like().unwrap()).unwrap();
            let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(got.iter().all(|x| !x.is_finite()), "{got:?}");
        }
    }
}
