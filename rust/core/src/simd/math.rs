//! Functions of vectors. `f32`: polynomials, each with its measured error; `f64`: libm, lane by lane.
//!
//! Errors are in units in the last place (ulp), measured over every `f32` by `tests/math.rs` (marked: it is long).
//! Coefficients are minimax fits; where a constant term must be 1 or 0 it is exactly that, as a bias there would be
//! amplified by 1 / (1 − a) in a recurrence.

#![deny(unsafe_code)]
#![allow(clippy::excessive_precision)]

/// `f32`.
pub(super) mod single {
    use crate::simd::vector::{Float, Vector};

    const LN_2_HIGH: f32 = 0.693_359_375;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// (e^r − 1 − r) / r² for |r| ≤ ln 2 / 2, relative error of e^r 1.4e-8.
    const EXPM1: [f32; 5] = [5.000_000_063e-1, 1.666_654_171e-1, 4.166_627_803e-2, 8.366_755_789e-3, 1.394_674_814e-3];
    /// (2^f − 1) / f for |f| ≤ ½, relative error of 2^f 2e-9.
    const EXP2M1: [f32; 6] =
        [6.931_472_029e-1, 2.402_264_791e-1, 5.550_332_470e-2, 9.618_437_359e-3, 1.339_887_474e-3, 1.535_336_224e-4];
    /// (2^f − 1) / f for |f| ≤ 1/16, relative error of 2^f 2.7e-8.
    const EXP2M1_OF_A_SIXTEENTH: [f32; 3] = [6.931_472_421e-1, 2.402_576_357e-1, 5.549_622_327e-2];
    /// 2^(i/8), less i eighths of the last place of its exponent: see [`Vector::power_of_eighths`]. Twice, for registers of
    /// sixteen numbers.
    const EIGHTHS: [f32; 16] = {
        let powers: [f32; 8] = [
            1.0,
            1.090_507_7,
            1.189_207_1,
            1.296_839_6,
            std::f32::consts::SQRT_2,
            1.542_210_8,
            1.681_792_9,
            1.834_008_1,
        ];
        let mut table = [0.0; 16];
        let mut i = 0;
        while i < 16 {
            table[i] = f32::from_bits(powers[i % 8].to_bits() - ((i as u32 % 8) << 20));
            i += 1;
        }
        table
    };
    /// (ln((1 + s) / (1 − s)) − 2s) / s³ in s² for s² ≤ 1/9, absolute error 4.5e-9 · s².
    const ATANH: [f32; 4] = [6.666_641_313e-1, 4.002_169_918e-1, 2.799_913_887e-1, 2.802_447_065e-1];

    /// The polynomial of `coefficients`, constant term first.
    #[inline(always)]
    fn polynomial<V: Vector<Scalar = f32>, const N: usize>(isa: V::Isa, coefficients: &[f32; N], x: V) -> V {
        let mut sum = V::splat(isa, coefficients[N - 1]);
        for coefficient in coefficients[..N - 1].iter().rev() {
            sum = sum.mul_add(x, V::splat(isa, *coefficient));
        }
        sum
    }

    /// The integer k nearest to x / ln 2 (with [`Float::MAGIC`] added, and as it is), and e^(x − k ln 2) − 1.
    #[inline(always)]
    fn reduce<V: Vector<Scalar = f32>>(isa: V::Isa, x: V) -> (V, V, V) {
        let magic = V::splat(isa, f32::MAGIC);
        let shifted = x.mul_add(V::splat(isa, std::f32::consts::LOG2_E), magic);
        let k = shifted - magic;
        let r = k.mul_add(V::splat(isa, -LN_2_LOW), k.mul_add(V::splat(isa, -LN_2_HIGH), x));
        (shifted, k, polynomial(isa, &EXPM1, r).mul_add(r * r, r))
    }

    /// 2^⌊k/2⌋ and 2^(k − ⌊k/2⌋): their product may lie outside the range of normal numbers.
    #[inline(always)]
    fn power_of_two<V: Vector<Scalar = f32>>(isa: V::Isa, k: V) -> (V, V) {
        let (one, magic) = (V::splat(isa, 1.0), V::splat(isa, f32::MAGIC));
        let first = k.mul_add(V::splat(isa, 0.5), magic);
        let second = (k - (first - magic)) + magic;
        (one.scale_by(first), one.scale_by(second))
    }

    #[inline(always)]
    pub(in crate::simd) fn exp<V: Vector<Scalar = f32>>(isa: V::Isa, x: V) -> V {
        let x = x.max(V::splat(isa, -104.0)).min(V::splat(isa, 100.0));
        let (_, k, e) = reduce(isa, x);
        let (first, second) = power_of_two(isa, k);
        (e + V::splat(isa, 1.0)) * first * second
    }

    #[inline(always)]
    pub(in crate::simd) fn exp2_constants<V: Vector<Scalar = f32>>(isa: V::Isa) -> [V; 8] {
        let mut constants = [V::splat(isa, f32::MAGIC); 8];
        if V::LOOKS_UP {
            constants[0] = V::splat(isa, f32::MAGIC / 8.0);
            for (constant, coefficient) in constants[1..].iter_mut().zip(EXP2M1_OF_A_SIXTEENTH) {
                *constant = V::splat(isa, coefficient);
            }
            constants[4] = V::load(isa, &EIGHTHS);
        } else {
            for (constant, coefficient) in constants.iter_mut().zip([1.0].into_iter().chain(EXP2M1)) {
                *constant = V::splat(isa, coefficient);
            }
        }
        std::hint::black_box(constants)
    }

    #[inline(always)]
    pub(in crate::simd) fn exp2_of_products<V: Vector<Scalar = f32>, const N: usize>(
        _: V::Isa,
        constants: &[V; 8],
        a: [V; N],
        b: [V; N],
    ) -> [V; N] {
        // Loops, not closures: a closure would be a function of its own, without the instruction set.
        let (mut shifted, mut f) = (a, a);
        if V::LOOKS_UP {
            // The power of the nearest eighth, and a cubic in what is left.
            let [magic, c1, c2, c3, eighths, ..] = *constants;
            let mut sums = [c3; N];
            for n in 0..N {
                shifted[n] = a[n].mul_add(b[n], magic);
                f[n] = a[n].mul_add(b[n], magic - shifted[n]);
            }
            for coefficient in [c2, c1] {
                for n in 0..N {
                    sums[n] = sums[n].mul_add(f[n], coefficient);
                }
            }
            for n in 0..N {
                let power = eighths.power_of_eighths(shifted[n]);
                // Not times the power first: that product might be denormal.
                sums[n] = (sums[n] * f[n]).mul_add(power, power);
            }
            return sums;
        }
        let [coefficients @ .., c6, magic] = constants;
        let mut sums = [*c6; N];
        for n in 0..N {
            shifted[n] = a[n].mul_add(b[n], *magic);
            f[n] = a[n].mul_add(b[n], *magic - shifted[n]);
        }
        for coefficient in coefficients.iter().rev() {
            for n in 0..N {
                sums[n] = sums[n].mul_add(f[n], *coefficient);
            }
        }
        for n in 0..N {
            sums[n] = sums[n].scale_by(shifted[n]);
        }
        sums
    }

    #[inline(always)]
    pub(in crate::simd) fn expm1<V: Vector<Scalar = f32>>(isa: V::Isa, x: V) -> V {
        // From 17.4 on the result is e^x; below −17.4 it is −1.
        let bounded = x.max(V::splat(isa, -18.0)).min(V::splat(isa, 100.0));
        let (_, k, e) = reduce(isa, bounded);
        let (first, second) = power_of_two(isa, k);
        let one = V::splat(isa, 1.0);
        // 2^k e + (2^k − 1), with the second factor last, as 2^128 overflows.
        let exact = first.mul_add(second, V::splat(isa, -1.0));
        let small = (first * second).mul_add(e, exact);
        let large = (e + one) * first * second;
        let result = k.if_less(V::splat(isa, 64.0), small, large);
        // The sign of zero, and denormal numbers as they are.
        x.abs().if_less(V::splat(isa, 1e-8), x, result)
    }

    /// ln(1 + f) from f and s = f / (2 + f).
    #[inline(always)]
    fn log_of_one_plus<V: Vector<Scalar = f32>>(isa: V::Isa, f: V) -> V {
        let s = f / (f + V::splat(isa, 2.0));
        let z = s * s;
        // 2s = f − s·f, exact for small f.
        let tail = polynomial(isa, &ATANH, z) * z;
        f - s * (f - tail)
    }

    #[inline(always)]
    pub(in crate::simd) fn log1p<V: Vector<Scalar = f32>>(isa: V::Isa, x: V) -> V {
        // 1 + x = 2^k (1 + f), lane by lane: f in −0.29 … 0.41, what 1 + x rounds away put back.
        let parts = |x: f32| {
            let sum = 1.0 + x;
            let bits = sum.to_bits() as i32;
            let k = bits.wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32) >> 23;
            let m = f32::from_bits(bits.wrapping_sub(k << 23) as u32);
            // Where 2^−k would not be a normal number, what was lost counts for nothing.
            let scale = f32::from_bits((127_i32.wrapping_sub(k.min(126)) as u32) << 23);
            let lost = if x > 1.0 { 1.0 - (sum - x) } else { x - (sum - 1.0) };
            if k == 0 { (0.0, x) } else { (k as f32, (m - 1.0) + lost * scale) }
        };
        let k = x.map(isa, |x| parts(x).0);
        let f = x.map(isa, |x| parts(x).1);
        let result = k.mul_add(V::splat(isa, LN_2_HIGH), k.mul_add(V::splat(isa, LN_2_LOW), log_of_one_plus(isa, f)));
        let minus_infinity = V::splat(isa, f32::NEG_INFINITY);
        let result = x.if_less(V::splat(isa, (-1.0_f32).next_up()), minus_infinity, result);
        let result = x.if_less(V::splat(isa, -1.0), V::splat(isa, f32::NAN), result);
        let result = V::splat(isa, f32::MAX).if_less(x, x, result);
        // The sign of zero.
        x.abs().if_less(V::splat(isa, 1e-8), x, result)
    }

    #[inline(always)]
    pub(in crate::simd) fn softplus<V: Vector<Scalar = f32>>(isa: V::Isa, x: V) -> V {
        let zero = V::splat(isa, 0.0);
        let negative = (zero - x.abs()).max(V::splat(isa, -104.0));
        // e^(−|x|) in (0, 1]: ln(1 + ·) needs no reduction.
        log_of_one_plus(isa, exp(isa, negative)) + x.max(zero)
    }

    #[inline(always)]
    pub(in crate::simd) fn softplus_and_slope<V: Vector<Scalar = f32>>(isa: V::Isa, x: V) -> (V, V) {
        let (zero, one) = (V::splat(isa, 0.0), V::splat(isa, 1.0));
        // e^(−|x|), a normal number: one factor of a power of two is enough.
        let (shifted, _, e) = reduce(isa, (zero - x.abs()).max(V::splat(isa, -87.0)));
        // A product, not an addition of exponents: NaN stays NaN whatever its payload.
        let e = (e + one) * one.scale_by(shifted);
        (log_of_one_plus(isa, e) + x.max(zero), x.if_less(zero, e, one) / (e + one))
    }

    #[inline(always)]
    pub(in crate::simd) fn sigmoid<V: Vector<Scalar = f32>>(isa: V::Isa, x: V) -> V {
        let (zero, one) = (V::splat(isa, 0.0), V::splat(isa, 1.0));
        // e^(−|x|) never overflows: for negative x the quotient is small and has all its digits.
        let e = exp(isa, zero - x.abs());
        x.if_less(zero, e, one) / (e + one)
    }
}

/// `f64`.
pub(super) mod double {
    use crate::simd::vector::Vector;

    macro_rules! by_lane {
        ($($name:ident: $function:expr;)*) => {$(
            #[inline(always)]
            pub(in crate::simd) fn $name<V: Vector<Scalar = f64>>(isa: V::Isa, x: V) -> V {
                x.map(isa, $function)
            }
        )*};
    }

    #[inline(always)]
    pub(in crate::simd) fn exp2_constants<V: Vector<Scalar = f64>>(isa: V::Isa) -> [V; 8] {
        [V::splat(isa, 0.0); 8]
    }

    #[inline(always)]
    pub(in crate::simd) fn exp2_of_products<V: Vector<Scalar = f64>, const N: usize>(
        isa: V::Isa,
        _: &[V; 8],
        a: [V; N],
        b: [V; N],
    ) -> [V; N] {
        let mut powers = a;
        for n in 0..N {
            powers[n] = (a[n] * b[n]).map(isa, libm::exp2);
        }
        powers
    }

    #[inline(always)]
    pub(in crate::simd) fn softplus_and_slope<V: Vector<Scalar = f64>>(isa: V::Isa, x: V) -> (V, V) {
        (softplus(isa, x), sigmoid(isa, x))
    }

    by_lane! {
        exp: libm::exp;
        expm1: libm::expm1;
        log1p: libm::log1p;
        softplus: |x: f64| libm::log1p(libm::exp(-x.abs())) + if x < 0.0 { 0.0 } else { x };
        sigmoid: |x: f64| {
            let e = libm::exp(-x.abs());
            if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
        };
    }
}
