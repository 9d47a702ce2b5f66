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
    /// The work, as plain loops that the compiler vectorises.
    fn run(self) -> Self::Output;
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
            Set::Baseline => kernel.run(),
            // SAFETY: a `Level` of this kind is only made by `available`, which has detected these features.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { run_avx512(kernel) },
        }
    }

    /// Copies `source` to `target` past the caches (non-temporal stores where there are such), for outputs that are
    /// larger than the caches. Call [`stream_fence`] after the last one. The lengths must be equal.
    ///
    /// Fastest where `target` starts at a multiple of 64 bytes: see [`until_aligned`].
    #[inline]
    pub fn stream(self, target: &mut [u64], source: &[u64]) {
        #[cfg(target_arch = "x86_64")]
        match self.0 {
            // SAFETY: `available` has detected AVX-512F.
            Set::Avx512 => unsafe { stream_avx512(target, source) },
            Set::Baseline | Set::Avx2 => stream_sse2(target, source),
        }
        #[cfg(not(target_arch = "x86_64"))]
        target.copy_from_slice(source);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,bmi2")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn stream_avx512(target: &mut [u64], source: &[u64]) {
    use std::arch::x86_64::{_mm512_loadu_si512, _mm512_stream_si512};
    let head = until_aligned(target).min(source.len());
    let (target_head, target) = target.split_at_mut(head);
    let (source_head, source) = source.split_at(head);
    target_head.copy_from_slice(source_head);
    let (lines, target_tail) = target.as_chunks_mut::<8>();
    let (source_lines, source_tail) = source.as_chunks::<8>();
    for (line, from) in lines.iter_mut().zip(source_lines) {
        // SAFETY: both arrays are 64 bytes long, and `line` is 64-byte aligned: the unaligned head was cut off.
        unsafe { _mm512_stream_si512(line.as_mut_ptr().cast(), _mm512_loadu_si512(from.as_ptr().cast())) };
    }
    target_tail.copy_from_slice(source_tail);
}

#[cfg(target_arch = "x86_64")]
fn stream_sse2(target: &mut [u64], source: &[u64]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
    let head = until_aligned(target).min(source.len());
    let (target_head, target) = target.split_at_mut(head);
    let (source_head, source) = source.split_at(head);
    target_head.copy_from_slice(source_head);
    let (pairs, target_tail) = target.as_chunks_mut::<2>();
    let (source_pairs, source_tail) = source.as_chunks::<2>();
    for (pair, from) in pairs.iter_mut().zip(source_pairs) {
        // SAFETY: SSE2 is part of x86-64; both arrays are 16 bytes long, and `pair` is 16-byte aligned: the unaligned
        // head was cut off.
        unsafe { _mm_stream_si128(pair.as_mut_ptr().cast(), _mm_loadu_si128(from.as_ptr().cast())) };
    }
    target_tail.copy_from_slice(source_tail);
}

/// Number of elements before the first one that starts at a multiple of 64 bytes.
#[must_use]
pub fn until_aligned(values: &[u64]) -> usize {
    (values.as_ptr() as usize).wrapping_neg() % 64 / 8
}

/// Orders the stores of [`Level::stream`] before everything that follows.
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

/// `len` zeros that cost nothing until they are touched, in huge pages where the system grants them.
pub fn zeroed(len: usize) -> Result<Vec<u64>> {
    use std::alloc::{Layout, alloc_zeroed};
    if len == 0 {
        return Ok(Vec::new());
    }
    let too_large = || Error::memory(format!("cannot allocate a table of {len} slots of 8 bytes"));
    let layout = Layout::array::<u64>(len).map_err(|_| too_large())?;
    // SAFETY: the layout is not of size zero. (It aligns the pointer.)
    #[allow(clippy::cast_ptr_alignment)]
    let start = unsafe { alloc_zeroed(layout) }.cast::<u64>();
    if start.is_null() {
        return Err(too_large());
    }
    advise_huge_pages(start.cast(), layout.size());
    // SAFETY: `start` is from the global allocator with the layout of a slice of `len` u64, which are initialised (zero).
    Ok(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, len)) }.into_vec())
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
