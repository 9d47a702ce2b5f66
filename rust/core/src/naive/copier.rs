//! The n-gram copy algorithm, position by position against all positions before it.

use crate::ngram::copier::{OnMiss, Policy};

/// Options of [`NaiveCopier::next`].
#[derive(Debug, Clone)]
pub struct NaiveCopier {
    /// Length of the key.
    pub n: usize,
    /// Which occurrence is followed.
    pub policy: Policy,
    /// What is said without one.
    pub on_miss: OnMiss,
    /// Tokens that nothing is copied across.
    pub boundaries: Vec<u32>,
    /// What is said in place of a boundary.
    pub end: Option<u32>,
}

impl NaiveCopier {
    /// The n tokens before a position; None at and before the nearest boundary.
    fn key(&self, tokens: &[u32], position: usize) -> Vec<Option<u32>> {
        let before = tokens[..position].iter().rev();
        let mut key: Vec<_> = before
            .take_while(|token| !self.boundaries.contains(token))
            .take(self.n)
            .map(|&token| Some(token))
            .collect();
        key.resize(self.n, None);
        key
    }

    /// What is said after `tokens`, of which the first `learned` are copied from: (token, source), -1 for none.
    #[must_use]
    pub fn next(&self, tokens: &[u32], learned: usize) -> (i64, i64) {
        let key = self.key(tokens, tokens.len());
        let mut followers: Vec<(i64, usize)> = Vec::new();
        for position in 0..learned.min(tokens.len()) {
            if self.key(tokens, position) != key {
                continue;
            }
            match (self.boundaries.contains(&tokens[position]), self.end) {
                (false, _) => followers.push((i64::from(tokens[position]), position)),
                (true, Some(end)) if position > 0 => followers.push((i64::from(end), position)),
                (true, _) => {}
            }
        }
        // Boundaries are one symbol, and the end another, even where its token also stands in the text.
        let symbol = |position: usize| {
            let token = tokens[position];
            if self.boundaries.contains(&token) { None } else { Some(token) }
        };
        let count = |position: usize| followers.iter().filter(|(_, p)| symbol(*p) == symbol(position)).count();
        let chosen = match self.policy {
            Policy::First => followers.first().copied(),
            Policy::Last => followers.last().copied(),
            // Of the highest count, the earliest.
            Policy::MostFrequent => followers.iter().copied().rev().max_by_key(|&(_, position)| count(position)),
        };
        match (chosen, self.on_miss, tokens.last()) {
            (Some((token, source)), _, _) => (token, source as i64),
            (None, OnMiss::Token(token), _) => (i64::from(token), -1),
            (None, OnMiss::Repeat, Some(last)) if !self.boundaries.contains(last) => (i64::from(*last), -1),
            (None, _, _) => (-1, -1),
        }
    }
}
