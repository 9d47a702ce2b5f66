//! One step of decoding.

use super::packed::{StepSizes, finish};
use super::tile::LARGEST;
use super::{CHANNELS, Inputs, Part, Shape};
use crate::simd::{Float, Isa, Kernel, MOST_LANES, Vector};

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
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { shape, inputs, state, part, y, new_state } = self;
        let d_state = shape.d_state;
        let channels = part.row * shape.d_model + part.first;
        let channels = channels..channels + part.channels;
        let of = part.first..part.first + part.channels;
        let weights = shape.weights(part, 1);
        let u = &inputs.u[channels.clone()];
        let mut sizes = StepSizes::EMPTY;
        let bias = inputs.delta_bias.map(|bias| &bias[of.clone()]);
        let bias = |start| match bias {
            Some(bias) => T::Vector::<I>::load(isa, &bias[start..]),
            None => T::Vector::<I>::splat(isa, T::ZERO),
        };
        sizes.read::<I, false>(isa, u, &inputs.delta[channels.clone()], bias, inputs.softplus);
        let states = States {
            d_state,
            a: &inputs.a[of.start * d_state..of.end * d_state],
            b: &inputs.b[weights.clone()],
            c: &inputs.c[weights],
            before: &state[channels.start * d_state..channels.end * d_state],
            sizes: &sizes,
        };
        let mut products = [T::Vector::<I>::splat(isa, T::ZERO); CHANNELS];
        if !states.advance_bounded(isa, new_state, &mut products) {
            states.advance(isa, new_state, &mut products);
        }
        T::Vector::<I>::sums(&products[..part.channels], y);
        let d = inputs.d.map(|d| &d[of]);
        let d = d.map(|d| move |start: usize| T::Vector::<I>::load(isa, &d[start..]));
        finish::<T, I>(isa, y, u, d, inputs.z.map(|z| &z[channels]));
    }
}

/// The states of a part, and what they meet.
struct States<'a, T> {
    d_state: usize,
    a: &'a [T],
    b: &'a [T],
    c: &'a [T],
    before: &'a [T],
    sizes: &'a StepSizes<T>,
}

impl<T: Float> States<'_, T> {
    /// h = exp(Δ A) ⊙ h + Δ u B of each channel, and C ⊙ h, summed over registers.
    #[inline(always)]
    fn advance<I: Isa>(&self, isa: I, after: &mut [T], products: &mut [T::Vector<I>; CHANNELS]) {
        let d_state = self.d_state;
        let splat = |x| T::Vector::<I>::splat(isa, x);
        let channels = self.a.chunks(d_state).zip(self.before.chunks(d_state)).zip(after.chunks_mut(d_state));
        for ((channel, ((a, before), after)), product) in channels.enumerate().zip(products) {
            let (delta, delta_u) = (splat(self.sizes.delta[channel]), splat(self.sizes.delta_u[channel]));
            *product = splat(T::ZERO);
            for start in (0..d_state).step_by(T::Vector::<I>::LANES) {
                let load = |from: &[T]| T::Vector::<I>::load(isa, &from[start..]);
                let decay = T::exp(isa, delta * load(a));
                decay.mul_add(load(before), delta_u * load(self.b)).store(&mut after[start..]);
                // Loaded again: zeros, not what stands in unused lanes.
                *product = load(self.c).mul_add(load(after), *product);
            }
        }
    }

    /// The same where registers are full and all Δ A small: with fewer instructions. Whether that was so; if not, what is
    /// written is not to be used.
    #[inline(always)]
    fn advance_bounded<I: Isa>(&self, isa: I, after: &mut [T], products: &mut [T::Vector<I>; CHANNELS]) -> bool {
        let (lanes, d_state) = (T::Vector::<I>::LANES, self.d_state);
        if !d_state.is_multiple_of(lanes) {
            return false;
        }
        let splat = |x| T::Vector::<I>::splat(isa, x);
        let (zero, log2_e) = (splat(T::ZERO), splat(T::from_f64(std::f64::consts::LOG2_E)));
        let constants = T::exp2_constants(isa);
        let (mut largest, mut not_finite) = (zero, zero);
        let channels = self.a.chunks_exact(d_state).zip(self.before.chunks_exact(d_state));
        let channels = channels.zip(after.chunks_exact_mut(d_state));
        for ((channel, ((a, before), after)), product) in channels.enumerate().zip(products) {
            let (delta, delta_u) = (splat(self.sizes.delta[channel]), splat(self.sizes.delta_u[channel]));
            let mut sum = zero;
            let weights = self.b.chunks_exact(lanes).zip(self.c.chunks_exact(lanes));
            let states = before.chunks_exact(lanes).zip(after.chunks_exact_mut(lanes));
            for ((a, (before, after)), (b, c)) in a.chunks_exact(lanes).zip(states).zip(weights) {
                let load = |from| T::Vector::<I>::load(isa, from);
                let rates = load(a) * log2_e;
                let [decay] = T::exp2_of_products(isa, &constants, [delta], [rates]);
                let power = delta * rates;
                largest = largest.max(power.abs());
                not_finite = power.mul_add(zero, not_finite);
                let h = decay.mul_add(load(before), delta_u * load(b));
                h.store(after);
                sum = load(c).mul_add(h, sum);
            }
            *product = sum;
        }
        let mut each = [T::ZERO; MOST_LANES];
        largest.store(&mut each);
        not_finite.sum() == T::ZERO && each.iter().all(|power| power.to_f64() < LARGEST)
    }
}
