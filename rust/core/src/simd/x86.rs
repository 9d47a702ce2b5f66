//! The registers of AVX2 with FMA, for it and for AVX-512.

#![allow(unreachable_pub)] // They are what `Isa` names, which is public.

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::{Add, Div, Mul, Sub};

use super::Isa;
use super::vector::Vector;

/// Eight `f32`.
#[derive(Clone, Copy)]
pub struct F32x8<I>(__m256, PhantomData<I>);

/// Four `f64`.
#[derive(Clone, Copy)]
pub struct F64x4<I>(__m256d, PhantomData<I>);

/// An instruction set with AVX2 and FMA, of which a value is proof.
pub trait Avx2AndFma: Isa {}

// SAFETY of all calls below: a value of these types, or the instruction set that makes one, is proof of AVX2 and FMA.
macro_rules! registers {
    (
        $name:ident, $scalar:ty, $lanes:literal;
        $set1:ident $loadu:ident $storeu:ident $fmadd:ident $fnmadd:ident $max:ident $min:ident $cmp:ident $blendv:ident $andnot:ident;
        $($trait:ident $operator:ident $intrinsic:ident;)*
    ) => {
        $(
            impl<I: Avx2AndFma> $trait for $name<I> {
                type Output = Self;

                #[inline(always)]
                fn $operator(self, other: Self) -> Self {
                    Self(unsafe { $intrinsic(self.0, other.0) }, PhantomData)
                }
            }
        )*

        impl<I: Avx2AndFma> Vector for $name<I> {
            type Scalar = $scalar;
            type Isa = I;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn splat(_: I, x: $scalar) -> Self {
                Self(unsafe { $set1(x) }, PhantomData)
            }

            #[inline(always)]
            fn load(_: I, from: &[$scalar]) -> Self {
                if let Some(from) = from.first_chunk::<$lanes>() {
                    return Self(unsafe { $loadu(from.as_ptr()) }, PhantomData);
                }
                let mut lanes = [0.0; $lanes];
                lanes[..from.len()].copy_from_slice(from);
                Self(unsafe { $loadu(lanes.as_ptr()) }, PhantomData)
            }

            #[inline(always)]
            fn store(self, to: &mut [$scalar]) {
                if let Some(to) = to.first_chunk_mut::<$lanes>() {
                    unsafe { $storeu(to.as_mut_ptr(), self.0) };
                    return;
                }
                let mut lanes = [0.0; $lanes];
                unsafe { $storeu(lanes.as_mut_ptr(), self.0) };
                let len = to.len();
                to.copy_from_slice(&lanes[..len]);
            }

            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                Self(unsafe { $fmadd(self.0, b.0, c.0) }, PhantomData)
            }

            #[inline(always)]
            fn mul_add_one(_: I, a: $scalar, b: $scalar, c: $scalar) -> $scalar {
                a.mul_add(b, c) // The instruction, in a function that has it.
            }

            #[inline(always)]
            fn neg_mul_add(self, b: Self, c: Self) -> Self {
                Self(unsafe { $fnmadd(self.0, b.0, c.0) }, PhantomData)
            }

            #[inline(always)]
            fn split_pairs(a: Self, b: Self) -> (Self, Self) {
                unsafe { Self::split(a, b) }
            }

            #[inline(always)]
            fn join_pairs(first: Self, second: Self) -> (Self, Self) {
                unsafe { Self::join(first, second) }
            }

            // The instructions give their second operand where one is NaN.
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                Self(unsafe { $max(other.0, self.0) }, PhantomData)
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                Self(unsafe { $min(other.0, self.0) }, PhantomData)
            }

            #[inline(always)]
            fn abs(self) -> Self {
                Self(unsafe { $andnot($set1(-0.0), self.0) }, PhantomData)
            }

            #[inline(always)]
            fn scale_by(self, magic: Self) -> Self {
                unsafe { self.shift_exponent(magic) }
            }

            #[inline(always)]
            fn if_less(self, other: Self, then: Self, otherwise: Self) -> Self {
                Self(
                    unsafe { $blendv(otherwise.0, then.0, $cmp::<_CMP_LT_OQ>(self.0, other.0)) },
                    PhantomData,
                )
            }

            #[inline(always)]
            fn sums(rows: &[Self], out: &mut [$scalar]) {
                let (groups, rest) = rows.as_chunks::<$lanes>();
                let (sums, last) = out.as_chunks_mut::<$lanes>();
                for (group, sums) in groups.iter().zip(sums) {
                    unsafe { Self::sum_each(group).store(sums) };
                }
                if let Some(first) = rest.first() {
                    let mut group = [*first; $lanes];
                    group[..rest.len()].copy_from_slice(rest);
                    unsafe { Self::sum_each(&group).store(last) };
                }
            }
        }
    };
}

registers! {
    F32x8, f32, 8;
    _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_fmadd_ps _mm256_fnmadd_ps _mm256_max_ps _mm256_min_ps _mm256_cmp_ps
    _mm256_blendv_ps _mm256_andnot_ps;
    Add add _mm256_add_ps;
    Sub sub _mm256_sub_ps;
    Mul mul _mm256_mul_ps;
    Div div _mm256_div_ps;
}

registers! {
    F64x4, f64, 4;
    _mm256_set1_pd _mm256_loadu_pd _mm256_storeu_pd _mm256_fmadd_pd _mm256_fnmadd_pd _mm256_max_pd _mm256_min_pd _mm256_cmp_pd
    _mm256_blendv_pd _mm256_andnot_pd;
    Add add _mm256_add_pd;
    Sub sub _mm256_sub_pd;
    Mul mul _mm256_mul_pd;
    Div div _mm256_div_pd;
}

impl<I: Avx2AndFma> F32x8<I> {
    #[inline(always)]
    unsafe fn split(a: Self, b: Self) -> (Self, Self) {
        // SAFETY: see above.
        unsafe {
            let (first, second) = (_mm256_shuffle_ps::<0x88>(a.0, b.0), _mm256_shuffle_ps::<0xdd>(a.0, b.0));
            (Self(first, PhantomData), Self(second, PhantomData))
        }
    }

    #[inline(always)]
    unsafe fn join(first: Self, second: Self) -> (Self, Self) {
        // SAFETY: see above.
        unsafe {
            let (a, b) = (_mm256_unpacklo_ps(first.0, second.0), _mm256_unpackhi_ps(first.0, second.0));
            (Self(a, PhantomData), Self(b, PhantomData))
        }
    }

    #[inline(always)]
    unsafe fn shift_exponent(self, magic: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(magic.0));
            let sum = _mm256_add_epi32(_mm256_castps_si256(self.0), exponent);
            Self(_mm256_castsi256_ps(sum), PhantomData)
        }
    }

    /// The sums of eight registers: ((0+4) + (2+6)) + ((1+5) + (3+7)) of each.
    #[inline(always)]
    unsafe fn sum_each(rows: &[Self; 8]) -> Self {
        // SAFETY: see above.
        unsafe {
            let halves = |a: Self, b: Self| {
                let low = _mm256_permute2f128_ps::<0x20>(a.0, b.0);
                let high = _mm256_permute2f128_ps::<0x31>(a.0, b.0);
                _mm256_add_ps(low, high)
            };
            // Each holds four sums of two for a row in its low half, and for the row four later in its high half.
            let [a, b, c, d] = [
                halves(rows[0], rows[4]),
                halves(rows[1], rows[5]),
                halves(rows[2], rows[6]),
                halves(rows[3], rows[7]),
            ];
            let pairs = |a, b| {
                let low = _mm256_shuffle_ps::<0x44>(a, b);
                let high = _mm256_shuffle_ps::<0xee>(a, b);
                _mm256_add_ps(low, high)
            };
            let (ab, cd) = (pairs(a, b), pairs(c, d));
            let even = _mm256_shuffle_ps::<0x88>(ab, cd);
            let odd = _mm256_shuffle_ps::<0xdd>(ab, cd);
            Self(_mm256_add_ps(even, odd), PhantomData)
        }
    }
}

impl<I: Avx2AndFma> F64x4<I> {
    #[inline(always)]
    unsafe fn split(a: Self, b: Self) -> (Self, Self) {
        // SAFETY: see above.
        unsafe {
            let (first, second) = (_mm256_unpacklo_pd(a.0, b.0), _mm256_unpackhi_pd(a.0, b.0));
            (Self(first, PhantomData), Self(second, PhantomData))
        }
    }

    #[inline(always)]
    unsafe fn join(first: Self, second: Self) -> (Self, Self) {
        // SAFETY: see above. It is its own inverse.
        unsafe { Self::split(first, second) }
    }

    #[inline(always)]
    unsafe fn shift_exponent(self, magic: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm256_slli_epi64::<52>(_mm256_castpd_si256(magic.0));
            let sum = _mm256_add_epi64(_mm256_castpd_si256(self.0), exponent);
            Self(_mm256_castsi256_pd(sum), PhantomData)
        }
    }

    /// The sums of four registers: (0+2) + (1+3) of each.
    #[inline(always)]
    unsafe fn sum_each(rows: &[Self; 4]) -> Self {
        // SAFETY: see above.
        unsafe {
            let halves = |a: Self, b: Self| {
                let low = _mm256_permute2f128_pd::<0x20>(a.0, b.0);
                let high = _mm256_permute2f128_pd::<0x31>(a.0, b.0);
                _mm256_add_pd(low, high)
            };
            let (a, b) = (halves(rows[0], rows[2]), halves(rows[1], rows[3]));
            Self(_mm256_add_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b)), PhantomData)
        }
    }
}
