//! Which steps of a batch are there, and where they are cut: what all recurrences share.

use crate::{Error, Result};

/// Steps of a block: the backward pass keeps the state at each block's start and recomputes the rest.
pub const BLOCK: usize = 64;

/// Steps of a batch of shape (batch, `seq_len`): those that are there, and those where an example begins.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    batch: usize,
    seq_len: usize,
    lengths: Option<&'a [usize]>,
    left: bool,
    resets: Option<&'a [bool]>,
}

/// Consecutive steps of a row, at most [`BLOCK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The first step.
    pub start: usize,
    /// The one after the last.
    pub end: usize,
    /// Where the state at its start is kept among the [`Sequences::checkpoints`] of its row; None where that state is
    /// zero, as an example begins.
    pub checkpoint: Option<usize>,
}

/// Consecutive steps of one example in a row; by default none, after what was before the row.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Example {
    /// The first step.
    pub start: usize,
    /// The one after the last.
    pub end: usize,
    /// Whether it begins there: if not, it goes on from what was before the row.
    pub begins: bool,
}

impl Block {
    /// The number of steps.
    #[must_use]
    pub fn steps(self) -> usize {
        self.end - self.start
    }
}

impl<'a> Sequences<'a> {
    /// All steps of all rows.
    #[must_use]
    pub fn new(batch: usize, seq_len: usize) -> Self {
        Self { batch, seq_len, lengths: None, left: false, resets: None }
    }

    /// Row b has `lengths[b]` steps, the last ones with `left` padding, otherwise the first ones.
    pub fn with_lengths(self, lengths: &'a [usize], left: bool) -> Result<Self> {
        if lengths.len() != self.batch {
            return Err(Error::value(format!("lengths has {} elements for a batch of {}", lengths.len(), self.batch)));
        }
        if let Some((row, length)) = lengths.iter().enumerate().find(|(_, length)| **length > self.seq_len) {
            let seq_len = self.seq_len;
            return Err(Error::value(format!("lengths[{row}] is {length}; it must be 0 to seq_len, {seq_len}")));
        }
        Ok(Self { lengths: Some(lengths), left, ..self })
    }

    /// The state is zero before each step where `resets`, of shape (batch, `seq_len`), is true.
    pub fn with_resets(self, resets: &'a [bool]) -> Result<Self> {
        if resets.len() != self.batch * self.seq_len {
            let Self { batch, seq_len, .. } = self;
            return Err(Error::value(format!("resets has {} elements for {batch} rows of {seq_len}", resets.len())));
        }
        Ok(Self { resets: Some(resets), ..self })
    }

    /// Number of rows.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Steps of a row, padding included.
    #[must_use]
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// The most states that a row keeps for the backward pass: one for each block that an example is continued in.
    #[must_use]
    pub fn checkpoints(&self) -> usize {
        self.seq_len.div_ceil(BLOCK)
    }

    /// The steps of a row that are there.
    #[must_use]
    pub fn steps(&self, row: usize) -> std::ops::Range<usize> {
        match self.lengths {
            None => 0..self.seq_len,
            Some(lengths) if self.left => self.seq_len - lengths[row]..self.seq_len,
            Some(lengths) => 0..lengths[row],
        }
    }

    /// Whether an example begins at a step of a row.
    #[must_use]
    pub fn begins(&self, row: usize, step: usize) -> bool {
        self.resets.is_some_and(|resets| resets[row * self.seq_len + step])
    }

    /// The examples of a row, in order; they cover [`Self::steps`].
    #[must_use]
    pub fn examples(&self, row: usize) -> Vec<Example> {
        let std::ops::Range { mut start, end: last } = self.steps(row);
        let mut examples = Vec::new();
        while start < last {
            let end = match self.resets {
                None => last,
                Some(_) => (start + 1..last).find(|step| self.begins(row, *step)).unwrap_or(last),
            };
            examples.push(Example { start, end, begins: self.begins(row, start) });
            start = end;
        }
        examples
    }

    /// The blocks of a row, in order; they cover [`Self::steps`].
    #[must_use]
    pub fn blocks(&self, row: usize) -> Vec<Block> {
        let steps = self.steps(row);
        let mut blocks = Vec::with_capacity(self.checkpoints());
        let (mut start, mut kept) = (steps.start, 0);
        while start < steps.end {
            let limit = steps.end.min(start + BLOCK);
            let end = (start + 1..limit).find(|step| self.begins(row, *step)).unwrap_or(limit);
            let checkpoint = (!self.begins(row, start)).then_some(kept);
            kept += usize::from(checkpoint.is_some());
            blocks.push(Block { start, end, checkpoint });
            start = end;
        }
        blocks
    }
}
