//! One step of decoding.

use super::weights::{Lanes, advance, output};
use super::{Inputs, Part, Shape};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::ssm::complex::{Complex, Numbers};
use crate::ssm::sequence::BLOCK;

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
        let scalars = shape.state();
        let lanes = Lanes::<T::Vector<I>>::new(isa, shape.n_modes);
        let rows = part.row * shape.d_model + part.first;
        let u = &inputs.u[rows..rows + part.channels];
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let (mut products, mut sums) = ([zero; BLOCK], [T::ZERO; BLOCK]);
        let sums = &mut sums[..part.channels];
        // Two registers at a time, as in the scan: the sums have one order.
        for first in (0..lanes.registers).step_by(2) {
            for channel in 0..part.channels {
                let of = (part.first + channel) * scalars..(part.first + channel + 1) * scalars;
                let (a, b, c) = (&inputs.a[of.clone()], &inputs.b[of.clone()], &inputs.c[of]);
                let state = &state[(rows + channel) * scalars..][..scalars];
                let new_state = &mut new_state[channel * scalars..][..scalars];
                let input = T::Vector::<I>::splat(isa, u[channel]);
                products[channel] = zero;
                for register in first..lanes.registers.min(first + 2) {
                    let at = register * 2 * T::Vector::<I>::LANES;
                    let (a, b) = (Complex::load(isa, &a[at..]), Complex::load(isa, &b[at..]));
                    let h = advance(a, b, Complex::load(isa, &state[at..]), input);
                    h.store(&mut new_state[at..]);
                    let product = output(Complex::load(isa, &c[at..]), h, zero);
                    products[channel] = products[channel] + lanes.used::<1>(isa, register, 0, product);
                }
            }
            T::Vector::<I>::sums(&products[..part.channels], sums);
            if first == 0 {
                y.copy_from_slice(sums);
            } else {
                for (y, sum) in y.iter_mut().zip(&*sums) {
                    *y += *sum;
                }
            }
        }
        let d = inputs.d.map(|d| &d[part.first..part.first + part.channels]);
        for start in (0..part.channels).step_by(T::Vector::<I>::LANES) {
            let y = &mut y[start..];
            let mut out = T::Vector::<I>::load(isa, y);
            out = out + out;
            if let Some(d) = d {
                out = T::Vector::<I>::load(isa, &d[start..]).mul_add(T::Vector::<I>::load(isa, &u[start..]), out);
            }
            out.store(y);
        }
    }
}
