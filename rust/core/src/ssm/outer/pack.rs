//! What the tiles of a span meet: keys, queries and decays with their products inside chunks, and values.

use super::tile::{CHUNK, CHUNKS, Columns, DECAY, Pair, READ, ROWS, RowWeights, SPAN, Tile, WRITE};
use super::{Head, HeadGate, Rows};
use crate::simd::{Float, HeadMut, Isa, MOST_LANES, Soon, Vector};
use crate::ssm::Sequences;

/// Every so many blocks of an example, the last state is kept in the backward pass.
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
        let (mut kept, mut in_example) = (0, 0);
        for (nth, block) in blocks.iter().enumerate() {
            in_example = if block.checkpoint.is_none() { 1 } else { in_example + 1 };
            let keeps = in_example % KEEP == 0 || nth + 1 == blocks.len();
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

    /// The first step of a chunk.
    #[inline(always)]
    pub(super) fn first(self, chunk: usize) -> usize {
        self.start + chunk * CHUNK
    }

    /// The rows of the steps of a chunk; empty ones where there are no steps.
    #[inline(always)]
    fn rows<'a, T>(self, chunk: usize, of: &Rows<'a, T>) -> [&'a [T]; CHUNK] {
        let mut rows = [&[][..]; CHUNK];
        for (nth, row) in rows.iter_mut().enumerate() {
            if let Some(step) = self.step(chunk, nth) {
                *row = of.row(step);
            }
        }
        rows
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

#[inline(always)]
fn load_pair<V: Vector>(isa: V::Isa, row: &[V::Scalar], start: usize) -> Pair<V> {
    [load(isa, row, start), load(isa, row, start + V::LANES)]
}

/// What the next head reads and writes is asked for while this one is worked on, some rows at a time: rows of a head lie so
/// far apart that no processor foresees them.
pub(super) struct Ahead<'a> {
    places: &'a [Soon],
    place: usize,
    step: usize,
    end: usize,
    at_once: usize,
}

impl<'a> Ahead<'a> {
    /// A span, where there is a next one, by so many calls.
    #[inline(always)]
    pub(super) fn new(next: Option<(&'a [Soon], &Span)>, calls: usize) -> Self {
        let (places, step, end) = next.map_or((&[][..], 0, 0), |(places, span)| (places, span.start, span.end));
        Self { places, place: 0, step, end, at_once: ((end - step) * places.len()).div_ceil(calls) }
    }

    #[inline(always)]
    pub(super) fn ask(&mut self) {
        for _ in 0..self.at_once {
            if self.step == self.end {
                return;
            }
            self.places[self.place].ask(self.step);
            self.place += 1;
            if self.place == self.places.len() {
                (self.place, self.step) = (0, self.step + 1);
            }
        }
    }
}

/// What comes after a head's span where heads go through the spans together: the next head's, or the first one's in the
/// span that follows.
#[inline(always)]
pub(super) fn next_of<'a, const N: usize>(
    places: &'a [[Soon; N]],
    head: usize,
    span: &'a Span,
    following: Option<&'a Span>,
) -> Option<(&'a [Soon], &'a Span)> {
    let (head, span) = if head + 1 < places.len() { (head + 1, span) } else { (0, following?) };
    Some((&places[head], span))
}

/// Reads the steps of a chunk, `[register][step]`; zeros where there are no steps.
#[inline(always)]
fn read_steps<V: Vector>(isa: V::Isa, rows: [&[V::Scalar]; CHUNK], to: &mut [[V; CHUNK]]) {
    let [a, b, c, d] = rows;
    let whole = a.len().min(b.len()).min(c.len()).min(d.len()) / V::LANES;
    let (full, rest) = to.split_at_mut(whole.min(to.len()));
    let (a, b) = (a.chunks_exact(V::LANES), b.chunks_exact(V::LANES));
    let (c, d) = (c.chunks_exact(V::LANES), d.chunks_exact(V::LANES));
    for ((((to, a), b), c), d) in full.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *to = [V::load(isa, a), V::load(isa, b), V::load(isa, c), V::load(isa, d)];
    }
    for (register, to) in rest.iter_mut().enumerate() {
        for nth in 0..CHUNK {
            to[nth] = load(isa, rows[nth], (whole + register) * V::LANES);
        }
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

/// Decays of log-gates. Where all are near zero they are powers of two, which take fewer instructions. The error of a
/// rounded log2(e) grows with the gate, in `f32` to 1e-7 at the limit; without FMA, that of a rounded product comes to it,
/// up to 3.4e-7.
#[inline(always)]
fn exp_of_gates<V: Vector>(isa: V::Isa, constants: &[V; 8], gates: &mut [[V; CHUNK]]) {
    const LIMIT: f64 = 8.0;
    let zero = V::splat(isa, V::Scalar::ZERO);
    let limit = V::splat(isa, V::Scalar::from_f64(LIMIT));
    let mut near = V::splat(isa, V::Scalar::ONE);
    for gates in gates.iter() {
        for nth in 0..CHUNK {
            near = gates[nth].abs().if_less(limit, near, zero);
        }
    }
    if near.sum() == V::Scalar::from_f64(V::LANES as f64) {
        let log2_e = [V::splat(isa, V::Scalar::from_f64(std::f64::consts::LOG2_E)); CHUNK];
        for gates in gates {
            *gates = V::Scalar::exp2_of_products(isa, constants, *gates, log2_e);
        }
    } else {
        for gates in gates {
            for nth in 0..CHUNK {
                gates[nth] = V::Scalar::exp(isa, gates[nth]);
            }
        }
    }
}

/// Keys, queries (times the scale) and decays of a span; a step that is not there has 0, 0 and 1.
pub(super) struct Keys<V> {
    /// Registers of a step.
    pub(super) registers: usize,
    /// `[chunk * registers + register][step]`.
    pub(super) q: Vec<[V; CHUNK]>,
    pub(super) k: Vec<[V; CHUNK]>,
    pub(super) a: Vec<[V; CHUNK]>,
    /// Of [`Float::exp2_of_products`].
    constants: [V; 8],
}

impl<V: Vector> Keys<V> {
    #[inline(always)]
    pub(super) fn new(isa: V::Isa, head_k: usize) -> Self {
        let registers = head_k.div_ceil(2 * V::LANES) * 2;
        let of = |x| vec![[V::splat(isa, x); CHUNK]; CHUNKS * registers];
        let (zeros, ones) = (of(V::Scalar::ZERO), of(V::Scalar::ONE));
        Self { registers, q: zeros.clone(), k: zeros, a: ones, constants: V::Scalar::exp2_constants(isa) }
    }

    /// Registers that no channel is in stay as they were made.
    #[inline(always)]
    pub(super) fn read(&mut self, isa: V::Isa, head: &Head<'_, V::Scalar>, span: Span) {
        let one = V::splat(isa, V::Scalar::ONE);
        let scale = V::splat(isa, head.scale);
        let used = head.head_k.div_ceil(V::LANES);
        for chunk in 0..span.chunks() {
            let of_chunk = chunk * self.registers..chunk * self.registers + used;
            let (q, k, a) = (&mut self.q[of_chunk.clone()], &mut self.k[of_chunk.clone()], &mut self.a[of_chunk]);
            read_steps(isa, span.rows(chunk, &head.q), q);
            read_steps(isa, span.rows(chunk, &head.k), k);
            match &head.gate {
                HeadGate::Constant(decay) => a.fill([V::splat(isa, *decay); CHUNK]),
                HeadGate::Head(gates) => {
                    let mut decays = [one; CHUNK];
                    for (decay, gate) in decays.iter_mut().zip(span.rows(chunk, gates)) {
                        let gate = gate.first().copied().unwrap_or(V::Scalar::ZERO);
                        *decay = V::Scalar::exp(isa, V::splat(isa, gate));
                    }
                    a.fill(decays);
                }
                HeadGate::Channel(gates) => {
                    read_steps(isa, span.rows(chunk, gates), a);
                    exp_of_gates(isa, &self.constants, a);
                }
            }
            // What is not there leaves the state as it is.
            for nth in (0..CHUNK).filter(|nth| span.step(chunk, *nth).is_none()) {
                for a in a.iter_mut() {
                    a[nth] = one;
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
        let rows = span.rows(chunk, from);
        let [a, b, c, d] = rows;
        let whole = a.len().min(b.len()).min(c.len()).min(d.len()) / (2 * V::LANES);
        let (a, b) = (a.chunks_exact(2 * V::LANES), b.chunks_exact(2 * V::LANES));
        let (c, d) = (c.chunks_exact(2 * V::LANES), d.chunks_exact(2 * V::LANES));
        for ((((to, a), b), c), d) in to.chunks_exact_mut(CHUNKS).zip(a).zip(b).zip(c).zip(d) {
            to[chunk] = [load_pair(isa, a, 0), load_pair(isa, b, 0), load_pair(isa, c, 0), load_pair(isa, d, 0)];
        }
        for (pair, to) in to.chunks_exact_mut(CHUNKS).enumerate().skip(whole) {
            for nth in 0..CHUNK {
                to[chunk][nth] = load_pair(isa, rows[nth], pair * 2 * V::LANES);
            }
        }
    }
}

/// Writes columns to the steps of a span.
#[inline(always)]
pub(super) fn write_columns<V: Vector>(isa: V::Isa, from: &[Columns<V>], span: Span, to: &mut HeadMut<'_, V::Scalar>) {
    for chunk in 0..span.chunks() {
        let mut rows = to.rows::<CHUNK>(span.first(chunk), span.end);
        for (pair, from) in from.chunks_exact(CHUNKS).enumerate() {
            let start = pair * 2 * V::LANES;
            let from = &from[chunk];
            for (row, [first, second]) in rows.iter_mut().zip(from) {
                store(isa, *first, row, start, false);
                store(isa, *second, row, start + V::LANES, false);
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
    let mut lanes = [V::Scalar::ZERO; MOST_LANES];
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
            tiles[row / ROWS][row % ROWS] = load_pair(isa, from, start);
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
