//! Registers of real or complex numbers: one code for both. Complex numbers lie in memory as pairs (real, imaginary).

use crate::simd::{Float, Vector};

/// Real or complex numbers in registers of `V`.
pub(super) trait Numbers<V: Vector>: Copy {
    /// `V::Scalar`s of a number.
    const FLOATS: usize;
    /// How many numbers.
    const LANES: usize = V::LANES;

    /// Zeros.
    fn zero(isa: V::Isa) -> Self;
    /// The first numbers of a slice of scalars; zeros where there are none.
    fn load(isa: V::Isa, from: &[V::Scalar]) -> Self;
    /// Writes the numbers to the start of a slice of scalars, as many as it takes.
    fn store(self, to: &mut [V::Scalar]);
    /// `self` + `other`.
    #[must_use]
    fn add(self, other: Self) -> Self;
    /// `self` · h + x.
    #[must_use]
    fn mul_add(self, h: Self, x: Self) -> Self;
    /// conj(`self`) · h + x.
    #[must_use]
    fn conj_mul_add(self, h: Self, x: Self) -> Self;
}

/// Real numbers.
#[derive(Clone, Copy)]
pub(super) struct Real<V>(V);

impl<V: Vector> Numbers<V> for Real<V> {
    const FLOATS: usize = 1;

    #[inline(always)]
    fn zero(isa: V::Isa) -> Self {
        Self(V::splat(isa, V::Scalar::ZERO))
    }

    #[inline(always)]
    fn load(isa: V::Isa, from: &[V::Scalar]) -> Self {
        Self(V::load(isa, from))
    }

    #[inline(always)]
    fn store(self, to: &mut [V::Scalar]) {
        self.0.store(to);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    #[inline(always)]
    fn mul_add(self, h: Self, x: Self) -> Self {
        Self(self.0.mul_add(h.0, x.0))
    }

    #[inline(always)]
    fn conj_mul_add(self, h: Self, x: Self) -> Self {
        self.mul_add(h, x)
    }
}

/// Complex numbers, in lanes of some order that is the same everywhere.
#[derive(Clone, Copy)]
pub(super) struct Complex<V> {
    pub(super) re: V,
    pub(super) im: V,
}

impl<V: Vector> Numbers<V> for Complex<V> {
    const FLOATS: usize = 2;

    #[inline(always)]
    fn zero(isa: V::Isa) -> Self {
        let zero = V::splat(isa, V::Scalar::ZERO);
        Self { re: zero, im: zero }
    }

    #[inline(always)]
    fn load(isa: V::Isa, from: &[V::Scalar]) -> Self {
        let (re, im) = V::split_pairs(V::load(isa, from), V::load(isa, &from[V::LANES.min(from.len())..]));
        Self { re, im }
    }

    #[inline(always)]
    fn store(self, to: &mut [V::Scalar]) {
        let (a, b) = V::join_pairs(self.re, self.im);
        a.store(to);
        if to.len() > V::LANES {
            b.store(&mut to[V::LANES..]);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }

    #[inline(always)]
    fn mul_add(self, h: Self, x: Self) -> Self {
        Self {
            re: self.re.mul_add(h.re, self.im.neg_mul_add(h.im, x.re)),
            im: self.re.mul_add(h.im, self.im.mul_add(h.re, x.im)),
        }
    }

    #[inline(always)]
    fn conj_mul_add(self, h: Self, x: Self) -> Self {
        Self {
            re: self.re.mul_add(h.re, self.im.mul_add(h.im, x.re)),
            im: self.re.mul_add(h.im, self.im.neg_mul_add(h.re, x.im)),
        }
    }
}
