//! Statistics of n-grams with maps of whole n-grams and every window on its own.

use std::collections::HashMap;

use crate::ngram::statistics::{NgramStatistics, Windows};

/// Counts of the n-grams of a text.
#[must_use]
pub fn ngram_statistics(tokens: &[u32], n: usize) -> NgramStatistics {
    let mut counts: HashMap<&[u32], u64> = HashMap::new();
    for ngram in tokens.windows(n) {
        *counts.entry(ngram).or_default() += 1;
    }
    let repeated: Vec<u64> = counts.values().copied().filter(|&count| count > 1).collect();
    NgramStatistics {
        total: counts.values().sum(),
        distinct: counts.len() as u64,
        repeated: repeated.len() as u64,
        occurrences_of_repeated: repeated.iter().sum(),
        most_common: counts.values().copied().max().unwrap_or(0),
    }
}

/// Windows of a length in which some n-gram occurs at least twice.
#[must_use]
pub fn repeat_windows(tokens: &[u32], n: usize, length: usize) -> Windows {
    let mut windows = Windows::default();
    for window in tokens.windows(length) {
        windows.total += 1;
        windows.repeating += u64::from(first_repeat(window, n).is_some());
    }
    windows
}

/// Starts of the first two equal n-grams.
#[must_use]
pub fn first_repeat(tokens: &[u32], n: usize) -> Option<(usize, usize)> {
    let ngrams: Vec<_> = tokens.windows(n).collect();
    (0..ngrams.len()).find_map(|later| Some(((0..later).find(|&earlier| ngrams[earlier] == ngrams[later])?, later)))
}

/// Positions of the first two different tokens after equal n-grams.
#[must_use]
pub fn first_conflict(tokens: &[u32], n: usize) -> Option<(usize, usize)> {
    let key = |position: usize| &tokens[position - n..position];
    (n..tokens.len()).find_map(|later| {
        let conflicts = |&earlier: &usize| key(earlier) == key(later) && tokens[earlier] != tokens[later];
        Some(((n..later).find(conflicts)?, later))
    })
}
