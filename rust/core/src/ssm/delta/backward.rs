//! Gradients, keys on the lanes.
//!
//! With G the gradient of the state after a step, the step's output included (`G += q̂ doᵀ`, where q̂ = scale · q):
//! `du = Gᵀk`, `dv = β du`, `dβ = du · (v − S'ᵀk)`, `dS' = G − k dvᵀ`, `dk = G u − S' dv`, `dq̂ = S do`,
//! `dg = dS' ⊙ S'` summed over values, and `e^g ⊙ dS'` is the gradient of the state before.

use super::forward::Values;
use super::packed::{Packed, by_gate};
use super::{Gate, Inputs, Part, Shape, Upstream};
use crate::simd::{Float, HeadMut, Isa, Kernel, MOST_LANES, Vector};
use crate::ssm::sequence::{BLOCK, Block, Sequences};

/// Columns of a tile: all its states in a block of steps stay in the second cache.
const COLUMNS: usize = 16;

/// Rows of a tile between its states and their gradients: 2 KB.
const APART: usize = 4;

/// Columns whose states are recomputed together.
const TOGETHER: usize = 4;

/// What a part writes.
pub(super) struct Written<'a, T> {
    pub(super) part: Part,
    pub(super) q: HeadMut<'a, T>,
    pub(super) k: HeadMut<'a, T>,
    pub(super) v: HeadMut<'a, T>,
    pub(super) g: Option<HeadMut<'a, T>>,
    pub(super) beta: HeadMut<'a, T>,
    /// Rows are those of the state.
    pub(super) initial_state: HeadMut<'a, T>,
}

impl<T: Float> Written<'_, T> {
    fn clear(&mut self, step: usize) {
        for rows in [&mut self.q, &mut self.k, &mut self.v, &mut self.beta].into_iter().chain(&mut self.g) {
            rows.row(step).fill(T::ZERO);
        }
    }
}

pub(super) struct Backward<'a, T> {
    pub(super) sequences: &'a Sequences<'a>,
    pub(super) shape: Shape,
    pub(super) inputs: Inputs<'a, T>,
    pub(super) upstream: Upstream<'a, T>,
    pub(super) written: Written<'a, T>,
}

/// A number for each column of a tile.
type Row<T> = [T; COLUMNS];

/// What stays the same for all tiles of a block of steps.
struct Keys<'a, T: Float, I: Isa> {
    packed: &'a Packed<T>,
    /// Registers of a column.
    registers: usize,
    /// Steps.
    count: usize,
    /// k · q̂ at each step.
    products: [T; BLOCK],
    /// 0 in the lanes of the last register that hold a key, 1 in the others.
    unused: Option<T::Vector<I>>,
}

/// A tile of columns in a block of steps.
struct Tile<'a, V: Vector> {
    /// States before each step and after the last, register by register of keys.
    states: &'a mut [[V; COLUMNS]],
    v: [Row<V::Scalar>; BLOCK],
    /// Gradient of the output, then of v.
    gradients: [Row<V::Scalar>; BLOCK],
    /// v − what was there, then β times that.
    errors: [Row<V::Scalar>; BLOCK],
}

/// Sums over columns, for a register of keys at a step.
#[derive(Clone, Copy)]
struct ColumnSums<V> {
    /// Of what is read of the state before.
    read: V,
    written: V,
    erased: V,
    decayed: V,
}

/// Sums over the columns of a part in a block of steps: a register of keys after another.
struct BlockSums<T: Float, I: Isa> {
    q: Vec<T::Vector<I>>,
    k: Vec<T::Vector<I>>,
    /// Where the gate is one of heads, one register a step, to be summed and multiplied by the gate.
    g: Vec<T::Vector<I>>,
    beta: [T::Vector<I>; BLOCK],
}

impl<T: Float> Kernel for Backward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, shape, inputs, upstream, mut written } = self;
        let part = written.part;
        let (seq_len, head_k, lanes) = (sequences.seq_len(), shape.head_k, T::Vector::<I>::LANES);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let registers = head_k.div_ceil(lanes);
        let steps = sequences.steps(part.row);
        for step in (0..steps.start).chain(steps.end..seq_len) {
            written.clear(step);
        }
        let mut packed = Packed::new::<I>(head_k, &inputs.g, BLOCK);
        let head = part.row * shape.n_heads + part.head;
        let state_len = head_k * shape.head_v;
        let tiles = part.columns.div_ceil(COLUMNS);
        // States of a tile; and gradients of the state, tile by tile, which are written as states are read: loads wait for
        // stores before them that are a multiple of 4 KB away, which is the usual size of a tile.
        let mut memory = vec![[zero; COLUMNS]; registers * (BLOCK + 1) + APART + registers * tiles];
        let (states, of_states) = memory.split_at_mut(registers * (BLOCK + 1));
        let of_states = &mut of_states[APART..];
        if let Some(last_state) = upstream.last_state {
            let last_state = &last_state[head * state_len..][..state_len];
            for (of_state, columns) in of_states.chunks_mut(registers).zip(part.tiles()) {
                load_state(isa, last_state, shape, columns, of_state);
            }
        }
        let unused = (head_k % lanes > 0).then(|| {
            let mut lanes = [T::ZERO; MOST_LANES];
            lanes[head_k % T::Vector::<I>::LANES..].fill(T::ONE);
            T::Vector::<I>::load(isa, &lanes)
        });
        let mut tile = Tile {
            states,
            v: [[T::ZERO; COLUMNS]; BLOCK],
            gradients: [[T::ZERO; COLUMNS]; BLOCK],
            errors: [[T::ZERO; COLUMNS]; BLOCK],
        };
        let mut sums = BlockSums::<T, I> {
            q: vec![zero; registers * BLOCK],
            k: vec![zero; registers * BLOCK],
            g: vec![zero; if matches!(inputs.g, Gate::Key(_)) { registers * BLOCK } else { BLOCK }],
            beta: [zero; BLOCK],
        };
        let token = part.row * seq_len;
        let values = Values { shape, v: inputs.v, part, token };
        let outputs = Values { shape, v: upstream.o, part, token };
        for block in sequences.blocks(part.row).into_iter().rev() {
            packed.pack(isa, shape, &inputs, (part.row, part.head, seq_len), block);
            let count = block.steps().min(BLOCK);
            let mut keys = Keys::<T, I> { packed: &packed, registers, count, products: [T::ZERO; BLOCK], unused };
            keys.multiply(isa);
            sums.clear(isa);
            for (index, columns) in part.tiles().enumerate() {
                match block.checkpoint {
                    None => tile.states[..registers].fill([zero; COLUMNS]),
                    Some(at) => {
                        let at = (head * sequences.checkpoints() + at) * state_len;
                        let state = &upstream.checkpoints[at..at + state_len];
                        load_state(isa, state, shape, columns, &mut tile.states[..registers]);
                    }
                }
                let (from, len) = (columns.0 - part.first, columns.1);
                for t in 0..count {
                    tile.v[t] = read_row(values.row(block.start + t), from);
                    tile.gradients[t] = read_row(outputs.row(block.start + t), from);
                }
                let of_state = &mut of_states[index * registers..][..registers];
                by_gate!(inputs.g, PER_KEY => {
                    // Loops of a length that is known, without masks.
                    if len == COLUMNS && unused.is_none() {
                        keys.recompute::<PER_KEY, true>(isa, &mut tile);
                        keys.reverse::<PER_KEY, true>(isa, COLUMNS, &mut tile, of_state, &mut sums);
                    } else {
                        keys.recompute::<PER_KEY, false>(isa, &mut tile);
                        keys.reverse::<PER_KEY, false>(isa, len, &mut tile, of_state, &mut sums);
                    }
                });
                for t in 0..count {
                    let row = &mut written.v.row(block.start + t)[from..];
                    match row.first_chunk_mut::<COLUMNS>() {
                        Some(row) => *row = tile.gradients[t],
                        None => row.copy_from_slice(&tile.gradients[t][..len]),
                    }
                }
                if block.checkpoint.is_none() {
                    of_state.fill([zero; COLUMNS]);
                }
            }
            sums.write(isa, &inputs, &packed, block, &mut written);
        }
        let mut column = [T::ZERO; MOST_LANES];
        for (of_state, (first, len)) in of_states.chunks(registers).zip(part.tiles()) {
            for (register, columns) in of_state.iter().enumerate() {
                for (at, of_column) in columns[..len].iter().enumerate() {
                    of_column.store(&mut column);
                    let rows = register * lanes..head_k.min((register + 1) * lanes);
                    for (row, x) in rows.zip(column) {
                        written.initial_state.row(row)[first - part.first + at] = x;
                    }
                }
            }
        }
    }
}

impl Part {
    /// First columns, among those of the head, and numbers of columns of its tiles.
    #[inline(always)]
    fn tiles(self) -> impl Iterator<Item = (usize, usize)> {
        let end = self.first + self.columns;
        (self.first..end).step_by(COLUMNS).map(move |first| (first, COLUMNS.min(end - first)))
    }
}

/// Columns of a row from `first` on; zeros where there are none.
#[inline(always)]
fn read_row<T: Float>(row: &[T], first: usize) -> Row<T> {
    if let Some(row) = row[first..].first_chunk::<COLUMNS>() {
        return *row;
    }
    let mut out = [T::ZERO; COLUMNS];
    out[..row.len() - first].copy_from_slice(&row[first..]);
    out
}

/// Columns of a state of shape (`head_k`, `head_v`).
#[inline(always)]
fn load_state<V: Vector>(
    isa: V::Isa,
    state: &[V::Scalar],
    shape: Shape,
    (first, len): (usize, usize),
    to: &mut [[V; COLUMNS]],
) {
    let lanes = V::LANES;
    for (register, columns) in to.iter_mut().enumerate() {
        let rows = register * lanes..shape.head_k.min((register + 1) * lanes);
        let mut transposed = [[V::Scalar::ZERO; MOST_LANES]; COLUMNS];
        for (lane, row) in rows.enumerate() {
            let row = &state[row * shape.head_v + first..][..len];
            for (column, x) in transposed.iter_mut().zip(row) {
                column[lane] = *x;
            }
        }
        for (column, from) in columns.iter_mut().zip(&transposed) {
            *column = V::load(isa, from);
        }
    }
}

impl<T: Float, I: Isa> BlockSums<T, I> {
    #[inline(always)]
    fn clear(&mut self, isa: I) {
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        self.q.fill(zero);
        self.k.fill(zero);
        self.g.fill(zero);
        self.beta.fill(zero);
    }

    /// To the rows of the block.
    #[inline(always)]
    fn write(&self, isa: I, inputs: &Inputs<'_, T>, packed: &Packed<T>, block: Block, to: &mut Written<'_, T>) {
        let (gate, scale, count, start) = (inputs.g, inputs.scale, block.steps().min(BLOCK), block.start);
        let lanes = T::Vector::<I>::LANES;
        let registers = self.q.len() / BLOCK;
        let scale = T::Vector::<I>::splat(isa, scale);
        let mut sums = [T::ZERO; BLOCK];
        if matches!(gate, Gate::Head(_)) {
            T::Vector::<I>::sums(&self.g[..count], &mut sums[..count]);
        }
        let mut of_beta = [T::ZERO; BLOCK];
        T::Vector::<I>::sums(&self.beta[..count], &mut of_beta[..count]);
        for t in 0..count {
            let step = start + t;
            let at = t * registers..(t + 1) * registers;
            for (sum, row) in self.q[at.clone()].iter().zip(to.q.row(step).chunks_mut(lanes)) {
                (*sum * scale).store(row);
            }
            for (sum, row) in self.k[at.clone()].iter().zip(to.k.row(step).chunks_mut(lanes)) {
                sum.store(row);
            }
            to.beta.row(step)[0] = of_beta[t];
            if let Some(g) = &mut to.g {
                match gate {
                    Gate::None => {}
                    Gate::Head(_) => g.row(step)[0] = packed.head_decay[t] * sums[t],
                    Gate::Key(_) => {
                        for (sum, row) in self.g[at].iter().zip(g.row(step).chunks_mut(lanes)) {
                            sum.store(row);
                        }
                    }
                }
            }
        }
    }
}

impl<T: Float, I: Isa> Keys<'_, T, I> {
    /// k · q̂.
    #[inline(always)]
    fn multiply(&mut self, isa: I) {
        let mut sums = [T::Vector::<I>::splat(isa, T::ZERO); BLOCK];
        for (t, sum) in sums.iter_mut().enumerate().take(self.count) {
            for (q, k) in self.step(&self.packed.q, t).zip(self.step(&self.packed.k, t)) {
                *sum = q(isa).mul_add(k(isa), *sum);
            }
        }
        T::Vector::<I>::sums(&sums[..self.count], &mut self.products[..self.count]);
    }

    /// The registers of a step of a packed array, to be loaded.
    #[inline(always)]
    fn step(&self, values: &[T], step: usize) -> impl Iterator<Item = impl Fn(I) -> T::Vector<I>> {
        let values = Packed::at(values, step, self.packed.width);
        values.chunks_exact(T::Vector::<I>::LANES).map(|values| move |isa| T::Vector::<I>::load(isa, values))
    }

    /// 0 in the lanes that hold no keys: what stands there may be NaN where a factor is infinite.
    #[inline(always)]
    fn used<const FULL: bool>(&self, isa: I, register: usize, x: T::Vector<I>) -> T::Vector<I> {
        match self.unused {
            Some(unused) if !FULL && register + 1 == self.registers => {
                unused.if_less(T::Vector::<I>::splat(isa, T::ONE), x, T::Vector::<I>::splat(isa, T::ZERO))
            }
            _ => x,
        }
    }

    /// The states of a tile from the first one.
    #[inline(always)]
    fn recompute<const PER_KEY: bool, const FULL: bool>(&self, isa: I, tile: &mut Tile<'_, T::Vector<I>>) {
        let splat = |x| T::Vector::<I>::splat(isa, x);
        let (packed, registers) = (self.packed, self.registers);
        let mut erased = [splat(T::ZERO); COLUMNS];
        for (state, erase) in tile.states[..registers].iter().zip(self.step(&packed.erase, 0)) {
            for c in 0..COLUMNS {
                erased[c] = erase(isa).mul_add(state[c], erased[c]);
            }
        }
        for t in 0..self.count.min(BLOCK) {
            let mut sums = [T::ZERO; COLUMNS];
            T::Vector::<I>::sums(&erased, &mut sums);
            let (v, errors) = (&tile.v[t], &mut tile.errors[t]);
            let mut u = [T::ZERO; COLUMNS];
            let beta = splat(packed.beta[t]);
            for at in (0..COLUMNS).step_by(T::Vector::<I>::LANES) {
                let error = T::Vector::<I>::load(isa, &v[at..]) - T::Vector::<I>::load(isa, &sums[at..]);
                error.store(&mut errors[at..]);
                (beta * error).store(&mut u[at..]);
            }
            let (before, after) = tile.states[t * registers..(t + 2) * registers].split_at_mut(registers);
            for first in (0..COLUMNS).step_by(TOGETHER) {
                let read = self.advance::<PER_KEY, FULL>(isa, t, first, &u, before, after);
                erased[first..first + TOGETHER].copy_from_slice(&read);
            }
        }
    }

    /// A step of a few columns of a state; gives what the next step erases.
    #[inline(always)]
    fn advance<const PER_KEY: bool, const FULL: bool>(
        &self,
        isa: I,
        t: usize,
        first: usize,
        u: &Row<T>,
        before: &[[T::Vector<I>; COLUMNS]],
        after: &mut [[T::Vector<I>; COLUMNS]],
    ) -> [T::Vector<I>; TOGETHER] {
        let splat = |x| T::Vector::<I>::splat(isa, x);
        let packed = self.packed;
        let u: [_; TOGETHER] = std::array::from_fn(|c| splat(u[first + c]));
        let mut erased = [splat(T::ZERO); TOGETHER];
        let head_decay = splat(packed.head_decay[t]);
        let decays = if PER_KEY { &packed.decay } else { &packed.k };
        let vectors = self.step(&packed.k, t).zip(self.step(&packed.erase, t + 1)).zip(self.step(decays, t));
        for (register, ((before, after), ((k, erase), decay))) in before.iter().zip(after).zip(vectors).enumerate() {
            let (k, erase) = (k(isa), erase(isa));
            let decay = if PER_KEY { decay(isa) } else { head_decay };
            for c in 0..TOGETHER {
                let s = self.used::<FULL>(isa, register, k.mul_add(u[c], decay * before[first + c]));
                after[first + c] = s;
                erased[c] = erase.mul_add(s, erased[c]);
            }
        }
        erased
    }

    /// The steps from the last to the first. `of_state` is the gradient of the state, after and then before them.
    #[inline(always)]
    fn reverse<const PER_KEY: bool, const FULL: bool>(
        &self,
        isa: I,
        columns: usize,
        tile: &mut Tile<'_, T::Vector<I>>,
        of_state: &mut [[T::Vector<I>; COLUMNS]],
        sums: &mut BlockSums<T, I>,
    ) {
        let splat = |x| T::Vector::<I>::splat(isa, x);
        let zero = splat(T::ZERO);
        let columns = if FULL { COLUMNS } else { columns.min(COLUMNS) };
        let (packed, registers) = (self.packed, self.registers);
        let count = self.count.min(BLOCK);
        // Gᵀk without the step's output: of the step before, it is summed in the pass of a step.
        let mut of_writes = [zero; COLUMNS];
        for (of_state, k) in of_state.iter().zip(self.step(&packed.k, count - 1)) {
            for c in 0..COLUMNS {
                of_writes[c] = k(isa).mul_add(of_state[c], of_writes[c]);
            }
        }
        for t in (0..count).rev() {
            let mut of_u = [T::ZERO; COLUMNS];
            T::Vector::<I>::sums(&of_writes, &mut of_u);
            let of_o = tile.gradients[t];
            let u_and_o = self.columns(isa, columns, t, &mut of_u, tile, &mut sums.beta[t]);
            let (u, of_v) = (tile.errors[t], of_u);
            let before = &tile.states[t * registers..(t + 1) * registers];
            let (head_decay, u_and_o) = (splat(packed.head_decay[t]), splat(u_and_o));
            let decays = if PER_KEY { &packed.decay } else { &packed.k };
            let vectors = self.step(&packed.q, t).zip(self.step(&packed.k, t)).zip(self.step(decays, t));
            let vectors = vectors.zip(self.step(&packed.k, t.saturating_sub(1)));
            let states = before.iter().zip(of_state.iter_mut());
            let into = sums.q[t * registers..].iter_mut().zip(&mut sums.k[t * registers..]);
            let of_gates = if PER_KEY { t * registers } else { t };
            of_writes = [zero; COLUMNS];
            for (register, (((before, of_state), (((q, k), decay), k_before)), (of_q, of_k))) in
                states.zip(vectors).zip(into).enumerate()
            {
                let (q, k, k_before) = (q(isa), k(isa), k_before(isa));
                let decay = if PER_KEY { decay(isa) } else { head_decay };
                // Two sums of each, added at the end: one would wait for itself.
                let mut both = [ColumnSums { read: zero, written: zero, erased: zero, decayed: zero }; 2];
                // Not a closure, which would have no instruction set where it is not inlined.
                macro_rules! column {
                    ($c:expr, $sums:expr) => {
                        let (of_o, u, minus) = (splat(of_o[$c]), splat(u[$c]), splat(of_v[$c]));
                        let mut g = q.mul_add(of_o, of_state[$c]);
                        $sums.read = before[$c].mul_add(of_o, $sums.read);
                        $sums.written = g.mul_add(u, $sums.written);
                        g = self.used::<FULL>(isa, register, k.mul_add(minus, g));
                        $sums.erased = before[$c].mul_add(minus, $sums.erased);
                        $sums.decayed = g.mul_add(before[$c], $sums.decayed);
                        g = self.used::<FULL>(isa, register, g * decay);
                        of_state[$c] = g;
                        of_writes[$c] = k_before.mul_add(g, of_writes[$c]);
                    };
                }
                for pair in 0..columns / 2 {
                    column!(2 * pair, both[0]);
                    column!(2 * pair + 1, both[1]);
                }
                if columns % 2 == 1 {
                    column!(columns - 1, both[0]);
                }
                let [a, b] = both;
                let (read, written) = (a.read + b.read, a.written + b.written);
                let (erased, decayed) = (a.erased + b.erased, a.decayed + b.decayed);
                // S = Diag(e^g) (the state before) + k uᵀ.
                *of_q = *of_q + k.mul_add(u_and_o, decay * read);
                *of_k = *of_k + decay.mul_add(erased, written);
                let of_gate = &mut sums.g[of_gates + if PER_KEY { register } else { 0 }];
                *of_gate = if PER_KEY { decay.mul_add(decayed, *of_gate) } else { *of_gate + decayed };
            }
        }
    }

    /// What a step is for its columns: from Gᵀk without the step's output, to the negative gradient of v there; errors
    /// become u. Adds to the gradient of beta; gives the product of u and the gradient of the output.
    #[inline(always)]
    fn columns(
        &self,
        isa: I,
        columns: usize,
        t: usize,
        of_u: &mut Row<T>,
        tile: &mut Tile<'_, T::Vector<I>>,
        of_beta: &mut T::Vector<I>,
    ) -> T {
        let splat = |x| T::Vector::<I>::splat(isa, x);
        let (zero, beta, product) = (splat(T::ZERO), splat(self.packed.beta[t]), splat(self.products[t]));
        let (errors, of_o) = (&mut tile.errors[t], &mut tile.gradients[t]);
        let (mut with_errors, mut with_o) = ([T::ZERO; COLUMNS], [T::ZERO; COLUMNS]);
        for at in (0..COLUMNS).step_by(T::Vector::<I>::LANES) {
            let load = |from: &Row<T>| T::Vector::<I>::load(isa, &from[at..]);
            let (error, out) = (load(errors), load(of_o));
            let u = beta * error;
            let of = product.mul_add(out, load(of_u));
            let of_v = beta * of;
            u.store(&mut errors[at..]);
            of_v.store(&mut of_o[at..]);
            (zero - of_v).store(&mut of_u[at..]);
            (of * error).store(&mut with_errors[at..]);
            (u * out).store(&mut with_o[at..]);
        }
        // Columns that are not there are not added: they may hold NaN where a factor is infinite.
        with_errors[columns..].fill(T::ZERO);
        with_o[columns..].fill(T::ZERO);
        let mut sum = zero;
        for at in (0..COLUMNS).step_by(T::Vector::<I>::LANES) {
            *of_beta = *of_beta + T::Vector::<I>::load(isa, &with_errors[at..]);
            sum = sum + T::Vector::<I>::load(isa, &with_o[at..]);
        }
        sum.sum()
    }
}
