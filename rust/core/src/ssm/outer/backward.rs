//! Gradients, in two passes over a head.
//!
//! The first, forward in time, has `dq_t = scale · S_t do_t`: the same recurrence with its state transposed, where do
//! reads. The second, backward in time, has the gradient of the state, `D_t = α_{t+1} D_{t+1} + scale · q_t do_tᵀ`, and
//! of it `dk_t = D_t v_t` and `dv_t = D_tᵀ k_t`.
//!
//! The gradient of a log-gate, the sum over v of `D_t ⊙ α_t S_{t−1}`, needs no states of single steps: it is the sum of
//! all that step t lets through, from keys and the state before to queries and the state after. In a chunk these are
//! products of decays with what the two passes have anyhow; from chunk to chunk it is `R = Σ_v D ⊙ S` of a key channel
//! that is carried. That is the reverse sum of `q ⊙ dq − k ⊙ dk`, without its large terms that cancel where gates are
//! nearly closed. R begins anew from D and S at the end of each block, where the first pass kept the state, so that its
//! error does not grow with the length. (NaN in k or v reaches the gradients of gates up to a block earlier than in the
//! recurrence.)

use super::forward::clear_padding;
use super::pack::{
    Keys, Mix, Span, columns_to_rows, load_tiles, mix_columns, prefetch, prefetch_out, read_columns, store,
    store_tiles, write_columns,
};
use super::tile::{CHUNK, CHUNKS, Columns, Pair, READ, ROWS, RowWeights, Tile, WRITE, reverse, scan};
use super::{Gate, Gradients, Head, Heads, Rows, SHARERS, Upstream, sum_partial};
use crate::simd::{Float, HeadMut, Isa, Kernel, Vector};
use crate::ssm::{Execution, Sequences, zeros};
use crate::{Result, parallel};

/// Where the gradient of a head's log-gates goes.
enum OfGate<'a, T> {
    None,
    /// The sum over steps.
    Constant(&'a mut f64),
    Head(HeadMut<'a, T>),
    Channel(HeadMut<'a, T>),
}

/// One head of v in one part of the work.
struct OneHead<'a, T> {
    head: Head<'a, T>,
    upstream: Rows<'a, T>,
    last_state: Option<Rows<'a, T>>,
    of_v: HeadMut<'a, T>,
    of_gate: OfGate<'a, T>,
    of_initial: HeadMut<'a, T>,
}

/// Heads of one row that share a head of q and k, and its gradients.
struct Backward<'a, T> {
    sequences: &'a Sequences<'a>,
    row: usize,
    heads: Vec<OneHead<'a, T>>,
    of_q: HeadMut<'a, T>,
    of_k: HeadMut<'a, T>,
}

/// Views that are taken one by one, in any order.
struct Taken<'a, T>(Vec<Option<HeadMut<'a, T>>>);

impl<'a, T> Taken<'a, T> {
    fn new(views: Vec<HeadMut<'a, T>>) -> Self {
        Self(views.into_iter().map(Some).collect())
    }

    fn take(&mut self, at: usize) -> Option<HeadMut<'a, T>> {
        self.0.get_mut(at).and_then(Option::take)
    }
}

/// `seq_len` and the batch are at least 1, and all sizes fit.
pub(super) fn run<T: Float>(
    sequences: &Sequences<'_>,
    heads: Heads<'_, T>,
    upstream: Upstream<'_, T>,
    gradients: Gradients<'_, T>,
    execution: Execution<'_>,
) -> Result<()> {
    let (rows, seq_len, shape, splits) = (sequences.batch(), sequences.seq_len(), heads.shape, heads.splits);
    let Gradients { q, k, v, mut gate, initial_state } = gradients;
    // Parts that share a head of q and k, or of the gates, have sums of their own.
    let in_part = heads.ratio().div_ceil(SHARERS);
    let sharers = heads.ratio().div_ceil(in_part);
    let constant = matches!(heads.inputs.gate, Gate::Constant(_));
    let own = |sharers: usize, len: usize| zeros::<T>(if sharers == 1 { 0 } else { sharers * len });
    let (mut sums_q, mut sums_k) = (own(sharers, q.len())?, own(sharers, k.len())?);
    let mut sums_gate = own(if constant { 1 } else { splits }, gate.as_ref().map_or(0, |gate| gate.len()))?;
    let mut constants = vec![0.0; rows * heads.count()];

    let to_q = if sharers == 1 { &mut *q } else { &mut sums_q[..] };
    let to_k = if sharers == 1 { &mut *k } else { &mut sums_k[..] };
    let wanted = gate.is_some();
    let to_gate = match &mut gate {
        Some(gate) if splits == 1 && !constant => gate,
        _ => &mut sums_gate[..],
    };
    let gate_width = if matches!(heads.inputs.gate, Gate::Channel(_)) { shape.head_k } else { 1 };
    let mut of_q = Taken::new(HeadMut::split(to_q, seq_len, shape.n_heads_k, shape.head_k));
    let mut of_k = Taken::new(HeadMut::split(to_k, seq_len, shape.n_heads_k, shape.head_k));
    let mut of_gate = Taken::new(HeadMut::split(to_gate, seq_len, shape.n_heads, gate_width));
    let mut each = heads.split_values(v).into_iter().zip(heads.split_states(initial_state)).zip(&mut constants);
    let mut work = Vec::with_capacity(rows * shape.n_heads_k * sharers);
    for (row, shared) in (0..rows).flat_map(|row| (0..shape.n_heads_k).map(move |shared| (row, shared))) {
        for sharer in 0..sharers {
            let first = shared * heads.ratio() + sharer * in_part;
            let last = (first + in_part).min((shared + 1) * heads.ratio());
            let mut in_this = Vec::with_capacity(last - first);
            for (head, ((of_v, of_initial), sum)) in (first..last).zip(&mut each) {
                let view = of_gate.take((head % splits * rows + row) * shape.n_heads + head / splits);
                let of_gate = match (heads.inputs.gate, view) {
                    (Gate::Constant(_), _) if wanted => OfGate::Constant(sum),
                    (Gate::Head(_), Some(view)) => OfGate::Head(view),
                    (Gate::Channel(_), Some(view)) => OfGate::Channel(view),
                    _ => OfGate::None,
                };
                in_this.push(OneHead {
                    head: heads.get(row, head),
                    upstream: heads.of_values(upstream.o, row, head),
                    last_state: upstream.last_state.map(|state| heads.of_states(state, row, head)),
                    of_v,
                    of_gate,
                    of_initial,
                });
            }
            let view = (sharer * rows + row) * shape.n_heads_k + shared;
            if let (Some(of_q), Some(of_k)) = (of_q.take(view), of_k.take(view)) {
                work.push(Backward { sequences, row, heads: in_this, of_q, of_k });
            }
        }
    }
    parallel::for_each_polled(execution.threads, work, execution.poll, |part| {
        execution.level.run(part);
        Ok(())
    })?;

    if sharers > 1 {
        sum_partial(&sums_q, q, execution.threads)?;
        sum_partial(&sums_k, k, execution.threads)?;
    }
    if let Some(gate) = gate {
        if constant {
            for (head, out) in gate.iter_mut().enumerate() {
                let of_row = |row: usize| &constants[row * heads.count() + head * splits..][..splits];
                *out = T::from_f64((0..rows).flat_map(of_row).sum());
            }
        } else if splits > 1 {
            sum_partial(&sums_gate, gate, execution.threads)?;
        }
    }
    Ok(())
}

impl<T: Float> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, row, heads, mut of_q, mut of_k } = self;
        let Some(first) = heads.first() else { return };
        let spans = Span::of(sequences, row);
        let mut scratch = Scratch::<T::Vector<I>>::new(isa, &first.head);
        clear_padding(sequences, row, &mut of_q);
        clear_padding(sequences, row, &mut of_k);
        for (nth, mut head) in heads.into_iter().enumerate() {
            clear_padding(sequences, row, &mut head.of_v);
            if let OfGate::Head(of_gate) | OfGate::Channel(of_gate) = &mut head.of_gate {
                clear_padding(sequences, row, of_gate);
            }
            let add = nth > 0;
            let wanted = !matches!(head.of_gate, OfGate::None);
            scratch.queries(isa, &head, &spans, wanted, add, &mut of_q);
            scratch.keys_and_values(isa, head, &spans, add, &mut of_k);
        }
    }
}

/// Memory of a part.
struct Scratch<V: Vector> {
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
    /// The state, transposed, then its gradient.
    tiles: Vec<Tile<V>>,
    /// Transposed states after the last step of each block, where the gates have gradients.
    ends: Vec<Tile<V>>,
    /// Gradients of queries before the scale by the state before their chunk alone, `[step][register]`, likewise.
    queries: Vec<V>,
    flat: Vec<V::Scalar>,
    flat_2: Vec<V::Scalar>,
}

impl<V: Vector> Scratch<V> {
    #[inline(always)]
    fn new(isa: V::Isa, head: &Head<'_, V::Scalar>) -> Self {
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
            tiles: Vec::new(),
            ends: Vec::new(),
            queries: Vec::new(),
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

    /// The first pass: rows of the state are channels of v, columns those of k.
    #[inline(always)]
    fn queries(
        &mut self,
        isa: V::Isa,
        head: &OneHead<'_, V::Scalar>,
        spans: &[Span],
        keep: bool,
        add: bool,
        of_q: &mut HeadMut<'_, V::Scalar>,
    ) {
        let zero = V::splat(isa, V::Scalar::ZERO);
        let (head_k, head_v) = (head.head.head_k, head.head.head_v);
        self.tiles.clear();
        self.tiles.resize(self.key_pairs * self.value_tiles, [[zero; 2]; ROWS]);
        self.ends.clear();
        if let Some(initial) = &head.head.initial_state {
            self.flat.resize(head_k * head_v, V::Scalar::ZERO);
            for channel in 0..head_k {
                for (at, x) in initial.row(channel).iter().enumerate() {
                    self.flat[at * head_k + channel] = *x;
                }
            }
            load_tiles(isa, &Rows::new(&self.flat, 0, 1, 0, head_k), head_v, &mut self.tiles);
        }
        let registers = self.keys.registers;
        if keep {
            let steps = spans.last().map_or(0, |span| span.end);
            self.queries.resize(steps * registers, zero);
        }
        let scale = V::splat(isa, head.head.scale);
        for (nth, span) in spans.iter().enumerate() {
            if span.begins {
                self.tiles.fill([[zero; 2]; ROWS]);
            }
            let chunks = span.chunks();
            self.read(isa, head, *span);
            prefetch(&head.head, Some(&head.upstream), spans.get(nth + 1));
            prefetch_out(of_q, spans.get(nth + 1));
            self.keys.columns(chunks, &mut self.written, &mut self.decays);
            columns_to_rows(&self.values, chunks, WRITE, &mut self.weights);
            columns_to_rows(&self.of_output, chunks, READ, &mut self.weights);
            for pair in 0..self.key_pairs {
                let mut sums = [[[zero; 2]; CHUNK]; CHUNKS];
                let of_pair = pair * CHUNKS..pair * CHUNKS + chunks;
                let (written, decays) = (&self.written[of_pair.clone()], &self.decays[of_pair]);
                for tile in 0..self.value_tiles {
                    let weights = &self.weights[tile * CHUNKS..][..chunks];
                    let state = &mut self.tiles[pair * self.value_tiles + tile];
                    scan(isa, weights, Some(decays), written, &mut sums, state);
                }
                for (chunk, sums) in sums[..chunks].iter().enumerate() {
                    let mix = &self.mix_values[chunk];
                    for half in 0..2 {
                        let register = pair * 2 + half;
                        let at = chunk * registers + register;
                        let (k, a) = (&self.keys.k[at], &self.keys.a[at]);
                        let mut decay = a[0];
                        for t in 0..CHUNK {
                            let Some(step) = span.step(chunk, t) else { break };
                            if t > 0 {
                                decay = decay * a[t];
                            }
                            let of_state = decay * sums[t][half];
                            let mut sum = k[0] * V::splat(isa, mix[t][0]);
                            for s in 1..=t {
                                sum = a[s].mul_add(sum, k[s] * V::splat(isa, mix[t][s]));
                            }
                            if keep {
                                self.queries[step * registers + register] = of_state;
                            }
                            store(isa, (of_state + sum) * scale, of_q.row(step), register * V::LANES, add);
                        }
                    }
                }
            }
            if keep && span.ends.is_some() {
                self.ends.extend_from_slice(&self.tiles);
            }
        }
    }

    /// The second pass: rows of the state are channels of k, columns those of v.
    #[inline(always)]
    fn keys_and_values(
        &mut self,
        isa: V::Isa,
        mut head: OneHead<'_, V::Scalar>,
        spans: &[Span],
        add: bool,
        of_k: &mut HeadMut<'_, V::Scalar>,
    ) {
        let zero = V::splat(isa, V::Scalar::ZERO);
        let head_k = head.head.head_k;
        let registers = self.keys.registers;
        let wanted = !matches!(head.of_gate, OfGate::None);
        self.tiles.clear();
        self.tiles.resize(self.value_pairs * self.key_tiles, [[zero; 2]; ROWS]);
        // Whether the gradient of the state may be other than zero.
        let mut live = head.last_state.is_some();
        if let Some(last_state) = &head.last_state {
            load_tiles(isa, last_state, head_k, &mut self.tiles);
        }
        // R.
        let mut through = vec![zero; registers];
        let mut sum_of_gates = 0.0;
        let (from_zero, first_step) = (head.head.initial_state.is_none(), spans.first().map_or(0, |span| span.start));
        let width = registers * V::LANES;
        let mut of_keys = vec![V::Scalar::ZERO; CHUNKS * CHUNK * width];
        for (nth, span) in spans.iter().enumerate().rev() {
            let chunks = span.chunks();
            self.read(isa, &head, *span);
            let next = nth.checked_sub(1).and_then(|before| spans.get(before));
            prefetch(&head.head, Some(&head.upstream), next);
            prefetch_out(&mut head.of_v, next);
            prefetch_out(of_k, next);
            if let OfGate::Head(of_gate) | OfGate::Channel(of_gate) = &mut head.of_gate {
                prefetch_out(of_gate, next);
            }
            self.keys.weights(isa, chunks, &mut self.weights, &mut self.mix);
            if let (true, Some(block)) = (wanted, span.ends) {
                through.fill(zero);
                if live {
                    self.restart(isa, block, &head.head, &mut through);
                }
            }
            for pair in 0..self.value_pairs {
                let of_pair = pair * CHUNKS..pair * CHUNKS + chunks;
                let (of_output, of_values) = (&self.of_output[of_pair.clone()], &mut self.of_values[of_pair]);
                mix_reverse(isa, &self.mix[..chunks], of_output, of_values);
            }
            for tile in 0..self.key_tiles {
                let mut products = [[[zero; ROWS]; CHUNK]; CHUNKS];
                let weights = &self.weights[tile * CHUNKS..][..chunks];
                for pair in 0..self.value_pairs {
                    let of_pair = pair * CHUNKS..pair * CHUNKS + chunks;
                    reverse(
                        isa,
                        weights,
                        &self.values[of_pair.clone()],
                        &self.of_output[of_pair.clone()],
                        &mut self.of_values[of_pair],
                        &mut products,
                        &mut self.tiles[pair * self.key_tiles + tile],
                    );
                }
                for (chunk, products) in products[..chunks].iter().enumerate() {
                    let mut sums = [V::Scalar::ZERO; CHUNK * ROWS];
                    V::sums(products.as_flattened(), &mut sums);
                    for (step, sums) in sums.as_chunks::<ROWS>().0.iter().enumerate() {
                        of_keys[(chunk * CHUNK + step) * width + tile * ROWS..][..ROWS].copy_from_slice(sums);
                    }
                }
            }
            write_columns(isa, &self.of_values, *span, &mut head.of_v);
            for chunk in (0..chunks).rev() {
                let first = span.start + chunk * CHUNK;
                let count = CHUNK.min(span.end - first);
                let mix = &self.mix_values[chunk];
                let mut of_gates = [zero; CHUNK];
                for register in 0..registers {
                    let at = chunk * registers + register;
                    let start = register * V::LANES;
                    let (mut sums, mut of_q) = ([zero; CHUNK], [zero; CHUNK]);
                    for nth in 0..CHUNK {
                        sums[nth] = V::load(isa, &of_keys[(chunk * CHUNK + nth) * width + start..][..V::LANES]);
                    }
                    let end = KeyEnds { q: self.keys.q[at], k: self.keys.k[at], a: self.keys.a[at], sums };
                    let (of_state, gradients) = end.keys(isa, mix);
                    for nth in 0..count {
                        store(isa, gradients[nth], of_k.row(first + nth), start, add);
                    }
                    if !wanted {
                        continue;
                    }
                    for nth in 0..count {
                        of_q[nth] = self.queries[(first + nth) * registers + register];
                    }
                    let mut gates = end.gates(isa, mix, of_state, of_q, &mut through[register]);
                    // Nothing decays where the state before is zero.
                    if chunk == 0 && (span.begins || from_zero && span.start == first_step) {
                        gates[0] = zero;
                    }
                    if let OfGate::Channel(of_gate) = &mut head.of_gate {
                        for nth in 0..count {
                            store(isa, gates[nth], of_gate.row(first + nth), start, false);
                        }
                    } else {
                        for nth in 0..count {
                            of_gates[nth] = of_gates[nth] + gates[nth];
                        }
                    }
                }
                let mut sums = [V::Scalar::ZERO; CHUNK];
                V::sums(&of_gates, &mut sums);
                for (nth, sum) in sums.iter().enumerate().take(count) {
                    match &mut head.of_gate {
                        OfGate::Head(of_gate) => of_gate.row(first + nth)[0] = *sum,
                        OfGate::Constant(_) => sum_of_gates += sum.to_f64(),
                        OfGate::None | OfGate::Channel(_) => {}
                    }
                }
            }
            live = !span.begins;
            if span.begins {
                self.tiles.fill([[zero; 2]; ROWS]);
            }
        }
        if let OfGate::Constant(sum) = &mut head.of_gate {
            **sum = sum_of_gates;
        }
        store_tiles(isa, &self.tiles, head_k, &mut head.of_initial);
    }

    /// The sums over channels of v of the state's gradient times the state that a block left.
    #[inline(always)]
    fn restart(&mut self, isa: V::Isa, block: usize, head: &Head<'_, V::Scalar>, through: &mut [V]) {
        let (key_width, value_width) = (self.key_pairs * 2 * V::LANES, self.value_pairs * 2 * V::LANES);
        flatten(&self.tiles, self.key_tiles, &mut self.flat, value_width);
        let per_block = self.key_pairs * self.value_tiles;
        flatten(&self.ends[block * per_block..][..per_block], self.value_tiles, &mut self.flat_2, key_width);
        for (register, through) in through.iter_mut().enumerate() {
            let mut sums = [V::Scalar::ZERO; 8];
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
