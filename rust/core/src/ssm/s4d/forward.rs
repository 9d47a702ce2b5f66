//! The whole sequence.

use super::weights::{Lanes, Weights, advance, load, output, store};
use super::{Inputs, Outputs, Part, Shape};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::ssm::complex::{Complex, Numbers};
use crate::ssm::parts::by_twos;
use crate::ssm::sequence::{BLOCK, Sequences};

pub(super) struct Forward<'a, T> {
    pub(super) sequences: &'a Sequences<'a>,
    pub(super) shape: Shape,
    pub(super) inputs: Inputs<'a, T>,
    pub(super) initial_state: Option<&'a [T]>,
    pub(super) part: Part,
    pub(super) outputs: Outputs<'a, T>,
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, shape, inputs, initial_state, part, outputs } = self;
        let Outputs { y, last_state, mut checkpoints } = outputs;
        let (seq_len, state) = (sequences.seq_len(), shape.state());
        let lanes = Lanes::<T::Vector<I>>::new(isa, shape.n_modes);
        let mut weights = Weights::<T::Vector<I>>::new(isa, lanes.registers);
        let mut h = vec![Complex::<T::Vector<I>>::zero(isa); lanes.registers];
        let mut products = [T::Vector::<I>::splat(isa, T::ZERO); BLOCK];
        let mut sums = [T::ZERO; BLOCK];
        let two = T::Vector::<I>::splat(isa, T::ONE + T::ONE);
        let blocks = sequences.blocks(part.row);
        let steps = sequences.steps(part.row);
        let kept = sequences.checkpoints() * state;
        for channel in 0..part.channels {
            let of = part.first + channel;
            let row = part.row * shape.d_model + of;
            weights.read(isa, shape, inputs, of);
            match initial_state {
                Some(initial) => load(isa, &initial[row * state..(row + 1) * state], &mut h),
                None => h.fill(Complex::zero(isa)),
            }
            let y = &mut y[channel * seq_len..(channel + 1) * seq_len];
            y[..steps.start].fill(T::ZERO);
            y[steps.end..].fill(T::ZERO);
            let d = T::Vector::<I>::splat(isa, inputs.d.map_or(T::ZERO, |d| d[of]));
            for block in &blocks {
                match block.checkpoint {
                    None => h.fill(Complex::zero(isa)),
                    Some(at) => {
                        if let Some(checkpoints) = &mut checkpoints {
                            store(&h, &mut checkpoints[channel * kept + at * state..][..state]);
                        }
                    }
                }
                let u = &inputs.u[row * seq_len..][block.start..block.end];
                let y = &mut y[block.start..block.end];
                by_twos!(lanes.registers, |first, WIDTH| {
                    scan::<T::Vector<I>, WIDTH>(isa, &lanes, &weights, first, u, &mut h, &mut products);
                    T::Vector::<I>::sums(&products[..u.len()], &mut sums[..u.len()]);
                    if first == 0 {
                        y.copy_from_slice(&sums[..u.len()]);
                    } else {
                        for (y, sum) in y.iter_mut().zip(&sums) {
                            *y += *sum;
                        }
                    }
                });
                for start in (0..u.len()).step_by(T::Vector::<I>::LANES) {
                    let mut out = T::Vector::<I>::load(isa, &y[start..]) * two;
                    if inputs.d.is_some() {
                        out = d.mul_add(T::Vector::<I>::load(isa, &u[start..]), out);
                    }
                    out.store(&mut y[start..]);
                }
            }
            store(&h, &mut last_state[channel * state..(channel + 1) * state]);
        }
    }
}

/// The steps of a block; `products` are Re(C ⊙ h), summed over registers.
#[inline(always)]
fn scan<V: Vector, const WIDTH: usize>(
    isa: V::Isa,
    lanes: &Lanes<V>,
    weights: &Weights<V>,
    first: usize,
    u: &[V::Scalar],
    states: &mut [Complex<V>],
    products: &mut [V; BLOCK],
) {
    let zero = Complex::zero(isa);
    let (mut h, mut a, mut b, mut c) = ([zero; WIDTH], [zero; WIDTH], [zero; WIDTH], [zero; WIDTH]);
    for n in 0..WIDTH {
        (h[n], a[n], b[n], c[n]) =
            (states[first + n], weights.a[first + n], weights.b[first + n], weights.c[first + n]);
    }
    for (u, product) in u.iter().zip(products) {
        let u = V::splat(isa, *u);
        let mut sum = zero.re;
        for n in 0..WIDTH {
            h[n] = advance(a[n], b[n], h[n], u);
            let of_register = output(c[n], h[n], zero.re);
            sum = sum + lanes.used::<WIDTH>(isa, first, n, of_register);
        }
        *product = sum;
    }
    states[first..first + WIDTH].copy_from_slice(&h);
}
