//! Linear maps out of safetensors files, and whether they fit two models.

use super::MapFault;
use super::tensors::Tensors;
use crate::LinearMap;

impl LinearMap {
    /// Reads a map from a safetensors file: `matrix` `[source_dim, target_dim]`, `target_norm` `[1]`, and `bias` `[target_dim]`
    /// where there is one, all F32. Other tensors are passed over.
    ///
    /// # Errors
    /// [`MapFault`] if it is no such file, or a value is not finite.
    pub fn from_safetensors(bytes: &[u8], source_dim: u32, target_dim: u32) -> Result<Self, MapFault> {
        let (tensors, _) = Tensors::read(bytes)?;
        let norm = tensors.f32s("target_norm", &[1])?;
        let norm = norm.first().copied().ok_or_else(|| MapFault::Missing("target_norm".to_owned()))?;
        let map = Self::of(&tensors, source_dim, target_dim, norm)?;
        map.judge(source_dim, target_dim)?;
        Ok(map)
    }

    /// The matrix, and the bias where there is one.
    pub(super) fn of(
        tensors: &Tensors<'_>,
        source_dim: u32,
        target_dim: u32,
        norm: f32,
    ) -> Result<Self, MapFault> {
        let (source_dim, target_dim) = (source_dim as usize, target_dim as usize);
        let matrix = tensors.f32s("matrix", &[source_dim, target_dim])?;
        let bias = tensors.has("bias").then(|| tensors.f32s("bias", &[target_dim])).transpose()?;
        Ok(Self::new(matrix, bias, norm))
    }

    /// Whether it takes the one width to the other, by finite numbers.
    pub(super) fn judge(&self, source_dim: u32, target_dim: u32) -> Result<(), MapFault> {
        self.fits(source_dim, target_dim)?;
        let finite = |name, values: &[f32]| match values.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(MapFault::NonFinite(name)),
        };
        finite("matrix", self.matrix())?;
        finite("bias", self.bias().unwrap_or_default())?;
        finite("target_norm", &[self.target_norm()])
    }

    /// Whether it takes the one width to the other.
    pub(super) fn fits(&self, source_dim: u32, target_dim: u32) -> Result<(), MapFault> {
        let (source_dim, target_dim) = (source_dim as usize, target_dim as usize);
        let shape = |tensor, expected: Vec<usize>, got: &[f32]| {
            if expected.iter().copied().try_fold(1, usize::checked_mul) == Some(got.len()) {
                return Ok(());
            }
            Err(MapFault::Shape { tensor, expected, got: vec![got.len()] })
        };
        shape("matrix", vec![source_dim, target_dim], self.matrix())?;
        self.bias().map_or(Ok(()), |bias| shape("bias", vec![target_dim], bias))
    }
}
