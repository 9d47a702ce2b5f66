//! Boundaries and the end of an answer, and what all copiers share: batches, free generation, states.

use super::hash::{BOUNDARY, Token};
use crate::{Error, Poll, Result, parallel};

/// Rows handed to a thread at a time are so many times fewer than its share.
const PIECES_PER_THREAD: usize = 4;

/// Symbols looked at between two polls of free generation.
const SYMBOLS_PER_POLL: usize = 1 << 16;

/// The most tokens that one call may be asked to generate.
pub const MAX_NEW_TOKENS: usize = u32::MAX as usize;

/// Tokens with a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    boundaries: Vec<u32>,
    end: Option<u32>,
}

impl Marks {
    /// `boundaries`: tokens that nothing is copied across; `end`: the token to say where a boundary would be copied.
    pub fn new(mut boundaries: Vec<u32>, end: Option<u32>) -> Result<Self> {
        boundaries.sort_unstable();
        boundaries.dedup();
        if let Some(end) = end.filter(|end| boundaries.contains(end)) {
            return Err(Error::value(format!("end must not be one of the boundaries, not {end}")));
        }
        Ok(Self { boundaries, end })
    }

    /// The token that ends an answer.
    #[must_use]
    pub fn end(&self) -> Option<u32> {
        self.end
    }

    /// A token that stands for all boundaries.
    #[must_use]
    pub fn boundary(&self) -> Option<u32> {
        self.boundaries.first().copied()
    }

    /// The symbol of a token: every boundary is [`BOUNDARY`].
    #[inline]
    #[must_use]
    pub fn symbol(&self, token: u64) -> u64 {
        if self.boundaries.iter().any(|&boundary| u64::from(boundary) == token) { BOUNDARY } else { token }
    }

    /// What is said where a symbol is copied: -1 for a boundary without an end.
    #[inline]
    #[must_use]
    pub fn said(&self, symbol: u64) -> i64 {
        if symbol == BOUNDARY { self.end.map_or(-1, i64::from) } else { symbol as i64 }
    }
}

/// Rows of tokens to be answered teacher-forced.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, T> {
    /// Shape (batch, `seq_len`).
    pub tokens: &'a [T],
    /// Tokens in a row.
    pub seq_len: usize,
    /// Tokens in use of each row; all where None.
    pub lengths: Option<&'a [i64]>,
    /// The first token to predict; what is before it is the prompt.
    pub start: usize,
    /// The number of the first row, for errors.
    pub first_row: usize,
}

/// Where predictions are written: rows of `seq_len - start`.
#[derive(Debug)]
pub struct Answers<'a> {
    /// The predicted tokens, -1: none.
    pub predicted: &'a mut [i64],
    /// The positions that they were copied from, -1: none.
    pub sources: &'a mut [i64],
}

/// An algorithm that answers from what it keeps of a prompt.
pub trait Copier: Sync {
    /// What it remembers of one string, and scratch space.
    type Memory: Send;

    /// A memory of nothing, for strings of at most `limit` tokens.
    fn forget(&self, memory: Option<Self::Memory>, limit: usize) -> Result<Self::Memory>;

    /// Takes in tokens of the prompt.
    fn read<T: Token>(&self, memory: &mut Self::Memory, tokens: &[T]) -> Result<()>;

    /// Takes in tokens after the cut, and tells `each` what it would have said in the place of each: (token, source).
    fn follow<T: Token>(&self, memory: &mut Self::Memory, tokens: &[T], each: impl FnMut(i64, i64)) -> Result<()>;

    /// What it says next: (token, source).
    fn next(&self, memory: &mut Self::Memory) -> (i64, i64);

    /// The token that ends an answer.
    fn end(&self) -> Option<u32>;

    /// Symbols looked at to say one token.
    fn reach(&self) -> usize {
        1
    }

    /// All that it keeps of a prompt.
    fn cut<T: Token>(&self, prompt: &[T]) -> Result<Vec<u8>>;

    /// The memory of which [`Self::cut`] made a state, to go on for at most `more` tokens.
    fn restore(&self, state: &[u8]) -> Result<Self::Memory>;

    /// The answers to a batch; the order of threads has no influence.
    fn predict<T: Token>(&self, batch: Batch<'_, T>, threads: usize, answers: Answers<'_>) -> Result<()> {
        parallel::check(threads)?;
        let Batch { tokens, seq_len, lengths, start, first_row } = batch;
        if start > seq_len {
            return Err(Error::value(format!("start must be 0 to the length of a row ({seq_len}), not {start}")));
        }
        let (rows, width) = (tokens.len().checked_div(seq_len).unwrap_or(0), seq_len - start);
        if let Some(lengths) = lengths {
            if lengths.len() != rows {
                return Err(Error::value(format!("lengths must have {rows} elements, not {}", lengths.len())));
            }
            if let Some(row) = lengths.iter().position(|&length| !(0..=seq_len as i64).contains(&length)) {
                let length = lengths[row];
                let row = first_row + row;
                return Err(Error::value(format!("lengths[{row}] must be 0 to {seq_len}, not {length}")));
            }
        }
        if answers.predicted.len() != rows * width || answers.sources.len() != rows * width {
            return Err(Error::value(format!("answers must have {} elements", rows * width)));
        }
        if answers.predicted.is_empty() {
            return Ok(());
        }
        let share = rows.div_ceil(if threads == 1 { 1 } else { threads * PIECES_PER_THREAD });
        let outputs = answers.predicted.chunks_mut(share * width).zip(answers.sources.chunks_mut(share * width));
        let pieces: Vec<_> = tokens.chunks(share * seq_len).zip(outputs).enumerate().collect();
        parallel::for_each(threads, pieces, |(piece, (tokens, (predicted, sources)))| {
            let mut memory = None;
            let outputs = predicted.chunks_exact_mut(width).zip(sources.chunks_exact_mut(width));
            for (row, (tokens, (predicted, sources))) in
                (piece * share..).zip(tokens.chunks_exact(seq_len).zip(outputs))
            {
                let length = lengths.map_or(seq_len, |lengths| lengths[row] as usize);
                let (prompt, rest) = tokens[..length].split_at(start.min(length));
                let mut said = predicted.iter_mut().zip(sources.iter_mut());
                let mut answer = || {
                    let mut forgotten = self.forget(memory.take(), length)?;
                    T::validate(&tokens[..length])?;
                    self.read(&mut forgotten, prompt)?;
                    self.follow(&mut forgotten, rest, |token, source| {
                        if let Some((to, from)) = said.next() {
                            (*to, *from) = (token, source);
                        }
                    })?;
                    memory = Some(forgotten);
                    Ok(())
                };
                answer().map_err(|error| match error {
                    Error::Value(message) => Error::Value(format!("row {}: {message}", first_row + row)),
                    other => other,
                })?;
                for (to, from) in said {
                    (*to, *from) = (-1, -1);
                }
            }
            Ok(())
        })
    }

    /// Goes on after a prompt with up to `max_new_tokens` tokens; stops after the end, or where it says nothing.
    fn complete<T: Token>(&self, prompt: &[T], max_new_tokens: usize, poll: Poll<'_>) -> Result<Vec<i64>> {
        T::validate(prompt)?;
        let mut memory = self.forget(None, usize::MAX)?;
        self.read(&mut memory, prompt)?;
        self.say(&mut memory, max_new_tokens, poll)
    }

    /// Goes on from a state, after a query that is revealed now.
    fn resume<T: Token>(&self, state: &[u8], query: &[T], max_new_tokens: usize, poll: Poll<'_>) -> Result<Vec<i64>> {
        T::validate(query)?;
        let mut memory = self.restore(state)?;
        self.follow(&mut memory, query, |_, _| ())?;
        self.say(&mut memory, max_new_tokens, poll)
    }

    /// Free generation.
    fn say(&self, memory: &mut Self::Memory, max_new_tokens: usize, poll: Poll<'_>) -> Result<Vec<i64>> {
        if max_new_tokens > MAX_NEW_TOKENS {
            return Err(Error::value(format!("max_new_tokens must be 0 to {MAX_NEW_TOKENS}, not {max_new_tokens}")));
        }
        let tokens_per_poll = (SYMBOLS_PER_POLL / self.reach()).max(1);
        let mut said = Vec::new();
        while said.len() < max_new_tokens {
            let (token, _) = self.next(memory);
            if token < 0 {
                break;
            }
            reserve(&mut said, 1)?;
            said.push(token);
            if self.end().is_some_and(|end| i64::from(end) == token) {
                break;
            }
            if said.len().is_multiple_of(tokens_per_poll) {
                poll(said.len() as u64)?;
            }
            self.follow(memory, &[token], |_, _| ())?;
        }
        Ok(said)
    }
}

/// Room for `more` numbers; [`Error::Memory`] where there is none.
#[inline]
pub(super) fn reserve<T>(numbers: &mut Vec<T>, more: usize) -> Result<()> {
    let all = numbers.len().saturating_add(more);
    let too_large = |_| Error::memory(format!("cannot allocate {all} numbers of {} bytes", size_of::<T>()));
    numbers.try_reserve(more).map_err(too_large)
}
