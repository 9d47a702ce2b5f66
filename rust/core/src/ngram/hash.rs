//! Every n-gram of a token array to 64 bits.
//!
//! A symbol is three limbs of 16 bits, `x = a + 2^16·b + 2^32·c`. The limbs of a kind of two neighbours make a word of 32
//! bits, so that a window of n tokens below 2^16 costs n / 2 multiplications and not n. The hash of a window with the
//! words `a_p`, `b_p`, `c_p`, p < ⌈n / 2⌉, is multilinear in them with a finaliser,
//!
//! `h = finish(offset + Σ_p (C_p·a_p + C'_p·b_p + C''_p·c_p) mod 2^64)`,
//!
//! with odd coefficients drawn independently from the seed and an offset drawn from seed and n; where n is odd, the last
//! words have one limb. Each window is hashed on its own: a rolling hash would be bound by its chain of dependent
//! multiplications. Without [`finish`] the low bit would be a parity for every seed. A hash depends on the values, n and
//! the seed alone.
//!
//! Windows that differ in one word never collide. Words that are all multiples of 2^k leave 64 - k bits of the sum.

mod kernels;

use std::ops::BitOr;

use kernels::{Add, Fill, Finish, Hash, of_kind};

use crate::simd::{self, Baseline, LINES, Lanes, Level, PortableU64, Soon, Sum};
use crate::{Error, Poll, Result, parallel};

/// The largest n.
pub const MAX_N: usize = 1 << 16;

/// The symbol that stands for everything at and before a boundary: one more than the largest token.
pub const BOUNDARY: u64 = 1 << 32;

/// Tokens of a window that are taken at once; longer windows are hashed in several passes.
const AT_ONCE: usize = 8;

/// Hashes made at a time: 8 KiB, so that they and their limbs stay in the first-level cache. Of fewer, those written past
/// the caches would still be on their way when the next limbs are stored and read behind them.
const BLOCK: usize = 1024;

/// Limbs of the windows of [`LINES`] hashes, and behind them a register's for windows that no output takes.
const FEW: usize = LINES + AT_ONCE + 8;

/// Those of a block's windows.
const ROOM: usize = BLOCK + FEW;

/// Room for a block's limbs of the first two kinds.
type Limbs = [[u16; ROOM]; 2];

const NO_LIMBS: Limbs = [[0; ROOM]; 2];

/// The kinds of limbs, and of words.
const LIMBS: usize = 3;

/// Bits of a limb.
const LIMB: u32 = 16;

/// Outputs of at least this many hashes are written past the caches.
const STREAM: usize = 1 << 20;

/// An integer type of token arrays; values are 0 to 2^32 - 1, and for `u64`, the type of symbols, also [`BOUNDARY`].
pub trait Token: Copy + Default + BitOr<Output = Self> + Send + Sync + std::fmt::Display + 'static {
    /// The value, where it is one.
    fn to_u64(self) -> u64;
    /// Whether the value is a token.
    fn is_valid(self) -> bool;
    /// A limb of the symbol: 0 the lowest.
    fn limb(self, kind: usize) -> u16;

    /// The array itself, where its symbols are their lowest limbs.
    fn as_limbs(symbols: &[Self]) -> Option<&[u16]>;

    /// Refuses arrays with a value that is not a token; the error names the first one and its index.
    fn validate(tokens: &[Self]) -> Result<()> {
        validate_from(tokens, Place { first: 0, seq_len: usize::MAX })
    }
}

macro_rules! tokens {
    ($($type:ty, as $bits:ty: $valid:expr, $as_limbs:expr;)*) => {$(
        impl Token for $type {
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }

            #[inline(always)]
            fn is_valid(self) -> bool {
                let valid: fn($type) -> bool = $valid;
                valid(self)
            }

            // Of few bits, so that many fit into a register; without closures, which may stay functions of their own.
            #[inline(always)]
            fn limb(self, kind: usize) -> u16 {
                let shift = LIMB * kind as u32;
                if shift < <$bits>::BITS { (self as $bits >> shift) as u16 } else { 0 }
            }

            #[inline(always)]
            fn as_limbs(symbols: &[Self]) -> Option<&[u16]> {
                let as_limbs: fn(&[Self]) -> Option<&[u16]> = $as_limbs;
                as_limbs(symbols)
            }
        }
    )*};
}

tokens! {
    u8, as u16: |_| true, |_| None;
    u16, as u16: |_| true, |symbols| Some(symbols);
    u32, as u32: |_| true, |_| None;
    i32, as u32: |value| value >= 0, |_| None;
    i64, as u64: |value| value as u64 >> 32 == 0, |_| None;
    u64, as u64: |value| value <= BOUNDARY, |_| None;
}

/// Where a part of an array starts, so that errors can tell an index: a flat one, or where `seq_len` is below
/// `usize::MAX`, row and column.
#[derive(Debug, Clone, Copy)]
struct Place {
    first: usize,
    seq_len: usize,
}

impl Place {
    fn after(self, tokens: usize) -> Self {
        Self { first: self.first + tokens, ..self }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first, seq_len } = *self;
        if seq_len == usize::MAX {
            write!(f, "{first}")
        } else {
            write!(f, "[{}, {}]", first / seq_len, first % seq_len)
        }
    }
}

/// [`Token::validate`] for a part of an array.
fn validate_from<T: Token>(tokens: &[T], place: Place) -> Result<()> {
    for (block, values) in tokens.chunks(BLOCK).enumerate() {
        if values.iter().fold(true, |valid, value| valid & value.is_valid()) {
            continue;
        }
        if let Some(at) = values.iter().position(|value| !value.is_valid()) {
            let (value, place) = (values[at], place.after(block * BLOCK + at));
            return Err(Error::value(format!("token {value} at index {place}: tokens must be 0 to {}", u32::MAX)));
        }
    }
    Ok(())
}

/// Two rounds of xor-shift and multiplication, then a last xor-shift: the finaliser of `SplitMix64` (Stafford's mix 13), a
/// bijection in which every input bit changes every output bit with probability near one half.
#[inline(always)]
#[must_use]
pub const fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// The finaliser of a window's sum, a bijection: the low half takes up the middle of the square of the high half, then
/// the high half a multiple of the low one.
///
/// A sum is linear in each token: its high bits are spread too evenly, and its low ones know nothing of the high ones.
/// Rounds of shifts and multiplications wear that off slowly; the middle of a square has nothing left of it.
#[inline(always)]
#[must_use]
pub fn finish(sum: u64) -> u64 {
    let isa = Baseline::default();
    finish_each(isa, Sum::of(isa, PortableU64(sum))).0
}

/// [`finish`] of each sum.
#[inline(always)]
fn finish_each<L: Lanes>(isa: L::Isa, sum: Sum<L>) -> L {
    let high = sum.low.shift_right::<32>().plus(sum.high);
    let low = sum.low.xor(high.widening_multiply(high).shift_right::<16>());
    high.shift_left::<32>().plus(low.widening_multiply(L::splat(isa, 0x9e37_79b1)))
}

/// Hashes n-grams; made once for n and a seed.
#[derive(Debug, Clone)]
pub struct NgramHasher {
    n: usize,
    /// Those of the words of a place in the window, a kind after the other.
    coefficients: Vec<[u64; LIMBS]>,
    offset: u64,
    level: Level,
}

impl NgramHasher {
    /// A hasher of windows of `n` tokens, 1 to [`MAX_N`].
    pub fn new(n: usize, seed: u64) -> Result<Self> {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        if !(1..=MAX_N).contains(&n) {
            return Err(Error::value(format!("n is {n}; it must be 1 to {MAX_N}")));
        }
        let state = mix(seed);
        let coefficient = |j: usize| mix(state.wrapping_add((j as u64 + 1).wrapping_mul(GOLDEN))) | 1;
        let coefficients =
            (0..n.div_ceil(2)).map(|p| std::array::from_fn(|kind| coefficient(LIMBS * p + kind))).collect();
        Ok(Self { n, coefficients, offset: mix(state ^ mix(n as u64)), level: Level::best() })
    }

    /// The same hasher on another instruction set; the hashes are the same.
    #[must_use]
    pub fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// The length of a window.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.coefficients.capacity() * size_of::<[u64; LIMBS]>()
    }

    /// The number of n-grams in `seq_len` tokens.
    #[must_use]
    pub fn count(&self, seq_len: usize) -> usize {
        (seq_len + 1).saturating_sub(self.n())
    }

    /// The hash of one window of n values (those after the n-th are not looked at).
    #[inline]
    pub fn hash_one(&self, window: impl IntoIterator<Item = u64>) -> u64 {
        let mut window = window.into_iter().take(self.n);
        let mut sum = self.offset;
        for of_word in &self.coefficients {
            for shift in [0, LIMB] {
                let Some(symbol) = window.next() else { break };
                let term = |kind: usize| of_word[kind].wrapping_mul(u64::from(symbol.limb(kind)) << shift);
                sum = sum.wrapping_add(term(0));
                if symbol >> LIMB != 0 {
                    sum = sum.wrapping_add(term(1)).wrapping_add(term(2));
                }
            }
        }
        finish(sum)
    }

    /// The hash of each n-gram of `tokens` to `out`, which has [`Self::count`] elements.
    pub fn hash_into<T: Token>(&self, tokens: &[T], out: &mut [u64], threads: usize) -> Result<()> {
        self.hash_polled(tokens, out, threads, &|_| Ok(()))
    }

    /// [`Self::hash_into`] that can be stopped.
    pub fn hash_polled<T: Token>(&self, tokens: &[T], out: &mut [u64], threads: usize, poll: Poll<'_>) -> Result<()> {
        self.check_out(self.count(tokens.len()), out.len())?;
        self.hash_row(tokens, out, threads, poll, Place { first: 0, seq_len: usize::MAX })
    }

    /// [`Self::hash_polled`] for each row of a batch of shape (batch, `seq_len`); `out` has the shape (batch, count).
    pub fn hash_rows_into<T: Token>(
        &self,
        tokens: &[T],
        seq_len: usize,
        out: &mut [u64],
        threads: usize,
        poll: Poll<'_>,
    ) -> Result<()> {
        parallel::check(threads)?;
        let count = self.count(seq_len);
        let rows = tokens.len().checked_div(seq_len).unwrap_or(0);
        if rows * seq_len != tokens.len() {
            return Err(Error::value(format!("{} tokens are not rows of {seq_len}", tokens.len())));
        }
        self.check_out(rows * count, out.len())?;
        let place = |row: usize| Place { first: row * seq_len, seq_len };
        if count == 0 {
            return validate_from(tokens, place(0));
        }
        if rows < threads {
            let mut pairs = tokens.chunks(seq_len).zip(out.chunks_mut(count)).enumerate();
            return pairs.try_for_each(|(row, (tokens, out))| self.hash_row(tokens, out, threads, poll, place(row)));
        }
        let step = (self.hashes_per_poll() / count).max(threads);
        for (step_at, (tokens, out)) in tokens.chunks(step * seq_len).zip(out.chunks_mut(step * count)).enumerate() {
            let share = (out.len() / count).div_ceil(threads);
            let parts = tokens.chunks(share * seq_len).zip(out.chunks_mut(share * count)).enumerate().collect();
            parallel::for_each(threads, parts, |(part, (tokens, out))| {
                let mut pairs = tokens.chunks(seq_len).zip(out.chunks_mut(count)).enumerate();
                let (first, mut limbs) = (step_at * step + part * share, NO_LIMBS);
                pairs.try_for_each(|(row, (tokens, out))| self.hash_part(tokens, out, &mut limbs, place(first + row)))
            })?;
            poll(((step_at + 1) * step) as u64)?;
        }
        Ok(())
    }

    /// Hashes of about a tenth of a second.
    fn hashes_per_poll(&self) -> usize {
        ((1 << 29) / self.n()).next_multiple_of(BLOCK)
    }

    fn check_out(&self, needed: usize, given: usize) -> Result<()> {
        if needed == given {
            Ok(())
        } else {
            let n = self.n();
            Err(Error::value(format!("out has {given} elements; the tokens have {needed} windows of {n}")))
        }
    }

    /// One row, cut into a part for each thread; parts overlap by n - 1 tokens.
    fn hash_row<T: Token>(
        &self,
        tokens: &[T],
        out: &mut [u64],
        threads: usize,
        poll: Poll<'_>,
        place: Place,
    ) -> Result<()> {
        parallel::check(threads)?;
        if out.is_empty() {
            return validate_from(tokens, place);
        }
        let step = self.hashes_per_poll().saturating_mul(threads);
        for (step_at, out) in out.chunks_mut(step).enumerate() {
            let share = out.len().div_ceil(threads);
            let parts = out.chunks_mut(share).enumerate().collect();
            parallel::for_each(threads, parts, |(part, out): (usize, &mut [u64])| {
                let start = step_at * step + part * share;
                let tokens = &tokens[start..start + out.len() + self.n() - 1];
                self.hash_part(tokens, out, &mut { NO_LIMBS }, place.after(start))
            })?;
            poll((step_at * step) as u64)?;
        }
        Ok(())
    }

    /// The hashes of a non-empty part on this thread.
    fn hash_part<T: Token>(&self, tokens: &[T], out: &mut [u64], limbs: &mut Limbs, place: Place) -> Result<()> {
        if out.len() < STREAM {
            return self.hash_blocks(tokens, out, false, limbs, place);
        }
        let head = simd::until_line(out);
        let (before, lines) = out.split_at_mut(head);
        self.hash_blocks(&tokens[..head + self.n() - 1], before, false, limbs, place)?;
        let result = self.hash_blocks(&tokens[head..], lines, true, limbs, place.after(head));
        simd::stream_fence();
        result
    }

    /// The hashes of a part, block by block.
    fn hash_blocks<T: Token>(
        &self,
        tokens: &[T],
        out: &mut [u64],
        stream: bool,
        limbs: &mut Limbs,
        place: Place,
    ) -> Result<()> {
        let rest = out.len();
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let start = block * BLOCK;
            validate_from(&tokens[start..start + out.len()], place.after(start))?;
            self.hash_block(&tokens[start..], out, stream, limbs);
        }
        validate_from(&tokens[rest..], place.after(rest))
    }

    /// The hashes of the first windows of valid tokens, as many as `out` takes.
    pub(crate) fn hash_valid<T: Token>(&self, tokens: &[T], out: &mut [u64]) {
        let mut limbs = NO_LIMBS;
        for (out, start) in out.chunks_mut(BLOCK).zip((0..).step_by(BLOCK)) {
            self.hash_block(&tokens[start..], out, false, &mut limbs);
        }
    }

    /// [`Self::hash_valid`] of a block. With `stream` the hashes are written past the caches.
    fn hash_block<T: Token>(&self, symbols: &[T], out: &mut [u64], stream: bool, limbs: &mut Limbs) {
        let next = Soon::new(&symbols[out.len()..], LINES, LINES);
        let hashed = &symbols[..out.len() + self.n - 1];
        let [lowest, second] = limbs;
        if self.n <= AT_ONCE {
            if let Some(limbs) = T::as_limbs(symbols).and_then(<[u16]>::first_chunk) {
                return self.hash_limbs([limbs], out, stream, next);
            }
            match self.level.run(Fill { symbols: hashed, kind: 0, limbs: lowest }) {
                [_, false, false] => return self.hash_limbs([lowest], out, stream, next),
                [_, true, false] => {
                    self.level.run(Fill { symbols: hashed, kind: 1, limbs: second });
                    return self.hash_limbs([lowest, second], out, stream, next);
                }
                _ => {}
            }
        }
        self.hash_in_passes(hashed, out, stream, lowest);
    }

    /// [`Self::hash_block`] of windows with limbs of the first kinds only.
    fn hash_limbs<const KINDS: usize>(&self, limbs: [&[u16; ROOM]; KINDS], out: &mut [u64], stream: bool, next: Soon) {
        let coefficients = std::array::from_fn(|kind| of_kind(&self.coefficients, kind));
        self.level.run(Hash { n: self.n, coefficients, offset: self.offset, limbs, out, stream, next });
    }

    /// [`Self::hash_block`] in passes: one for each kind of words and [`AT_ONCE`] tokens of the window.
    fn hash_in_passes<T: Token>(&self, symbols: &[T], out: &mut [u64], stream: bool, limbs: &mut [u16; ROOM]) {
        let mut sums = [self.offset; BLOCK];
        let sums = &mut sums[..out.len()];
        for (first, coefficients) in (0..).step_by(AT_ONCE).zip(self.coefficients.chunks(AT_ONCE / 2)) {
            let n = AT_ONCE.min(self.n - first);
            let symbols = &symbols[first..first + sums.len() + n - 1];
            let mut kinds = [true; LIMBS];
            for kind in 0..LIMBS {
                if kinds[kind] {
                    kinds = self.level.run(Fill { symbols, kind, limbs });
                    self.level.run(Add { n, coefficients: of_kind(coefficients, kind), limbs, sums });
                }
            }
        }
        self.level.run(Finish { sums, out, stream });
    }
}
