//! What every map keeps to, whether it was made here or read from a file.

use avp_handshake::MIN_SHARED_TOKENS;

use super::{MapFault, MapProjection, ProjectionMap};
use crate::SharedTokens;

impl ProjectionMap {
    /// What [`decode`](Self::decode) takes, [`encode`](Self::encode) may write.
    pub(super) fn judge(&self) -> Result<(), MapFault> {
        self.source.judge("source")?;
        self.target.judge("target")?;
        let positive = |value: f32| value.is_finite() && value > 0.0;
        let fault = |field: &str, problem| Err(MapFault::Field { field: field.to_owned(), problem });
        if self.target_norm.is_some_and(|norm| !positive(norm)) {
            return fault("target_norm", "no finite number above 0");
        }
        // A mean of cosines may be rounded beyond 1.
        if self.validation.is_some_and(|found| !(-1.001..=1.001).contains(&found.cosine)) {
            return fault("validation.cosine", "no number from -1 to 1");
        }
        let perplexity = self.validation.and_then(|found| found.perplexity);
        if perplexity.is_some_and(|perplexity| !positive(perplexity)) {
            return fault("validation.perplexity", "no finite number above 0");
        }
        match &self.projection {
            MapProjection::Vocabulary(shared) => self.judge_tokens(shared),
            MapProjection::Linear(map) => {
                map.judge(self.source.hidden_dim, self.target.hidden_dim)?;
                match self.target_norm == Some(map.target_norm()) {
                    true => Ok(()),
                    false => fault("target_norm", "not that of the linear map"),
                }
            }
        }
    }

    fn judge_tokens(&self, shared: &SharedTokens) -> Result<(), MapFault> {
        let (rows, target_rows) = (self.source.rows, self.target.rows);
        let least = if matches!(shared, SharedTokens::Same(_)) { 1 } else { MIN_SHARED_TOKENS };
        let most = match shared {
            SharedTokens::Same(_) => rows.min(target_rows) as usize,
            SharedTokens::Pairs(_) => rows as usize,
        };
        if !(least..=most).contains(&shared.len()) {
            return Err(MapFault::Shared { shared: shared.len(), least, most });
        }
        let SharedTokens::Pairs(pairs) = shared else { return Ok(()) };
        let mut next = 0;
        for &(id, target) in pairs {
            if id < next {
                return Err(MapFault::Order(id));
            }
            if id >= rows {
                return Err(MapFault::Id { end: "source", id, rows });
            }
            if target >= target_rows {
                return Err(MapFault::Id { end: "target", id: target, rows: target_rows });
            }
            next = id + 1;
        }
        Ok(())
    }
}
