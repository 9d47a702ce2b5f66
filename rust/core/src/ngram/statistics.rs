//! N-grams of a text: how many, how often, and within how many tokens one comes again.
//!
//! Memory besides the text: an index of 8 bytes a slot, at most 3.4 slots for each distinct n-gram (1.7 once the text is
//! known to be mostly new), and 8 bytes for each distinct n-gram where they are counted.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::hash::{NgramHasher, Token};
use super::index::{Index, MAX_POSITIONS};
use crate::sample::{self, Rows};
use crate::{Error, Poll, Result, parallel};

/// N-grams hashed at a time.
const BLOCK: usize = 1024;

/// How far ahead of their use slots are asked for.
const AHEAD: usize = 12;

/// Blocks between two polls.
const BLOCKS_PER_POLL: usize = 1 << 10;

/// Counts of the n-grams of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NgramStatistics {
    /// All n-grams.
    pub total: u64,
    /// Different ones.
    pub distinct: u64,
    /// Different ones that occur at least twice.
    pub repeated: u64,
    /// All n-grams that occur at least twice.
    pub occurrences_of_repeated: u64,
    /// Occurrences of the most frequent one; 0 where there is none.
    pub most_common: u64,
}

impl NgramStatistics {
    /// The counts of other n-grams added.
    fn plus(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            distinct: self.distinct + other.distinct,
            repeated: self.repeated + other.repeated,
            occurrences_of_repeated: self.occurrences_of_repeated + other.occurrences_of_repeated,
            most_common: self.most_common.max(other.most_common),
        }
    }
}

/// Windows of one length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Windows {
    /// Those in which some n-gram occurs at least twice.
    pub repeating: u64,
    /// All that were looked at.
    pub total: u64,
}

/// Calls `visit(index, position, hash)` for each n-gram of valid tokens until it says false.
fn scan<T: Token>(
    tokens: &[T],
    hasher: &NgramHasher,
    index: &mut Index,
    poll: Poll<'_>,
    mut visit: impl FnMut(&mut Index, usize, u64) -> Result<bool>,
) -> Result<()> {
    let (n, count) = (hasher.n(), hasher.count(tokens.len()));
    let mut values = vec![0; BLOCK.min(count)];
    for (block, start) in (0..count).step_by(BLOCK).enumerate() {
        if block % BLOCKS_PER_POLL == 0 {
            poll(start as u64)?;
        }
        let values = &mut values[..BLOCK.min(count - start)];
        hasher.hash_into(&tokens[start..start + values.len() + n - 1], values, 1)?;
        for (at, &hash) in values.iter().enumerate() {
            index.prefetch(values[(at + AHEAD).min(values.len() - 1)]);
            if !visit(index, start + at, hash)? {
                return Ok(());
            }
        }
    }
    poll(count as u64)
}

#[inline]
fn equal<T: Token>(tokens: &[T], n: usize, a: usize, b: usize) -> bool {
    let pairs = tokens[a..a + n].iter().zip(&tokens[b..b + n]);
    pairs.into_iter().all(|(a, b)| a.to_u64() == b.to_u64())
}

fn check<T: Token>(tokens: &[T], n: usize) -> Result<NgramHasher> {
    if tokens.len() > MAX_POSITIONS {
        return Err(Error::memory(format!("{} tokens: at most {MAX_POSITIONS} are counted", tokens.len())));
    }
    let hasher = NgramHasher::new(n, 0)?;
    if hasher.count(tokens.len()) == 0 {
        T::validate(tokens)?;
    }
    Ok(hasher)
}

/// Counts the n-grams of a text. Each thread counts those whose hashes are in its share, so that threads share nothing.
pub fn ngram_statistics<T: Token>(tokens: &[T], n: usize, threads: usize, poll: Poll<'_>) -> Result<NgramStatistics> {
    parallel::check(threads)?;
    let hasher = check(tokens, n)?;
    let stopped = AtomicBool::new(false);
    let stop = || if stopped.load(Relaxed) { Err(Error::Interrupted) } else { Ok(()) };
    let count = |share, poll: Poll<'_>| {
        let result = count_share(tokens, &hasher, share, threads, poll);
        stopped.fetch_or(result.is_err(), Relaxed);
        result
    };
    std::thread::scope(|scope| {
        let (count, stop) = (&count, &stop);
        let others = (1..threads).map(|share| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, move || count(share, &|_| stop()));
            thread.map_err(|error| Error::memory(format!("cannot start {threads} threads: {error}")))
        });
        let others: Result<Vec<_>> = others.collect();
        stopped.fetch_or(others.is_err(), Relaxed);
        // The calling thread counts too: it is the one that may poll.
        let mut sum = count(0, &|done| stop().and_then(|()| poll(done)));
        for other in others? {
            sum = match (sum, other.join().unwrap_or(Err(Error::Interrupted))) {
                (Ok(sum), Ok(other)) => Ok(sum.plus(other)),
                // Of two failures, that which is not a consequence of another.
                (Err(Error::Interrupted) | Ok(_), Err(error)) | (Err(error), _) => Err(error),
            };
        }
        sum
    })
}

/// Counts the n-grams whose hashes are in one of `shares` equal ranges.
fn count_share<T: Token>(
    tokens: &[T],
    hasher: &NgramHasher,
    share: usize,
    shares: usize,
    poll: Poll<'_>,
) -> Result<NgramStatistics> {
    let n = hasher.n();
    let mut index = Index::new(MAX_POSITIONS)?;
    // The index holds numbers of keys, not positions: for each its first position and its count.
    let mut keys: Vec<(u32, u32)> = Vec::new();
    scan(tokens, hasher, &mut index, poll, |index, position, hash| {
        let product = u128::from(hash) * shares as u128;
        if (product >> 64) as usize != share {
            return Ok(true);
        }
        // Slots are found by the high bits of a hash: those of a share are spread again.
        let same = |key: usize| equal(tokens, n, keys[key].0 as usize, position);
        match index.get_or_insert(product as u64, keys.len(), same)?.1 {
            Some(key) => keys[key].1 += 1,
            None => keys.push((position as u32, 1)),
        }
        Ok(true)
    })?;
    let each = keys.iter().map(|&(_, count)| u64::from(count)).map(|count| {
        let repeated = count > 1;
        NgramStatistics {
            total: count,
            distinct: 1,
            repeated: u64::from(repeated),
            occurrences_of_repeated: if repeated { count } else { 0 },
            most_common: count,
        }
    });
    Ok(each.fold(NgramStatistics::default(), NgramStatistics::plus))
}

/// Of all windows of each length, those in which some n-gram occurs at least twice: one pass over the text.
///
/// A window that ends with the n-gram at i has a repeat exactly when it begins at or before the latest earlier occurrence
/// of any n-gram up to i.
pub fn repeat_windows<T: Token>(tokens: &[T], n: usize, lengths: &[usize], poll: Poll<'_>) -> Result<Vec<Windows>> {
    let hasher = check(tokens, n)?;
    let total = |length: usize| (tokens.len() + 1).saturating_sub(length.max(1)) as u64;
    let mut windows: Vec<Windows> =
        lengths.iter().map(|&length| Windows { repeating: 0, total: total(length) }).collect();
    // How many tokens before an n-gram a window of each length begins; lengths that hold no n-gram have none.
    let before: Vec<usize> = lengths.iter().map(|&length| length.checked_sub(n).unwrap_or(usize::MAX)).collect();
    let mut index = Index::new(tokens.len())?;
    let mut latest = None;
    scan(tokens, &hasher, &mut index, poll, |index, position, hash| {
        let (slot, found) = index.get_or_insert(hash, position, |other| equal(tokens, n, other, position))?;
        if found.is_some() {
            index.set(slot, position);
        }
        latest = latest.max(found);
        if let Some(latest) = latest {
            for (windows, &before) in windows.iter_mut().zip(&before) {
                windows.repeating += u64::from(position >= before && position - before <= latest);
            }
        }
        Ok(true)
    })?;
    Ok(windows)
}

/// [`repeat_windows`] on `samples` windows of each length, drawn with replacement: in memory for one window.
pub fn sampled_repeat_windows<T: Token>(
    tokens: &[T],
    n: usize,
    lengths: &[usize],
    samples: usize,
    seed: u64,
    poll: Poll<'_>,
) -> Result<Vec<Windows>> {
    let hasher = check(tokens, n)?;
    let mut done = 0;
    let mut draw = |&length: &usize| {
        let places = (tokens.len() + 1).saturating_sub(length.max(1));
        let mut windows = Windows::default();
        if places == 0 {
            return Ok(windows);
        }
        for first in (0..samples).step_by(BLOCK) {
            let mut starts = vec![0; BLOCK.min(samples - first)];
            let rows = Rows { seed, stream: length as u64, start: first as u64 };
            sample::integers(rows, 0, places as i64, 1, &mut starts)?;
            for start in starts {
                let window = &tokens[start as usize..start as usize + length];
                windows.total += 1;
                windows.repeating += u64::from(first_pair(window, &hasher, &|_| Ok(()), |_, _| true)?.is_some());
            }
            done += (length * BLOCK) as u64;
            poll(done)?;
        }
        Ok(windows)
    };
    lengths.iter().map(&mut draw).collect()
}

/// The first two starts of equal n-grams: the later start is the smallest of all.
pub fn first_repeat<T: Token>(tokens: &[T], n: usize, poll: Poll<'_>) -> Result<Option<(usize, usize)>> {
    first_pair(tokens, &check(tokens, n)?, poll, |_, _| true)
}

/// Positions of the first two tokens that differ after equal n-grams: the later one is the smallest of all, the earlier
/// one follows the first occurrence.
pub fn first_conflict<T: Token>(tokens: &[T], n: usize, poll: Poll<'_>) -> Result<Option<(usize, usize)>> {
    let hasher = check(tokens, n)?;
    // The last n-gram has no successor: it cannot disagree.
    let token = |start: usize| tokens.get(start + n).map(|token| token.to_u64());
    let pair =
        first_pair(tokens, &hasher, poll, |earlier, later| token(later).is_some_and(|t| token(earlier) != Some(t)))?;
    Ok(pair.map(|(earlier, later)| (earlier + n, later + n)))
}

/// The first occurrence of an n-gram and the first later one of which `ends` is true.
fn first_pair<T: Token>(
    tokens: &[T],
    hasher: &NgramHasher,
    poll: Poll<'_>,
    ends: impl Fn(usize, usize) -> bool,
) -> Result<Option<(usize, usize)>> {
    let n = hasher.n();
    // No limit: the index grows with what is read, which may be little.
    let limit = if tokens.len() < BLOCK { tokens.len() } else { MAX_POSITIONS };
    let mut index = Index::new(limit)?;
    let mut pair = None;
    scan(tokens, hasher, &mut index, poll, |index, position, hash| {
        let found = index.get_or_insert(hash, position, |other| equal(tokens, n, other, position))?.1;
        pair = found.filter(|&earlier| ends(earlier, position)).map(|earlier| (earlier, position));
        Ok(pair.is_none())
    })?;
    Ok(pair)
}
