//! One step, for decoding: bound by reading and writing the state, which is done once.

use super::pack::load;
use super::{Head, HeadGate, Heads, Inputs, Shape};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::ssm::{Execution, check_len};
use crate::{Result, parallel};

/// Channels of k that are taken at once.
const BLOCK: usize = 64;

/// Registers of a row that are taken at once.
const WIDTH: usize = 4;

/// One step: `inputs` with `seq_len` 1. `state` and `new_state` have shape (batch, `n_heads`, `head_k`, `head_v`), or
/// (batch, `n_heads`, `head_v`, `head_k`) where `transposed`; `o` has (batch, `n_heads`, `head_v`).
pub fn step<T: Float>(
    rows: usize,
    shape: Shape,
    inputs: Inputs<'_, T>,
    state: &[T],
    transposed: bool,
    o: &mut [T],
    new_state: &mut [T],
    execution: Execution<'_>,
) -> Result<()> {
    shape.check(rows, 1, &inputs)?;
    check_len("state", state, shape.states(rows))?;
    check_len("the new state", new_state, shape.states(rows))?;
    check_len("o", o, inputs.v.len())?;
    let heads = Heads { shape, seq_len: 1, splits: 1, inputs, initial_state: None };
    let size = shape.head_k * shape.head_v;
    let states = state.chunks(size).zip(new_state.chunks_mut(size));
    let work = states.zip(o.chunks_mut(shape.head_v)).enumerate().collect();
    parallel::for_each_short(execution.threads, state.len(), work, |(at, ((state, new_state), o))| {
        let head = heads.get(at / shape.n_heads, at % shape.n_heads);
        execution.level.run(Step { head, state, transposed, o, new_state });
        Ok(())
    })
}

struct Step<'a, T> {
    head: Head<'a, T>,
    state: &'a [T],
    transposed: bool,
    o: &'a mut [T],
    new_state: &'a mut [T],
}

impl<T: Float> Kernel for Step<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { head, state, transposed, o, new_state } = self;
        let (head_k, head_v, lanes) = (head.head_k, head.head_v, T::Vector::<I>::LANES);
        let (q, k, v) = (head.q.row(0), head.k.row(0), head.v.row(0));
        for first in (0..head_k).step_by(BLOCK) {
            let count = BLOCK.min(head_k - first);
            let mut weights = Weights { q: [T::ZERO; BLOCK], k: [T::ZERO; BLOCK], decay: [T::ZERO; BLOCK], count };
            for start in (0..count).step_by(lanes) {
                let at = first + start;
                let decay = match &head.gate {
                    HeadGate::Constant(decay) => T::Vector::<I>::splat(isa, *decay),
                    HeadGate::Head(gate) => T::exp(isa, T::Vector::<I>::splat(isa, gate.row(0)[0])),
                    HeadGate::Channel(gate) => T::exp(isa, load(isa, gate.row(0), at)),
                };
                (load::<T::Vector<I>>(isa, q, at) * T::Vector::<I>::splat(isa, head.scale))
                    .store(&mut weights.q[start..]);
                load::<T::Vector<I>>(isa, k, at).store(&mut weights.k[start..]);
                decay.store(&mut weights.decay[start..]);
            }
            if transposed {
                weights.transposed::<I>(isa, v, first, head_k, state, new_state, o);
            } else {
                let rows = first * head_v..(first + count) * head_v;
                let (state, new_state) = (&state[rows.clone()], &mut new_state[rows]);
                let mut start = 0;
                while start + WIDTH * lanes <= head_v {
                    weights.columns::<I, WIDTH>(isa, v, first > 0, start, state, new_state, o);
                    start += WIDTH * lanes;
                }
                while start < head_v {
                    weights.columns::<I, 1>(isa, v, first > 0, start, state, new_state, o);
                    start += lanes;
                }
            }
        }
    }
}

/// What some channels of k have.
struct Weights<T> {
    q: [T; BLOCK],
    k: [T; BLOCK],
    decay: [T; BLOCK],
    count: usize,
}

impl<T: Float> Weights<T> {
    /// Rows are these channels; the columns of v from `start` on.
    #[inline(always)]
    fn columns<I: Isa, const REGISTERS: usize>(
        &self,
        isa: I,
        v: &[T],
        add: bool,
        start: usize,
        state: &[T],
        new_state: &mut [T],
        o: &mut [T],
    ) {
        let lanes = T::Vector::<I>::LANES;
        let end = v.len().min(start + REGISTERS * lanes);
        let (zero, width) = (T::Vector::<I>::splat(isa, T::ZERO), v.len());
        let o = &mut o[start..end];
        let (mut values, mut sums) = ([zero; REGISTERS], [zero; REGISTERS]);
        for register in 0..REGISTERS {
            values[register] = load(isa, &v[start..end], register * lanes);
            if add {
                sums[register] = load(isa, o, register * lanes);
            }
        }
        let rows = state.chunks_exact(width).zip(new_state.chunks_exact_mut(width));
        for (((state, new_state), q), (k, decay)) in rows.zip(&self.q).zip(self.k.iter().zip(&self.decay)) {
            let (state, new_state) = (&state[start..end], &mut new_state[start..end]);
            let (q, k, decay) =
                (T::Vector::<I>::splat(isa, *q), T::Vector::<I>::splat(isa, *k), T::Vector::<I>::splat(isa, *decay));
            for register in 0..REGISTERS {
                let before = load::<T::Vector<I>>(isa, state, register * lanes);
                let new = decay.mul_add(before, k * values[register]);
                new.store(&mut new_state[register * lanes..]);
                sums[register] = q.mul_add(new, sums[register]);
            }
        }
        for register in 0..REGISTERS {
            sums[register].store(&mut o[register * lanes..]);
        }
    }

    /// Rows are the channels of v; columns are these, from `first` on.
    #[inline(always)]
    fn transposed<I: Isa>(
        &self,
        isa: I,
        v: &[T],
        first: usize,
        width: usize,
        state: &[T],
        new_state: &mut [T],
        o: &mut [T],
    ) {
        const ROWS: usize = 16;
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let lanes = T::Vector::<I>::LANES;
        for start in (0..v.len()).step_by(ROWS) {
            let end = v.len().min(start + ROWS);
            let mut products = [zero; ROWS];
            for (row, product) in (start..end).zip(&mut products) {
                let columns = row * width + first..row * width + first + self.count;
                let (state, new_state) = (&state[columns.clone()], &mut new_state[columns]);
                let value = T::Vector::<I>::splat(isa, v[row]);
                for at in (0..self.count).step_by(lanes) {
                    let decay = load::<T::Vector<I>>(isa, &self.decay, at);
                    let new = decay.mul_add(load(isa, state, at), load::<T::Vector<I>>(isa, &self.k, at) * value);
                    new.store(&mut new_state[at..]);
                    *product = load::<T::Vector<I>>(isa, &self.q, at).mul_add(new, *product);
                }
            }
            let mut sums = [T::ZERO; ROWS];
            T::Vector::<I>::sums(&products, &mut sums);
            for (o, sum) in o[start..end].iter_mut().zip(sums) {
                *o = if first > 0 { *o + sum } else { sum };
            }
        }
    }
}
