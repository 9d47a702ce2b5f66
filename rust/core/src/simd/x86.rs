//! The registers of AVX2 with FMA, of which AVX-512 has the `f64` as well; and those of `u64` of both.

#![allow(unreachable_pub)] // They are what `Isa` names, which is public.

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::{Add, Div, Mul, Sub};

use super::Isa;
use super::lanes::{Lanes, chunk};
use super::vector::{MOST_LANES, Vector};

/// Eight `f32`.
#[derive(Clone, Copy)]
pub struct F32x8<I>(__m256, PhantomData<I>);

/// Four `f64`.
#[derive(Clone, Copy)]
pub struct F64x4<I>(__m256d, PhantomData<I>);

/// An instruction set with AVX2 and FMA.
///
/// # Safety
/// A value of it must be proof that the machine has them.
pub unsafe trait Avx2AndFma: Isa {}

// From place `lanes - count` on: a mask of the first `count` lanes.
static MASKS_32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
static MASKS_64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

// SAFETY of all calls below: a value of these types, or the instruction set that makes one, is proof of AVX2 and FMA.
macro_rules! registers {
    (
        $name:ident, $scalar:ty, $lanes:literal, $masks:ident;
        $set1:ident $loadu:ident $storeu:ident $maskload:ident $maskstore:ident $fmadd:ident $fnmadd:ident $max:ident $min:ident $cmp:ident $blendv:ident $andnot:ident;
        $($trait:ident $operator:ident $intrinsic:ident;)*
        $({ $($extra:item)* })?
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
                let mask = &$masks[$lanes - from.len()..];
                // SAFETY: the mask, of which a register is left, has the slice's lanes alone; others are not read.
                Self(
                    unsafe { $maskload(from.as_ptr(), _mm256_loadu_si256(mask.as_ptr().cast())) },
                    PhantomData,
                )
            }

            #[inline(always)]
            fn store(self, to: &mut [$scalar]) {
                if let Some(to) = to.first_chunk_mut::<$lanes>() {
                    unsafe { $storeu(to.as_mut_ptr(), self.0) };
                    return;
                }
                let mask = &$masks[$lanes - to.len()..];
                // SAFETY: as for loads; others are not written.
                unsafe { $maskstore(to.as_mut_ptr(), _mm256_loadu_si256(mask.as_ptr().cast()), self.0) };
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

            #[inline(always)]
            fn later(self, before: Self) -> Self {
                unsafe { self.shift_later(before) }
            }

            #[inline(always)]
            fn earlier(self, after: Self) -> Self {
                unsafe { self.shift_earlier(after) }
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
            fn transpose(rows: &mut [Self; MOST_LANES]) {
                unsafe { Self::columns(rows) };
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

            $($($extra)*)?
        }
    };
}

registers! {
    F32x8, f32, 8, MASKS_32;
    _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_maskload_ps _mm256_maskstore_ps _mm256_fmadd_ps _mm256_fnmadd_ps
    _mm256_max_ps _mm256_min_ps _mm256_cmp_ps _mm256_blendv_ps _mm256_andnot_ps;
    Add add _mm256_add_ps;
    Sub sub _mm256_sub_ps;
    Mul mul _mm256_mul_ps;
    Div div _mm256_div_ps;
    {
        const LOOKS_UP: bool = true;

        #[inline(always)]
        fn power_of_eighths(self, magic: Self) -> Self {
            unsafe { Self::look_up_and_scale(self, magic) }
        }
    }
}

registers! {
    F64x4, f64, 4, MASKS_64;
    _mm256_set1_pd _mm256_loadu_pd _mm256_storeu_pd _mm256_maskload_pd _mm256_maskstore_pd _mm256_fmadd_pd _mm256_fnmadd_pd
    _mm256_max_pd _mm256_min_pd _mm256_cmp_pd _mm256_blendv_pd _mm256_andnot_pd;
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
    unsafe fn shift_later(self, before: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let (before, here) = (_mm256_castps_si256(before.0), _mm256_castps_si256(self.0));
            let middle = _mm256_permute2x128_si256::<0x21>(before, here); // The upper half of one, the lower of the other.
            Self(_mm256_castsi256_ps(_mm256_alignr_epi8::<12>(here, middle)), PhantomData)
        }
    }

    #[inline(always)]
    unsafe fn shift_earlier(self, after: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let (here, after) = (_mm256_castps_si256(self.0), _mm256_castps_si256(after.0));
            let middle = _mm256_permute2x128_si256::<0x21>(here, after);
            Self(_mm256_castsi256_ps(_mm256_alignr_epi8::<4>(middle, here)), PhantomData)
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

    #[inline(always)]
    unsafe fn columns(rows: &mut [Self; MOST_LANES]) {
        // SAFETY: see above.
        unsafe {
            // Pairs of rows, then fours, within halves of registers; then the halves.
            let (mut pairs, mut fours) = (*rows, *rows);
            for row in 0..4 {
                let (a, b) = (rows[2 * row].0, rows[2 * row + 1].0);
                pairs[2 * row].0 = _mm256_unpacklo_ps(a, b);
                pairs[2 * row + 1].0 = _mm256_unpackhi_ps(a, b);
            }
            for half in [0, 4] {
                for pair in 0..2 {
                    let (a, b) = (pairs[half + pair].0, pairs[half + pair + 2].0);
                    fours[half + 2 * pair].0 = _mm256_shuffle_ps::<0x44>(a, b);
                    fours[half + 2 * pair + 1].0 = _mm256_shuffle_ps::<0xee>(a, b);
                }
            }
            for row in 0..4 {
                let (a, b) = (fours[row].0, fours[row + 4].0);
                rows[row].0 = _mm256_permute2f128_ps::<0x20>(a, b);
                rows[row + 4].0 = _mm256_permute2f128_ps::<0x31>(a, b);
            }
        }
    }

    #[inline(always)]
    unsafe fn look_up_and_scale(table: Self, magic: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let eighths = _mm256_castps_si256(magic.0); // Of which the lowest three bits choose a lane.
            let powers = _mm256_castps_si256(_mm256_permutevar8x32_ps(table.0, eighths));
            Self(_mm256_castsi256_ps(_mm256_add_epi32(powers, _mm256_slli_epi32::<20>(eighths))), PhantomData)
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
    unsafe fn shift_later(self, before: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let middle = _mm256_permute2f128_pd::<0x21>(before.0, self.0);
            Self(_mm256_shuffle_pd::<0b0101>(middle, self.0), PhantomData)
        }
    }

    #[inline(always)]
    unsafe fn shift_earlier(self, after: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let middle = _mm256_permute2f128_pd::<0x21>(self.0, after.0);
            Self(_mm256_shuffle_pd::<0b0101>(self.0, middle), PhantomData)
        }
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

    #[inline(always)]
    unsafe fn columns(rows: &mut [Self; MOST_LANES]) {
        // SAFETY: see above.
        unsafe {
            let (even, odd) = Self::split(rows[0], rows[1]);
            let (later_even, later_odd) = Self::split(rows[2], rows[3]);
            rows[0].0 = _mm256_permute2f128_pd::<0x20>(even.0, later_even.0);
            rows[1].0 = _mm256_permute2f128_pd::<0x20>(odd.0, later_odd.0);
            rows[2].0 = _mm256_permute2f128_pd::<0x31>(even.0, later_even.0);
            rows[3].0 = _mm256_permute2f128_pd::<0x31>(odd.0, later_odd.0);
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

/// Four `u64`.
#[derive(Clone, Copy)]
pub struct U64x4<I>(__m256i, PhantomData<I>);

/// Eight `u64`, of AVX-512.
#[derive(Clone, Copy)]
pub struct U64x8<I>(__m512i, PhantomData<I>);

/// An instruction set with AVX-512 F, BW and DQ.
///
/// # Safety
/// A value of it must be proof that the machine has them.
pub unsafe trait Avx512FBwDq: Isa {}

// SAFETY of all calls below: a value of these types, or the instruction set that makes one, is proof of its instructions.
macro_rules! lanes {
    (
        $name:ident, $proof:ident, $lanes:literal;
        $set1:ident $loadu:ident $storeu:ident $srl:ident $sll:ident;
        $($operator:ident $intrinsic:ident;)*
    ) => {
        impl<I: $proof> Lanes for $name<I> {
            type Isa = I;
            const LANES: usize = $lanes;

            #[inline(always)]
            fn splat(_: I, x: u64) -> Self {
                Self(unsafe { $set1(x.cast_signed()) }, PhantomData)
            }

            #[inline(always)]
            fn load(_: I, from: &[u64]) -> Self {
                let lanes: [u64; $lanes] = chunk(from);
                Self(unsafe { $loadu(lanes.as_ptr().cast()) }, PhantomData)
            }

            #[inline(always)]
            fn windows(_: I, limbs: &[u16]) -> Self {
                Self(unsafe { Self::four_each(limbs) }, PhantomData)
            }

            #[inline(always)]
            fn store(self, to: &mut [u64]) {
                if let Some(to) = to.first_chunk_mut::<$lanes>() {
                    unsafe { $storeu(to.as_mut_ptr().cast(), self.0) };
                    return;
                }
                let mut lanes = [0; $lanes];
                unsafe { $storeu(lanes.as_mut_ptr().cast(), self.0) };
                let len = to.len();
                to.copy_from_slice(&lanes[..len]);
            }

            $(
                #[inline(always)]
                fn $operator(self, other: Self) -> Self {
                    Self(unsafe { $intrinsic(self.0, other.0) }, PhantomData)
                }
            )*

            #[inline(always)]
            fn shift_right<const BITS: u32>(self) -> Self {
                Self(unsafe { $srl(self.0, _mm_cvtsi32_si128(BITS as i32)) }, PhantomData)
            }

            #[inline(always)]
            fn shift_left<const BITS: u32>(self) -> Self {
                Self(unsafe { $sll(self.0, _mm_cvtsi32_si128(BITS as i32)) }, PhantomData)
            }
        }
    };
}

lanes! {
    U64x4, Avx2AndFma, 4;
    _mm256_set1_epi64x _mm256_loadu_si256 _mm256_storeu_si256 _mm256_srl_epi64 _mm256_sll_epi64;
    plus _mm256_add_epi64;
    xor _mm256_xor_si256;
    and _mm256_and_si256;
    widening_multiply _mm256_mul_epu32;
}

lanes! {
    U64x8, Avx512FBwDq, 8;
    _mm512_set1_epi64 _mm512_loadu_si512 _mm512_storeu_si512 _mm512_srl_epi64 _mm512_sll_epi64;
    plus _mm512_add_epi64;
    xor _mm512_xor_si512;
    and _mm512_and_si512;
    widening_multiply _mm512_mul_epu32;
}

impl<I: Avx2AndFma> U64x4<I> {
    #[inline(always)]
    unsafe fn four_each(limbs: &[u16]) -> __m256i {
        let limbs: [u16; 8] = chunk(limbs);
        // SAFETY: see above.
        unsafe {
            let both = _mm256_broadcastsi128_si256(_mm_loadu_si128(limbs.as_ptr().cast()));
            // The bytes of the limbs 0-3 and 1-4, and 2-5 and 3-6.
            let which = _mm256_setr_epi64x(
                0x0706_0504_0302_0100,
                0x0908_0706_0504_0302,
                0x0b0a_0908_0706_0504,
                0x0d0c_0b0a_0908_0706,
            );
            _mm256_shuffle_epi8(both, which)
        }
    }
}

impl<I: Avx512FBwDq> U64x8<I> {
    #[inline(always)]
    unsafe fn four_each(limbs: &[u16]) -> __m512i {
        let limbs: [u16; 16] = chunk(limbs);
        // SAFETY: see above.
        unsafe {
            let limbs = _mm512_castsi256_si512(_mm256_loadu_si256(limbs.as_ptr().cast()));
            let first = _mm512_set1_epi64(0x0003_0002_0001_0000);
            let lane =
                _mm512_mullo_epi64(_mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7), _mm512_set1_epi64(0x0001_0001_0001_0001));
            _mm512_permutexvar_epi16(_mm512_add_epi64(first, lane), limbs)
        }
    }
}
