//! The whole sequence.

use super::packed::{Packed, Rates, StepSizes, finish, load_states, prefetch, store_states};
use super::tile::{LARGEST, Tile};
use super::{Inputs, Outputs, Part, Shape};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::ssm::parts::by_twos;
use crate::ssm::sequence::{BLOCK, Sequences};

pub(super) struct Forward<'a, T> {
    pub(super) sequences: &'a Sequences<'a>,
    pub(super) shape: Shape,
    pub(super) inputs: Inputs<'a, T>,
    /// [`largest_rates`](super::packed::largest_rates) of all channels.
    pub(super) largest: &'a [f64],
    pub(super) initial_state: Option<&'a [T]>,
    pub(super) part: Part,
    pub(super) outputs: Outputs<'a, T>,
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, shape, inputs, largest, initial_state, part, outputs } = self;
        let Outputs { y, last_state, mut checkpoints } = outputs;
        let (seq_len, d_state) = (sequences.seq_len(), shape.d_state);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let mut packed = Packed::<T::Vector<I>>::new(isa, d_state);
        let registers = packed.registers;
        let rates =
            Rates::<T::Vector<I>>::new(isa, &inputs.a[part.first * d_state..][..part.channels * d_state], d_state);
        let mut states = vec![zero; part.channels * registers];
        if let Some(initial) = initial_state {
            let first = (part.row * shape.d_model + part.first) * d_state;
            load_states(isa, &initial[first..][..part.channels * d_state], d_state, &mut states);
        }
        let weights = shape.weights(part, seq_len);
        let steps = sequences.steps(part.row);
        for y in y.chunks_mut(seq_len.max(1)) {
            y[..steps.start].fill(T::ZERO);
            y[steps.end..].fill(T::ZERO);
        }
        let kept = sequences.checkpoints() * d_state;
        let mut sizes = StepSizes::EMPTY;
        let mut products = [zero; BLOCK];
        let mut sums = [T::ZERO; BLOCK];
        for block in sequences.blocks(part.row) {
            packed.pack(isa, &inputs.b[weights.clone()], &inputs.c[weights.clone()], seq_len, block);
            let count = block.steps();
            for channel in 0..part.channels {
                let of = part.first + channel;
                let start = (part.row * shape.d_model + of) * seq_len + block.start;
                for values in [Some(inputs.u), Some(inputs.delta), inputs.z].into_iter().flatten() {
                    prefetch(values, start + seq_len, count);
                }
                prefetch(y, (channel + 1) * seq_len + block.start, count);
                let u = &inputs.u[start..start + count];
                let bias = inputs.delta_bias.map_or(T::ZERO, |bias| bias[of]);
                let delta = &inputs.delta[start..start + count];
                sizes.read::<I, false>(isa, u, delta, |_| T::Vector::<I>::splat(isa, bias), inputs.softplus);
                let states = &mut states[channel * registers..][..registers];
                match block.checkpoint {
                    None => states.fill(zero),
                    Some(at) => {
                        if let Some(checkpoints) = &mut checkpoints {
                            prefetch(checkpoints, (channel + 1) * kept + at * d_state, d_state);
                            store_states(states, &mut checkpoints[channel * kept + at * d_state..][..d_state]);
                        }
                    }
                }
                let y = &mut y[channel * seq_len + block.start..][..count];
                let bounded = sizes.largest * largest[of] < LARGEST;
                let rates = if bounded { &rates.a2 } else { &rates.a };
                let rates = &rates[channel * registers..][..registers];
                by_twos!(registers, |first, WIDTH| {
                    let tile = Tile::<T::Vector<I>, WIDTH>::of(isa, &packed, rates, first);
                    let states = &mut states[first..];
                    tile.scan(isa, count, &sizes, bounded, states, &mut products);
                    // Whole registers: products of older blocks stand beyond.
                    let whole = count.next_multiple_of(T::Vector::<I>::LANES);
                    T::Vector::<I>::sums(&products[..whole], &mut sums[..whole]);
                    if first == 0 {
                        y.copy_from_slice(&sums[..count]);
                    } else {
                        for (y, sum) in y.iter_mut().zip(&sums) {
                            *y += *sum;
                        }
                    }
                });
                let d = inputs.d.map(|d| T::Vector::<I>::splat(isa, d[of]));
                let d = d.map(|d| move |_| d);
                finish::<T, I>(isa, y, u, d, inputs.z.map(|z| &z[start..start + count]));
            }
        }
        for (states, last_state) in states.chunks(registers).zip(last_state.chunks_mut(d_state)) {
            store_states(states, last_state);
        }
    }
}
