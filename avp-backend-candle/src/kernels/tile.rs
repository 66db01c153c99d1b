//! Loops over some rows of a matrix in vector registers, compiled for AVX2, AVX-512 and NEON, and chosen by the processor.

use pulp::Simd;

use super::Element;
use super::element::PIECE;

/// Weight rows that are gone through at once: so many streams from memory, and so many sums that do not wait for each other.
pub(super) const ROWS: usize = 4;
/// Vectors that they are multiplied with at once. Twelve sums and what goes into them fit the registers of AVX2 too.
const VECTORS: usize = 3;

/// Memory for the f32 values of pieces of [`ROWS`] rows.
pub(super) type Buffers = [[f32; PIECE]; ROWS];

/// What [`Buffers`] start as.
pub(super) const NO_VALUES: Buffers = [[0.0; PIECE]; ROWS];

/// The first [`ROWS`] rows of `rows [.., k]`, empty where there are no more.
#[inline(always)]
pub(super) fn split<T>(rows: &[T], k: usize) -> [&[T]; ROWS] {
    let mut rows = rows.chunks_exact(k);
    std::array::from_fn(|_| rows.next().unwrap_or_default())
}

/// Adds the products of `R` rows with the vectors `x [n, k]` to `out [n, R]`. `ahead` are the rows that will be asked for next.
#[inline(always)]
pub(super) fn products<S: Simd, T: Element, const R: usize>(
    simd: S,
    rows: [&[T]; R],
    ahead: [&[T]; R],
    x: &[f32],
    buffers: &mut Buffers,
    out: &mut [[f32; R]],
) {
    let k = rows.first().map_or(0, |row| row.len());
    for start in (0..k).step_by(T::PIECE.min(k)) {
        let piece = start..k.min(start.saturating_add(T::PIECE));
        let mut wide = [&[][..]; R];
        for (((wide, row), ahead), buffer) in wide.iter_mut().zip(rows).zip(ahead).zip(&mut *buffers) {
            let ahead = ahead.get(piece.clone()).unwrap_or_default();
            *wide = T::widen(row.get(piece.clone()).unwrap_or_default(), ahead, buffer);
        }
        let vectors = x.chunks_exact(k).map(|x| x.get(piece.clone()).unwrap_or_default());
        wide_products(simd, wide, vectors, out);
    }
}

/// The same of rows in f32 and as many vectors as `out` has places.
#[inline(always)]
pub(super) fn wide_products<'a, S: Simd, const R: usize>(
    simd: S,
    rows: [&[f32]; R],
    mut vectors: impl Iterator<Item = &'a [f32]>,
    out: &mut [[f32; R]],
) {
    let (groups, rest) = out.as_chunks_mut::<VECTORS>();
    for group in groups {
        let x: [&[f32]; VECTORS] = std::array::from_fn(|_| vectors.next().unwrap_or_default());
        add(group, dots(simd, rows, x));
    }
    for (out, x) in rest.iter_mut().zip(vectors) {
        add(std::array::from_mut(out), dots(simd, rows, [x]));
    }
}

#[inline(always)]
fn add<const R: usize, const C: usize>(sums: &mut [[f32; R]; C], more: [[f32; R]; C]) {
    for (sum, more) in sums.as_flattened_mut().iter_mut().zip(more.as_flattened()) {
        *sum += more;
    }
}

/// The products of every row with every vector, all of one length.
#[inline(always)]
#[expect(
    clippy::indexing_slicing,
    reason = "the length is that of all; iterators over so many slices do not become one loop"
)]
fn dots<S: Simd, const R: usize, const C: usize>(
    simd: S,
    rows: [&[f32]; R],
    x: [&[f32]; C],
) -> [[f32; R]; C] {
    let rows = rows.map(S::as_simd_f32s);
    let x = x.map(S::as_simd_f32s);
    let lengths = rows.iter().chain(&x).map(|(vectors, _)| vectors.len());
    let n = lengths.min().unwrap_or(0);
    let row_vectors = rows.map(|(vectors, _)| &vectors[..n]);
    let x_vectors = x.map(|(vectors, _)| &vectors[..n]);
    let mut sums = [[simd.splat_f32s(0.0); R]; C];
    for i in 0..n {
        for r in 0..R {
            for c in 0..C {
                sums[c][r] = simd.mul_add_e_f32s(row_vectors[r][i], x_vectors[c][i], sums[c][r]);
            }
        }
    }
    // Plain loops: closures over the sums would keep these in memory.
    let mut out = [[0f32; R]; C];
    for c in 0..C {
        for r in 0..R {
            out[c][r] = simd.reduce_sum_f32s(sums[c][r]);
        }
    }
    for c in 0..C {
        for r in 0..R {
            out[c][r] += rows[r].1.iter().zip(x[c].1).map(|(a, b)| a * b).sum::<f32>();
        }
    }
    out
}

/// Adds some rows, each times its weight, to `sum`; all are equally long.
#[inline(always)]
pub(super) fn add_rows<S: Simd, T: Element, const R: usize>(
    simd: S,
    sum: &mut [f32],
    rows: [&[T]; R],
    weights: [f32; R],
    buffers: &mut Buffers,
) {
    let mut start = 0_usize;
    for sum in sum.chunks_mut(PIECE) {
        let piece = start..start.saturating_add(sum.len());
        let mut wide = [&[][..]; R];
        for ((wide, row), buffer) in wide.iter_mut().zip(rows).zip(&mut *buffers) {
            *wide = T::widen(row.get(piece.clone()).unwrap_or_default(), &[], buffer);
        }
        add_wide(simd, sum, wide, weights);
        start = piece.end;
    }
}

/// The same of rows in f32.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "as in `dots`")]
pub(super) fn add_wide<S: Simd, const R: usize>(
    simd: S,
    sum: &mut [f32],
    rows: [&[f32]; R],
    weights: [f32; R],
) {
    let rows = rows.map(S::as_simd_f32s);
    let (sums, rest) = S::as_mut_simd_f32s(sum);
    let n = rows.iter().map(|(vectors, _)| vectors.len()).min().unwrap_or(0).min(sums.len());
    let vectors = rows.map(|(vectors, _)| &vectors[..n]);
    let factors = weights.map(|weight| simd.splat_f32s(weight));
    for (i, sum) in sums.iter_mut().enumerate().take(n) {
        for r in 0..R {
            *sum = simd.mul_add_e_f32s(factors[r], vectors[r][i], *sum);
        }
    }
    for ((_, row), weight) in rows.iter().zip(weights) {
        rest.iter_mut().zip(*row).for_each(|(sum, value)| *sum += weight * value);
    }
}
