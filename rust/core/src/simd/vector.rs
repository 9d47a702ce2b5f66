//! Numbers in registers: one trait over the instruction sets, and the portable version of it.
//!
//! A register holds four `f64`, and eight `f32`, or sixteen with AVX-512: kernels count in [`Vector::LANES`], at most
//! [`MOST_LANES`]. Levels differ in the order of sums, and in `mul_add`: with FMA it rounds once, on the portable path twice.

use std::ops::{Add, Div, Mul, Sub};

use super::Isa;
use super::math;

/// The most numbers that a register of any level holds.
pub const MOST_LANES: usize = 16;

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

    /// Whether AVX-512 has wider registers of it here than AVX2.
    const WIDE: bool;
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
    /// 2^(a b) for a b in −125 … 126, to 1.23 ulp of the rounded product in `f32` (1.17 with FMA, of the exact one);
    /// anything for others, NaN included.
    fn exp2_of_products<V: Vector<Scalar = Self>, const N: usize>(
        isa: V::Isa,
        constants: &[V; 8],
        a: [V; N],
        b: [V; N],
    ) -> [V; N];
    /// The constants of [`Self::exp2_of_products`], kept from the compiler: it would make those that it has no registers
    /// for anew at each use, where it can add them from memory.
    fn exp2_constants<V: Vector<Scalar = Self>>(isa: V::Isa) -> [V; 8];
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
    /// a · b + c of single numbers, rounded as [`Self::mul_add`] rounds it.
    fn mul_add_one(isa: Self::Isa, a: Self::Scalar, b: Self::Scalar, c: Self::Scalar) -> Self::Scalar;
    /// c − `self` · b.
    #[must_use]
    fn neg_mul_add(self, b: Self, c: Self) -> Self;
    /// The first and the second number of each of the pairs that two registers hold, in some order.
    fn split_pairs(a: Self, b: Self) -> (Self, Self);
    /// The inverse of [`Self::split_pairs`].
    fn join_pairs(first: Self, second: Self) -> (Self, Self);
    /// Each number in the next lane; in the first one, the last of `before`.
    #[must_use]
    fn later(self, before: Self) -> Self;
    /// Each number in the lane before; in the last one, the first of `after`.
    #[must_use]
    fn earlier(self, after: Self) -> Self;
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
    /// Whether it looks up one of eight numbers in every lane at once, for [`Self::power_of_eighths`].
    const LOOKS_UP: bool = false;

    /// 2^k for a multiple k of 1/8, given as `magic` = [`Float::MAGIC`] / 8 + k. Lane i of `self` is 2^(i/8), less i eighths
    /// of the last place of its exponent: those that `magic` adds. (`self` where it does not look up.)
    #[must_use]
    #[inline(always)]
    fn power_of_eighths(self, magic: Self) -> Self {
        let _ = magic;
        self
    }
    /// Rows become columns: lane j of register i goes to lane i of register j, of the first [`Self::LANES`] registers.
    fn transpose(rows: &mut [Self; MOST_LANES]);
    /// The sum of each register of a slice, to `out` of the same length: the halves added, and again.
    fn sums(rows: &[Self], out: &mut [Self::Scalar]);

    /// A function of each number.
    #[inline(always)]
    #[must_use]
    fn map(self, isa: Self::Isa, function: impl Fn(Self::Scalar) -> Self::Scalar) -> Self {
        let mut lanes = [Self::Scalar::ZERO; MOST_LANES];
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
    /// The first number.
    #[inline(always)]
    fn first(self) -> Self::Scalar {
        let mut out = [Self::Scalar::ZERO];
        self.store(&mut out);
        out[0]
    }
}

macro_rules! floats {
    ($($type:ty, $field:ident, $wide:literal, $magic:expr, $bits:expr, $math:ident;)*) => {$(
        impl Float for $type {
            type Vector<I: Isa> = I::$field;

            const WIDE: bool = $wide;
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
            fn exp2_of_products<V: Vector<Scalar = Self>, const N: usize>(
                isa: V::Isa,
                constants: &[V; 8],
                a: [V; N],
                b: [V; N],
            ) -> [V; N] {
                math::$math::exp2_of_products(isa, constants, a, b)
            }

            #[inline(always)]
            fn exp2_constants<V: Vector<Scalar = Self>>(isa: V::Isa) -> [V; 8] {
                math::$math::exp2_constants(isa)
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
    f32, F32, true, 12_582_912.0, 23, single;
    f64, F64, false, 6_755_399_441_055_744.0, 52, double;
}

macro_rules! operators {
    ($name:ident: $($trait:ident $operator:ident;)*) => {$(
        impl $trait for $name {
            type Output = Self;

            #[inline(always)]
            fn $operator(self, other: Self) -> Self {
                Self(self.0.$operator(other.0))
            }
        }
    )*};
}

macro_rules! portable {
    ($($(#[$doc:meta])* $name:ident, $scalar:ty, $lanes:literal, $register:ident, $bits:ident, $mantissa:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name(wide::$register);

        operators! { $name: Add add; Sub sub; Mul mul; Div div; }

        impl Vector for $name {
            type Scalar = $scalar;
            type Isa = super::Baseline;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn splat(_: super::Baseline, x: $scalar) -> Self {
                Self(wide::$register::splat(x))
            }

            #[inline(always)]
            fn load(_: super::Baseline, from: &[$scalar]) -> Self {
                let mut lanes = [0.0; $lanes];
                if let Some(from) = from.first_chunk() {
                    lanes = *from;
                } else {
                    lanes[..from.len()].copy_from_slice(from);
                }
                Self(lanes.into())
            }

            #[inline(always)]
            fn store(self, to: &mut [$scalar]) {
                let lanes = self.0.to_array();
                if let Some(to) = to.first_chunk_mut() {
                    *to = lanes;
                } else {
                    let len = to.len();
                    to.copy_from_slice(&lanes[..len]);
                }
            }

            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                Self(self.0.mul_add(b.0, c.0))
            }

            #[inline(always)]
            fn mul_add_one(isa: super::Baseline, a: $scalar, b: $scalar, c: $scalar) -> $scalar {
                let [a, b, c] = [Self::splat(isa, a), Self::splat(isa, b), Self::splat(isa, c)];
                a.mul_add(b, c).0.to_array()[0]
            }

            #[inline(always)]
            fn neg_mul_add(self, b: Self, c: Self) -> Self {
                Self(self.0.mul_neg_add(b.0, c.0))
            }

            #[inline(always)]
            fn split_pairs(a: Self, b: Self) -> (Self, Self) {
                let (a, b) = (a.0.to_array(), b.0.to_array());
                let (mut first, mut second) = (a, b);
                for lane in 0..$lanes / 2 {
                    (first[lane], second[lane]) = (a[2 * lane], a[2 * lane + 1]);
                    (first[$lanes / 2 + lane], second[$lanes / 2 + lane]) = (b[2 * lane], b[2 * lane + 1]);
                }
                (Self(first.into()), Self(second.into()))
            }

            #[inline(always)]
            fn join_pairs(first: Self, second: Self) -> (Self, Self) {
                let (first, second) = (first.0.to_array(), second.0.to_array());
                let (mut a, mut b) = (first, second);
                for lane in 0..$lanes / 2 {
                    (a[2 * lane], a[2 * lane + 1]) = (first[lane], second[lane]);
                    (b[2 * lane], b[2 * lane + 1]) = (first[$lanes / 2 + lane], second[$lanes / 2 + lane]);
                }
                (Self(a.into()), Self(b.into()))
            }

            #[inline(always)]
            fn later(self, before: Self) -> Self {
                let (lanes, before) = (self.0.to_array(), before.0.to_array());
                let of = |lane: usize| if lane == 0 { before[$lanes - 1] } else { lanes[lane - 1] };
                Self(std::array::from_fn::<_, $lanes, _>(of).into())
            }

            #[inline(always)]
            fn earlier(self, after: Self) -> Self {
                let (lanes, after) = (self.0.to_array(), after.0.to_array());
                let of = |lane: usize| if lane == $lanes - 1 { after[0] } else { lanes[lane + 1] };
                Self(std::array::from_fn::<_, $lanes, _>(of).into())
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                self.if_less(other, other, self)
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                other.if_less(self, other, self)
            }

            #[inline(always)]
            fn abs(self) -> Self {
                Self(self.0.abs())
            }

            #[inline(always)]
            fn scale_by(self, magic: Self) -> Self {
                let bits = |x: Self| -> wide::$bits { wide::bytemuck::cast(x.0) };
                Self(wide::bytemuck::cast(bits(self) + (bits(magic) << $mantissa)))
            }

            #[inline(always)]
            fn if_less(self, other: Self, then: Self, otherwise: Self) -> Self {
                Self(self.0.simd_lt(other.0).select(then.0, otherwise.0))
            }

            #[inline(always)]
            fn transpose(rows: &mut [Self; MOST_LANES]) {
                let before = rows.map(|row| row.0.to_array());
                for (lane, row) in rows[..$lanes].iter_mut().enumerate() {
                    let mut lanes = [0.0; $lanes];
                    for (to, from) in lanes.iter_mut().zip(&before) {
                        *to = from[lane];
                    }
                    *row = Self(lanes.into());
                }
            }

            #[inline(always)]
            fn sums(rows: &[Self], out: &mut [$scalar]) {
                for (row, out) in rows.iter().zip(out) {
                    let mut lanes = row.0.to_array();
                    let mut half = $lanes / 2;
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
    )*};
}

portable! {
    /// Eight `f32`, in the registers that the crate was compiled for.
    PortableF32, f32, 8, f32x8, u32x8, 23;
    /// Four `f64`, in the registers that the crate was compiled for.
    PortableF64, f64, 4, f64x4, u64x4, 52;
}
