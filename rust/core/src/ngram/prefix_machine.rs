//! The machine that keeps the first tokens: the fixed state that reaches the bound for whole strings (THEORY: r·D^k
//! states).

use super::hash::{BOUNDARY, Token};
use super::marks::{Copier, Marks};
use super::state::{Kind, Reader, Writer, bits_for};
use crate::{Error, Result};

/// How far below the size of a machine a number of bits may be and still count as that size: rounding of logarithms.
const SLACK: f64 = 1e-9;

/// Keeps the first k data tokens and which of r equal groups of the vocabulary the next is in; says the first token of
/// that group in its place, 0 for all later ones, and the end after as many tokens as there were.
#[derive(Debug, Clone)]
pub struct PrefixMachine {
    kept: usize,
    groups: u64,
    vocab_size: u64,
    marks: Marks,
}

/// The state, and how much was said.
#[derive(Debug, Clone, Default)]
pub struct Prefix {
    /// The data tokens that are kept, and where they stood.
    tokens: Vec<(u32, i64)>,
    group: Option<u64>,
    /// Data tokens in the prompt: free, it does not depend on what they are.
    length: u64,
    /// All tokens read so far.
    read: i64,
    /// Tokens since the cut.
    said: u64,
}

impl PrefixMachine {
    /// A machine of `groups`·`vocab_size`^`kept` states; `groups` divides `vocab_size`.
    pub fn new(kept: usize, groups: u64, vocab_size: u64, marks: Marks) -> Result<Self> {
        if !(1..=1 << 32).contains(&vocab_size) {
            return Err(Error::value(format!("vocab_size must be 1 to 2^32, not {vocab_size}")));
        }
        if groups == 0 || !vocab_size.is_multiple_of(groups) {
            return Err(Error::value(format!("groups must divide vocab_size ({vocab_size}), not {groups}")));
        }
        Ok(Self { kept, groups, vocab_size, marks })
    }

    /// The largest machine of at most `state_bits` bits: first the largest k, then the largest r.
    pub fn from_state_bits(state_bits: f64, vocab_size: u64, marks: Marks) -> Result<Self> {
        if !(state_bits.is_finite() && state_bits >= 0.0) {
            return Err(Error::value(format!("state_bits must be finite and at least 0, not {state_bits}")));
        }
        let unit = libm::log2(vocab_size as f64);
        let kept = if vocab_size > 1 { libm::floor((state_bits + SLACK) / unit) } else { 0.0 };
        let most = libm::exp2((state_bits - kept * unit + SLACK).min(32.0));
        let small = (1..=vocab_size.isqrt()).filter(|&divisor| vocab_size.is_multiple_of(divisor));
        let divisors = small.flat_map(|divisor| [divisor, vocab_size / divisor]);
        let groups = divisors.filter(|&divisor| divisor as f64 <= most && divisor < vocab_size).max().unwrap_or(1);
        Self::new(kept as usize, groups, vocab_size, marks)
    }

    /// k.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// r.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.groups
    }

    /// D.
    #[must_use]
    pub fn vocab_size(&self) -> u64 {
        self.vocab_size
    }

    /// log2 of the number of states: k·log2 D + log2 r.
    #[must_use]
    pub fn state_bits(&self) -> f64 {
        self.kept as f64 * libm::log2(self.vocab_size as f64) + libm::log2(self.groups as f64)
    }

    fn group_size(&self) -> u64 {
        self.vocab_size / self.groups
    }
}

impl Copier for PrefixMachine {
    type Memory = Prefix;

    fn forget(&self, memory: Option<Prefix>, _limit: usize) -> Result<Prefix> {
        let mut tokens = memory.unwrap_or_default().tokens;
        tokens.clear();
        Ok(Prefix { tokens, ..Prefix::default() })
    }

    fn read<T: Token>(&self, memory: &mut Prefix, tokens: &[T]) -> Result<()> {
        for token in tokens {
            let token = token.to_u64();
            memory.read += 1;
            if self.marks.symbol(token) == BOUNDARY {
                continue;
            }
            if token >= self.vocab_size {
                return Err(Error::value(format!(
                    "token {token} at index {}: what is copied must be 0 to {}",
                    memory.read - 1,
                    self.vocab_size - 1
                )));
            }
            if memory.tokens.len() < self.kept {
                memory.tokens.push((token as u32, memory.read - 1));
            } else if memory.group.is_none() {
                memory.group = Some(token / self.group_size());
            }
            memory.length += 1;
        }
        Ok(())
    }

    fn follow<T: Token>(&self, memory: &mut Prefix, tokens: &[T], mut each: impl FnMut(i64, i64)) -> Result<()> {
        for _ in tokens {
            let (token, source) = self.next(memory);
            each(token, source);
            memory.said += 1;
        }
        Ok(())
    }

    fn next(&self, memory: &mut Prefix) -> (i64, i64) {
        if memory.said >= memory.length {
            let end = self.marks.end().filter(|_| memory.said == memory.length);
            return (end.map_or(-1, i64::from), -1);
        }
        match (memory.tokens.get(memory.said as usize), memory.group) {
            (Some(&(token, source)), _) => (i64::from(token), source),
            (None, Some(group)) if memory.said == self.kept as u64 => ((group * self.group_size()) as i64, -1),
            (None, _) => (0, -1),
        }
    }

    fn end(&self) -> Option<u32> {
        self.marks.end()
    }

    fn cut<T: Token>(&self, prompt: &[T]) -> Result<Vec<u8>> {
        T::validate(prompt)?;
        let mut memory = Prefix::default();
        self.read(&mut memory, prompt)?;
        let mut state = Writer::new(Kind::PrefixMachine);
        for number in [self.kept as u64, self.groups, self.vocab_size, memory.length] {
            state.put_number(number);
        }
        for &(token, _) in &memory.tokens {
            state.put(u64::from(token), bits_for(self.vocab_size - 1));
        }
        if let Some(group) = memory.group {
            state.put(group, bits_for(self.groups - 1));
        }
        Ok(state.finish())
    }

    fn restore(&self, state: &[u8]) -> Result<Prefix> {
        let mut state = Reader::new(state, Kind::PrefixMachine)?;
        let (kept, groups, vocab_size) = (state.take_number()?, state.take_number()?, state.take_number()?);
        if (kept, groups, vocab_size) != (self.kept as u64, self.groups, self.vocab_size) {
            return Err(Error::state(format!(
                "the state is of a machine with kept = {kept}, groups = {groups}, vocab_size = {vocab_size}; \
                 this one has {}, {}, {}",
                self.kept, self.groups, self.vocab_size
            )));
        }
        let length = state.take_number()?;
        let bits = bits_for(self.vocab_size - 1);
        let tokens = length.min(kept);
        // Tokens of a vocabulary of one take no bits: there is nothing to read.
        let tokens = if bits == 0 { 0 } else { tokens };
        state.expect(tokens, bits)?;
        let mut memory = Prefix { length, ..Prefix::default() };
        for _ in 0..tokens {
            let token = state.take(bits)?;
            if token >= self.vocab_size {
                return Err(Error::state(format!("the state is invalid: token {token} of {}", self.vocab_size)));
            }
            // Positions are not part of the state.
            memory.tokens.push((token as u32, -1));
        }
        if length > kept {
            let group = state.take(bits_for(self.groups - 1))?;
            if group >= self.groups {
                return Err(Error::state(format!("the state is invalid: group {group} of {}", self.groups)));
            }
            memory.group = Some(group);
        }
        state.finish()?;
        Ok(memory)
    }
}
