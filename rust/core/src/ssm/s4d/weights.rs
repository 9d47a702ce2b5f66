//! Weights and states of a channel's modes in registers, and a step of them.

use super::{Inputs, Shape};
use crate::simd::{Float, MOST_LANES, Vector};
use crate::ssm::complex::{Complex, Numbers};

/// Registers for `n_modes` complex numbers, with 0 in lanes that hold a mode and 1 in the others of the last one.
pub(super) struct Lanes<V> {
    pub(super) registers: usize,
    pub(super) unused: Option<V>,
}

impl<V: Vector> Lanes<V> {
    #[inline(always)]
    pub(super) fn new(isa: V::Isa, n_modes: usize) -> Self {
        let registers = n_modes.div_ceil(V::LANES);
        let last = n_modes - (registers - 1) * V::LANES;
        // In the order that complex numbers have in registers.
        let mut pairs = [V::Scalar::ONE; 2 * MOST_LANES];
        pairs[..2 * last].fill(V::Scalar::ZERO);
        let unused = (last < V::LANES).then(|| Complex::<V>::load(isa, &pairs).re);
        Self { registers, unused }
    }

    /// `x` with zeros in the lanes that hold no mode: what stands there may be NaN where an input is infinite.
    #[inline(always)]
    pub(super) fn used<const WIDTH: usize>(&self, isa: V::Isa, first: usize, register: usize, x: V) -> V {
        match self.unused {
            Some(unused) if register + 1 == WIDTH && first + WIDTH == self.registers => {
                unused.if_less(V::splat(isa, V::Scalar::ONE), x, V::splat(isa, V::Scalar::ZERO))
            }
            _ => x,
        }
    }
}

/// Reads complex numbers, as many registers as there are.
#[inline(always)]
pub(super) fn load<V: Vector>(isa: V::Isa, from: &[V::Scalar], to: &mut [Complex<V>]) {
    for (from, to) in from.chunks(2 * V::LANES).zip(to) {
        *to = Complex::load(isa, from);
    }
}

#[inline(always)]
pub(super) fn store<V: Vector>(from: &[Complex<V>], to: &mut [V::Scalar]) {
    for (from, to) in from.iter().zip(to.chunks_mut(2 * V::LANES)) {
        from.store(to);
    }
}

/// A channel's weights, in registers.
pub(super) struct Weights<V> {
    pub(super) a: Vec<Complex<V>>,
    pub(super) b: Vec<Complex<V>>,
    pub(super) c: Vec<Complex<V>>,
}

impl<V: Vector> Weights<V> {
    #[inline(always)]
    pub(super) fn new(isa: V::Isa, registers: usize) -> Self {
        let zeros = vec![Complex::zero(isa); registers];
        Self { a: zeros.clone(), b: zeros.clone(), c: zeros }
    }

    #[inline(always)]
    pub(super) fn read(&mut self, isa: V::Isa, shape: Shape, inputs: Inputs<'_, V::Scalar>, channel: usize) {
        let of = channel * shape.state()..(channel + 1) * shape.state();
        load(isa, &inputs.a[of.clone()], &mut self.a);
        load(isa, &inputs.b[of.clone()], &mut self.b);
        load(isa, &inputs.c[of], &mut self.c);
    }
}

/// The new state: Ā h + B̄ u.
#[inline(always)]
pub(super) fn advance<V: Vector>(a: Complex<V>, b: Complex<V>, h: Complex<V>, u: V) -> Complex<V> {
    a.mul_add(h, Complex { re: b.re * u, im: b.im * u })
}

/// Re(C h) + sum.
#[inline(always)]
pub(super) fn output<V: Vector>(c: Complex<V>, h: Complex<V>, sum: V) -> V {
    c.re.mul_add(h.re, c.im.neg_mul_add(h.im, sum))
}
