//! One step of decoding: two passes over a state, which is read and written where it lies.

use super::packed::{Packed, by_gate};
use super::{Inputs, Shape, forward};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::ssm::sequence::Block;
use forward::{by_tiles, load, store};

/// Heads of one part of the work.
pub(super) const HEADS: usize = 4;

/// Output and new state of a head, and its state.
type Head<'a, T> = ((&'a mut [T], &'a mut [T]), &'a [T]);

pub(super) struct Step<'a, T> {
    pub(super) shape: Shape,
    pub(super) inputs: Inputs<'a, T>,
    /// With their indices among the heads of all rows.
    pub(super) heads: Vec<(usize, Head<'a, T>)>,
}

impl<T: Float> Kernel for Step<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { shape, inputs, heads } = self;
        let registers = shape.head_v.div_ceil(T::Vector::<I>::LANES);
        let mut packed = Packed::new::<I>(shape.head_k, &inputs.g, 1);
        for (index, ((o, new_state), state)) in heads {
            let (row, head) = (index / shape.n_heads, index % shape.n_heads);
            packed.pack(isa, shape, &inputs, (row, head, 1), Block { start: 0, end: 1, checkpoint: None });
            let v = &inputs.v[index * shape.head_v..][..shape.head_v];
            by_tiles!(registers, |first, WIDTH| {
                by_gate!(inputs.g, PER_KEY => step::<T, I, WIDTH, PER_KEY>(isa, &packed, v, first, state, new_state, o));
            });
        }
    }
}

#[inline(always)]
fn step<T: Float, I: Isa, const WIDTH: usize, const PER_KEY: bool>(
    isa: I,
    packed: &Packed<T>,
    v: &[T],
    first: usize,
    state: &[T],
    new_state: &mut [T],
    o: &mut [T],
) {
    let splat = |x| T::Vector::<I>::splat(isa, x);
    let head_v = v.len();
    let mut sums = [splat(T::ZERO); WIDTH];
    for (row, erase) in state.chunks_exact(head_v).zip(&packed.erase) {
        let s: [_; WIDTH] = load::<T::Vector<I>, WIDTH>(isa, row, first);
        for register in 0..WIDTH {
            sums[register] = splat(*erase).mul_add(s[register], sums[register]);
        }
    }
    let (beta, head_decay) = (splat(packed.beta[0]), splat(packed.head_decay[0]));
    let v: [_; WIDTH] = load::<T::Vector<I>, WIDTH>(isa, v, first);
    let u: [_; WIDTH] = std::array::from_fn(|register| beta * (v[register] - sums[register]));
    sums = [splat(T::ZERO); WIDTH];
    let rows = state.chunks_exact(head_v).zip(new_state.chunks_exact_mut(head_v));
    let decay = if PER_KEY { &packed.decay } else { &packed.k };
    for (((row, new_row), (q, k)), decay) in rows.zip(packed.q.iter().zip(&packed.k)).zip(decay) {
        let mut s: [_; WIDTH] = load::<T::Vector<I>, WIDTH>(isa, row, first);
        let decay = if PER_KEY { splat(*decay) } else { head_decay };
        for register in 0..WIDTH {
            s[register] = splat(*k).mul_add(u[register], decay * s[register]);
            sums[register] = splat(*q).mul_add(s[register], sums[register]);
        }
        store(s, new_row, first);
    }
    store(sums, o, first);
}
