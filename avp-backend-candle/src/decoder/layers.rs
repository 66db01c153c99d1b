//! The parts of a decoder layer: linear maps, RMS norms, the gated MLP.

use avp_backend::BackendError;
use candle_core::{DType, Result, Tensor};

use crate::config::{Activation, DecoderConfig};
use crate::error::engine;
use crate::kernels;
use crate::weights::Weights;

/// `x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Several maps of one input as one, whose output is theirs side by side: reads of each `(name, output)` `{name}.weight`
    /// `[output, input]` and, if the config has it, `{name}.bias` `[output]`.
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        maps: &[(String, usize)],
        input: usize,
        bias: bool,
        activations: DType,
    ) -> std::result::Result<Self, BackendError> {
        let all = |weights: &mut Weights<'_>, kind: &str, row: &[usize], dtype| {
            let names = maps.iter().map(|(name, output)| (format!("{name}.{kind}"), *output));
            weights.joined(&names.collect::<Vec<_>>(), row, dtype)
        };
        let dtype = weights.dtype();
        let weight = all(weights, "weight", &[input], dtype)?;
        let bias = match bias {
            true => Some(all(weights, "bias", &[], activations)?),
            false => None,
        };
        Ok(Self { weight, bias })
    }

    /// Elements of the matrix.
    pub(crate) fn matrix(&self) -> usize {
        self.weight.elem_count()
    }

    /// `x [n, input]` to `[n, output]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = product(x, &self.weight)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// `x [n, k]` times the transpose of `weight [m, k]`, on whichever device.
pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { kernels::linear(x, weight) } else { x.matmul(&weight.t()?) }
}

/// Root-mean-square norm, computed in f32.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    /// Of the type that goes in and out of the operation, which computes in f32 whatever that is.
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        width: usize,
        config: &DecoderConfig,
        activations: DType,
    ) -> std::result::Result<Self, BackendError> {
        // One and an offset would be rounded to half types.
        let dtype = if config.norm_offset { DType::F32 } else { activations };
        let mut weight = weights.get_as(&format!("{name}.weight"), &[width], dtype)?;
        if config.norm_offset {
            weight = (weight + 1.0).map_err(engine)?;
        }
        Ok(Self { weight, eps: config.norm_eps })
    }

    /// Norms the last dimension of `x`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let of_weight = x.to_dtype(self.weight.dtype())?.contiguous()?;
        candle_nn::ops::rms_norm(&of_weight, &self.weight, self.eps)?.to_dtype(x.dtype())
    }
}

/// `down(act(gate(x)) * up(x))`.
#[derive(Debug)]
pub(crate) struct Mlp {
    /// Gate and up, side by side.
    gate_up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        config: &DecoderConfig,
        activations: DType,
    ) -> std::result::Result<Self, BackendError> {
        let (narrow, wide) = (config.hidden, config.intermediate);
        let map = |part: &str, output| (format!("{name}.{part}"), output);
        let mut linear = |maps: &[_], input| Linear::load(weights, maps, input, config.mlp_bias, activations);
        Ok(Self {
            gate_up: linear(&[map("gate_proj", wide), map("up_proj", wide)], narrow)?,
            down: linear(&[map("down_proj", narrow)], wide)?,
            activation: config.activation,
        })
    }

    /// Elements of its matrices.
    pub(crate) fn matrices(&self) -> usize {
        self.gate_up.matrix() + self.down.matrix()
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(x)?;
        if x.device().is_cpu() {
            return self.down.forward(&kernels::gated(self.activation, &gate_up)?);
        }
        let wide = gate_up.dim(1)? / 2;
        let (gate, up) = (gate_up.narrow(1, 0, wide)?, gate_up.narrow(1, wide, wide)?);
        let gate = match self.activation {
            Activation::Silu => gate.silu()?,
            Activation::GeluTanh => gate.gelu()?,
        };
        self.down.forward(&(gate * up)?)
    }
}
