//! Run-time dispatch, registers, their functions and memory, shared by all kernels: the only module with unsafe code.
//!
//! A kernel is written once, as plain safe loops in [`Kernel::run`]; [`Level::run`] compiles it for each instruction
//! set and calls the version that a [`Level`] stands for. A `Level` can only be had for what this machine has.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod map;
mod math;
mod memory;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use lanes::{Lanes, PortableU64, Sum};
pub use map::{Function, map};
pub use memory::{HeadMut, LINES, Lines, Soon, Zero, Zeroed, lines, prefetch, stream_fence, until_line};
pub use vector::{Float, MOST_LANES, PortableF32, PortableF64, Vector};

/// An instruction set that this machine is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Work that is compiled once for each instruction set; `run` must be `#[inline(always)]`, as must what it calls.
pub trait Kernel {
    /// What the work gives back.
    type Output;
    /// Whether AVX-512 has more for it than AVX2; if not, it is not compiled for AVX-512 as well.
    const WIDE: bool = true;
    /// The work, as plain loops that the compiler vectorises for `isa`.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// What an instruction set has that plain loops cannot say. A value of this type is proof that the machine has it.
pub trait Isa: Copy + Send + Sync + 'static {
    /// Registers of `f32`.
    type F32: Vector<Scalar = f32, Isa = Self>;
    /// Registers of `f64`.
    type F64: Vector<Scalar = f64, Isa = Self>;

    /// Registers of `u64`.
    type U64: Lanes<Isa = Self>;

    /// Writes past the caches, where there is such an instruction: for outputs that are larger than the caches. Call
    /// [`stream_fence`] after the last one.
    fn stream(self, lines: &mut Lines, values: &[u64; LINES]);

    /// Which numbers of a cache line are zero, and which have the bits of `value` where `mask` has ones: a bit for each.
    fn zeros_and_matches(self, line: &[u64; 8], value: u64, mask: u64) -> (u8, u8);
}

impl Level {
    /// The instruction set that the crate was compiled for: everywhere available.
    pub const BASELINE: Self = Self(Set::Baseline);

    /// Every level of this machine, weakest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut levels = vec![Self::BASELINE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2") {
                levels.push(Self(Set::Avx2));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi2")
            {
                levels.push(Self(Set::Avx512));
            }
        }
        levels
    }

    /// The strongest level of this machine.
    #[must_use]
    pub fn best() -> Self {
        Self::available().pop().unwrap_or(Self::BASELINE)
    }

    /// Runs a kernel compiled for this level.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Baseline => kernel.run(Baseline(())),
            // SAFETY: a `Level` of this kind is only made by `available`, which has detected these features.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 if K::WIDE => unsafe { run_avx512(kernel) },
            // SAFETY: `available` has detected AVX2's features for this level, too.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { run_avx2(kernel) },
        }
    }
}

/// The instruction set that the crate was compiled for.
#[derive(Debug, Default, Clone, Copy)]
pub struct Baseline(());

impl Isa for Baseline {
    type F32 = PortableF32;
    type F64 = PortableF64;
    type U64 = PortableU64;

    #[inline(always)]
    fn stream(self, lines: &mut Lines, values: &[u64; LINES]) {
        #[cfg(target_arch = "x86_64")]
        for (to, from) in lines.0.as_chunks_mut::<2>().0.iter_mut().zip(values.as_chunks::<2>().0) {
            use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
            // SAFETY: SSE2 is part of x86-64; both arrays are 16 bytes long, and `to` is 16-byte aligned, as part of
            // `Lines`.
            unsafe { _mm_stream_si128(to.as_mut_ptr().cast(), _mm_loadu_si128(from.as_ptr().cast())) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            lines.0 = *values;
        }
    }

    #[inline(always)]
    fn zeros_and_matches(self, line: &[u64; 8], value: u64, mask: u64) -> (u8, u8) {
        let (mut zeros, mut matches) = (0, 0);
        for (at, number) in line.iter().enumerate() {
            zeros |= u8::from(*number == 0) << at;
            matches |= u8::from((number ^ value) & mask == 0) << at;
        }
        (zeros, matches)
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(());

// SAFETY: a value is only made in `run_avx2`, which a `Level` of this kind alone leads to.
#[cfg(target_arch = "x86_64")]
unsafe impl x86::Avx2AndFma for Avx2 {}

#[cfg(target_arch = "x86_64")]
impl Isa for Avx2 {
    type F32 = x86::F32x8<Self>;
    type F64 = x86::F64x4<Self>;
    type U64 = x86::U64x4<Self>;

    #[inline(always)]
    fn stream(self, lines: &mut Lines, values: &[u64; LINES]) {
        for (to, from) in lines.0.as_chunks_mut::<4>().0.iter_mut().zip(values.as_chunks::<4>().0) {
            use std::arch::x86_64::{_mm256_loadu_si256, _mm256_stream_si256};
            // SAFETY: `self` is proof of AVX; both arrays are 32 bytes long, and `to` is 32-byte aligned.
            unsafe { _mm256_stream_si256(to.as_mut_ptr().cast(), _mm256_loadu_si256(from.as_ptr().cast())) };
        }
    }

    #[inline(always)]
    fn zeros_and_matches(self, line: &[u64; 8], value: u64, mask: u64) -> (u8, u8) {
        #[allow(clippy::wildcard_imports)]
        use std::arch::x86_64::*;
        let (mut zeros, mut matches) = (0, 0);
        for (half, numbers) in line.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: `self` is proof of AVX2; four numbers are 32 bytes long.
            let (zero, equal) = unsafe {
                let numbers = _mm256_loadu_si256(numbers.as_ptr().cast());
                let none = _mm256_setzero_si256();
                let differ = _mm256_xor_si256(numbers, _mm256_set1_epi64x(value.cast_signed()));
                let differ = _mm256_and_si256(differ, _mm256_set1_epi64x(mask.cast_signed()));
                let bits = |x| _mm256_movemask_pd(_mm256_castsi256_pd(x)) as u8;
                (bits(_mm256_cmpeq_epi64(numbers, none)), bits(_mm256_cmpeq_epi64(differ, none)))
            };
            zeros |= zero << (4 * half);
            matches |= equal << (4 * half);
        }
        (zeros, matches)
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx512(());

// SAFETY: a value is only made in `run_avx512`, which a `Level` of this kind alone leads to.
#[cfg(target_arch = "x86_64")]
unsafe impl x86::Avx2AndFma for Avx512 {}

// SAFETY: as above.
#[cfg(target_arch = "x86_64")]
unsafe impl x86::Avx512FBwDq for Avx512 {}

#[cfg(target_arch = "x86_64")]
impl Isa for Avx512 {
    type F32 = avx512::F32x16<Self>;
    type F64 = x86::F64x4<Self>;
    type U64 = x86::U64x8<Self>;

    #[inline(always)]
    fn stream(self, lines: &mut Lines, values: &[u64; LINES]) {
        for (to, from) in lines.0.as_chunks_mut::<8>().0.iter_mut().zip(values.as_chunks::<8>().0) {
            use std::arch::x86_64::{_mm512_loadu_si512, _mm512_stream_si512};
            // SAFETY: `self` is proof of AVX-512F; both arrays are 64 bytes long, and `to` is 64-byte aligned.
            unsafe { _mm512_stream_si512(to.as_mut_ptr().cast(), _mm512_loadu_si512(from.as_ptr().cast())) };
        }
    }

    #[inline(always)]
    fn zeros_and_matches(self, line: &[u64; 8], value: u64, mask: u64) -> (u8, u8) {
        use std::arch::x86_64::{_mm512_loadu_si512, _mm512_set1_epi64, _mm512_testn_epi64_mask, _mm512_xor_si512};
        // SAFETY: `self` is proof of AVX-512F; a line is 64 bytes long.
        unsafe {
            let numbers = _mm512_loadu_si512(line.as_ptr().cast());
            let differ = _mm512_xor_si512(numbers, _mm512_set1_epi64(value.cast_signed()));
            let mask = _mm512_set1_epi64(mask.cast_signed());
            (_mm512_testn_epi64_mask(numbers, numbers), _mm512_testn_epi64_mask(differ, mask))
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi2")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,bmi2")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}
