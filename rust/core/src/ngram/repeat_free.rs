//! How likely an n-gram of a uniform string repeats, by Knuth's estimator.
//!
//! A string is grown token by token. Where the last n - 1 tokens stood before, the tokens that followed them then are
//! *forbidden*: each would repeat an n-gram. Of D tokens c are forbidden (nearly always none): a uniform token repeats
//! nothing with probability 1 - c/D, and the string goes on with one of the D - c others, each equally likely. The product
//! of these factors has mean P(no n-gram of L tokens repeats) over such strings, for every L at once, and varies little:
//! it is the weight of importance sampling, exact for every number of samples (Knuth 1975, "Estimating the efficiency of
//! backtrack programs", <https://doi.org/10.2307/2005469>).
//!
//! (n-1)-grams are found by their hash and compared token by token: a collision of hashes costs time alone.

use std::collections::HashMap;

use super::hash::{MAX_N, NgramHasher};
use super::index::{Index, MAX_POSITIONS};
use crate::sample::{self, Rows};
use crate::{Error, Poll, Result, parallel};

/// Tokens drawn at a time. Rows of so many are one part of what determines a string.
pub const BLOCK: usize = 1024;

/// How far ahead of their use slots are asked for.
const AHEAD: usize = 12;

/// Tokens of a thread between two polls, roughly.
const TOKENS_PER_POLL: usize = 1 << 22;

/// A place of a string where some next tokens would repeat an n-gram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Tokens before it.
    pub position: u32,
    /// How many of the next tokens are forbidden; if all are, the string ends here.
    pub forbidden: u32,
}

/// Grows strings `start … start + count - 1` to `length` tokens of `0..vocab_size` without a repeated n-gram; gives the
/// events of each in order.
///
/// String i is a function of the seed, `stream + i`, `vocab_size` and n alone: what is grown further begins the same. Tokens
/// are those of [`sample::uniform`], rows of [`BLOCK`]; a forbidden one at a position is replaced by the allowed one, in
/// order of their values, that [`sample::integers`] draws as the row of that position.
pub fn repeat_free(
    rows: Rows,
    count: usize,
    n: usize,
    vocab_size: u64,
    length: usize,
    threads: usize,
    poll: Poll<'_>,
) -> Result<Vec<Vec<Event>>> {
    parallel::check(threads)?;
    if !(1..=MAX_N).contains(&n) {
        return Err(Error::value(format!("n is {n}; it must be 1 to {MAX_N}")));
    }
    if length > MAX_POSITIONS {
        return Err(Error::memory(format!("length is {length}; strings of at most {MAX_POSITIONS} tokens are grown")));
    }
    if vocab_size == 0 || vocab_size > sample::TOTAL {
        return Err(Error::value(format!("vocab_size must be 1 to 2^32, not {vocab_size}")));
    }
    if n == 1 {
        // Every token so far is forbidden, whatever they are.
        let last = (length as u64).min(vocab_size + 1);
        let events: Vec<_> = (1..last as u32).map(|used| Event { position: used, forbidden: used }).collect();
        return Ok(vec![events; count]);
    }
    let hasher = NgramHasher::new(n - 1, 0)?;
    let mut found = vec![Vec::new(); count];
    let per_poll = threads * (TOKENS_PER_POLL / length.max(1)).clamp(1, BLOCK);
    for (part, strings) in found.chunks_mut(per_poll).enumerate() {
        let first = part * per_poll;
        let items: Vec<_> = strings.iter_mut().enumerate().collect();
        parallel::for_each(threads, items, |(at, events)| {
            let number = rows.start.wrapping_add((first + at) as u64);
            let string = Rows { stream: rows.stream.wrapping_add(number), start: 0, ..rows };
            *events = grow(string, &hasher, vocab_size, length)?;
            Ok(())
        })?;
        poll((first + strings.len()) as u64)?;
    }
    Ok(found)
}

/// The events of one string.
fn grow(string: Rows, hasher: &NgramHasher, vocab_size: u64, length: usize) -> Result<Vec<Event>> {
    let before = hasher.n();
    let mut events = Vec::new();
    let mut tokens = vec![0_u32; length.next_multiple_of(BLOCK)];
    let mut codes = [0; BLOCK];
    // The latest start of each (n-1)-gram, and of each start the one before it of the same (n-1)-gram.
    let mut index = Index::new(length)?;
    let mut earlier: HashMap<usize, usize> = HashMap::new();
    let mut forbidden: Vec<u32> = Vec::new();
    for begin in (0..length).step_by(BLOCK) {
        let end = length.min(begin + BLOCK);
        let block = Rows { start: (begin / BLOCK) as u64, ..string };
        sample::uniform(block, BLOCK, vocab_size, 1, &mut tokens[begin..begin + BLOCK])?;
        let first = begin.max(before);
        if first >= end {
            continue;
        }
        let codes = &mut codes[..end - first];
        hasher.hash_into(&tokens[first - before..end - 1], codes, 1)?;
        for position in first..end {
            let at = position - first;
            index.prefetch(codes[(at + AHEAD).min(codes.len() - 1)]);
            let start = position - before;
            let equal = |other: usize| tokens[other..other + before] == tokens[start..position];
            let (slot, found) = index.get_or_insert(codes[at], start, equal)?;
            let Some(found) = found else { continue };
            forbidden.clear();
            let occurrences = std::iter::successors(Some(found), |start| earlier.get(start).copied());
            forbidden.extend(occurrences.map(|start| tokens[start + before]));
            events.push(Event { position: position as u32, forbidden: forbidden.len() as u32 });
            let allowed = vocab_size - forbidden.len() as u64;
            if allowed == 0 {
                return Ok(events);
            }
            index.set(slot, start);
            earlier.insert(start, found);
            if forbidden.contains(&tokens[position]) {
                forbidden.sort_unstable();
                let mut rank = [0];
                let row = Rows { start: position as u64, ..string };
                sample::integers(row, 0, allowed as i64, 1, &mut rank)?;
                tokens[position] = nth_allowed(rank[0] as u32, &forbidden);
                // (n-1)-grams that hold the new token.
                let changed = at + 1..codes.len().min(at + 1 + before);
                if !changed.is_empty() {
                    hasher.hash_into(
                        &tokens[start + 1..start + changed.end - at - 1 + before],
                        &mut codes[changed],
                        1,
                    )?;
                }
            }
        }
    }
    Ok(events)
}

/// The token with so many allowed ones below it; `forbidden` is in order.
fn nth_allowed(rank: u32, forbidden: &[u32]) -> u32 {
    forbidden.iter().fold(rank, |token, &other| token + u32::from(other <= token))
}
