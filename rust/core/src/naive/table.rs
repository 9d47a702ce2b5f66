//! N-gram tables as maps of the standard library.

use std::collections::HashMap;

/// The positions of the tokens after each n-gram, ascending.
#[must_use]
pub fn positions(tokens: &[u64], n: usize) -> HashMap<Vec<u64>, Vec<usize>> {
    let mut positions: HashMap<Vec<u64>, Vec<usize>> = HashMap::new();
    for next in n..tokens.len() {
        positions.entry(tokens[next - n..next].to_vec()).or_default().push(next);
    }
    positions
}

/// Of the positions of one n-gram, the first whose token is the most frequent one; of equally frequent ones the earliest.
#[must_use]
pub fn most_frequent(tokens: &[u64], positions: &[usize]) -> Option<usize> {
    let count = |at: usize| positions.iter().filter(|other| tokens[**other] == tokens[at]).count();
    let most = positions.iter().map(|at| count(*at)).max()?;
    positions.iter().copied().find(|at| count(*at) == most)
}

/// A bounded table as a list of slots; `slot` and `key` give those of an n-gram.
#[must_use]
pub fn bounded(
    tokens: &[u64],
    n: usize,
    slots: usize,
    overwrite: bool,
    slot: impl Fn(&[u64]) -> usize,
    key: impl Fn(&[u64]) -> u64,
) -> Vec<Option<(u64, u64)>> {
    let mut table = vec![None; slots];
    for next in n..tokens.len() {
        let ngram = &tokens[next - n..next];
        if table[slot(ngram)].is_none() || overwrite {
            table[slot(ngram)] = Some((key(ngram), tokens[next]));
        }
    }
    table
}
