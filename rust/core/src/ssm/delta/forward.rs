//! The whole sequence, values on the lanes.

use super::packed::{Packed, by_gate};
use super::{Inputs, Part, Shape};
use crate::simd::{Float, HeadMut, Isa, Kernel, Vector};
use crate::ssm::sequence::{BLOCK, Block, Sequences};

/// What a part writes.
pub(super) struct Written<'a, T> {
    pub(super) part: Part,
    pub(super) o: HeadMut<'a, T>,
    /// Rows are those of the state.
    pub(super) last_state: HeadMut<'a, T>,
    /// Rows are those of the states, one after another.
    pub(super) checkpoints: Option<HeadMut<'a, T>>,
}

pub(super) struct Forward<'a, T> {
    pub(super) sequences: &'a Sequences<'a>,
    pub(super) shape: Shape,
    pub(super) inputs: Inputs<'a, T>,
    pub(super) initial_state: Option<&'a [T]>,
    pub(super) written: Written<'a, T>,
}

/// Tiles of four registers of columns, then of two and one.
macro_rules! by_tiles {
    ($registers:expr, |$first:ident, $width:ident| $work:expr) => {
        let mut $first = 0;
        while $first + 4 <= $registers {
            const $width: usize = 4;
            $work;
            $first += 4;
        }
        if $first + 2 <= $registers {
            const $width: usize = 2;
            $work;
            $first += 2;
        }
        if $first < $registers {
            const $width: usize = 1;
            $work;
        }
    };
}
pub(super) use by_tiles;

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, shape, inputs, initial_state, written } = self;
        let Written { part, mut o, mut last_state, mut checkpoints } = written;
        let (head_k, lanes) = (shape.head_k, T::Vector::<I>::LANES);
        let registers = part.columns.div_ceil(lanes);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        // Tile by tile; a tile is its rows of keys.
        let mut states = vec![zero; head_k * registers];
        if let Some(initial) = initial_state {
            let at = (part.row * shape.n_heads + part.head) * head_k * shape.head_v;
            let initial = &initial[at..at + head_k * shape.head_v];
            let row = |key: usize| &initial[key * shape.head_v + part.first..][..part.columns];
            by_tiles!(registers, |first, WIDTH| {
                let tile = states[first * head_k..].as_chunks_mut::<WIDTH>().0;
                for (key, tile) in tile.iter_mut().take(head_k).enumerate() {
                    *tile = load(isa, row(key), first);
                }
            });
        }
        let steps = sequences.steps(part.row);
        for step in (0..steps.start).chain(steps.end..sequences.seq_len()) {
            o.row(step).fill(T::ZERO);
        }
        let mut packed = Packed::new::<I>(head_k, &inputs.g, BLOCK);
        for block in sequences.blocks(part.row) {
            match block.checkpoint {
                None => states.fill(zero),
                Some(at) => {
                    if let Some(checkpoints) = &mut checkpoints {
                        store_state(&states, head_k, registers, checkpoints, at * head_k);
                    }
                }
            }
            packed.pack(isa, shape, &inputs, (part.row, part.head, sequences.seq_len()), block);
            let values = Values { shape, v: inputs.v, part, token: part.row * sequences.seq_len() };
            by_tiles!(registers, |first, WIDTH| {
                let tile = states[first * head_k..].as_chunks_mut::<WIDTH>().0;
                let tile = &mut tile[..head_k];
                by_gate!(inputs.g, PER_KEY => scan::<T, I, WIDTH, PER_KEY>(isa, &packed, &values, block, first, tile, &mut o));
            });
        }
        store_state(&states, head_k, registers, &mut last_state, 0);
    }
}

/// Registers of a row of columns from register `first` on.
#[inline(always)]
pub(super) fn load<V: Vector, const WIDTH: usize>(isa: V::Isa, row: &[V::Scalar], first: usize) -> [V; WIDTH] {
    std::array::from_fn(|register| V::load(isa, &row[(first + register) * V::LANES..]))
}

/// The inverse of [`load`].
#[inline(always)]
pub(super) fn store<V: Vector, const WIDTH: usize>(registers: [V; WIDTH], row: &mut [V::Scalar], first: usize) {
    for (register, x) in registers.into_iter().enumerate() {
        x.store(&mut row[(first + register) * V::LANES..]);
    }
}

/// Writes a state to rows from `row` on.
#[inline(always)]
fn store_state<V: Vector>(states: &[V], head_k: usize, registers: usize, to: &mut HeadMut<'_, V::Scalar>, row: usize) {
    by_tiles!(registers, |first, WIDTH| {
        let tile = states[first * head_k..].as_chunks::<WIDTH>().0;
        for (key, tile) in tile.iter().take(head_k).enumerate() {
            store(*tile, to.row(row + key), first);
        }
    });
}

/// The values of a part.
pub(super) struct Values<'a, T> {
    pub(super) shape: Shape,
    pub(super) v: &'a [T],
    pub(super) part: Part,
    /// The first token of the row.
    pub(super) token: usize,
}

impl<T> Values<'_, T> {
    #[inline(always)]
    pub(super) fn row(&self, step: usize) -> &[T] {
        let head = (self.token + step) * self.shape.n_heads + self.part.head;
        &self.v[head * self.shape.head_v + self.part.first..][..self.part.columns]
    }
}

/// A block of steps of a tile.
#[inline(always)]
fn scan<T: Float, I: Isa, const WIDTH: usize, const PER_KEY: bool>(
    isa: I,
    packed: &Packed<T>,
    values: &Values<'_, T>,
    block: Block,
    first: usize,
    tile: &mut [[T::Vector<I>; WIDTH]],
    out: &mut HeadMut<'_, T>,
) {
    let splat = |x| T::Vector::<I>::splat(isa, x);
    let at = |values, step| Packed::at(values, step, packed.width);
    // What the step erases is read in the pass of the step before it, here for the first one.
    let mut erased = [splat(T::ZERO); WIDTH];
    for (state, erase) in tile.iter().zip(at(&packed.erase, 0)) {
        for register in 0..WIDTH {
            erased[register] = splat(*erase).mul_add(state[register], erased[register]);
        }
    }
    for t in 0..block.steps().min(BLOCK) {
        let beta = splat(packed.beta[t]);
        let v: [_; WIDTH] = load::<T::Vector<I>, WIDTH>(isa, values.row(block.start + t), first);
        let u: [_; WIDTH] = std::array::from_fn(|register| beta * (v[register] - erased[register]));
        let mut o = [splat(T::ZERO); WIDTH];
        erased = o;
        let head_decay = splat(packed.head_decay[t]);
        let (q, k, erase) = (at(&packed.q, t), at(&packed.k, t), at(&packed.erase, t + 1));
        // Not looked at without such a gate.
        let decay = if PER_KEY { at(&packed.decay, t) } else { k };
        for ((state, (q, k)), (erase, decay)) in tile.iter_mut().zip(q.iter().zip(k)).zip(erase.iter().zip(decay)) {
            let (q, k, erase) = (splat(*q), splat(*k), splat(*erase));
            let decay = if PER_KEY { splat(*decay) } else { head_decay };
            for register in 0..WIDTH {
                let s = k.mul_add(u[register], decay * state[register]);
                state[register] = s;
                o[register] = q.mul_add(s, o[register]);
                erased[register] = erase.mul_add(s, erased[register]);
            }
        }
        store(o, out.row(block.start + t), first);
    }
}
