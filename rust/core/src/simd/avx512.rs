//! Registers of sixteen `f32`, of AVX-512.

#![allow(unreachable_pub)] // They are what `Isa` names, which is public.

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::{Add, Div, Mul, Sub};

use super::vector::Vector;
use super::x86::Avx512FBwDq;

/// Sixteen `f32`.
#[derive(Clone, Copy)]
pub struct F32x16<I>(__m512, PhantomData<I>);

// SAFETY of all calls below: a value of this type, or the instruction set that makes one, is proof of AVX-512; loads and
// stores leave alone the lanes that their mask has not, which are those beyond the slice.
macro_rules! operators {
    ($($trait:ident $operator:ident $intrinsic:ident;)*) => {$(
        impl<I: Avx512FBwDq> $trait for F32x16<I> {
            type Output = Self;

            #[inline(always)]
            fn $operator(self, other: Self) -> Self {
                Self(unsafe { $intrinsic(self.0, other.0) }, PhantomData)
            }
        }
    )*};
}

operators! {
    Add add _mm512_add_ps;
    Sub sub _mm512_sub_ps;
    Mul mul _mm512_mul_ps;
    Div div _mm512_div_ps;
}

/// The lanes that a slice of so many numbers has; all from sixteen on.
#[inline(always)]
fn mask(len: usize) -> __mmask16 {
    if len < 16 { (1 << len) - 1 } else { !0 }
}

impl<I: Avx512FBwDq> Vector for F32x16<I> {
    type Scalar = f32;
    type Isa = I;
    const LANES: usize = 16;
    const LOOKS_UP: bool = true;

    #[inline(always)]
    fn splat(_: I, x: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(x) }, PhantomData)
    }

    #[inline(always)]
    fn load(_: I, from: &[f32]) -> Self {
        Self(unsafe { _mm512_maskz_loadu_ps(mask(from.len()), from.as_ptr()) }, PhantomData)
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask(to.len()), self.0) };
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) }, PhantomData)
    }

    #[inline(always)]
    fn mul_add_one(_: I, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c) // The instruction, in a function that has it.
    }

    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        Self(unsafe { _mm512_fnmadd_ps(self.0, b.0, c.0) }, PhantomData)
    }

    #[inline(always)]
    fn split_pairs(a: Self, b: Self) -> (Self, Self) {
        let (first, second) = unsafe { (_mm512_shuffle_ps::<0x88>(a.0, b.0), _mm512_shuffle_ps::<0xdd>(a.0, b.0)) };
        (Self(first, PhantomData), Self(second, PhantomData))
    }

    #[inline(always)]
    fn join_pairs(first: Self, second: Self) -> (Self, Self) {
        let (a, b) = unsafe { (_mm512_unpacklo_ps(first.0, second.0), _mm512_unpackhi_ps(first.0, second.0)) };
        (Self(a, PhantomData), Self(b, PhantomData))
    }

    #[inline(always)]
    fn later(self, before: Self) -> Self {
        unsafe {
            let (low, high) = (_mm512_castps_si512(before.0), _mm512_castps_si512(self.0));
            Self(_mm512_castsi512_ps(_mm512_alignr_epi32::<15>(high, low)), PhantomData)
        }
    }

    #[inline(always)]
    fn earlier(self, after: Self) -> Self {
        unsafe {
            let (low, high) = (_mm512_castps_si512(self.0), _mm512_castps_si512(after.0));
            Self(_mm512_castsi512_ps(_mm512_alignr_epi32::<1>(high, low)), PhantomData)
        }
    }

    // The instructions give their second operand where one is NaN.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(other.0, self.0) }, PhantomData)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(other.0, self.0) }, PhantomData)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(unsafe { _mm512_abs_ps(self.0) }, PhantomData)
    }

    #[inline(always)]
    fn scale_by(self, magic: Self) -> Self {
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(magic.0));
            let sum = _mm512_add_epi32(_mm512_castps_si512(self.0), exponent);
            Self(_mm512_castsi512_ps(sum), PhantomData)
        }
    }

    #[inline(always)]
    fn if_less(self, other: Self, then: Self, otherwise: Self) -> Self {
        let less = unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) };
        Self(unsafe { _mm512_mask_blend_ps(less, otherwise.0, then.0) }, PhantomData)
    }

    #[inline(always)]
    fn power_of_eighths(self, magic: Self) -> Self {
        unsafe {
            let eighths = _mm512_castps_si512(magic.0); // Of which the lowest four bits choose a lane.
            let powers = _mm512_castps_si512(_mm512_permutexvar_ps(eighths, self.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(powers, _mm512_slli_epi32::<20>(eighths))), PhantomData)
        }
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; 16]) {
        // Within quarters of registers: pairs of rows, then fours. Then the quarters.
        let (mut pairs, mut fours) = (*rows, *rows);
        for row in 0..8 {
            (pairs[2 * row], pairs[2 * row + 1]) = Self::join_pairs(rows[2 * row], rows[2 * row + 1]);
        }
        for four in [0, 4, 8, 12] {
            for pair in 0..2 {
                let (a, b) = (pairs[four + pair].0, pairs[four + pair + 2].0);
                fours[four + 2 * pair].0 = unsafe { _mm512_shuffle_ps::<0x44>(a, b) };
                fours[four + 2 * pair + 1].0 = unsafe { _mm512_shuffle_ps::<0xee>(a, b) };
            }
        }
        for row in 0..4 {
            let (even, odd) = Self::split_quarters(fours[row], fours[row + 4]);
            let (later_even, later_odd) = Self::split_quarters(fours[row + 8], fours[row + 12]);
            (rows[row], rows[row + 8]) = Self::split_quarters(even, later_even);
            (rows[row + 4], rows[row + 12]) = Self::split_quarters(odd, later_odd);
        }
    }

    #[inline(always)]
    fn sums(rows: &[Self], out: &mut [f32]) {
        let (groups, rest) = rows.as_chunks::<16>();
        let (sums, last) = out.as_chunks_mut::<16>();
        for (group, sums) in groups.iter().zip(sums) {
            Self::sum_each(group).store(sums);
        }
        if let Some(first) = rest.first() {
            let mut group = [*first; 16];
            group[..rest.len()].copy_from_slice(rest);
            Self::sum_each(&group).store(last);
        }
    }
}

impl<I: Avx512FBwDq> F32x16<I> {
    /// The first and third quarters of two registers, and the second and fourth.
    #[inline(always)]
    fn split_quarters(a: Self, b: Self) -> (Self, Self) {
        let (even, odd) = unsafe { (_mm512_shuffle_f32x4::<0x88>(a.0, b.0), _mm512_shuffle_f32x4::<0xdd>(a.0, b.0)) };
        (Self(even, PhantomData), Self(odd, PhantomData))
    }

    /// The sums of sixteen registers: of each the halves added, and again.
    #[inline(always)]
    fn sum_each(rows: &[Self; 16]) -> Self {
        // Eight sums of two of a row, and of the row four later.
        let mut twos = [rows[0]; 8];
        for (nth, two) in twos.iter_mut().enumerate() {
            let row = nth % 4 + nth / 4 * 8;
            let (a, b) = (rows[row].0, rows[row + 4].0);
            let (low, high) = unsafe { (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b)) };
            two.0 = unsafe { _mm512_add_ps(low, high) };
        }
        // Four sums of four of each of four rows: a quarter of a register for each.
        let mut fours = [rows[0]; 4];
        for (row, four) in fours.iter_mut().enumerate() {
            let (even, odd) = Self::split_quarters(twos[row], twos[row + 4]);
            *four = even + odd;
        }
        let pairs = |a: Self, b: Self| {
            let (low, high) = unsafe { (_mm512_shuffle_ps::<0x44>(a.0, b.0), _mm512_shuffle_ps::<0xee>(a.0, b.0)) };
            Self(unsafe { _mm512_add_ps(low, high) }, PhantomData)
        };
        let (first, second) = Self::split_pairs(pairs(fours[0], fours[1]), pairs(fours[2], fours[3]));
        first + second
    }
}
