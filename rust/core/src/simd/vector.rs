//! Numbers in registers: one trait over the instruction sets, and the portable version of it.
//!
//! A register holds eight `f32` or four `f64` on every level, so that sums have one order and loops one shape. Levels
//! differ in `mul_add`: with FMA it rounds once, on the portable path twice. AVX-512 machines use the same registers,
//! 32 of them: twice the width gained little on these kernels, which `exp` and loads bound.

use std::ops::{Add, Div, Mul, Sub};

use super::Isa;
use super::math;

/// A number type of the recurrences: `f32` or `f64`.
pub trait Float:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + std::fmt::Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + std::ops::AddAssign
    + std::ops::Neg<Output = Self>
    + 'static
{
    /// The registers of an instruction set.
    type Vector<I: Isa>: Vector<Scalar = Self, Isa = I>;

    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Bits of the mantissa that are stored.
    const MANTISSA_BITS: u32;
    /// 1.5 · 2^`MANTISSA_BITS`: added to a small number it leaves the nearest integer in the lowest bits.
    const MAGIC: Self;

    /// The nearest number of this type.
    fn from_f64(x: f64) -> Self;
    /// The same number.
    fn to_f64(self) -> f64;
    /// `self` · 2^k for an integer k, given as `magic` = [`Self::MAGIC`] + k; both `self` and the result are normal.
    #[must_use]
    fn scale_by(self, magic: Self) -> Self;
    /// The absolute value.
    #[must_use]
    fn abs(self) -> Self;

    /// e^x, to 1.06 ulp in `f32`, denormal results included (errors of all: over every `f32`, by `tests/math.rs`).
    fn exp<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V;
    /// 2^x for x in −125 … 126, to 1.23 ulp in `f32` (0.96 with FMA); anything for other x, NaN included. Several
    /// registers in step need their constants once.
    fn exp2_bounded<V: Vector<Scalar = Self>, const N: usize>(isa: V::Isa, x: [V; N]) -> [V; N];
    /// e^x − 1, to 1.74 ulp in `f32`.
    fn expm1<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V;
    /// ln(1 + x), to 1.53 ulp in `f32`; −∞ at −1, NaN below.
    fn log1p<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V;
    /// ln(1 + e^x), to 2.05 ulp in `f32`.
    fn softplus<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V;
    /// ln(1 + e^x) and its derivative, 1 / (1 + e^(−x)), both to 2^−125 of absolute error: what below that is small stays.
    /// From −87 on they have the errors of [`Self::softplus`] and [`Self::sigmoid`].
    fn softplus_and_slope<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> (V, V);
    /// 1 / (1 + e^(−x)), to 2.41 ulp in `f32`.
    fn sigmoid<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V;
}

/// A register of numbers. Values are only made with an instruction set at hand, which proves that the machine has it.
pub trait Vector:
    Copy + Send + Sync + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + 'static
{
    /// What it holds.
    type Scalar: Float;
    /// The instruction set that it belongs to.
    type Isa: Isa;
    /// How many it holds.
    const LANES: usize;

    /// The same number in every lane.
    fn splat(isa: Self::Isa, x: Self::Scalar) -> Self;
    /// The first numbers of a slice; zeros where there are none.
    fn load(isa: Self::Isa, from: &[Self::Scalar]) -> Self;
    /// Writes the numbers to the start of a slice, as many as it takes.
    fn store(self, to: &mut [Self::Scalar]);
    /// `self` · b + c.
    #[must_use]
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// c − `self` · b.
    #[must_use]
    fn neg_mul_add(self, b: Self, c: Self) -> Self;
    /// The first and the second number of each of the pairs that two registers hold, in some order.
    fn split_pairs(a: Self, b: Self) -> (Self, Self);
    /// The inverse of [`Self::split_pairs`].
    fn join_pairs(first: Self, second: Self) -> (Self, Self);
    /// The larger; `self` where it is NaN.
    #[must_use]
    fn max(self, other: Self) -> Self;
    /// The smaller; `self` where it is NaN.
    #[must_use]
    fn min(self, other: Self) -> Self;
    /// The absolute value.
    #[must_use]
    fn abs(self) -> Self;
    /// [`Float::scale_by`].
    #[must_use]
    fn scale_by(self, magic: Self) -> Self;
    /// `then` where `self` < `other`, else `otherwise`.
    #[must_use]
    fn if_less(self, other: Self, then: Self, otherwise: Self) -> Self;
    /// The sum of each register of a slice, to `out` of the same length: the halves added, and again.
    fn sums(rows: &[Self], out: &mut [Self::Scalar]);

    /// A function of each number.
    #[inline(always)]
    #[must_use]
    fn map(self, isa: Self::Isa, function: impl Fn(Self::Scalar) -> Self::Scalar) -> Self {
        let mut lanes = [Self::Scalar::ZERO; 8];
        self.store(&mut lanes[..Self::LANES]);
        for lane in &mut lanes[..Self::LANES] {
            *lane = function(*lane);
        }
        Self::load(isa, &lanes[..Self::LANES])
    }

    /// The sum of all numbers.
    #[inline(always)]
    fn sum(self) -> Self::Scalar {
        let mut out = [Self::Scalar::ZERO];
        Self::sums(&[self], &mut out);
        out[0]
    }
}

macro_rules! floats {
    ($($type:ty, $field:ident, $magic:expr, $bits:expr, $math:ident;)*) => {$(
        impl Float for $type {
            type Vector<I: Isa> = I::$field;

            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const MANTISSA_BITS: u32 = $bits;
            const MAGIC: Self = $magic;

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as Self
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }

            #[inline(always)]
            fn scale_by(self, magic: Self) -> Self {
                Self::from_bits(self.to_bits().wrapping_add(magic.to_bits() << $bits))
            }

            #[inline(always)]
            fn abs(self) -> Self {
                <$type>::abs(self)
            }

            #[inline(always)]
            fn exp<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V {
                math::$math::exp(isa, x)
            }

            #[inline(always)]
            fn exp2_bounded<V: Vector<Scalar = Self>, const N: usize>(isa: V::Isa, x: [V; N]) -> [V; N] {
                math::$math::exp2_bounded(isa, x)
            }

            #[inline(always)]
            fn expm1<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V {
                math::$math::expm1(isa, x)
            }

            #[inline(always)]
            fn log1p<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V {
                math::$math::log1p(isa, x)
            }

            #[inline(always)]
            fn softplus<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V {
                math::$math::softplus(isa, x)
            }

            #[inline(always)]
            fn softplus_and_slope<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> (V, V) {
                math::$math::softplus_and_slope(isa, x)
            }

            #[inline(always)]
            fn sigmoid<V: Vector<Scalar = Self>>(isa: V::Isa, x: V) -> V {
                math::$math::sigmoid(isa, x)
            }
        }
    )*};
}

floats! {
    f32, F32, 12_582_912.0, 23, single;
    f64, F64, 6_755_399_441_055_744.0, 52, double;
}

/// Numbers in an array, for machines of which nothing is known: the compiler makes of it what it can.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub struct Portable<T, const LANES: usize>([T; LANES]);

impl<T: Float, const LANES: usize> Portable<T, LANES> {
    #[inline(always)]
    fn zip(self, other: Self, function: impl Fn(T, T) -> T) -> Self {
        let mut out = self.0;
        for (x, y) in out.iter_mut().zip(other.0) {
            *x = function(*x, y);
        }
        Self(out)
    }
}

macro_rules! operators {
    ($($trait:ident $name:ident;)*) => {$(
        impl<T: Float, const LANES: usize> $trait for Portable<T, LANES> {
            type Output = Self;

            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                self.zip(other, T::$name)
            }
        }
    )*};
}

operators! {
    Add add;
    Sub sub;
    Mul mul;
    Div div;
}

impl<T: Float, const LANES: usize> Vector for Portable<T, LANES> {
    type Scalar = T;
    type Isa = super::Baseline;
    const LANES: usize = LANES;

    #[inline(always)]
    fn splat(_: super::Baseline, x: T) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(_: super::Baseline, from: &[T]) -> Self {
        let mut lanes = [T::ZERO; LANES];
        for (lane, x) in lanes.iter_mut().zip(from) {
            *lane = *x;
        }
        Self(lanes)
    }

    #[inline(always)]
    fn store(self, to: &mut [T]) {
        for (x, lane) in to.iter_mut().zip(self.0) {
            *x = lane;
        }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        self * b + c
    }

    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        c - self * b
    }

    #[inline(always)]
    fn split_pairs(a: Self, b: Self) -> (Self, Self) {
        let (mut first, mut second) = (a, b);
        for lane in 0..LANES / 2 {
            (first.0[lane], second.0[lane]) = (a.0[2 * lane], a.0[2 * lane + 1]);
            (first.0[LANES / 2 + lane], second.0[LANES / 2 + lane]) = (b.0[2 * lane], b.0[2 * lane + 1]);
        }
        (first, second)
    }

    #[inline(always)]
    fn join_pairs(first: Self, second: Self) -> (Self, Self) {
        let (mut a, mut b) = (first, second);
        for lane in 0..LANES / 2 {
            (a.0[2 * lane], a.0[2 * lane + 1]) = (first.0[lane], second.0[lane]);
            (b.0[2 * lane], b.0[2 * lane + 1]) = (first.0[LANES / 2 + lane], second.0[LANES / 2 + lane]);
        }
        (a, b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |x, y| if y > x { y } else { x })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |x, y| if y < x { y } else { x })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(T::abs))
    }

    #[inline(always)]
    fn scale_by(self, magic: Self) -> Self {
        self.zip(magic, T::scale_by)
    }

    #[inline(always)]
    fn if_less(self, other: Self, then: Self, otherwise: Self) -> Self {
        let mut out = otherwise.0;
        for (lane, x) in out.iter_mut().enumerate() {
            if self.0[lane] < other.0[lane] {
                *x = then.0[lane];
            }
        }
        Self(out)
    }

    #[inline(always)]
    fn sums(rows: &[Self], out: &mut [T]) {
        for (row, out) in rows.iter().zip(out) {
            let mut lanes = row.0;
            let mut half = LANES / 2;
            while half > 0 {
                for lane in 0..half {
                    lanes[lane] += lanes[lane + half];
                }
                half /= 2;
            }
            *out = lanes[0];
        }
    }
}
