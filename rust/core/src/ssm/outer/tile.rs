//! A tile of the state in registers: [`ROWS`] rows of a pair of registers, for the chunks of a span.

use crate::simd::Vector;

/// Steps that are taken at once.
pub(super) const CHUNK: usize = 4;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// The most steps of a span: what is packed at once, so that it stays in the nearest cache.
pub(super) const SPAN: usize = 32;

/// Chunks of a span.
pub(super) const CHUNKS: usize = SPAN / CHUNK;

/// What a tile's rows meet in a chunk, a number for each row: the decay at [`DECAY`], the weights of what is written at
/// [`WRITE`] on and of what is read at [`READ`] on, each for the four steps.
pub(super) type RowWeights<T> = [[T; ROWS]; 9];

pub(super) const DECAY: usize = 0;
pub(super) const WRITE: usize = 1;
pub(super) const READ: usize = WRITE + CHUNK;

/// Two registers, the columns of a tile.
pub(super) type Pair<V> = [V; 2];

/// A tile's columns in a chunk, for each step.
pub(super) type Columns<V> = [Pair<V>; CHUNK];

/// Rows of registers.
pub(super) type Tile<V> = [Pair<V>; ROWS];

/// The chunks of a span, first to last: what is read of the state before each chunk is added to `read` (where `FIRST`, it
/// is `read`); then the state decays, and `written` is added. The decay is that of the rows, or of the columns where these
/// are given.
#[inline(always)]
pub(super) fn scan<V: Vector, const FIRST: bool>(
    isa: V::Isa,
    rows: &[RowWeights<V::Scalar>],
    decays: Option<&[Pair<V>]>,
    written: &[Columns<V>],
    read: &mut [Columns<V>],
    state: &mut Tile<V>,
) {
    let mut s = *state;
    let chunks = rows.len().min(written.len()).min(read.len());
    let (written, read) = (&written[..chunks], &mut read[..chunks]);
    let decays = decays.map(|decays| &decays[..chunks]);
    for chunk in 0..chunks {
        let (weights, written, read) = (&rows[chunk], &written[chunk], &mut read[chunk]);
        for step in 0..CHUNK {
            let mut sum = read[step];
            for row in 0..ROWS {
                let weight = V::splat(isa, weights[READ + step][row]);
                if FIRST && row == 0 {
                    sum = [weight * s[row][0], weight * s[row][1]];
                } else {
                    sum = [weight.mul_add(s[row][0], sum[0]), weight.mul_add(s[row][1], sum[1])];
                }
            }
            read[step] = sum;
        }
        match decays {
            None => {
                for row in 0..ROWS {
                    let decay = V::splat(isa, weights[DECAY][row]);
                    s[row] = [s[row][0] * decay, s[row][1] * decay];
                }
            }
            Some(decays) => {
                let decay = decays[chunk];
                for row in 0..ROWS {
                    s[row] = [s[row][0] * decay[0], s[row][1] * decay[1]];
                }
            }
        }
        for step in 0..CHUNK {
            let columns = written[step];
            for row in 0..ROWS {
                let weight = V::splat(isa, weights[WRITE + step][row]);
                s[row] = [weight.mul_add(columns[0], s[row][0]), weight.mul_add(columns[1], s[row][1])];
            }
        }
    }
    *state = s;
}

/// Products of a tile's rows with columns in a chunk, for each step and row, not yet summed over lanes.
pub(super) type Products<V> = [[V; ROWS]; CHUNK];

/// The chunks of a span, last to first, for the gradient of the state after each: added to `of_values` are its sums over
/// rows with the weights at [`WRITE`], to `products` those with `values` (where `FIRST`, these are `products`); then it
/// decays, and what is read at [`READ`] with the gradient `of_output` is added: the gradient of the state before the chunk.
#[inline(always)]
pub(super) fn reverse<V: Vector, const FIRST: bool>(
    isa: V::Isa,
    rows: &[RowWeights<V::Scalar>],
    values: &[Columns<V>],
    of_output: &[Columns<V>],
    of_values: &mut [Columns<V>],
    products: &mut [Products<V>],
    gradient: &mut Tile<V>,
) {
    let mut d = *gradient;
    let chunks = rows.len().min(values.len()).min(of_output.len()).min(of_values.len()).min(products.len());
    let (values, of_output) = (&values[..chunks], &of_output[..chunks]);
    let (of_values, products) = (&mut of_values[..chunks], &mut products[..chunks]);
    for chunk in (0..chunks).rev() {
        let (weights, values, of_output) = (&rows[chunk], &values[chunk], &of_output[chunk]);
        let (of_values, products) = (&mut of_values[chunk], &mut products[chunk]);
        for step in 0..CHUNK {
            let mut sum = of_values[step];
            for row in 0..ROWS {
                let weight = V::splat(isa, weights[WRITE + step][row]);
                sum = [weight.mul_add(d[row][0], sum[0]), weight.mul_add(d[row][1], sum[1])];
            }
            let columns = values[step];
            for row in 0..ROWS {
                let first = d[row][0];
                let sum = if FIRST { first * columns[0] } else { first.mul_add(columns[0], products[step][row]) };
                products[step][row] = d[row][1].mul_add(columns[1], sum);
            }
            of_values[step] = sum;
        }
        for row in 0..ROWS {
            let decay = V::splat(isa, weights[DECAY][row]);
            d[row] = [d[row][0] * decay, d[row][1] * decay];
        }
        for step in 0..CHUNK {
            let columns = of_output[step];
            for row in 0..ROWS {
                let weight = V::splat(isa, weights[READ + step][row]);
                d[row] = [weight.mul_add(columns[0], d[row][0]), weight.mul_add(columns[1], d[row][1])];
            }
        }
    }
    *gradient = d;
}
