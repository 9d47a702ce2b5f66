//! The n-gram copy algorithm over the whole context (THEORY: hash-based copying).
//!
//! The *key* of a position is the n symbols before it, where everything at and before the nearest boundary counts as
//! boundary: right after `<bos>` and right after `<copy>` the key is the same, so that the first n tokens come out right.
//! An index maps each key to the token that followed it, and what follows the present key is said next.

use super::hash::{BOUNDARY, NgramHasher, Token, mix};
use super::index::{Index, MAX_POSITIONS};
use super::marks::{Copier, Marks, reserve};
use super::state::{Kind, Reader, Writer, bits_for};
use crate::{Error, Result};

/// Symbols hashed at a time.
const BLOCK: usize = 1024;

/// How far ahead of their use slots are asked for.
const AHEAD: usize = 8;

/// Which of several occurrences of a key is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The first.
    First,
    /// The last.
    Last,
    /// That of the token that followed most often; ties to the token that followed first.
    MostFrequent,
}

/// What is said where the key was never seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMiss {
    /// Nothing; free generation stops.
    Stop,
    /// The last token again; nothing after a boundary.
    Repeat,
    /// A fixed token.
    Token(u32),
}

impl OnMiss {
    /// What is said after a symbol.
    #[must_use]
    pub fn said(self, last: u64) -> i64 {
        match self {
            Self::Repeat if last != BOUNDARY => last as i64,
            Self::Token(token) => i64::from(token),
            Self::Stop | Self::Repeat => -1,
        }
    }
}

/// The exact copier: it keeps the whole text.
#[derive(Debug, Clone)]
pub struct NgramCopier {
    hasher: NgramHasher,
    policy: Policy,
    on_miss: OnMiss,
    include_generated: bool,
    marks: Marks,
}

impl NgramCopier {
    /// A copier of n-grams of `n` tokens; `include_generated`: what comes after the cut is copied from, too.
    pub fn new(
        n: usize,
        policy: Policy,
        on_miss: OnMiss,
        include_generated: bool,
        marks: Marks,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self { hasher: NgramHasher::new(n, seed)?, policy, on_miss, include_generated, marks })
    }

    /// Takes in tokens; `learn`: they are copied from later on.
    fn feed<T: Token>(&self, text: &mut Text, tokens: &[T], learn: bool, mut each: impl FnMut(i64, i64)) -> Result<()> {
        let mut tokens = tokens.iter();
        while !tokens.as_slice().is_empty() {
            let first = text.windows.extend(&self.marks, self.hasher.n(), &mut tokens)?;
            let last = text.windows.symbols.len() - 1;
            if last > MAX_POSITIONS {
                return Err(Error::memory(format!("more than {MAX_POSITIONS} tokens")));
            }
            text.windows.hash(&self.hasher)?;
            let mut at = 0;
            for position in first..last {
                let hashes = &text.windows.hashes;
                text.index.prefetch(hashes[hashes.len().min(at + AHEAD + 1) - 1]);
                let (hash, next) = (hashes[at], text.windows.symbols[position + 1]);
                // Nothing leads to the very first token: a boundary there ends no string.
                let learned = learn && (next != BOUNDARY || self.marks.end().is_some() && position > 0);
                let source = if learned {
                    text.learn(self.policy, self.hasher.n(), hash, position)?
                } else {
                    text.look_up(self.hasher.n(), hash, position)
                };
                let (token, source) = self.said(text, source, position);
                each(token, source);
                at += if next == BOUNDARY { self.hasher.n() } else { 1 };
            }
        }
        Ok(())
    }

    fn said(&self, text: &Text, source: Option<usize>, position: usize) -> (i64, i64) {
        let symbols = &text.windows.symbols;
        match source {
            Some(source) => (self.marks.said(symbols[source + 1]), source as i64),
            None => (self.on_miss.said(symbols[position]), -1),
        }
    }
}

impl Copier for NgramCopier {
    type Memory = Text;

    fn forget(&self, memory: Option<Text>, limit: usize) -> Result<Text> {
        let limit = limit.min(MAX_POSITIONS);
        let mut windows = memory.map_or_else(Windows::default, |text| text.windows);
        windows.clear();
        let frequencies = match self.policy {
            Policy::MostFrequent => Some(Frequencies::new(limit)?),
            Policy::First | Policy::Last => None,
        };
        Ok(Text { windows, index: Index::new(limit)?, frequencies })
    }

    fn read<T: Token>(&self, memory: &mut Text, tokens: &[T]) -> Result<()> {
        self.feed(memory, tokens, true, |_, _| ())
    }

    fn follow<T: Token>(&self, memory: &mut Text, tokens: &[T], each: impl FnMut(i64, i64)) -> Result<()> {
        self.feed(memory, tokens, self.include_generated, each)
    }

    fn next(&self, memory: &mut Text) -> (i64, i64) {
        let n = self.hasher.n();
        let hash = memory.windows.hash_last(&self.hasher);
        let position = memory.windows.symbols.len() - 1;
        let source = memory.look_up(n, hash, position);
        self.said(memory, source, position)
    }

    fn end(&self) -> Option<u32> {
        self.marks.end()
    }

    fn reach(&self) -> usize {
        self.hasher.n()
    }

    /// The text, each token in as many bits as the largest needs.
    fn cut<T: Token>(&self, prompt: &[T]) -> Result<Vec<u8>> {
        T::validate(prompt)?;
        let largest = prompt.iter().map(|token| token.to_u64()).max().unwrap_or(0);
        let bits = bits_for(largest).max(1);
        let mut state = Writer::new(Kind::Copier);
        state.put_number(prompt.len() as u64);
        state.put_number(u64::from(bits));
        for token in prompt {
            state.put(token.to_u64(), bits);
        }
        Ok(state.finish())
    }

    fn restore(&self, state: &[u8]) -> Result<Text> {
        let mut state = Reader::new(state, Kind::Copier)?;
        let (count, bits) = (state.take_number()?, state.take_number()?);
        if !(1..=32).contains(&bits) {
            return Err(Error::state(format!("the state is invalid: tokens of {bits} bits")));
        }
        state.expect(count, bits as u32)?;
        let tokens = (0..count).map(|_| Ok(state.take(bits as u32)? as u32)).collect::<Result<Vec<_>>>()?;
        state.finish()?;
        let mut text = self.forget(None, usize::MAX)?;
        self.read(&mut text, &tokens)?;
        Ok(text)
    }
}

/// A text as symbols, and the hashes of the windows that are being looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Windows {
    /// [`BOUNDARY`], then the symbols: the key of token i ends at symbol i.
    pub(super) symbols: Vec<u64>,
    /// Symbols as the hash sees them: n for each boundary.
    pub(super) expanded: Vec<u64>,
    hashes: Vec<u64>,
}

impl Windows {
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.symbols.push(BOUNDARY);
    }

    /// Appends tokens, a block at most, and expands them; gives the first token's position.
    pub(super) fn extend<T: Token>(
        &mut self,
        marks: &Marks,
        n: usize,
        tokens: &mut std::slice::Iter<'_, T>,
    ) -> Result<usize> {
        let first = self.symbols.len() - 1;
        self.expand_last(n);
        // Each token adds a symbol or more to `expanded`, which begins with n.
        reserve(&mut self.symbols, tokens.len().min(n + BLOCK))?;
        for token in tokens {
            let symbol = marks.symbol(token.to_u64());
            self.symbols.push(symbol);
            self.expanded.extend(std::iter::repeat_n(symbol, if symbol == BOUNDARY { n } else { 1 }));
            if self.expanded.len() >= 2 * n + BLOCK {
                break;
            }
        }
        Ok(first)
    }

    fn hash(&mut self, hasher: &NgramHasher) -> Result<()> {
        self.hashes.resize(hasher.count(self.expanded.len()), 0);
        hasher.hash_into(&self.expanded, &mut self.hashes, 1)
    }

    /// The hash of the last n symbols.
    fn hash_last(&mut self, hasher: &NgramHasher) -> u64 {
        self.expand_last(hasher.n());
        hasher.hash_one(self.expanded.iter().copied())
    }

    /// The last symbol.
    pub(super) fn last(&self) -> u64 {
        self.symbols.last().copied().unwrap_or(BOUNDARY)
    }

    /// Makes `expanded` the last n symbols, boundaries before the nearest one.
    pub(super) fn expand_last(&mut self, n: usize) {
        let near = &self.symbols[self.symbols.len().saturating_sub(n)..];
        let after = near.iter().rposition(|&symbol| symbol == BOUNDARY).map_or(0, |boundary| boundary + 1);
        self.expanded.clear();
        self.expanded.resize(n - (near.len() - after), BOUNDARY);
        self.expanded.extend_from_slice(&near[after..]);
    }

    /// Whether the keys of two positions are equal.
    #[inline]
    fn equal(symbols: &[u64], n: usize, a: usize, b: usize) -> bool {
        for back in 0..n {
            // The first symbol is a boundary: the loop ends there at the latest.
            let symbol = symbols[a - back];
            if symbol != symbols[b - back] {
                return false;
            }
            if symbol == BOUNDARY {
                return true;
            }
        }
        true
    }
}

/// What the exact copier remembers.
#[derive(Debug, Clone)]
pub struct Text {
    windows: Windows,
    /// Keys to the position of the token after them.
    index: Index,
    frequencies: Option<Frequencies>,
}

impl Text {
    #[inline]
    fn look_up(&self, n: usize, hash: u64, position: usize) -> Option<usize> {
        let symbols = &self.windows.symbols;
        let found = self.index.get(hash, |other| Windows::equal(symbols, n, other, position));
        match &self.frequencies {
            Some(frequencies) => found.map(|key| frequencies.best[key] as usize),
            None => found,
        }
    }

    /// [`Self::look_up`], then the token at `position` is one that followed its key.
    #[inline]
    fn learn(&mut self, policy: Policy, n: usize, hash: u64, position: usize) -> Result<Option<usize>> {
        let symbols = &self.windows.symbols;
        let equal = |other| Windows::equal(symbols, n, other, position);
        let (slot, found) = self.index.get_or_insert(hash, position, equal)?;
        if let Some(frequencies) = &mut self.frequencies {
            return frequencies.learn(symbols, n, hash, position, found);
        }
        if policy == Policy::Last && found.is_some() {
            self.index.set(slot, position);
        }
        Ok(found)
    }
}

/// How often each token followed each key.
#[derive(Debug, Clone)]
struct Frequencies {
    /// Pairs of a key and the token after it, to their first position.
    pairs: Index,
    /// Of the pair that was first at a position.
    count: Vec<u32>,
    /// Of the key that was first at a position: the first position of its most frequent pair.
    best: Vec<u32>,
}

impl Frequencies {
    fn new(limit: usize) -> Result<Self> {
        Ok(Self { pairs: Index::new(limit)?, count: Vec::new(), best: Vec::new() })
    }

    fn learn(
        &mut self,
        symbols: &[u64],
        n: usize,
        hash: u64,
        position: usize,
        key: Option<usize>,
    ) -> Result<Option<usize>> {
        let next = symbols[position + 1];
        let pair_hash = mix(hash ^ mix(next));
        let equal = |other: usize| symbols[other + 1] == next && Windows::equal(symbols, n, other, position);
        let pair = self.pairs.get_or_insert(pair_hash, position, equal)?.1.unwrap_or(position);
        let more = (position + 1).saturating_sub(self.count.len());
        reserve(&mut self.count, more)?;
        reserve(&mut self.best, more)?;
        self.count.resize(position + 1, 0);
        self.best.resize(position + 1, position as u32);
        self.count[pair] += 1;
        let Some(key) = key else { return Ok(None) };
        let best = self.best[key] as usize;
        if (self.count[pair], best) > (self.count[best], pair) {
            self.best[key] = pair as u32;
        }
        Ok(Some(best))
    }
}
