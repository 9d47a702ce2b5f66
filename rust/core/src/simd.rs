//! Run-time dispatch and the few intrinsics that the kernels share: the only module with unsafe code.
//!
//! A kernel is written once, as plain safe loops in [`Kernel::run`]; [`Level::run`] compiles it for each instruction
//! set and calls the version that a [`Level`] stands for. A `Level` can only be had for what this machine has.

#![allow(unsafe_code)]

use crate::{Error, Result};

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
    /// The work, as plain loops that the compiler vectorises for `isa`.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// What an instruction set has that plain loops cannot say. A value of this type is proof that the machine has it.
pub trait Isa: Copy {
    /// Writes past the caches, where there is such an instruction: for outputs that are larger than the caches. Call
    /// [`stream_fence`] after the last one.
    fn stream(self, lines: &mut Lines, values: &[u64; LINES]);
}

/// Eight cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Lines([u64; LINES]);

/// Numbers in [`Lines`].
pub const LINES: usize = 64;

/// The part of a slice that is made of whole [`Lines`], and what lies before (less than a cache line) and after it.
pub fn lines(values: &mut [u64]) -> (&mut [u64], &mut [Lines], &mut [u64]) {
    // SAFETY: `Lines` are u64 without padding, and every value of them is valid.
    unsafe { values.align_to_mut() }
}

/// The number of values before the first cache line that lies in the slice from its start.
#[must_use]
pub fn until_line(values: &[u64]) -> usize {
    values.as_ptr().align_offset(64).min(values.len())
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
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
                levels.push(Self(Set::Avx2));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
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
            Set::Avx512 => unsafe { run_avx512(kernel) },
        }
    }
}

#[derive(Clone, Copy)]
struct Baseline(());

impl Isa for Baseline {
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
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Isa for Avx2 {
    #[inline(always)]
    fn stream(self, lines: &mut Lines, values: &[u64; LINES]) {
        for (to, from) in lines.0.as_chunks_mut::<4>().0.iter_mut().zip(values.as_chunks::<4>().0) {
            use std::arch::x86_64::{_mm256_loadu_si256, _mm256_stream_si256};
            // SAFETY: `self` is proof of AVX; both arrays are 32 bytes long, and `to` is 32-byte aligned.
            unsafe { _mm256_stream_si256(to.as_mut_ptr().cast(), _mm256_loadu_si256(from.as_ptr().cast())) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Isa for Avx512 {
    #[inline(always)]
    fn stream(self, lines: &mut Lines, values: &[u64; LINES]) {
        for (to, from) in lines.0.as_chunks_mut::<8>().0.iter_mut().zip(values.as_chunks::<8>().0) {
            use std::arch::x86_64::{_mm512_loadu_si512, _mm512_stream_si512};
            // SAFETY: `self` is proof of AVX-512F; both arrays are 64 bytes long, and `to` is 64-byte aligned.
            unsafe { _mm512_stream_si512(to.as_mut_ptr().cast(), _mm512_loadu_si512(from.as_ptr().cast())) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,bmi2")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// Orders the stores of [`Isa::stream`] before everything that follows.
#[inline]
pub fn stream_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `sfence` is part of every x86-64.
    #[allow(unused_unsafe)]
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Asks for the cache line of `values[index]`; a hint, without effect outside the slice or on other architectures.
#[inline(always)]
pub fn prefetch<T>(values: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and faults nowhere; the address is computed with wrapping arithmetic.
    #[allow(unused_unsafe)]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(index).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, index);
}

/// Types of which zero bytes are a value.
pub trait Zero: sealed::Zero {
    /// That value.
    const ZERO: Self;
}

impl Zero for u32 {
    const ZERO: Self = 0;
}

impl Zero for u64 {
    const ZERO: Self = 0;
}

mod sealed {
    pub trait Zero: Copy {}

    impl Zero for u32 {}
    impl Zero for u64 {}
}

/// Numbers that start at a cache line; made as zeros that cost nothing until they are touched, in huge pages where the
/// system grants them.
#[derive(Debug)]
pub struct Zeroed<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Zero> Zeroed<T> {
    /// `len` zeros; [`Error::Memory`] where there is no room for them.
    pub fn new(len: usize) -> Result<Self> {
        let too_large = || Error::memory(format!("cannot allocate {len} numbers of {} bytes", size_of::<T>()));
        if len == 0 {
            return Ok(Self { memory: Vec::new(), start: 0, len });
        }
        // Alignment is had by a few numbers more: the allocator would write the zeros of an aligned allocation itself.
        let all = len.checked_add(64 / size_of::<T>()).ok_or_else(too_large)?;
        let memory = zeroed::<T>(all).ok_or_else(too_large)?;
        let start = memory.as_ptr().align_offset(64).min(all - len);
        Ok(Self { memory, start, len })
    }

    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.memory.capacity() * size_of::<T>()
    }
}

impl<T: Zero> Clone for Zeroed<T> {
    fn clone(&self) -> Self {
        let mut memory = vec![T::ZERO; self.memory.len()];
        let start = memory.as_ptr().align_offset(64).min(memory.len() - self.len);
        memory[start..start + self.len].copy_from_slice(self);
        Self { memory, start, len: self.len }
    }
}

impl<T> std::ops::Deref for Zeroed<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl<T> std::ops::DerefMut for Zeroed<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

fn zeroed<T: Zero>(len: usize) -> Option<Vec<T>> {
    use std::alloc::{Layout, alloc_zeroed};
    let layout = Layout::array::<T>(len).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout is not of size zero.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    advise_huge_pages(start, layout.size());
    // SAFETY: `start` is from the global allocator with the layout of a slice of `len` values; zero bytes are valid ones.
    Some(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start.cast::<T>(), len)) }.into_vec())
}

/// Asks for huge pages under the part of an allocation that can have them.
#[cfg(target_os = "linux")]
fn advise_huge_pages(start: *mut u8, bytes: usize) {
    const HUGE: usize = 2 << 20;
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(address: *mut u8, length: usize, advice: i32) -> i32;
    }
    let skip = (start as usize).wrapping_neg() % HUGE;
    let length = bytes.saturating_sub(skip) / HUGE * HUGE;
    if length > 0 {
        // SAFETY: this advice changes no content. It is only a hint: its result does not matter.
        let _ = unsafe { madvise(start.wrapping_add(skip), length, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_start: *mut u8, _bytes: usize) {}
