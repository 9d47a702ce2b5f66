//! What the tiles of a span meet: keys, queries and decays with their products inside chunks, and values.

use super::tile::{CHUNK, CHUNKS, Columns, DECAY, Pair, READ, ROWS, RowWeights, SPAN, Tile, WRITE};
use super::{Head, HeadGate, Rows};
use crate::simd::{Float, HeadMut, Isa, Vector};
use crate::ssm::Sequences;

/// Every so many blocks' last states are kept in the backward pass.
const KEEP: usize = 4;

/// Consecutive steps of one example, at most [`SPAN`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether the state before it is zero.
    pub(super) begins: bool,
    /// Which of the kept states is that after it.
    pub(super) keeps: Option<usize>,
}

impl Span {
    /// Of a row, in order.
    pub(super) fn of(sequences: &Sequences<'_>, row: usize) -> Vec<Self> {
        let blocks = sequences.blocks(row);
        let mut spans = Vec::new();
        let mut kept = 0;
        for (nth, block) in blocks.iter().enumerate() {
            let keeps = nth % KEEP == KEEP - 1 || nth + 1 == blocks.len();
            for start in (block.start..block.end).step_by(SPAN) {
                let end = block.end.min(start + SPAN);
                let begins = start == block.start && block.checkpoint.is_none();
                let keeps = (keeps && end == block.end).then_some(kept);
                kept += usize::from(keeps.is_some());
                spans.push(Self { start, end, begins, keeps });
            }
        }
        spans
    }

    #[inline(always)]
    pub(super) fn chunks(self) -> usize {
        (self.end - self.start).div_ceil(CHUNK)
    }

    /// The step of a chunk, where there is one: the last chunk may have fewer than [`CHUNK`].
    #[inline(always)]
    pub(super) fn step(self, chunk: usize, nth: usize) -> Option<usize> {
        let step = self.start + chunk * CHUNK + nth;
        (step < self.end).then_some(step)
    }
}

/// The register of a row that starts at a channel; zeros where there are no channels.
#[inline(always)]
pub(super) fn load<V: Vector>(isa: V::Isa, row: &[V::Scalar], start: usize) -> V {
    V::load(isa, row.get(start..).unwrap_or(&[]))
}

/// Reads a row to one step of consecutive registers.
#[inline(always)]
fn read_row<V: Vector>(isa: V::Isa, row: &[V::Scalar], nth: usize, to: &mut [[V; CHUNK]]) {
    let mut whole = row.chunks_exact(V::LANES);
    let mut to = to.iter_mut();
    for (from, to) in (&mut whole).zip(&mut to) {
        to[nth] = V::load(isa, from);
    }
    if let (false, Some(to)) = (whole.remainder().is_empty(), to.next()) {
        to[nth] = V::load(isa, whole.remainder());
    }
}

/// Writes the register of a row that starts at a channel, or adds it.
#[inline(always)]
pub(super) fn store<V: Vector>(isa: V::Isa, value: V, row: &mut [V::Scalar], start: usize, add: bool) {
    if let Some(to) = row.get_mut(start..) {
        let value = if add { V::load(isa, to) + value } else { value };
        value.store(to);
    }
}

/// Numbers for the steps of each chunk and pairs of steps: `[t][s]` with s ≤ t.
pub(super) type Mix<T> = [[T; CHUNK]; CHUNK];

/// The sums over lanes of 10 registers, as a [`Mix`].
#[inline(always)]
fn mix_of<V: Vector>(isa: V::Isa, sums: &[[V; CHUNK]; CHUNK]) -> Mix<V::Scalar> {
    let zero = V::splat(isa, V::Scalar::ZERO);
    let mut flat = [zero; 16];
    let mut at = 0;
    for t in 0..CHUNK {
        for s in 0..=t {
            flat[at] = sums[t][s];
            at += 1;
        }
    }
    let mut out = [V::Scalar::ZERO; 16];
    V::sums(&flat[..12], &mut out[..12]);
    let mut mix = [[V::Scalar::ZERO; CHUNK]; CHUNK];
    let mut at = 0;
    for t in 0..CHUNK {
        for s in 0..=t {
            mix[t][s] = out[at];
            at += 1;
        }
    }
    mix
}

/// Keys, queries (times the scale) and decays of a span; a step that is not there has 0, 0 and 1.
pub(super) struct Keys<V> {
    /// Registers of a step.
    pub(super) registers: usize,
    /// `[chunk * registers + register][step]`.
    pub(super) q: Vec<[V; CHUNK]>,
    pub(super) k: Vec<[V; CHUNK]>,
    pub(super) a: Vec<[V; CHUNK]>,
}

impl<V: Vector> Keys<V> {
    #[inline(always)]
    pub(super) fn new(isa: V::Isa, head_k: usize) -> Self {
        let registers = head_k.div_ceil(2 * V::LANES) * 2;
        let of = |x| vec![[V::splat(isa, x); CHUNK]; CHUNKS * registers];
        let (zeros, ones) = (of(V::Scalar::ZERO), of(V::Scalar::ONE));
        Self { registers, q: zeros.clone(), k: zeros, a: ones }
    }

    /// Registers that no channel is in stay as they were made.
    #[inline(always)]
    pub(super) fn read(&mut self, isa: V::Isa, head: &Head<'_, V::Scalar>, span: Span) {
        let (zero, one) = (V::splat(isa, V::Scalar::ZERO), V::splat(isa, V::Scalar::ONE));
        let scale = V::splat(isa, head.scale);
        let used = head.head_k.div_ceil(V::LANES);
        for chunk in 0..span.chunks() {
            let of_chunk = chunk * self.registers..chunk * self.registers + used;
            let (q, k, a) = (&mut self.q[of_chunk.clone()], &mut self.k[of_chunk.clone()], &mut self.a[of_chunk]);
            for nth in 0..CHUNK {
                let Some(step) = span.step(chunk, nth) else {
                    for ((q, k), a) in q.iter_mut().zip(k.iter_mut()).zip(a.iter_mut()) {
                        (q[nth], k[nth], a[nth]) = (zero, zero, one);
                    }
                    continue;
                };
                read_row(isa, head.q.row(step), nth, q);
                read_row(isa, head.k.row(step), nth, k);
                match &head.gate {
                    HeadGate::Constant(decay) => {
                        for a in a.iter_mut() {
                            a[nth] = V::splat(isa, *decay);
                        }
                    }
                    HeadGate::Head(gates) => {
                        let decay = V::Scalar::exp(isa, V::splat(isa, gates.row(step)[0]));
                        for a in a.iter_mut() {
                            a[nth] = decay;
                        }
                    }
                    HeadGate::Channel(gates) => {
                        read_row(isa, gates.row(step), nth, a);
                        for a in a.iter_mut() {
                            a[nth] = V::Scalar::exp(isa, a[nth]);
                        }
                    }
                }
            }
            for q in q {
                for nth in 0..CHUNK {
                    q[nth] = q[nth] * scale;
                }
            }
        }
    }

    /// The weights of rows that are key channels, `[tile * CHUNKS + chunk]`, and the products of queries and keys.
    #[inline(always)]
    pub(super) fn weights(
        &self,
        isa: V::Isa,
        chunks: usize,
        rows: &mut [RowWeights<V::Scalar>],
        mix: &mut [Mix<V::Scalar>; CHUNKS],
    ) {
        let zero = V::splat(isa, V::Scalar::ZERO);
        for chunk in 0..chunks.min(CHUNKS) {
            let mut sums = [[zero; CHUNK]; CHUNK];
            for register in 0..self.registers {
                let at = chunk * self.registers + register;
                let (q, k, a) = (self.q[at], self.k[at], self.a[at]);
                // Keys as they are left after later steps, and the decay since the start.
                let mut left = k;
                let mut decay = a[0];
                for t in 0..CHUNK {
                    if t > 0 {
                        decay = decay * a[t];
                        for s in 0..t {
                            left[s] = left[s] * a[t];
                        }
                    }
                    for s in 0..=t {
                        sums[t][s] = q[t].mul_add(left[s], sums[t][s]);
                    }
                    put(decay * q[t], register, chunk, READ + t, rows);
                }
                put(decay, register, chunk, DECAY, rows);
                for s in 0..CHUNK {
                    put(left[s], register, chunk, WRITE + s, rows);
                }
            }
            mix[chunk] = mix_of(isa, &sums);
        }
    }

    /// What columns that are key channels meet: keys as they are left after a chunk, `[tile * CHUNKS + chunk]`, and decays.
    #[inline(always)]
    pub(super) fn columns(&self, chunks: usize, written: &mut [Columns<V>], decays: &mut [Pair<V>]) {
        for chunk in 0..chunks.min(CHUNKS) {
            for register in 0..self.registers {
                let at = chunk * self.registers + register;
                let (k, a) = (self.k[at], self.a[at]);
                let to = (register / 2) * CHUNKS + chunk;
                let mut later = a[CHUNK - 1];
                written[to][CHUNK - 1][register % 2] = k[CHUNK - 1];
                for s in (0..CHUNK - 1).rev() {
                    written[to][s][register % 2] = k[s] * later;
                    later = later * a[s];
                }
                decays[to][register % 2] = later;
            }
        }
    }
}

/// Reads the steps of a span as columns, `[tile * CHUNKS + chunk][step]`; zeros where there is no step.
#[inline(always)]
pub(super) fn read_columns<V: Vector>(isa: V::Isa, from: &Rows<'_, V::Scalar>, span: Span, to: &mut [Columns<V>]) {
    for chunk in 0..span.chunks() {
        for nth in 0..CHUNK {
            let row = span.step(chunk, nth).map_or(&[][..], |step| from.row(step));
            let mut whole = row.chunks_exact(2 * V::LANES);
            let mut to = to.chunks_mut(CHUNKS);
            for (from, to) in (&mut whole).zip(&mut to) {
                let (first, second) = from.split_at(V::LANES);
                to[chunk][nth] = [V::load(isa, first), V::load(isa, second)];
            }
            for to in to {
                to[chunk][nth] = [load(isa, whole.remainder(), 0), load(isa, whole.remainder(), V::LANES)];
            }
        }
    }
}

/// Writes columns to the steps of a span.
#[inline(always)]
pub(super) fn write_columns<V: Vector>(isa: V::Isa, from: &[Columns<V>], span: Span, to: &mut HeadMut<'_, V::Scalar>) {
    for chunk in 0..span.chunks() {
        for nth in 0..CHUNK {
            let Some(step) = span.step(chunk, nth) else { break };
            let row = to.row(step);
            for (tile, from) in from.chunks(CHUNKS).enumerate() {
                let start = tile * 2 * V::LANES;
                store(isa, from[chunk][nth][0], row, start, false);
                store(isa, from[chunk][nth][1], row, start + V::LANES, false);
            }
        }
    }
}

/// Copies columns, as [`WRITE`] or [`READ`] weights of rows that are the same channels.
#[inline(always)]
pub(super) fn columns_to_rows<V: Vector>(
    columns: &[Columns<V>],
    chunks: usize,
    which: usize,
    rows: &mut [RowWeights<V::Scalar>],
) {
    for (pair, columns) in columns.chunks(CHUNKS).enumerate() {
        for (chunk, columns) in columns.iter().enumerate().take(chunks) {
            for nth in 0..CHUNK {
                for half in 0..2 {
                    put(columns[nth][half], pair * 2 + half, chunk, which + nth, rows);
                }
            }
        }
    }
}

/// Puts a register of channels where the rows of tiles have these.
#[inline(always)]
fn put<V: Vector>(value: V, register: usize, chunk: usize, which: usize, rows: &mut [RowWeights<V::Scalar>]) {
    let mut lanes = [V::Scalar::ZERO; 8];
    value.store(&mut lanes[..V::LANES]);
    let tiles = V::LANES / ROWS;
    for tile in 0..tiles {
        let (lanes, _) = lanes[tile * ROWS..].as_chunks::<ROWS>();
        rows[(register * tiles + tile) * CHUNKS + chunk][which] = lanes[0];
    }
}

/// The products of two arrays of columns at steps t and s ≤ t of each chunk, summed over channels.
#[inline(always)]
pub(super) fn mix_columns<V: Vector>(
    isa: V::Isa,
    later: &[Columns<V>],
    earlier: &[Columns<V>],
    chunks: usize,
    mix: &mut [Mix<V::Scalar>; CHUNKS],
) {
    let zero = V::splat(isa, V::Scalar::ZERO);
    for chunk in 0..chunks.min(CHUNKS) {
        let mut sums = [[zero; CHUNK]; CHUNK];
        for (later, earlier) in later.chunks(CHUNKS).zip(earlier.chunks(CHUNKS)) {
            let (later, earlier) = (&later[chunk], &earlier[chunk]);
            for t in 0..CHUNK {
                for s in 0..=t {
                    sums[t][s] = later[t][0].mul_add(earlier[s][0], sums[t][s]);
                    sums[t][s] = later[t][1].mul_add(earlier[s][1], sums[t][s]);
                }
            }
        }
        mix[chunk] = mix_of(isa, &sums);
    }
}

/// Tiles of a matrix, `[column tile * row tiles + row tile]`, of which row r is `rows(r)`.
#[inline(always)]
pub(super) fn load_tiles<V: Vector>(isa: V::Isa, rows: &Rows<'_, V::Scalar>, count: usize, tiles: &mut [Tile<V>]) {
    let row_tiles = count.div_ceil(ROWS);
    for row in 0..count {
        let from = rows.row(row);
        for (column, tiles) in tiles.chunks_mut(row_tiles).enumerate() {
            let start = column * 2 * V::LANES;
            tiles[row / ROWS][row % ROWS] = [load(isa, from, start), load(isa, from, start + V::LANES)];
        }
    }
}

/// The reverse of [`load_tiles`].
#[inline(always)]
pub(super) fn store_tiles<V: Vector>(isa: V::Isa, tiles: &[Tile<V>], count: usize, to: &mut HeadMut<'_, V::Scalar>) {
    let row_tiles = count.div_ceil(ROWS);
    for row in 0..count {
        let to = to.row(row);
        for (column, tiles) in tiles.chunks(row_tiles).enumerate() {
            let start = column * 2 * V::LANES;
            let [first, second] = tiles[row / ROWS][row % ROWS];
            store(isa, first, to, start, false);
            store(isa, second, to, start + V::LANES, false);
        }
    }
}

/// Pairs of registers of so many channels.
#[inline(always)]
pub(super) fn pairs<T: Float, I: Isa>(channels: usize) -> usize {
    channels.div_ceil(2 * T::Vector::<I>::LANES)
}

/// Tiles of [`ROWS`] that pairs of registers are written to as.
#[inline(always)]
pub(super) fn padded_rows<T: Float, I: Isa>(channels: usize) -> usize {
    pairs::<T, I>(channels) * 2 * T::Vector::<I>::LANES / ROWS
}
