//! The table of a text: n-gram → next token.

use std::str::FromStr;

use super::hash::{NgramHasher, Token};
use super::index::{Index, Keys, MAX_POSITIONS, REGION, Slot};
use crate::simd::{self, Zeroed};
use crate::{Error, Poll, Result};

/// N-grams of a step of the bulk insertion, which has three steps under way.
const BLOCK: usize = 64;

/// N-grams between two polls.
const POLL_EVERY: usize = 1 << 20;

/// N-grams from which on the index of a text is far larger than the caches.
const MANY: usize = 1 << 21;

/// N-grams that tell whether most are new.
const SAMPLE: usize = 1 << 17;

/// Which next token a table gives for an n-gram that occurs more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// That of the first occurrence.
    First,
    /// That of the last occurrence.
    Last,
    /// The most frequent one; of equally frequent ones, that which came first.
    MostFrequent,
    /// That of the first occurrence; all occurrences can be listed.
    Positions,
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "first" => Ok(Self::First),
            "last" => Ok(Self::Last),
            "most_frequent" => Ok(Self::MostFrequent),
            "positions" => Ok(Self::Positions),
            _ => Err(Error::value(format!(
                "policy is {name:?}; it must be \"first\", \"last\", \"most_frequent\" or \"positions\""
            ))),
        }
    }
}

/// Map from the n-grams of a text to their next tokens.
#[derive(Debug, Clone)]
pub struct NgramTable {
    hasher: NgramHasher,
    policy: Policy,
    verify: bool,
    tokens: Zeroed<u32>,
    /// N-gram → where its window starts: at the occurrence that is asked for; with positions at the last.
    index: Index,
    /// With positions: for each window the start of the next equal one, for the last the first. Otherwise empty.
    next: Zeroed<u32>,
}

impl NgramTable {
    /// The table of `tokens`, at least n of them.
    ///
    /// Without `verify` the tokens of n-grams are not compared: n-grams that agree in [`Index::tag_bits`] bits of their
    /// hashes are one.
    pub fn new<T: Token>(
        tokens: &[T],
        n: usize,
        policy: Policy,
        verify: bool,
        seed: u64,
        poll: Poll<'_>,
    ) -> Result<Self> {
        let hasher = NgramHasher::new(n, seed)?;
        if tokens.len() < n {
            return Err(Error::value(format!("{} tokens; a table with n = {n} needs at least {n}", tokens.len())));
        }
        if tokens.len() > MAX_POSITIONS {
            return Err(Error::memory(format!("{} tokens; a table takes at most {MAX_POSITIONS}", tokens.len())));
        }
        T::validate(tokens)?;
        let mut own = Zeroed::new(tokens.len())?;
        for (own, token) in own.iter_mut().zip(tokens) {
            *own = token.to_u64() as u32;
        }
        let windows = own.len() - n;
        let mut table =
            Self { hasher, policy, verify, tokens: own, index: Index::new(windows)?, next: Zeroed::new(0)? };
        match policy {
            Policy::First => table.build_first_or_last(false, poll)?,
            Policy::Last => table.build_first_or_last(true, poll)?,
            Policy::MostFrequent => table.build_most_frequent(seed, poll)?,
            Policy::Positions => table.build_positions(poll)?,
        }
        Ok(table)
    }

    /// Gives each n-gram its first or last occurrence.
    fn build_first_or_last(&mut self, last: bool, poll: Poll<'_>) -> Result<()> {
        let windows = &self.tokens[..self.tokens.len() - 1];
        let count = self.hasher.count(windows.len());
        let touch = |_| ();
        let take_last = move |index: &mut Index, slot, start, found: Option<usize>| {
            if last && found.is_some() {
                index.set(slot, start);
            }
        };
        if count >= MANY {
            let sampled = &windows[..SAMPLE + self.n() - 1];
            let mut sample = Index::new(SAMPLE)?;
            insert_windows(sampled, &self.hasher, &mut sample, self.verify, touch, take_last, poll)?;
            if sample.len() * 2 > SAMPLE {
                drop(sample);
                return fill_with_windows(windows, &self.hasher, &mut self.index, self.verify, last, poll);
            }
        }
        self.build(touch, take_last, poll)
    }

    fn build(
        &mut self,
        touch: impl FnMut(usize),
        visit: impl FnMut(&mut Index, Slot, usize, Option<usize>),
        poll: Poll<'_>,
    ) -> Result<()> {
        // The last window has no next token.
        let windows = &self.tokens[..self.tokens.len() - 1];
        insert_windows(windows, &self.hasher, &mut self.index, self.verify, touch, visit, poll)
    }

    /// Counts each (n+1)-gram at its first occurrence, then gives each n-gram the first occurrence of its best one.
    fn build_most_frequent(&mut self, seed: u64, poll: Poll<'_>) -> Result<()> {
        let windows = self.tokens.len() - self.n();
        let longer = NgramHasher::new(self.n() + 1, seed)?;
        let mut longer_index = Index::new(windows)?;
        let mut firsts = Zeroed::<u32>::new(windows)?;
        let mut counts = Zeroed::<u32>::new(windows)?;
        let count = |_: &mut Index, _, start: usize, found: Option<usize>| {
            let first = found.unwrap_or(start);
            firsts[start] = first as u32;
            counts[first] += 1;
        };
        insert_windows(&self.tokens, &longer, &mut longer_index, self.verify, |_| (), count, poll)?;
        drop(longer_index);
        let take_better = |index: &mut Index, slot, start: usize, found: Option<usize>| {
            let first = firsts[start] as usize;
            let rank = |start: usize| (counts[start], usize::MAX - start);
            if found.is_some_and(|best| rank(first) > rank(best)) {
                index.set(slot, first);
            }
        };
        self.build(|start| simd::prefetch(&counts, start), take_better, poll)
    }

    /// Links the occurrences of each n-gram in a ring.
    fn build_positions(&mut self, poll: Poll<'_>) -> Result<()> {
        let mut next = Zeroed::<u32>::new(self.tokens.len() - self.n())?;
        let cells = std::cell::Cell::from_mut(&mut next[..]).as_slice_of_cells();
        let link = |index: &mut Index, slot, start: usize, found: Option<usize>| {
            let last = found.unwrap_or(start);
            cells[start].set(if found.is_some() { cells[last].get() } else { start as u32 });
            cells[last].set(start as u32);
            index.set(slot, start);
        };
        self.build(|start| simd::prefetch(cells, start), link, poll)?;
        self.next = next;
        Ok(())
    }

    /// The length of the n-grams.
    #[must_use]
    pub fn n(&self) -> usize {
        self.hasher.n()
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Number of distinct n-grams that have a next token.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no n-gram has a next token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Number of slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.index.capacity()
    }

    /// Bytes held: slots, tokens, links and coefficients.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.index.nbytes() + self.tokens.nbytes() + self.next.nbytes() + self.hasher.nbytes()
    }

    /// The next token of an n-gram.
    pub fn next_token<T: Token>(&self, ngram: &[T]) -> Result<Option<u32>> {
        Ok(self.source(ngram)?.map(|source| self.tokens[source]))
    }

    /// The position of the token that [`Self::next_token`] gives.
    pub fn source<T: Token>(&self, ngram: &[T]) -> Result<Option<usize>> {
        Ok(self.start(ngram)?.map(|start| self.answer(start)))
    }

    /// With [`Policy::Positions`]: the positions of the tokens after all occurrences of an n-gram, ascending.
    pub fn positions<T: Token>(&self, ngram: &[T]) -> Result<Vec<usize>> {
        if self.policy != Policy::Positions {
            return Err(Error::value("positions are kept by a table with policy \"positions\" alone"));
        }
        let Some(last) = self.start(ngram)? else { return Ok(Vec::new()) };
        let mut positions = Vec::new();
        let mut start = last;
        loop {
            start = self.next[start] as usize;
            positions.push(start + self.n());
            if start == last {
                return Ok(positions);
            }
        }
    }

    /// The next token of each row of `ngrams`, an array of shape (`out.len()`, n); `missing` for those not in the table.
    pub fn next_tokens<T: Token>(&self, ngrams: &[T], missing: i64, out: &mut [i64], poll: Poll<'_>) -> Result<()> {
        let n = self.n();
        if ngrams.len() != n * out.len() {
            return Err(Error::value(format!("{} tokens are not {} n-grams of {n}", ngrams.len(), out.len())));
        }
        T::validate(ngrams)?;
        let mut hashes = [0; BLOCK];
        for (block, (ngrams, out)) in ngrams.chunks(BLOCK * n).zip(out.chunks_mut(BLOCK)).enumerate() {
            if (block * BLOCK).is_multiple_of(POLL_EVERY) {
                poll((block * BLOCK) as u64)?;
            }
            let rows = || ngrams.chunks_exact(n);
            for (hash, row) in hashes.iter_mut().zip(rows()) {
                *hash = self.hasher.hash_one(row.iter().map(|token| token.to_u64()));
                self.index.prefetch(*hash);
            }
            for (hash, _) in hashes.iter().zip(rows()) {
                if let Some(start) = self.index.peek(*hash).1 {
                    simd::prefetch(&self.tokens, start);
                }
            }
            for ((out, row), hash) in out.iter_mut().zip(rows()).zip(&hashes) {
                let start = self.index.get(*hash, |start| self.is_at(row, start));
                *out = start.map_or(missing, |start| i64::from(self.tokens[self.answer(start)]));
            }
        }
        Ok(())
    }

    /// Where the window of an n-gram starts, as the index has it.
    fn start<T: Token>(&self, ngram: &[T]) -> Result<Option<usize>> {
        if ngram.len() != self.n() {
            return Err(Error::value(format!("an n-gram of {} tokens; the table has n = {}", ngram.len(), self.n())));
        }
        T::validate(ngram)?;
        let hash = self.hasher.hash_one(ngram.iter().map(|token| token.to_u64()));
        Ok(self.index.get(hash, |start| self.is_at(ngram, start)))
    }

    fn is_at<T: Token>(&self, ngram: &[T], start: usize) -> bool {
        let window = &self.tokens[start..start + ngram.len()];
        !self.verify || window.iter().zip(ngram).all(|(own, token)| u64::from(*own) == token.to_u64())
    }

    /// The position of the token that is given for a window that the index has.
    fn answer(&self, start: usize) -> usize {
        let start = if self.policy == Policy::Positions { self.next[start] as usize } else { start };
        start + self.n()
    }
}

/// Calls `$work` with the comparison of the windows at two positions, compiled for their length where it is small.
macro_rules! compare {
    ($tokens:expr, $n:expr, $verify:expr, |$equal:ident| $work:expr) => {
        compare!($tokens, $n, $verify, |$equal| $work, 1 2 3 4 5 6 7 8)
    };
    ($tokens:expr, $n:expr, $verify:expr, |$equal:ident| $work:expr, $($length:literal)*) => {
        match ($verify, $n) {
            (false, _) => {
                let $equal = |_, _| true;
                $work
            }
            $((true, $length) => {
                let window = |start: usize| $tokens[start..].first_chunk::<$length>();
                let $equal = |a, b| window(a) == window(b);
                $work
            })*
            (true, n) => {
                let window = |start: usize| &$tokens[start..start + n];
                let $equal = |a, b| window(a) == window(b);
                $work
            }
        }
    };
}

/// Inserts every window of `tokens` in order, with the position at which it starts.
///
/// `visit` is called for each with its slot, its start and the start that the index had for an equal window. `touch` is
/// called ahead of that with a start that the index is likely to have, to fetch what `visit` needs.
pub fn insert_windows(
    tokens: &[u32],
    hasher: &NgramHasher,
    index: &mut Index,
    verify: bool,
    touch: impl FnMut(usize),
    visit: impl FnMut(&mut Index, Slot, usize, Option<usize>),
    poll: Poll<'_>,
) -> Result<()> {
    compare!(tokens, hasher.n(), verify, |equal| insert_blocks(tokens, hasher, index, equal, touch, visit, poll))
}

/// The first or last of equal windows into an empty index, which is large from the start.
fn fill_with_windows(
    tokens: &[u32],
    hasher: &NgramHasher,
    index: &mut Index,
    verify: bool,
    last: bool,
    poll: Poll<'_>,
) -> Result<()> {
    let count = hasher.count(tokens.len());
    compare!(tokens, hasher.n(), verify, |equal| {
        index.fill(count, last, REGION, &Windows { tokens, hasher, equal }, poll)
    })
}

/// The windows of a text, as keys of an index.
struct Windows<'a, E> {
    tokens: &'a [u32],
    hasher: &'a NgramHasher,
    equal: E,
}

impl<E: Fn(usize, usize) -> bool> Keys for Windows<'_, E> {
    fn hashes(&self, first: usize, out: &mut [u64]) {
        self.hasher.hash_valid(&self.tokens[first..], out);
    }

    #[inline(always)]
    fn equal(&self, one: usize, other: usize) -> bool {
        (self.equal)(one, other)
    }

    #[inline(always)]
    fn prefetch(&self, one: usize, other: usize) {
        for start in [one, other] {
            simd::prefetch(self.tokens, start);
            simd::prefetch(self.tokens, start + self.hasher.n() - 1);
        }
    }
}

fn insert_blocks(
    tokens: &[u32],
    hasher: &NgramHasher,
    index: &mut Index,
    equal: impl Fn(usize, usize) -> bool,
    mut touch: impl FnMut(usize),
    mut visit: impl FnMut(&mut Index, Slot, usize, Option<usize>),
    poll: Poll<'_>,
) -> Result<()> {
    let count = hasher.count(tokens.len());
    let overlap = hasher.n() - 1;
    // Three blocks are under way at a time, an n-gram of each in turn: of the newest the slots are fetched from memory, of
    // the one before the tokens of likely matches; the oldest is inserted.
    let mut ring = [[0; BLOCK]; 3];
    let mut paths = [[0; BLOCK]; 2];
    let mut capacity = index.capacity();
    for block in 0..count.div_ceil(BLOCK) + 2 {
        if (block * BLOCK).is_multiple_of(POLL_EVERY) {
            poll((block * BLOCK) as u64)?;
        }
        let first = (block * BLOCK).min(count);
        let len = BLOCK.min(count - first);
        if len > 0 {
            hasher.hash_valid(&tokens[first..], &mut ring[block % 3][..len]);
        }
        // A path holds as long as the slots are where they were.
        let grew = index.capacity() != capacity;
        capacity = index.capacity();
        for i in 0..BLOCK {
            index.prefetch(ring[block % 3][i]);
            if block >= 1 {
                let (path, likely) = index.peek(ring[(block - 1) % 3][i]);
                paths[block % 2][i] = path;
                if let Some(start) = likely {
                    simd::prefetch(tokens, start);
                    simd::prefetch(tokens, start + overlap);
                    touch(start);
                }
            }
            let start = (block * BLOCK + i).wrapping_sub(2 * BLOCK);
            if start < count {
                let hash = ring[(block - 2) % 3][i];
                let same = |other| equal(other, start);
                let (slot, found) = if grew || index.capacity() != capacity {
                    index.get_or_insert(hash, start, same)?
                } else {
                    index.get_or_insert_from(paths[(block - 1) % 2][i], hash, start, same)?
                };
                visit(index, slot, start, found);
            }
        }
    }
    Ok(())
}
