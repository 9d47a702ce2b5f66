//! One step of decoding.

use super::packed::{StepSizes, finish};
use super::{CHANNELS, Inputs, Part, Shape};
use crate::simd::{Float, Isa, Kernel, Vector};

pub(super) struct Step<'a, T> {
    pub(super) shape: Shape,
    pub(super) inputs: Inputs<'a, T>,
    pub(super) state: &'a [T],
    pub(super) part: Part,
    pub(super) y: &'a mut [T],
    pub(super) new_state: &'a mut [T],
}

impl<T: Float> Kernel for Step<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { shape, inputs, state, part, y, new_state } = self;
        let d_state = shape.d_state;
        let channels = part.row * shape.d_model + part.first;
        let channels = channels..channels + part.channels;
        let of = part.first..part.first + part.channels;
        let weights = shape.weights(part, 1);
        let (b, c) = (&inputs.b[weights.clone()], &inputs.c[weights]);
        let u = &inputs.u[channels.clone()];
        let mut sizes = StepSizes::EMPTY;
        let bias = inputs.delta_bias.map(|bias| &bias[of.clone()]);
        let bias = |start| match bias {
            Some(bias) => T::Vector::<I>::load(isa, &bias[start..]),
            None => T::Vector::<I>::splat(isa, T::ZERO),
        };
        sizes.read::<I>(isa, u, &inputs.delta[channels.clone()], bias, inputs.softplus);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let mut products = [zero; CHANNELS];
        let lanes = T::Vector::<I>::LANES;
        let states = state[channels.start * d_state..].chunks(d_state).zip(new_state.chunks_mut(d_state));
        for (channel, (state, new_state)) in states.enumerate() {
            let delta = T::Vector::<I>::splat(isa, sizes.delta[channel]);
            let delta_u = T::Vector::<I>::splat(isa, sizes.delta_u[channel]);
            let a = &inputs.a[(part.first + channel) * d_state..][..d_state];
            for start in (0..d_state).step_by(lanes) {
                let load = |from: &[T]| T::Vector::<I>::load(isa, &from[start..]);
                let decay = T::exp(isa, delta * load(a));
                decay.mul_add(load(state), delta_u * load(b)).store(&mut new_state[start..]);
                // Loaded again: zeros, not what stands in unused lanes.
                products[channel] = load(c).mul_add(load(new_state), products[channel]);
            }
        }
        T::Vector::<I>::sums(&products[..part.channels], y);
        let d = inputs.d.map(|d| &d[of]);
        let d = d.map(|d| move |start: usize| T::Vector::<I>::load(isa, &d[start..]));
        finish::<T, I>(isa, y, u, d, inputs.z.map(|z| &z[channels]));
    }
}
