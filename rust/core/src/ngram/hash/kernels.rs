//! The passes over a block of windows: limbs, what they make of sums, and hashes.

use super::{AT_ONCE, FEW, LIMB, LIMBS, ROOM, Token, finish_each};
use crate::simd::{self, Isa, Kernel, LINES, Lanes, Soon, Sum};

/// The coefficients of words of a kind, zeros behind them.
pub(super) fn of_kind(coefficients: &[[u64; LIMBS]], kind: usize) -> Coefficients {
    std::array::from_fn(|p| coefficients.get(p).map_or(0, |of_word| of_word[kind]))
}

/// Those of the words of [`AT_ONCE`] tokens.
pub(super) type Coefficients = [u64; AT_ONCE / 2];

/// The limbs of a kind; gives which kinds are not all zero, of which the lowest always counts as one.
pub(super) struct Fill<'a, T> {
    pub(super) symbols: &'a [T],
    pub(super) kind: usize,
    pub(super) limbs: &'a mut [u16; ROOM],
}

impl<T: Token> Kernel for Fill<'_, T> {
    type Output = [bool; LIMBS];

    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> [bool; LIMBS] {
        let Self { symbols, kind, limbs } = self;
        match kind {
            0 => fill_limbs::<T, 0>(symbols, limbs),
            1 => fill_limbs::<T, 1>(symbols, limbs),
            _ => fill_limbs::<T, 2>(symbols, limbs),
        }
    }
}

#[inline(always)]
fn fill_limbs<T: Token, const KIND: usize>(symbols: &[T], limbs: &mut [u16; ROOM]) -> [bool; LIMBS] {
    let mut any = T::default();
    for (limb, symbol) in limbs.iter_mut().zip(symbols) {
        *limb = symbol.limb(KIND);
        any = any | *symbol;
    }
    [true, any.limb(1) != 0, any.limb(2) != 0]
}

/// Calls a function for windows of up to [`AT_ONCE`] tokens, whose number is then known to the compiler.
macro_rules! by_length {
    ($n:expr, $function:ident($($argument:expr),*)) => {
        match $n {
            1 => $function::<1, _, _>($($argument),*),
            2 => $function::<2, _, _>($($argument),*),
            3 => $function::<3, _, _>($($argument),*),
            4 => $function::<4, _, _>($($argument),*),
            5 => $function::<5, _, _>($($argument),*),
            6 => $function::<6, _, _>($($argument),*),
            7 => $function::<7, _, _>($($argument),*),
            _ => $function::<AT_ONCE, _, _>($($argument),*),
        }
    };
}

/// Hashes of windows whose tokens have limbs of the first kinds only, as many as `out` takes.
pub(super) struct Hash<'a, const KINDS: usize> {
    pub(super) n: usize,
    pub(super) coefficients: [Coefficients; KINDS],
    pub(super) offset: u64,
    pub(super) limbs: [&'a [u16; ROOM]; KINDS],
    pub(super) out: &'a mut [u64],
    pub(super) stream: bool,
    /// The symbols of the next block, [`LINES`] a row.
    pub(super) next: Soon,
}

impl<const KINDS: usize> Kernel for Hash<'_, KINDS> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { n, coefficients, offset, limbs, out, stream, next } = self;
        let mut registers = [[I::U64::splat(isa, 0); AT_ONCE / 2]; KINDS];
        for kind in 0..KINDS {
            registers[kind] = splat(isa, &coefficients[kind]);
        }
        let offset = I::U64::splat(isa, offset);
        if stream {
            by_length!(n, stream_windows(isa, &registers, offset, limbs, out, next));
        } else {
            by_length!(n, hash_windows(isa, &registers, offset, limbs, 0, out));
        }
    }
}

/// [`Coefficients`] in registers.
type Splat<I> = [<I as Isa>::U64; AT_ONCE / 2];

#[inline(always)]
fn splat<I: Isa>(isa: I, coefficients: &Coefficients) -> Splat<I> {
    let mut registers = [I::U64::splat(isa, 0); AT_ONCE / 2];
    for (register, coefficient) in registers.iter_mut().zip(coefficients) {
        *register = I::U64::splat(isa, *coefficient);
    }
    registers
}

/// [`LINES`] at a time, in a loop that the compiler unrolls, and what is left.
#[inline(always)]
fn hash_windows<const N: usize, const KINDS: usize, I: Isa>(
    isa: I,
    coefficients: &[Splat<I>; KINDS],
    offset: I::U64,
    limbs: [&[u16; ROOM]; KINDS],
    start: usize,
    out: &mut [u64],
) {
    let (lines, tail) = out.as_chunks_mut::<LINES>();
    let mut at = start;
    for hashes in lines {
        hash_few::<N, KINDS, I>(isa, coefficients, offset, few(limbs, at), hashes);
        at += LINES;
    }
    hash_few::<N, KINDS, I>(isa, coefficients, offset, few(limbs, at), tail);
}

/// [`FEW`] limbs of each kind from an index on.
#[inline(always)]
fn few<const KINDS: usize>(limbs: [&[u16; ROOM]; KINDS], at: usize) -> [&[u16]; KINDS] {
    let mut found: [&[u16]; KINDS] = [&[]; KINDS];
    for kind in 0..KINDS {
        found[kind] = &limbs[kind][at..at + FEW];
    }
    found
}

/// Up to [`LINES`] hashes, a register at a time.
#[inline(always)]
fn hash_few<const N: usize, const KINDS: usize, I: Isa>(
    isa: I,
    coefficients: &[Splat<I>; KINDS],
    offset: I::U64,
    few: [&[u16]; KINDS],
    out: &mut [u64],
) {
    for (out, first) in out.chunks_mut(I::U64::LANES).zip((0..).step_by(I::U64::LANES)) {
        finish_each(isa, dot::<N, KINDS, I>(isa, coefficients, few, first, offset)).store(out);
    }
}

/// [`hash_windows`] from the first on, written past the caches; few lines at a time, so that the processor writes some
/// while it computes the next, and reads the next block: all of its limbs are taken before their first hash is made.
#[inline(always)]
fn stream_windows<const N: usize, const KINDS: usize, I: Isa>(
    isa: I,
    coefficients: &[Splat<I>; KINDS],
    offset: I::U64,
    limbs: [&[u16; ROOM]; KINDS],
    out: &mut [u64],
    next: Soon,
) {
    let (head, middle, tail) = simd::lines(out);
    hash_windows::<N, KINDS, I>(isa, coefficients, offset, limbs, 0, head);
    let mut at = head.len();
    for (row, lines) in middle.iter_mut().enumerate() {
        next.ask(row);
        let mut hashes = [0; LINES];
        hash_few::<N, KINDS, I>(isa, coefficients, offset, few(limbs, at), &mut hashes);
        isa.stream(lines, &hashes);
        at += LINES;
    }
    hash_windows::<N, KINDS, I>(isa, coefficients, offset, limbs, at, tail);
}

/// Adds what limbs of a kind make of windows to their sums.
pub(super) struct Add<'a> {
    pub(super) n: usize,
    pub(super) coefficients: Coefficients,
    pub(super) limbs: &'a [u16; ROOM],
    pub(super) sums: &'a mut [u64],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { n, coefficients, limbs, sums } = self;
        by_length!(n, add_windows(isa, &[splat(isa, &coefficients)], [limbs], sums));
    }
}

#[inline(always)]
fn add_windows<const N: usize, const KINDS: usize, I: Isa>(
    isa: I,
    coefficients: &[Splat<I>; KINDS],
    limbs: [&[u16; ROOM]; KINDS],
    sums: &mut [u64],
) {
    for (sums, first) in sums.chunks_mut(I::U64::LANES).zip((0..).step_by(I::U64::LANES)) {
        let start = I::U64::load(isa, sums);
        dot::<N, KINDS, I>(isa, coefficients, few(limbs, first), 0, start).whole().store(sums);
    }
}

/// Writes hashes from sums.
pub(super) struct Finish<'a> {
    pub(super) sums: &'a mut [u64],
    pub(super) out: &'a mut [u64],
    pub(super) stream: bool,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sums, out, stream } = self;
        for sums in sums.chunks_mut(I::U64::LANES) {
            finish_each(isa, Sum::of(isa, I::U64::load(isa, sums))).store(sums);
        }
        if !stream {
            return out.copy_from_slice(sums);
        }
        let (head, middle, tail) = simd::lines(out);
        let (of_head, rest) = sums.split_at(head.len());
        let (of_middle, of_tail) = rest.as_chunks::<LINES>();
        head.copy_from_slice(of_head);
        for (lines, hashes) in middle.iter_mut().zip(of_middle) {
            isa.stream(lines, hashes);
        }
        tail.copy_from_slice(of_tail);
    }
}

/// `start + Σ_p c_p·w_p` over the words of N limbs of each kind, a window for each of the first indices from `at` on.
#[inline(always)]
fn dot<const N: usize, const KINDS: usize, I: Isa>(
    isa: I,
    coefficients: &[Splat<I>; KINDS],
    limbs: [&[u16]; KINDS],
    at: usize,
    start: I::U64,
) -> Sum<I::U64> {
    let mut sum = Sum::of(isa, start);
    for kind in 0..KINDS {
        for first in (0..N).step_by(4) {
            let mut words = I::U64::windows(isa, &limbs[kind][at + first..]);
            let count = N - first;
            if count < 4 {
                words = words.and(I::U64::splat(isa, (1 << (LIMB as usize * count)) - 1));
            }
            I::U64::add_products(&mut sum, words, coefficients[kind][first / 2]);
            if count > 2 {
                I::U64::add_products(&mut sum, words.shift_right::<32>(), coefficients[kind][first / 2 + 1]);
            }
        }
    }
    sum
}
