//! Every n-gram of a token array to 64 bits.
//!
//! The hash of a window `x_0 … x_{n-1}` is multilinear with a finaliser,
//!
//! `h = finish(offset + Σ_j c_j·x_j mod 2^64)`,
//!
//! with odd coefficients `c_j` drawn independently from the seed and an offset drawn from seed and n. Each window is hashed
//! on its own: a rolling hash would be bound by its chain of dependent multiplications. Without [`finish`] the low bit would
//! be the parity of the tokens for every seed. A hash depends on the values, n and the seed alone.
//!
//! Windows that differ in one token never collide. Tokens that are all multiples of 2^k leave 64 - k bits of the sum.

use crate::simd::{self, Isa, Kernel, LINES, Level};
use crate::{Error, Poll, Result, parallel};

/// The largest n.
pub const MAX_N: usize = 1 << 16;

/// The symbol that stands for everything at and before a boundary: one more than the largest token.
pub const BOUNDARY: u64 = 1 << 32;

/// Windows up to this length are hashed in one pass over registers.
const FUSED: usize = 8;

/// Hashes made at a time: 4 KiB, so that they and their tokens stay in the first-level cache.
const BLOCK: usize = 512;

/// Outputs of at least this many hashes are written past the caches.
const STREAM: usize = 1 << 20;

/// An integer type of token arrays; values are 0 to 2^32 - 1, and for `u64`, the type of symbols, also [`BOUNDARY`].
pub trait Token: Copy + Send + Sync + std::fmt::Display + 'static {
    /// Whether there is a value of more than 32 bits.
    const WIDE: bool;

    /// The value, where it is one.
    fn to_u64(self) -> u64;
    /// Whether the value is a token.
    fn is_valid(self) -> bool;

    /// Refuses arrays with a value that is not a token; the error names the first one and its index.
    fn validate(tokens: &[Self]) -> Result<()> {
        validate_from(tokens, Place { first: 0, seq_len: usize::MAX })
    }
}

macro_rules! tokens {
    ($($type:ty: $valid:expr;)*) => {$(
        impl Token for $type {
            const WIDE: bool = <$type>::MAX as u64 == u64::MAX;

            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }

            #[inline(always)]
            fn is_valid(self) -> bool {
                let valid: fn($type) -> bool = $valid;
                valid(self)
            }
        }
    )*};
}

tokens! {
    u8: |_| true;
    u16: |_| true;
    u32: |_| true;
    i32: |value| value >= 0;
    i64: |value| value as u64 >> 32 == 0;
    u64: |value| value <= BOUNDARY;
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

/// The low half of 64 bits.
const LOW: u64 = 0xffff_ffff;

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
pub const fn finish(sum: u64) -> u64 {
    let high = sum >> 32;
    let low = (sum ^ ((high * high) >> 16)) & LOW;
    (sum & !LOW).wrapping_add(low * 0x9e37_79b1)
}

/// Hashes n-grams; made once for n and a seed.
#[derive(Debug, Clone)]
pub struct NgramHasher {
    coefficients: Vec<u64>,
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
        let coefficients = (1..=n as u64).map(|j| mix(state.wrapping_add(j.wrapping_mul(GOLDEN))) | 1).collect();
        Ok(Self { coefficients, offset: mix(state ^ mix(n as u64)), level: Level::best() })
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
        self.coefficients.len()
    }

    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.coefficients.capacity() * size_of::<u64>()
    }

    /// The number of n-grams in `seq_len` tokens.
    #[must_use]
    pub fn count(&self, seq_len: usize) -> usize {
        (seq_len + 1).saturating_sub(self.n())
    }

    /// The hash of one window of n values (those after the n-th are not looked at).
    #[inline]
    pub fn hash_one(&self, window: impl IntoIterator<Item = u64>) -> u64 {
        let terms = self.coefficients.iter().zip(window).map(|(c, x)| c.wrapping_mul(x));
        finish(terms.fold(self.offset, u64::wrapping_add))
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
                let first = step_at * step + part * share;
                pairs.try_for_each(|(row, (tokens, out))| self.hash_part(tokens, out, place(first + row)))
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
                self.hash_part(&tokens[start..start + out.len() + self.n() - 1], out, place.after(start))
            })?;
            poll((step_at * step) as u64)?;
        }
        Ok(())
    }

    /// The hashes of a non-empty part on this thread.
    fn hash_part<T: Token>(&self, tokens: &[T], out: &mut [u64], place: Place) -> Result<()> {
        if out.len() < STREAM {
            return self.hash_blocks(tokens, out, false, place);
        }
        let head = simd::until_line(out);
        let (before, lines) = out.split_at_mut(head);
        self.hash_blocks(&tokens[..head + self.n() - 1], before, false, place)?;
        let result = self.hash_blocks(&tokens[head..], lines, true, place.after(head));
        simd::stream_fence();
        result
    }

    /// The hashes of a part, block by block.
    fn hash_blocks<T: Token>(&self, tokens: &[T], out: &mut [u64], stream: bool, place: Place) -> Result<()> {
        let rest = out.len();
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let start = block * BLOCK;
            let windows = &tokens[start..start + out.len() + self.n() - 1];
            validate_from(&windows[..out.len()], place.after(start))?;
            self.hash_block(windows, out, stream);
        }
        validate_from(&tokens[rest..], place.after(rest))
    }

    /// The hashes of `out.len() + n - 1` valid tokens; for blocks that stay in the first-level cache. With `stream` they
    /// are written past the caches.
    pub(crate) fn hash_block<T: Token>(&self, tokens: &[T], out: &mut [u64], stream: bool) {
        macro_rules! by_length {
            ($($n:literal)*) => {
                match self.n() {
                    $($n => self.level.run(Fused::<T, $n> { hasher: self, tokens, out, stream }),)*
                    _ => self.level.run(Long { hasher: self, tokens, out }),
                }
            };
        }
        by_length!(1 2 3 4 5 6 7 8);
    }
}

/// Windows of N tokens, N known to the compiler: one pass.
struct Fused<'a, T, const N: usize> {
    hasher: &'a NgramHasher,
    tokens: &'a [T],
    out: &'a mut [u64],
    stream: bool,
}

impl<T: Token, const N: usize> Kernel for Fused<'_, T, N> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut wide = [0; BLOCK + FUSED];
        if size_of::<T>() < size_of::<u32>() && self.tokens.len() <= wide.len() {
            // Widened once, not again for each window that a token stands in.
            for (wide, token) in wide.iter_mut().zip(self.tokens) {
                *wide = token.to_u64() as u32;
            }
            let Self { hasher, out, stream, .. } = self;
            Fused::<u32, N> { hasher, tokens: &wide[..self.tokens.len()], out, stream }.hash(isa);
        } else {
            self.hash(isa);
        }
    }
}

impl<T: Token, const N: usize> Fused<'_, T, N> {
    #[inline(always)]
    fn hash<I: Isa>(self, isa: I) {
        let offset = self.hasher.offset;
        let Some(coefficients) = self.hasher.coefficients.first_chunk::<N>() else { return };
        if !self.stream {
            return hash_windows(coefficients, offset, self.tokens, self.out);
        }
        // Few lines at a time, so that the processor writes some while it computes the next.
        let (head, middle, tail) = simd::lines(self.out);
        let (head_tokens, mut tokens) = (self.tokens, &self.tokens[head.len()..]);
        hash_windows(coefficients, offset, head_tokens, head);
        for lines in middle {
            let mut hashes = [0; LINES];
            hash_windows(coefficients, offset, &tokens[..LINES + N - 1], &mut hashes);
            isa.stream(lines, &hashes);
            tokens = &tokens[LINES..];
        }
        hash_windows(coefficients, offset, tokens, tail);
    }
}

#[inline(always)]
fn hash_windows<T: Token, const N: usize>(coefficients: &[u64; N], offset: u64, tokens: &[T], out: &mut [u64]) {
    for (hash, window) in out.iter_mut().zip(tokens.windows(N)) {
        *hash = finish(dot(coefficients, window, offset));
    }
}

/// Windows of any length: a pass for every eight tokens, then for each of the rest.
struct Long<'a, T> {
    hasher: &'a NgramHasher,
    tokens: &'a [T],
    out: &'a mut [u64],
}

impl<T: Token> Kernel for Long<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        self.out.fill(self.hasher.offset);
        let (eights, rest) = self.hasher.coefficients.as_chunks::<FUSED>();
        let mut tokens = self.tokens;
        for coefficients in eights {
            accumulate(coefficients, tokens, self.out);
            tokens = &tokens[FUSED..];
        }
        for coefficient in rest {
            accumulate(&[*coefficient], tokens, self.out);
            tokens = &tokens[1..];
        }
        for hash in self.out {
            *hash = finish(*hash);
        }
    }
}

#[inline(always)]
fn accumulate<T: Token, const N: usize>(coefficients: &[u64; N], tokens: &[T], sums: &mut [u64]) {
    for (sum, window) in sums.iter_mut().zip(tokens.windows(N)) {
        *sum = dot(coefficients, window, *sum);
    }
}

/// `start + Σ_j c_j·x_j mod 2^64`. Of tokens of 32 bits, the products with both halves of the coefficients are summed
/// apart, as processors multiply 32 bits by 32 at a time.
#[inline(always)]
fn dot<T: Token, const N: usize>(coefficients: &[u64; N], window: &[T], start: u64) -> u64 {
    let terms = coefficients.iter().zip(window).map(|(c, x)| (c, x.to_u64()));
    if T::WIDE {
        return terms.fold(start, |sum, (c, x)| sum.wrapping_add(c.wrapping_mul(x)));
    }
    let halves = terms.map(|(c, x)| ((c & LOW) * (x & LOW), (c >> 32) * (x & LOW)));
    let add = |sum: (u64, u64), term: (u64, u64)| (sum.0.wrapping_add(term.0), sum.1.wrapping_add(term.1));
    let (low, high) = halves.fold((start, 0), add);
    low.wrapping_add(high << 32)
}
