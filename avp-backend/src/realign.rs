//! From a hidden state back to an input embedding, for latent steps within one model.
//!
//! Tied models go through the vocabulary (softmax, then the weighted mean of the input embeddings). Untied
//! ones use the ridge regression of LatentMAS: `W = (E_out^T E_out + 1e-5 I)^-1 E_out^T E_in`, and the result
//! is scaled to the mean input-embedding norm.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef, Side};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::mix::{LEFT_OUT_F32, LEFT_OUT_HALF};
use crate::{Backend, BackendError, MapError, NonFinite, RealignmentProducts, SoftmaxMix};

/// Ridge term of the regression.
const LAMBDA: f64 = 1e-5;
/// Norms below this are taken as this where a vector is scaled to a norm, so that a zero vector stays zero.
pub const SMALLEST_NORM: f32 = 1e-6;

/// How a model's hidden states become input embeddings.
#[derive(Clone, Debug)]
pub enum LatentProjection {
    /// Softmax over the vocabulary, then the mean input embedding: for tied models.
    SoftEmbedding,
    /// A linear map, then scaling: for untied models.
    Realignment(LinearMap),
}

/// Why a hidden state could not be projected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// NaN or infinity came out of the model.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    /// The engine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Two models share no token, or none that has a probability.
    #[error("the two models share no token that has a probability; hand over text")]
    NothingShared,
    /// What would be shipped is no distribution.
    #[error(transparent)]
    Distribution(#[from] avp_wire::DistributionError),
    /// A map that is not for these models.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The regression has no solution.
    #[error("the output embeddings give no realignment: {0}")]
    Singular(String),
}

impl LatentProjection {
    /// The projection that `backend`'s model needs. A realignment is computed once and kept under
    /// `cache_dir`, named by the checkpoint's fingerprint.
    ///
    /// # Errors
    /// [`ProjectionError`] if the engine fails or the regression has no solution. A cache that cannot be read
    /// or written only costs time.
    pub fn for_backend(backend: &dyn Backend, cache_dir: Option<&Path>) -> Result<Self, ProjectionError> {
        let info = backend.info();
        if info.tied_embeddings {
            return Ok(Self::SoftEmbedding);
        }
        let dim = info.identity.hidden_dim as usize;
        let file = cache_dir.zip(info.weights.as_deref()).map(|(dir, weights)| cache_file(dir, weights));
        if let Some(cached) = file.as_deref().and_then(|file| LinearMap::load(file, dim)) {
            return Ok(Self::Realignment(cached));
        }
        let computed =
            LinearMap::solve(dim, &backend.realignment_products()?, backend.mean_embedding_norm()?)?;
        if let Some(file) = file {
            // Without the cache the next start computes it again.
            let _ = computed.save(&file);
        }
        Ok(Self::Realignment(computed))
    }

    /// The input embedding `[hidden_dim]` of a hidden state `[hidden_dim]`.
    ///
    /// # Errors
    /// [`ProjectionError`] if logits are not finite or the engine fails.
    pub fn apply(&self, backend: &dyn Backend, hidden: &[f32]) -> Result<Vec<f32>, ProjectionError> {
        match self {
            Self::SoftEmbedding => {
                let left_out = left_out_bound(backend);
                if let Some(embedding) = backend.soft_embedding(hidden, left_out)? {
                    return Ok(embedding);
                }
                let logits = backend.logits(hidden)?;
                let mix = SoftmaxMix::from_logits(&logits, 1.0, left_out)?;
                Ok(backend.embed_mix(&[mix.as_token_mix()])?)
            }
            Self::Realignment(realignment) => Ok(realignment.apply(hidden)),
        }
    }
}

/// Mass that a mix may leave out for this backend's type (DESIGN: 1e-6, 1e-4 for half types).
#[must_use]
pub fn left_out_bound(backend: &dyn Backend) -> f32 {
    if backend.info().dtype.size() == 4 { LEFT_OUT_F32 } else { LEFT_OUT_HALF }
}

fn cache_file(dir: &Path, weights: &str) -> PathBuf {
    // The fingerprint is our own hash of the checkpoint; keep to its alphabet all the same.
    let name: String = weights.chars().filter(char::is_ascii_hexdigit).collect();
    dir.join("realign").join(format!("{name}.safetensors"))
}

/// A linear map from hidden states to input embeddings, and the norm its results are scaled to.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearMap {
    /// `[source_dim, target_dim]` row-major: `embedding = hidden * matrix + bias`.
    matrix: Arc<[f32]>,
    bias: Option<Vec<f32>>,
    target_norm: f32,
}

impl LinearMap {
    /// A map by a given matrix `[source_dim, target_dim]`, bias `[target_dim]` and norm.
    #[must_use]
    pub fn new(matrix: Vec<f32>, bias: Option<Vec<f32>>, target_norm: f32) -> Self {
        Self { matrix: matrix.into(), bias, target_norm }
    }

    /// The matrix `[source_dim, target_dim]`, row-major.
    #[must_use]
    pub fn matrix(&self) -> &Arc<[f32]> {
        &self.matrix
    }

    /// The bias `[target_dim]`, where there is one.
    #[must_use]
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Norm that results are scaled to.
    #[must_use]
    pub fn target_norm(&self) -> f32 {
        self.target_norm
    }

    /// Solves the ridge regression in f64.
    ///
    /// # Errors
    /// [`ProjectionError::Singular`] if the Gram matrix is not positive definite, which finite weights cannot
    /// cause.
    pub fn solve(
        dim: usize,
        products: &RealignmentProducts,
        target_norm: f32,
    ) -> Result<Self, ProjectionError> {
        let mut gram: Mat<f64> = MatRef::from_row_major_slice(&products.gram, dim, dim).to_owned();
        for i in 0..dim {
            gram[(i, i)] += LAMBDA;
        }
        let cholesky = gram.llt(Side::Lower).map_err(|e| ProjectionError::Singular(format!("{e:?}")))?;
        let solved = cholesky.solve(MatRef::from_row_major_slice(&products.cross, dim, dim));
        let matrix =
            (0..dim).flat_map(|i| (0..dim).map(move |j| (i, j))).map(|at| solved[at] as f32).collect();
        Ok(Self::new(matrix, None, target_norm))
    }

    /// The input embedding `[target_dim]` of a hidden state `[source_dim]`.
    #[must_use]
    pub fn apply(&self, hidden: &[f32]) -> Vec<f32> {
        let mut out = self.unscaled(hidden);
        scale_to_norm(&mut out, self.target_norm);
        out
    }

    /// `hidden * matrix + bias`, before it is scaled.
    #[must_use]
    pub fn unscaled(&self, hidden: &[f32]) -> Vec<f32> {
        let target_dim = self.matrix.len() / hidden.len();
        let mut out = self.bias.clone().unwrap_or_else(|| vec![0.0_f32; target_dim]);
        for (&h, row) in hidden.iter().zip(self.matrix.chunks_exact(target_dim)) {
            for (o, &w) in out.iter_mut().zip(row) {
                *o += h * w;
            }
        }
        out
    }

    fn save(&self, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let dir = file.parent().ok_or("no parent folder")?;
        fs::create_dir_all(dir)?;
        let matrix: Vec<u8> = self.matrix.iter().flat_map(|w| w.to_le_bytes()).collect();
        let dim = self.matrix.len().isqrt();
        let norm = self.target_norm.to_le_bytes();
        let bytes = safetensors::serialize(
            [
                ("matrix", TensorView::new(Dtype::F32, vec![dim, dim], &matrix)?),
                ("target_norm", TensorView::new(Dtype::F32, vec![1], &norm)?),
            ],
            None,
        )?;
        let mut beside = tempfile::NamedTempFile::new_in(dir)?;
        beside.write_all(&bytes)?;
        beside.persist(file)?;
        Ok(())
    }

    /// The cached realignment, or `None` if there is none that fits `dim`.
    fn load(file: &Path, dim: usize) -> Option<Self> {
        let bytes = fs::read(file).ok()?;
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        let matrix =
            tensors.tensor("matrix").ok().filter(|t| t.dtype() == Dtype::F32 && t.shape() == [dim, dim])?;
        let norm = tensors.tensor("target_norm").ok().filter(|t| t.dtype() == Dtype::F32)?;
        let matrix: Vec<f32> = floats(matrix.data());
        let target_norm = *floats(norm.data()).first()?;
        let finite = matrix.iter().all(|w| w.is_finite()) && target_norm.is_finite();
        finite.then(|| Self::new(matrix, None, target_norm))
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Scales `row` to an L2 norm of `target`; a zero vector stays zero.
pub fn scale_to_norm(row: &mut [f32], target: f32) {
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(SMALLEST_NORM);
    row.iter_mut().for_each(|x| *x *= target / norm);
}
