//! Registers of `u64`, as hashing needs them: one trait over the instruction sets, and the portable version of it.

use super::{Baseline, Isa};

/// A register of `u64`. Values are only made with an instruction set at hand, which proves that the machine has it.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// The instruction set that it belongs to.
    type Isa: Isa;
    /// How many it holds.
    const LANES: usize;

    /// The same number in every lane.
    fn splat(isa: Self::Isa, x: u64) -> Self;
    /// The first numbers of a slice; zeros where there are none.
    fn load(isa: Self::Isa, from: &[u64]) -> Self;
    /// Lane j has the four numbers from index j on, the first one in its lowest bits; zeros where there are none.
    fn windows(isa: Self::Isa, limbs: &[u16]) -> Self;
    /// Writes the numbers to the start of a slice, as many as it takes.
    fn store(self, to: &mut [u64]);
    /// `self` + `other` mod 2^64.
    #[must_use]
    fn plus(self, other: Self) -> Self;
    /// `self` ^ `other`.
    #[must_use]
    fn xor(self, other: Self) -> Self;
    /// `self` & `other`.
    #[must_use]
    fn and(self, other: Self) -> Self;
    /// `self` >> `BITS`.
    #[must_use]
    fn shift_right<const BITS: u32>(self) -> Self;
    /// `self` << `BITS`.
    #[must_use]
    fn shift_left<const BITS: u32>(self) -> Self;
    /// The low half of `self` times the low half of `other`.
    #[must_use]
    fn widening_multiply(self, other: Self) -> Self;

    /// Adds the low halves of `a` times `b`: two products, as vector instructions multiply 32 bits by 32.
    #[inline(always)]
    fn add_products(sum: &mut Sum<Self>, a: Self, b: Self) {
        sum.low = sum.low.plus(a.widening_multiply(b));
        sum.high = sum.high.plus(a.widening_multiply(b.shift_right::<32>()));
    }
}

/// Sums `low + 2^32·high mod 2^64`.
#[derive(Debug, Clone, Copy)]
pub struct Sum<L> {
    /// What counts once.
    pub low: L,
    /// What counts 2^32 times: only its low half matters.
    pub high: L,
}

impl<L: Lanes> Sum<L> {
    /// Those numbers.
    #[inline(always)]
    pub fn of(isa: L::Isa, numbers: L) -> Self {
        Self { low: numbers, high: L::splat(isa, 0) }
    }

    /// The sums as numbers.
    #[must_use]
    #[inline(always)]
    pub fn whole(self) -> L {
        self.low.plus(self.high.shift_left::<32>())
    }
}

/// The numbers of a slice from `first` on; zeros where there are none.
#[inline(always)]
pub(super) fn chunk<T: Copy + Default, const N: usize>(from: &[T]) -> [T; N] {
    if let Some(chunk) = from.first_chunk() {
        return *chunk;
    }
    let mut chunk = [T::default(); N];
    chunk[..from.len()].copy_from_slice(from);
    chunk
}

/// One number, as every processor multiplies it.
#[derive(Debug, Clone, Copy)]
pub struct PortableU64(pub u64);

impl Lanes for PortableU64 {
    type Isa = Baseline;
    const LANES: usize = 1;

    #[inline(always)]
    fn splat(_: Baseline, x: u64) -> Self {
        Self(x)
    }

    #[inline(always)]
    fn load(_: Baseline, from: &[u64]) -> Self {
        let [x] = chunk(from);
        Self(x)
    }

    #[inline(always)]
    fn windows(_: Baseline, limbs: &[u16]) -> Self {
        let limbs: [u16; 4] = chunk(limbs);
        Self(limbs.iter().rev().fold(0, |window, &limb| window << 16 | u64::from(limb)))
    }

    #[inline(always)]
    fn store(self, to: &mut [u64]) {
        if let Some(to) = to.first_mut() {
            *to = self.0;
        }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    #[inline(always)]
    fn shift_right<const BITS: u32>(self) -> Self {
        Self(self.0 >> BITS)
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self) -> Self {
        Self(self.0 << BITS)
    }

    #[inline(always)]
    fn widening_multiply(self, other: Self) -> Self {
        Self((self.0 & 0xffff_ffff) * (other.0 & 0xffff_ffff))
    }

    /// One product: 64 bits are multiplied as they are.
    #[inline(always)]
    fn add_products(sum: &mut Sum<Self>, a: Self, b: Self) {
        sum.low = sum.low.plus(Self((a.0 & 0xffff_ffff).wrapping_mul(b.0)));
    }
}
