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
    /// Reads `{name}.weight` `[output, input]` and, if the config has it, `{name}.bias` `[output]`.
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        (input, output): (usize, usize),
        bias: bool,
        activations: DType,
    ) -> std::result::Result<Self, BackendError> {
        let weight = weights.get(&format!("{name}.weight"), &[output, input])?;
        let bias = match bias {
            true => Some(weights.get_as(&format!("{name}.bias"), &[output], activations)?),
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
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        width: usize,
        config: &DecoderConfig,
    ) -> std::result::Result<Self, BackendError> {
        let mut weight = weights.get_as(&format!("{name}.weight"), &[width], DType::F32)?;
        if config.norm_offset {
            weight = (weight + 1.0).map_err(engine)?;
        }
        Ok(Self { weight, eps: config.norm_eps })
    }

    /// Norms the last dimension of `x`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed =
            candle_nn::ops::rms_norm(&x.to_dtype(DType::F32)?.contiguous()?, &self.weight, self.eps)?;
        normed.to_dtype(x.dtype())
    }
}

/// `down(act(gate(x)) * up(x))`.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate: Linear,
    up: Linear,
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
        let mut linear = |part: &str, shape| {
            Linear::load(weights, &format!("{name}.{part}"), shape, config.mlp_bias, activations)
        };
        Ok(Self {
            gate: linear("gate_proj", (narrow, wide))?,
            up: linear("up_proj", (narrow, wide))?,
            down: linear("down_proj", (wide, narrow))?,
            activation: config.activation,
        })
    }

    /// Elements of its matrices.
    pub(crate) fn matrices(&self) -> usize {
        [&self.gate, &self.up, &self.down].map(Linear::matrix).iter().sum()
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        if x.device().is_cpu() {
            return self.down.forward(&kernels::gated(self.activation, &gate, &up)?);
        }
        let gate = match self.activation {
            Activation::Silu => gate.silu()?,
            Activation::GeluTanh => gate.gelu()?,
        };
        self.down.forward(&(gate * up)?)
    }
}
