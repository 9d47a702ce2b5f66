//! The backward pass: blocks from the last to the first, each recomputed from the state that the forward pass kept.

use super::packed::{Packed, Rates, StepSizes, load_states, prefetch, store_states};
use super::tile::{History, LARGEST, SUMMED, Tile, TileSums, add_sums};
use super::{Inputs, Part, Shape, Upstream};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::ssm::parts::by_twos;
use crate::ssm::sequence::{BLOCK, Sequences};

/// What a part of the backward pass writes; `b`, `c`, `a`, `d` and `delta_bias` are sums over this part alone.
pub(super) struct PartGradients<'a, T> {
    pub(super) part: Part,
    pub(super) u: &'a mut [T],
    pub(super) delta: &'a mut [T],
    pub(super) z: Option<&'a mut [T]>,
    pub(super) initial_state: &'a mut [T],
    pub(super) a: &'a mut [T],
    /// (`seq_len`, `d_state`).
    pub(super) b: &'a mut [T],
    pub(super) c: &'a mut [T],
    pub(super) d: &'a mut [T],
    pub(super) delta_bias: &'a mut [T],
}

pub(super) struct Backward<'a, T> {
    pub(super) sequences: &'a Sequences<'a>,
    pub(super) shape: Shape,
    pub(super) inputs: Inputs<'a, T>,
    /// [`largest_rates`](super::packed::largest_rates) of all channels.
    pub(super) largest: &'a [f64],
    pub(super) upstream: Upstream<'a, T>,
    pub(super) gradients: PartGradients<'a, T>,
}

impl<T: Float> Kernel for Backward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, shape, inputs, largest, upstream, mut gradients } = self;
        let part = gradients.part;
        let (seq_len, d_state) = (sequences.seq_len(), shape.d_state);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let mut packed = Packed::<T::Vector<I>>::new(isa, d_state);
        let registers = packed.registers;
        let rates =
            Rates::<T::Vector<I>>::new(isa, &inputs.a[part.first * d_state..][..part.channels * d_state], d_state);
        let mut of_states = vec![zero; part.channels * registers];
        let mut of_rates = vec![zero; part.channels * registers];
        let first = part.row * shape.d_model + part.first;
        if let Some(last_state) = upstream.last_state {
            load_states(isa, &last_state[first * d_state..][..part.channels * d_state], d_state, &mut of_states);
        }
        let weights = shape.weights(part, seq_len);
        let steps = sequences.steps(part.row);
        for channel in 0..part.channels {
            for padding in [0..steps.start, steps.end..seq_len] {
                let padding = channel * seq_len + padding.start..channel * seq_len + padding.end;
                gradients.u[padding.clone()].fill(T::ZERO);
                gradients.delta[padding.clone()].fill(T::ZERO);
                if let Some(z) = &mut gradients.z {
                    z[padding].fill(T::ZERO);
                }
            }
        }
        let kept = sequences.checkpoints() * d_state;
        let mut of_weights = vec![[zero; 2]; registers * BLOCK];
        let mut history = History { steps: [[[zero; 2]; 2]; BLOCK], end: [zero; 2] };
        let mut products = [zero; BLOCK];
        let mut sizes = StepSizes::EMPTY;
        let mut start_states = vec![zero; registers];
        for block in sequences.blocks(part.row).into_iter().rev() {
            packed.pack(isa, &inputs.b[weights.clone()], &inputs.c[weights.clone()], seq_len, block);
            of_weights.fill([zero; 2]);
            let count = block.steps();
            for channel in 0..part.channels {
                let of = part.first + channel;
                let start = (part.row * shape.d_model + of) * seq_len + block.start;
                for values in [Some(inputs.u), Some(inputs.delta), Some(upstream.y), inputs.z].into_iter().flatten() {
                    prefetch(values, start + seq_len, count);
                }
                let (u, delta) = (&inputs.u[start..start + count], &inputs.delta[start..start + count]);
                let bias = inputs.delta_bias.map_or(T::ZERO, |bias| bias[of]);
                sizes.read::<I, true>(isa, u, delta, |_| T::Vector::<I>::splat(isa, bias), inputs.softplus);
                match block.checkpoint {
                    None => start_states.fill(zero),
                    Some(at) => {
                        let at = (first + channel) * kept + at * d_state;
                        prefetch(upstream.checkpoints, at + kept, d_state);
                        load_states(isa, &upstream.checkpoints[at..at + d_state], d_state, &mut start_states);
                    }
                }
                let z = inputs.z.map(|z| &z[start..start + count]);
                let out = &upstream.y[start..start + count];
                let mut dy = [T::ZERO; BLOCK];
                before_gate::<T, I>(isa, out, z, &mut dy);
                let (mut sum_b, mut sum_a, mut y) = ([T::ZERO; BLOCK], [T::ZERO; BLOCK], [T::ZERO; BLOCK]);
                let bounded = sizes.largest * largest[of] < LARGEST;
                let of_channel = channel * registers..(channel + 1) * registers;
                let a = &rates.a[of_channel.clone()];
                let for_decay = if bounded { &rates.a2[of_channel.clone()] } else { a };
                by_twos!(registers, |register, WIDTH| {
                    let tile = Tile::<T::Vector<I>, WIDTH>::of(isa, &packed, for_decay, register);
                    let start = &start_states[register..];
                    tile.recompute(isa, count, &sizes, bounded, start, &mut history);
                    if register == 0 {
                        // Not with the inputs: so many lines at once would wait for each other.
                        let of_z = gradients.z.as_deref();
                        for values in [Some(&*gradients.u), Some(&*gradients.delta), of_z].into_iter().flatten() {
                            prefetch(values, (channel + 1) * seq_len + block.start, count);
                        }
                    }
                    if z.is_some() {
                        tile.products(count, &history, &mut products);
                        let (products, y) = (products.as_chunks::<SUMMED>().0, y.chunks_mut(SUMMED));
                        for (products, y) in products.iter().zip(y).take(count.div_ceil(SUMMED)) {
                            add_sums(products, y);
                        }
                    }
                    let mut sums = TileSums {
                        g: &mut of_states[of_channel.clone()][register..],
                        a: &mut of_rates[of_channel.clone()][register..],
                        weights: &mut of_weights[register * BLOCK..],
                        with_b: &mut sum_b,
                        with_a: &mut sum_a,
                    };
                    tile.reverse(isa, count, &sizes, &dy, &a[register..], &history, &mut sums);
                });
                if block.checkpoint.is_none() {
                    of_states[of_channel].fill(zero);
                }
                let d = inputs.d.map_or(T::ZERO, |d| d[of]);
                let at = channel * seq_len + block.start;
                let at = at..at + count;
                let ends = ChannelEnds { u, d, sizes: &sizes };
                let (of_d, of_bias) = ends.inputs::<I>(
                    isa,
                    &dy,
                    &sum_b,
                    &sum_a,
                    &mut gradients.u[at.clone()],
                    &mut gradients.delta[at.clone()],
                );
                gradients.d[channel] += of_d;
                gradients.delta_bias[channel] += of_bias;
                if let (Some(z), Some(of_z)) = (z, &mut gradients.z) {
                    of_gate::<T, I>(isa, out, z, u, d, &y, &mut of_z[at]);
                }
            }
            for step in 0..count {
                let at = (block.start + step) * d_state;
                for (which, sums) in [&mut *gradients.b, &mut *gradients.c].into_iter().enumerate() {
                    for (register, sums) in sums[at..at + d_state].chunks_mut(T::Vector::<I>::LANES).enumerate() {
                        of_weights[register * BLOCK + step][which].store(sums);
                    }
                }
            }
        }
        for (from, to) in of_states.chunks(registers).zip(gradients.initial_state.chunks_mut(d_state)) {
            store_states(from, to);
        }
        for (from, to) in of_rates.chunks(registers).zip(gradients.a.chunks_mut(d_state)) {
            store_states(from, to);
        }
    }
}

/// The gradient of y before its gate.
#[inline(always)]
fn before_gate<T: Float, I: Isa>(isa: I, out: &[T], z: Option<&[T]>, dy: &mut [T; BLOCK]) {
    let Some(z) = z else {
        dy[..out.len()].copy_from_slice(out);
        return;
    };
    for start in (0..out.len()).step_by(T::Vector::<I>::LANES) {
        let z = T::Vector::<I>::load(isa, &z[start..]);
        (T::Vector::<I>::load(isa, &out[start..]) * (z * T::sigmoid(isa, z))).store(&mut dy[start..]);
    }
}

/// The gradient of the gate: that of the output, times y + D u, times the derivative of `SiLU`.
#[inline(always)]
fn of_gate<T: Float, I: Isa>(isa: I, out: &[T], z: &[T], u: &[T], d: T, y: &[T; BLOCK], of_z: &mut [T]) {
    let splat = |x| T::Vector::<I>::splat(isa, x);
    for start in (0..out.len()).step_by(T::Vector::<I>::LANES) {
        let load = |from: &[T]| T::Vector::<I>::load(isa, &from[start..]);
        let (z, y) = (load(z), splat(d).mul_add(load(u), load(y)));
        let gate = T::sigmoid(isa, z);
        let derivative = gate * (z * (splat(T::ONE) - gate) + splat(T::ONE));
        (load(out) * y * derivative).store(&mut of_z[start..]);
    }
}

/// One channel in one block of steps, for the gradients of its inputs.
struct ChannelEnds<'a, T> {
    u: &'a [T],
    d: T,
    sizes: &'a StepSizes<T>,
}

impl<T: Float> ChannelEnds<'_, T> {
    /// The gradients of u and delta; gives those of D and of the bias.
    #[inline(always)]
    fn inputs<I: Isa>(
        &self,
        isa: I,
        dy: &[T; BLOCK],
        sum_b: &[T; BLOCK],
        sum_a: &[T; BLOCK],
        of_u: &mut [T],
        of_delta: &mut [T],
    ) -> (T, T) {
        let splat = |x| T::Vector::<I>::splat(isa, x);
        let (mut of_d, mut of_bias) = (splat(T::ZERO), splat(T::ZERO));
        for start in (0..of_u.len()).step_by(T::Vector::<I>::LANES) {
            let load = |from: &[T]| T::Vector::<I>::load(isa, &from[start..of_u.len().min(from.len())]);
            let (u, dy, sum_b) = (load(self.u), load(dy), load(sum_b));
            let size = load(&self.sizes.delta);
            let step = u.mul_add(sum_b, load(sum_a)) * load(&self.sizes.slope);
            size.mul_add(sum_b, splat(self.d) * dy).store(&mut of_u[start..]);
            step.store(&mut of_delta[start..]);
            of_d = dy.mul_add(u, of_d);
            of_bias = of_bias + step;
        }
        (of_d.sum(), of_bias.sum())
    }
}
