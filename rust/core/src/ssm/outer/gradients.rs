//! The two passes of [`backward`](mod@super::backward) over one head in one span.

use super::backward::{OfGate, OneHead};
use super::pack::{
    Ahead, Keys, Mix, Span, columns_to_rows, load, load_tiles, mix_columns, read_columns, store, write_columns,
};
use super::tile::{CHUNK, CHUNKS, Columns, Pair, Products, READ, ROWS, RowWeights, SPAN, Tile, WRITE, reverse, scan};
use super::{Head, Rows};
use crate::simd::{Float, HeadMut, MOST_LANES, Soon, Vector};

/// Memory for one head in one span, used by all.
pub(super) struct Scratch<V: Vector> {
    /// Tiles of rows, and pairs of columns, of keys and of values.
    key_tiles: usize,
    value_tiles: usize,
    key_pairs: usize,
    value_pairs: usize,
    keys: Keys<V>,
    values: Vec<Columns<V>>,
    of_output: Vec<Columns<V>>,
    of_values: Vec<Columns<V>>,
    weights: Vec<RowWeights<V::Scalar>>,
    written: Vec<Columns<V>>,
    decays: Vec<Pair<V>>,
    /// Sums over channels: of queries and keys, of the output's gradients and values.
    mix: [Mix<V::Scalar>; CHUNKS],
    mix_values: [Mix<V::Scalar>; CHUNKS],
    /// What is read of a pair of columns.
    sums: [Columns<V>; CHUNKS],
    /// Products of the gradient of a tile of the state with values, in each chunk.
    products: [Products<V>; CHUNKS],
    /// Their sums, `[step][channel]`.
    of_keys: Vec<V::Scalar>,
    /// Matrices, row by row.
    flat: Vec<V::Scalar>,
    flat_2: Vec<V::Scalar>,
}

impl<V: Vector> Scratch<V> {
    #[inline(always)]
    pub(super) fn new(isa: V::Isa, head: &Head<'_, V::Scalar>) -> Self {
        let zero = V::splat(isa, V::Scalar::ZERO);
        let pairs = |channels: usize| channels.div_ceil(2 * V::LANES);
        let (key_pairs, value_pairs) = (pairs(head.head_k), pairs(head.head_v));
        let values = vec![[[zero; 2]; CHUNK]; value_pairs * CHUNKS];
        let tiles = key_pairs.max(value_pairs) * 2 * V::LANES / ROWS;
        Self {
            key_tiles: head.head_k.div_ceil(ROWS),
            value_tiles: head.head_v.div_ceil(ROWS),
            key_pairs,
            value_pairs,
            keys: Keys::new(isa, head.head_k),
            values: values.clone(),
            of_output: values.clone(),
            of_values: values,
            weights: vec![[[V::Scalar::ZERO; ROWS]; 9]; tiles * CHUNKS],
            written: vec![[[zero; 2]; CHUNK]; key_pairs * CHUNKS],
            decays: vec![[zero; 2]; key_pairs * CHUNKS],
            mix: [[[V::Scalar::ZERO; CHUNK]; CHUNK]; CHUNKS],
            mix_values: [[[V::Scalar::ZERO; CHUNK]; CHUNK]; CHUNKS],
            sums: [[[zero; 2]; CHUNK]; CHUNKS],
            products: [[[zero; ROWS]; CHUNK]; CHUNKS],
            of_keys: vec![V::Scalar::ZERO; SPAN * key_pairs * 2 * V::LANES],
            flat: Vec::new(),
            flat_2: Vec::new(),
        }
    }

    #[inline(always)]
    fn read(&mut self, isa: V::Isa, head: &OneHead<'_, V::Scalar>, span: Span) {
        self.keys.read(isa, &head.head, span);
        read_columns(isa, &head.head.v, span, &mut self.values);
        read_columns(isa, &head.upstream, span, &mut self.of_output);
        mix_columns(isa, &self.of_output, &self.values, span.chunks(), &mut self.mix_values);
    }

    /// The state of a head at the start of the first pass.
    #[inline(always)]
    pub(super) fn start(&mut self, isa: V::Isa, head: &OneHead<'_, V::Scalar>, spans: &[Span]) -> Carried<V> {
        let zero = V::splat(isa, V::Scalar::ZERO);
        let (head_k, head_v) = (head.head.head_k, head.head.head_v);
        let mut tiles = vec![[[zero; 2]; ROWS]; self.key_pairs * self.value_tiles];
        if let Some(initial) = &head.head.initial_state {
            self.flat.resize(head_k * head_v, V::Scalar::ZERO);
            for channel in 0..head_k {
                for (at, x) in initial.row(channel).iter().enumerate() {
                    self.flat[at * head_k + channel] = *x;
                }
            }
            load_tiles(isa, &Rows::new(&self.flat, 0, 1, 0, head_k), head_v, &mut tiles);
        }
        let wanted = !matches!(head.of_gate, OfGate::None);
        let (start, end) = (spans.first().map_or(0, |span| span.start), spans.last().map_or(0, |span| span.end));
        let kept = spans.iter().filter(|span| span.keeps.is_some()).count();
        Carried {
            wanted,
            ends: Vec::with_capacity(if wanted { kept * tiles.len() } else { 0 }),
            kept: KeptQueries {
                start,
                flat: match head.of_gate {
                    OfGate::Head(_) | OfGate::Constant(_) => {
                        vec![V::Scalar::ZERO; (end - start) * self.keys.registers * V::LANES]
                    }
                    OfGate::None | OfGate::Channel(_) => Vec::new(),
                },
            },
            live: head.last_state.is_some(),
            through: vec![zero; self.keys.registers],
            tiles,
        }
    }

    /// The first pass: rows of the state are channels of v, columns those of k.
    #[inline(always)]
    pub(super) fn queries(
        &mut self,
        isa: V::Isa,
        head: &mut OneHead<'_, V::Scalar>,
        carried: &mut Carried<V>,
        span: Span,
        add: bool,
        of_q: &mut HeadMut<'_, V::Scalar>,
        next: Option<(&[Soon], &Span)>,
    ) {
        let zero = V::splat(isa, V::Scalar::ZERO);
        let registers = self.keys.registers;
        let scale = V::splat(isa, head.head.scale);
        if span.begins {
            carried.tiles.fill([[zero; 2]; ROWS]);
        }
        let chunks = span.chunks();
        self.read(isa, head, span);
        self.keys.columns(chunks, &mut self.written, &mut self.decays);
        columns_to_rows(&self.values, chunks, WRITE, &mut self.weights);
        columns_to_rows(&self.of_output, chunks, READ, &mut self.weights);
        let mut ahead = Ahead::new(next, self.key_pairs * self.value_tiles);
        for pair in 0..self.key_pairs {
            let of_pair = pair * CHUNKS..pair * CHUNKS + chunks;
            let (written, decays) = (&self.written[of_pair.clone()], &self.decays[of_pair]);
            for tile in 0..self.value_tiles {
                ahead.ask();
                let weights = &self.weights[tile * CHUNKS..][..chunks];
                let state = &mut carried.tiles[pair * self.value_tiles + tile];
                if tile == 0 {
                    scan::<_, true>(isa, weights, Some(decays), written, &mut self.sums, state);
                } else {
                    scan::<_, false>(isa, weights, Some(decays), written, &mut self.sums, state);
                }
            }
            for (chunk, sums) in self.sums[..chunks].iter().enumerate() {
                let mix = &self.mix_values[chunk];
                let first = span.first(chunk);
                let of_q = of_q.rows::<CHUNK>(first, span.end);
                let kept = carried.kept.rows(&mut head.of_gate, first, span.end, registers * V::LANES);
                for half in 0..2 {
                    let register = pair * 2 + half;
                    let at = chunk * registers + register;
                    let (k, a) = (&self.keys.k[at], &self.keys.a[at]);
                    let mut decay = a[0];
                    for t in 0..CHUNK {
                        if t > 0 {
                            decay = decay * a[t];
                        }
                        let of_state = decay * sums[t][half];
                        let mut sum = k[0] * V::splat(isa, mix[t][0]);
                        for s in 1..=t {
                            sum = a[s].mul_add(sum, k[s] * V::splat(isa, mix[t][s]));
                        }
                        store(isa, of_state, kept[t], register * V::LANES, false);
                        store(isa, (of_state + sum) * scale, of_q[t], register * V::LANES, add);
                    }
                }
            }
        }
        if carried.wanted && span.keeps.is_some() {
            carried.ends.extend_from_slice(&carried.tiles);
        }
    }

    /// From the first pass to the second: the gradient of the last state.
    #[inline(always)]
    pub(super) fn turn(&self, isa: V::Isa, head: &OneHead<'_, V::Scalar>, carried: &mut Carried<V>) {
        let zero = V::splat(isa, V::Scalar::ZERO);
        carried.tiles.clear();
        carried.tiles.resize(self.value_pairs * self.key_tiles, [[zero; 2]; ROWS]);
        if let Some(last_state) = &head.last_state {
            load_tiles(isa, last_state, head.head.head_k, &mut carried.tiles);
        }
    }

    /// The second pass: rows of the state are channels of k, columns those of v.
    #[inline(always)]
    pub(super) fn keys_and_values(
        &mut self,
        isa: V::Isa,
        head: &mut OneHead<'_, V::Scalar>,
        carried: &mut Carried<V>,
        span: Span,
        add: bool,
        of_k: &mut HeadMut<'_, V::Scalar>,
        next: Option<(&[Soon], &Span)>,
    ) {
        let zero = V::splat(isa, V::Scalar::ZERO);
        let registers = self.keys.registers;
        let width = registers * V::LANES;
        let from_zero = span.begins || head.head.initial_state.is_none() && span.start == carried.kept.start;
        let chunks = span.chunks();
        self.read(isa, head, span);
        self.keys.weights(isa, chunks, &mut self.weights, &mut self.mix);
        if let (true, true, Some(which)) = (carried.wanted, carried.live, span.keeps) {
            self.restart(isa, which, &head.head, carried);
        }
        for pair in 0..self.value_pairs {
            let of_pair = pair * CHUNKS..pair * CHUNKS + chunks;
            let (of_output, of_values) = (&self.of_output[of_pair.clone()], &mut self.of_values[of_pair]);
            mix_reverse(isa, &self.mix[..chunks], of_output, of_values);
        }
        let mut ahead = Ahead::new(next, self.key_tiles * self.value_pairs);
        for tile in 0..self.key_tiles {
            let weights = &self.weights[tile * CHUNKS..][..chunks];
            let products = &mut self.products;
            for pair in 0..self.value_pairs {
                ahead.ask();
                let of_pair = pair * CHUNKS..pair * CHUNKS + chunks;
                let (values, of_output) = (&self.values[of_pair.clone()], &self.of_output[of_pair.clone()]);
                let of_values = &mut self.of_values[of_pair];
                let gradient = &mut carried.tiles[pair * self.key_tiles + tile];
                if pair == 0 {
                    reverse::<_, true>(isa, weights, values, of_output, of_values, products, gradient);
                } else {
                    reverse::<_, false>(isa, weights, values, of_output, of_values, products, gradient);
                }
            }
            self.sum_products(chunks, tile);
        }
        write_columns(isa, &self.of_values, span, &mut head.of_v);
        for chunk in (0..chunks).rev() {
            let first = span.first(chunk);
            let count = CHUNK.min(span.end - first);
            let mix = &self.mix_values[chunk];
            let of_k = of_k.rows::<CHUNK>(first, span.end);
            let kept = carried.kept.rows(&mut head.of_gate, first, span.end, width);
            let mut of_gates = [zero; CHUNK];
            for register in 0..registers {
                let at = chunk * registers + register;
                let start = register * V::LANES;
                let (mut sums, mut of_q) = ([zero; CHUNK], [zero; CHUNK]);
                for nth in 0..CHUNK {
                    sums[nth] = V::load(isa, &self.of_keys[(chunk * CHUNK + nth) * width + start..][..V::LANES]);
                }
                let end = KeyEnds { q: self.keys.q[at], k: self.keys.k[at], a: self.keys.a[at], sums };
                let (of_state, gradients) = end.keys(isa, mix);
                for nth in 0..CHUNK {
                    store(isa, gradients[nth], of_k[nth], start, add);
                }
                if !carried.wanted {
                    continue;
                }
                for nth in 0..CHUNK {
                    of_q[nth] = load(isa, kept[nth], start);
                }
                let mut gates = end.gates(isa, mix, of_state, of_q, &mut carried.through[register]);
                // Nothing decays where the state before is zero.
                if chunk == 0 && from_zero {
                    gates[0] = zero;
                }
                for nth in 0..CHUNK {
                    // Of use where each channel has a gate; else the row is not read again.
                    store(isa, gates[nth], kept[nth], start, false);
                    of_gates[nth] = of_gates[nth] + gates[nth];
                }
            }
            let mut sums = [V::Scalar::ZERO; CHUNK];
            V::sums(&of_gates, &mut sums);
            for (nth, sum) in sums.iter().enumerate().take(count) {
                match &mut head.of_gate {
                    OfGate::Head(of_gate) => of_gate.row(first + nth)[0] = *sum,
                    OfGate::Constant(all) => **all += sum.to_f64(),
                    OfGate::None | OfGate::Channel(_) => {}
                }
            }
        }
        carried.live = !span.begins;
        if span.begins {
            carried.tiles.fill([[zero; 2]; ROWS]);
            carried.through.fill(zero);
        }
    }

    /// Sums of products over lanes, to the channels of a tile.
    #[inline(always)]
    fn sum_products(&mut self, chunks: usize, tile: usize) {
        let width = self.keys.registers * V::LANES;
        let steps = self.of_keys.chunks_exact_mut(CHUNK * width);
        for (products, steps) in self.products[..chunks].iter().zip(steps) {
            let mut sums = [V::Scalar::ZERO; CHUNK * ROWS];
            V::sums(products.as_flattened(), &mut sums);
            for (sums, channels) in sums.as_chunks::<ROWS>().0.iter().zip(steps.chunks_exact_mut(width)) {
                channels[tile * ROWS..][..ROWS].copy_from_slice(sums);
            }
        }
    }

    /// The sums over channels of v of the state's gradient times a state that was kept: R.
    #[inline(always)]
    fn restart(&mut self, isa: V::Isa, which: usize, head: &Head<'_, V::Scalar>, carried: &mut Carried<V>) {
        let (key_width, value_width) = (self.key_pairs * 2 * V::LANES, self.value_pairs * 2 * V::LANES);
        flatten(&carried.tiles, self.key_tiles, &mut self.flat, value_width);
        let all = self.key_pairs * self.value_tiles;
        flatten(&carried.ends[which * all..][..all], self.value_tiles, &mut self.flat_2, key_width);
        for (register, through) in carried.through.iter_mut().enumerate() {
            let mut sums = [V::Scalar::ZERO; MOST_LANES];
            for lane in 0..V::LANES.min(head.head_k.saturating_sub(register * V::LANES)) {
                let channel = register * V::LANES + lane;
                let gradients = &self.flat[channel * value_width..][..head.head_v];
                for (value, gradient) in gradients.iter().enumerate() {
                    sums[lane] += *gradient * self.flat_2[value * key_width + channel];
                }
            }
            *through = V::load(isa, &sums);
        }
    }
}

/// A register of key channels in a chunk: queries, keys, decays, and the products of the gradient of the state after it
/// with the values.
struct KeyEnds<V> {
    q: [V; CHUNK],
    k: [V; CHUNK],
    a: [V; CHUNK],
    sums: [V; CHUNK],
}

impl<V: Vector> KeyEnds<V> {
    /// Gradients of keys by the state after the chunk alone, and all of them.
    #[inline(always)]
    fn keys(&self, isa: V::Isa, mix: &Mix<V::Scalar>) -> ([V; CHUNK], [V; CHUNK]) {
        let mut of_state = self.sums;
        let mut all = self.sums;
        let mut decay = self.a[CHUNK - 1];
        for s in (0..CHUNK).rev() {
            if s + 1 < CHUNK {
                of_state[s] = decay * self.sums[s];
                decay = decay * self.a[s];
            }
            let mut sum = self.q[CHUNK - 1] * V::splat(isa, mix[CHUNK - 1][s]);
            for t in (s..CHUNK - 1).rev() {
                sum = self.a[t + 1].mul_add(sum, self.q[t] * V::splat(isa, mix[t][s]));
            }
            all[s] = of_state[s] + sum;
        }
        (of_state, all)
    }

    /// Gradients of log-gates; `through` is R after the chunk, then before it.
    #[inline(always)]
    fn gates(
        &self,
        isa: V::Isa,
        mix: &Mix<V::Scalar>,
        of_k: [V; CHUNK],
        of_q: [V; CHUNK],
        through: &mut V,
    ) -> [V; CHUNK] {
        let zero = V::splat(isa, V::Scalar::ZERO);
        // What each step lets through from keys to queries of the chunk.
        let mut inside = [zero; CHUNK];
        for s in 0..CHUNK {
            let mut left = self.k[s];
            for t in s + 1..CHUNK {
                left = left * self.a[t];
                let product = left * self.q[t] * V::splat(isa, mix[t][s]);
                for between in s + 1..=t {
                    inside[between] = inside[between] + product;
                }
            }
        }
        let mut gates = [zero; CHUNK];
        for t in (0..CHUNK).rev() {
            *through = *through + (self.q[t] * of_q[t] - self.k[t] * of_k[t]);
            gates[t] = *through + inside[t];
        }
        gates
    }
}

/// What one head carries from span to span.
pub(super) struct Carried<V: Vector> {
    /// Whether the gates have gradients.
    wanted: bool,
    /// The state, transposed, in the first pass; in the second its gradient.
    pub(super) tiles: Vec<Tile<V>>,
    /// Kept states, transposed; only where the gates have gradients, as what follows.
    ends: Vec<Tile<V>>,
    kept: KeptQueries<V::Scalar>,
    /// Whether the gradient of the state may be other than zero.
    live: bool,
    /// R.
    through: Vec<V>,
}

/// Gradients of queries, before the scale, by the state before their chunk alone: from the first pass to the second, which
/// makes the gates' gradients of them. They lie where these will be, or, where a step has one gate, in memory of their own.
struct KeptQueries<T> {
    /// The first step.
    start: usize,
    /// `[step][channel]`.
    flat: Vec<T>,
}

impl<T: Float> KeptQueries<T> {
    /// The rows of steps; empty ones from `end` on, and where the gates have no gradients.
    #[inline(always)]
    fn rows<'a>(
        &'a mut self,
        of_gate: &'a mut OfGate<'_, T>,
        first: usize,
        end: usize,
        width: usize,
    ) -> [&'a mut [T]; CHUNK] {
        if let OfGate::Channel(of_gate) = of_gate {
            return of_gate.rows(first, end);
        }
        let mut rows = [&mut [][..], &mut [], &mut [], &mut []];
        let kept = self.flat.get_mut((first - self.start) * width..).unwrap_or(&mut []);
        for (nth, (row, kept)) in rows.iter_mut().zip(kept.chunks_exact_mut(width)).enumerate() {
            if first + nth < end {
                *row = kept;
            }
        }
        rows
    }
}

/// Rows of so many numbers, of tiles.
#[inline(always)]
fn flatten<V: Vector>(tiles: &[Tile<V>], row_tiles: usize, to: &mut Vec<V::Scalar>, width: usize) {
    to.resize(row_tiles * ROWS * width, V::Scalar::ZERO);
    for (column, tiles) in tiles.chunks(row_tiles).enumerate() {
        for (tile, rows) in tiles.iter().enumerate() {
            for (row, pair) in rows.iter().enumerate() {
                let start = (tile * ROWS + row) * width + column * 2 * V::LANES;
                pair[0].store(&mut to[start..start + V::LANES]);
                pair[1].store(&mut to[start + V::LANES..start + 2 * V::LANES]);
            }
        }
    }
}

/// What each step of a chunk, as a key, has of the output's gradients at it and at later steps.
#[inline(always)]
fn mix_reverse<V: Vector>(isa: V::Isa, mix: &[Mix<V::Scalar>], of_output: &[Columns<V>], out: &mut [Columns<V>]) {
    for ((mix, of_output), out) in mix.iter().zip(of_output).zip(out) {
        for s in 0..CHUNK {
            let weight = V::splat(isa, mix[s][s]);
            let mut sum = [weight * of_output[s][0], weight * of_output[s][1]];
            for t in s + 1..CHUNK {
                let weight = V::splat(isa, mix[t][s]);
                sum = [weight.mul_add(of_output[t][0], sum[0]), weight.mul_add(of_output[t][1], sum[1])];
            }
            out[s] = sum;
        }
    }
}
