//! Memory that the kernels write past the caches, ask for early, or have as zeros.

use crate::{Error, Result};

/// Two cache lines: few enough for the processor to write some while it computes the next.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Lines(pub(super) [u64; LINES]);

/// Numbers in [`Lines`].
pub const LINES: usize = 16;

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

/// Orders the stores of [`super::Isa::stream`] before everything that follows.
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
    prefetch_address(values.as_ptr().wrapping_add(index));
}

#[inline(always)]
fn prefetch_address<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and faults nowhere.
    #[allow(unused_unsafe)]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Where rows lie that are read or written soon; it gives no access to them.
#[derive(Debug, Clone, Copy)]
pub struct Soon {
    start: *const u8,
    /// In bytes, as the width.
    stride: usize,
    width: usize,
}

impl Soon {
    /// Rows of `width` numbers, `stride` apart.
    #[must_use]
    pub fn new<T>(values: &[T], stride: usize, width: usize) -> Self {
        Self::from_start(values.as_ptr(), stride, width)
    }

    fn from_start<T>(start: *const T, stride: usize, width: usize) -> Self {
        Self { start: start.cast(), stride: stride * size_of::<T>(), width: width * size_of::<T>() }
    }

    /// Asks for the cache lines of a row.
    #[inline(always)]
    pub fn ask(&self, row: usize) {
        let start = self.start.wrapping_add(row * self.stride);
        let mut at = 0;
        while at < self.width {
            prefetch_address(start.wrapping_add(at));
            at += 64;
        }
    }
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

/// The rows of one head of an array of shape (batch, `seq_len`, heads, width): row t are the `width` numbers at step t.
#[derive(Debug)]
pub struct HeadMut<'a, T> {
    start: *mut T,
    seq_len: usize,
    stride: usize,
    width: usize,
    owner: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable slice with gaps: what it points to is borrowed for it alone.
unsafe impl<T: Send> Send for HeadMut<'_, T> {}

impl<'a, T> HeadMut<'a, T> {
    /// One view for each row of the batch and each head, head by head.
    ///
    /// # Panics
    /// If the sizes are not those of `values`.
    #[must_use]
    pub fn split(values: &'a mut [T], seq_len: usize, heads: usize, width: usize) -> Vec<Self> {
        let (stride, row) = (heads * width, seq_len * heads * width);
        if row == 0 {
            return Vec::new();
        }
        assert_eq!(values.len() % row, 0, "an array of whole rows");
        let start = values.as_mut_ptr();
        (0..values.len() / row)
            .flat_map(|batch| (0..heads).map(move |head| batch * row + head * width))
            .map(|offset| Self {
                // SAFETY: offset + (seq_len - 1) * stride + width <= values.len(); the rows of two views never overlap.
                start: unsafe { start.add(offset) },
                seq_len,
                stride,
                width,
                owner: std::marker::PhantomData,
            })
            .collect()
    }

    /// One view for each row of the batch and each tile of an array of shape (batch, `seq_len`, `width`), row by row:
    /// the first tile holds the first `tile` numbers of each step, and so on; the last one what is left.
    ///
    /// # Panics
    /// If the sizes are not those of `values`, or `tile` is 0.
    #[must_use]
    pub fn tiles(values: &'a mut [T], seq_len: usize, width: usize, tile: usize) -> Vec<Self> {
        let row = seq_len * width;
        if row == 0 {
            return Vec::new();
        }
        assert_eq!(values.len() % row, 0, "an array of whole rows");
        let start = values.as_mut_ptr();
        (0..values.len() / row)
            .flat_map(|batch| (0..width).step_by(tile).map(move |first| (batch * row + first, tile.min(width - first))))
            .map(|(offset, tile)| Self {
                // SAFETY: offset + (seq_len - 1) * width + tile <= values.len(); the tiles of two views never overlap.
                start: unsafe { start.add(offset) },
                seq_len,
                stride: width,
                width: tile,
                owner: std::marker::PhantomData,
            })
            .collect()
    }

    /// The numbers of a step.
    ///
    /// # Panics
    /// If there is no such step.
    #[inline(always)]
    pub fn row(&mut self, step: usize) -> &mut [T] {
        assert!(step < self.seq_len, "a step of the sequence");
        // SAFETY: `split` made sure that the row lies inside the array and belongs to this view alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(step * self.stride), self.width) }
    }

    /// The numbers of consecutive steps; empty from `end` on.
    ///
    /// # Panics
    /// If one before `end` is not there.
    #[inline(always)]
    pub fn rows<const N: usize>(&mut self, first: usize, end: usize) -> [&mut [T]; N] {
        let count = N.min(end.saturating_sub(first));
        assert!(first + count <= self.seq_len, "steps of the sequence");
        std::array::from_fn(|nth| {
            let (step, width) = if nth < count { (first + nth, self.width) } else { (0, 0) };
            // SAFETY: as in `row`; the rows of two steps never overlap.
            unsafe { std::slice::from_raw_parts_mut(self.start.add(step * self.stride), width) }
        })
    }

    /// Where its rows lie.
    #[must_use]
    pub fn soon(&self) -> Soon {
        Soon::from_start(self.start.cast_const(), self.stride, self.width)
    }
}
