//! Cosines and sines of the rotary embeddings, where the model computes.

use std::sync::{PoisonError, RwLock};

use candle_core::{Device, Result, Tensor};

use crate::config::Rope;

/// Positions that tables are first made for.
const FIRST: usize = 1024;

/// Tables that are made once, and anew where a pass goes beyond them.
#[derive(Debug, Default)]
pub(super) struct Rotations(RwLock<Tables>);

#[derive(Debug, Default)]
struct Tables {
    positions: usize,
    /// `[positions, head_dim / 2]` of each kind of rotary embedding.
    of: Vec<(Tensor, Tensor)>,
}

impl Rotations {
    /// Cosines and sines `[n, head_dim / 2]` of the positions from `start` on, for each of `ropes`.
    pub(super) fn of(
        &self,
        ropes: &[Rope],
        start: usize,
        n: usize,
        device: &Device,
    ) -> Result<Vec<(Tensor, Tensor)>> {
        let end = start + n;
        let rows = |tables: &Tables| {
            let rows = |table: &Tensor| table.narrow(0, start, n);
            tables.of.iter().map(|(cos, sin)| Ok((rows(cos)?, rows(sin)?))).collect()
        };
        {
            let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if end <= tables.positions {
                return rows(&tables);
            }
        }
        let positions = end.max(FIRST).next_power_of_two();
        let table = |rope: &Rope| {
            let (cos, sin) = rope.angles(positions);
            let shape = (positions, rope.inv_freq.len());
            Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
        };
        let made = Tables { positions, of: ropes.iter().map(table).collect::<Result<Vec<_>>>()? };
        let taken = rows(&made);
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if tables.positions < made.positions {
            *tables = made;
        }
        taken
    }
}
