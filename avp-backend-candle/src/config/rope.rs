//! Rotary position embeddings: frequencies, as `transformers` computes them in `modeling_rope_utils.py`.

use std::f32::consts::PI as PI_F32;
use std::f64::consts::PI;

use avp_backend::BackendError;

use super::json::Object;

const SUPPORTED: &str = "rope types default, linear, llama3 and yarn";

/// Frequencies of one kind of rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    /// Angle per position of each rotated pair, `[head_dim / 2]`.
    pub(crate) inv_freq: Vec<f32>,
    /// Factor on cosine and sine (YaRN).
    pub(crate) scaling: f32,
}

impl Rope {
    /// Reads `rope_parameters` or `rope_scaling` of `config.json`; `theta` is what counts where they name none.
    pub(crate) fn parse(
        params: Option<Object<'_>>,
        theta: f64,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Self, BackendError> {
        let Some(params) = params else { return Ok(Self::plain(theta, head_dim)) };
        let theta = params.positive("rope_theta")?.unwrap_or(theta);
        if params.number("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
            return Err(unsupported("partial_rotary_factor other than 1"));
        }
        let kind = match params.str("rope_type")? {
            Some(kind) => kind,
            None => params.str("type")?.unwrap_or("default"),
        };
        let rope = match kind {
            "default" => Self::plain(theta, head_dim),
            "linear" => Self::linear(theta, head_dim, required(&params, "factor")?),
            "llama3" => Self::llama3(&params, theta, head_dim, max_positions)?,
            "yarn" => Self::yarn(&params, theta, head_dim, max_positions)?,
            other => return Err(unsupported(&format!("rope type {other:?}"))),
        };
        if rope.inv_freq.iter().chain([&rope.scaling]).all(|f| f.is_finite() && *f > 0.0) {
            Ok(rope)
        } else {
            Err(params.error("rope_theta", "and the scaling beside it give frequencies that are not finite"))
        }
    }

    /// `theta^(-2i / head_dim)`.
    fn plain(theta: f64, head_dim: usize) -> Self {
        Self { inv_freq: powers(theta, head_dim).into_iter().map(|p| 1.0 / p).collect(), scaling: 1.0 }
    }

    /// All frequencies divided by one factor.
    fn linear(theta: f64, head_dim: usize, factor: f64) -> Self {
        let mut rope = Self::plain(theta, head_dim);
        rope.inv_freq.iter_mut().for_each(|f| *f /= factor as f32);
        rope
    }

    /// Llama 3.1: low frequencies divided by the factor, high ones kept, a smooth passage between.
    fn llama3(
        params: &Object<'_>,
        theta: f64,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Self, BackendError> {
        let factor = required(params, "factor")?;
        let low = required(params, "low_freq_factor")?;
        let high = required(params, "high_freq_factor")?;
        let original = params.positive("original_max_position_embeddings")?.unwrap_or(max_positions as f64);
        if high <= low {
            return Err(
                params.error("high_freq_factor", format!("must be above low_freq_factor {low}, is {high}"))
            );
        }
        let (low_wavelen, high_wavelen) = ((original / low) as f32, (original / high) as f32);
        let (factor, original) = (factor as f32, original as f32);
        let mut rope = Self::plain(theta, head_dim);
        for freq in &mut rope.inv_freq {
            let wavelen = 2.0 * PI_F32 / *freq;
            if wavelen > low_wavelen {
                *freq /= factor;
            } else if wavelen >= high_wavelen {
                let smooth = (original / wavelen - low as f32) / (high - low) as f32;
                *freq = (1.0 - smooth) * *freq / factor + smooth * *freq;
            }
        }
        Ok(rope)
    }

    /// YaRN (arXiv 2309.00071): interpolation by wavelength, and a factor on attention.
    fn yarn(
        params: &Object<'_>,
        theta: f64,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Self, BackendError> {
        let original = params.positive("original_max_position_embeddings")?.unwrap_or(max_positions as f64);
        let factor = params.positive("factor")?.unwrap_or(max_positions as f64 / original);
        let beta_fast = params.positive("beta_fast")?.unwrap_or(32.0);
        let beta_slow = params.positive("beta_slow")?.unwrap_or(1.0);
        let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
        let scaling = match (
            params.positive("attention_factor")?,
            params.number("mscale")?.filter(|m| *m != 0.0),
            params.number("mscale_all_dim")?.filter(|m| *m != 0.0),
        ) {
            (Some(given), _, _) => given,
            (None, Some(m), Some(all)) => mscale(factor, m) / mscale(factor, all),
            (None, _, _) => mscale(factor, 1.0),
        };
        let dim = head_dim as f64;
        let correction = |rotations: f64| dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (correction(beta_fast), correction(beta_slow));
        if params.bool("truncate")?.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let (low, span, factor) = (low as f32, (high - low) as f32, factor as f32);
        let blend = |(i, power): (usize, f32)| {
            let kept = 1.0 - ((i as f32 - low) / span).clamp(0.0, 1.0);
            1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
        };
        Ok(Self {
            inv_freq: powers(theta, head_dim).into_iter().enumerate().map(blend).collect(),
            scaling: scaling as f32,
        })
    }

    /// Cosines and sines of the first `n` positions, each `[n, head_dim / 2]`.
    pub(crate) fn angles(&self, n: usize) -> (Vec<f32>, Vec<f32>) {
        let mut cos = Vec::with_capacity(n.saturating_mul(self.inv_freq.len()));
        let mut sin = Vec::with_capacity(cos.capacity());
        for position in 0..n {
            for freq in &self.inv_freq {
                let (s, c) = (position as f32 * freq).sin_cos();
                cos.push(c * self.scaling);
                sin.push(s * self.scaling);
            }
        }
        (cos, sin)
    }
}

/// `theta^(2i / head_dim)` in f32, `[head_dim / 2]`.
fn powers(theta: f64, head_dim: usize) -> Vec<f32> {
    (0..head_dim).step_by(2).map(|i| (theta as f32).powf(i as f32 / head_dim as f32)).collect()
}

fn required(params: &Object<'_>, key: &str) -> Result<f64, BackendError> {
    params.positive(key)?.ok_or_else(|| params.error(key, "is missing"))
}

fn unsupported(what: &str) -> BackendError {
    BackendError::Unsupported { what: what.to_owned(), supported: SUPPORTED.to_owned() }
}
