//! The n-gram copy algorithm over a table of a fixed number of bits: the table is all that it keeps of the text.
//!
//! The cut counts as a boundary: what was before it cannot be looked back at. Without boundaries, keys that reach back
//! over the cut or the start are not looked up.

use super::bounded::{BoundedTable, Eviction, Shape};
use super::copier::{OnMiss, Windows};
use super::hash::{BOUNDARY, Token};
use super::marks::{Copier, Marks};
use crate::{Error, Result};

/// The bounded copier: the n-grams of the prompt in a [`BoundedTable`].
#[derive(Debug, Clone)]
pub struct BoundedNgramCopier {
    shape: Shape,
    eviction: Eviction,
    on_miss: OnMiss,
    marks: Marks,
    seed: u64,
}

/// What a prompt did to a table; the counts of several prompts add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// M.
    pub slots: u64,
    /// Slots in use.
    pub occupied: u64,
    /// N-grams inserted.
    pub insertions: u64,
    /// Insertions that found another key in their slot.
    pub collisions: u64,
}

/// A table, and the symbols since the prompt began or since the cut.
#[derive(Debug, Clone)]
pub struct Slots {
    table: BoundedTable,
    windows: Windows,
    insertions: u64,
}

impl BoundedNgramCopier {
    /// A copier with tables of one shape.
    pub fn new(shape: Shape, eviction: Eviction, on_miss: OnMiss, marks: Marks, seed: u64) -> Result<Self> {
        shape.check()?;
        Ok(Self { shape, eviction, on_miss, marks, seed })
    }

    /// log2 of the number of states: all slots.
    #[must_use]
    pub fn state_bits(&self) -> u64 {
        self.shape.state_bits()
    }

    /// How full a prompt makes the table.
    pub fn load<T: Token>(&self, prompt: &[T]) -> Result<Load> {
        T::validate(prompt)?;
        let mut slots = self.forget(None, prompt.len())?;
        self.read(&mut slots, prompt)?;
        Ok(Load {
            slots: self.shape.slots as u64,
            occupied: slots.table.occupied() as u64,
            insertions: slots.insertions,
            collisions: slots.table.collisions(),
        })
    }

    fn slots(table: BoundedTable, windows: Option<Windows>) -> Slots {
        let mut windows = windows.unwrap_or_default();
        windows.clear();
        Slots { table, windows, insertions: 0 }
    }

    /// Calls `visit(table, key, symbols, position)` for each key of `tokens` that the table can hold or have.
    fn walk<T: Token>(
        &self,
        slots: &mut Slots,
        tokens: &[T],
        mut visit: impl FnMut(&mut BoundedTable, Option<&[u64]>, &[u64], usize) -> Result<()>,
    ) -> Result<()> {
        let n = self.shape.n;
        let mut tokens = tokens.iter();
        while !tokens.as_slice().is_empty() {
            let first = slots.windows.extend(&self.marks, n, &mut tokens)?;
            self.fill(&mut slots.windows.expanded);
            let Windows { symbols, expanded, .. } = &slots.windows;
            let mut at = 0;
            for position in first..symbols.len() - 1 {
                visit(&mut slots.table, known(&expanded[at..at + n]), symbols, position)?;
                at += if symbols[position + 1] == BOUNDARY { n } else { 1 };
            }
        }
        Ok(())
    }

    /// In keys a boundary is one of the boundary tokens, which fits where tokens fit and is nothing else.
    fn fill(&self, expanded: &mut [u64]) {
        if let Some(boundary) = self.marks.boundary() {
            for symbol in expanded.iter_mut().filter(|symbol| **symbol == BOUNDARY) {
                *symbol = u64::from(boundary);
            }
        }
    }

    fn said(&self, table: &BoundedTable, key: Option<&[u64]>, last: u64) -> (i64, i64) {
        // Keys have n symbols: the table has no other complaint.
        let found = key.and_then(|key| table.next_token(key).ok().flatten());
        (found.map_or_else(|| self.on_miss.said(last), i64::from), -1)
    }
}

/// A key, unless it holds a boundary that no token stands for: that is at its front.
fn known(key: &[u64]) -> Option<&[u64]> {
    (key[0] != BOUNDARY).then_some(key)
}

impl Copier for BoundedNgramCopier {
    type Memory = Slots;

    fn forget(&self, memory: Option<Slots>, _limit: usize) -> Result<Slots> {
        Ok(Self::slots(BoundedTable::new(self.shape, self.eviction, self.seed)?, memory.map(|slots| slots.windows)))
    }

    fn read<T: Token>(&self, memory: &mut Slots, tokens: &[T]) -> Result<()> {
        let mut insertions = 0;
        self.walk(memory, tokens, |table, key, symbols, position| {
            let next = symbols[position + 1];
            let value = self.marks.said(next);
            if let Some(key) = key.filter(|_| value >= 0 && (next != BOUNDARY || position > 0)) {
                insertions += 1;
                table.insert_one(key, value as u64)?;
            }
            Ok(())
        })?;
        memory.insertions += insertions;
        memory.windows.clear();
        Ok(())
    }

    fn follow<T: Token>(&self, memory: &mut Slots, tokens: &[T], mut each: impl FnMut(i64, i64)) -> Result<()> {
        self.walk(memory, tokens, |table, key, symbols, position| {
            let (token, source) = self.said(table, key, symbols[position]);
            each(token, source);
            Ok(())
        })
    }

    fn next(&self, memory: &mut Slots) -> (i64, i64) {
        memory.windows.expand_last(self.shape.n);
        self.fill(&mut memory.windows.expanded);
        self.said(&memory.table, known(&memory.windows.expanded), memory.windows.last())
    }

    fn end(&self) -> Option<u32> {
        self.marks.end()
    }

    fn reach(&self) -> usize {
        self.shape.n
    }

    fn cut<T: Token>(&self, prompt: &[T]) -> Result<Vec<u8>> {
        T::validate(prompt)?;
        let mut slots = self.forget(None, prompt.len())?;
        self.read(&mut slots, prompt)?;
        Ok(slots.table.to_bytes())
    }

    fn restore(&self, state: &[u8]) -> Result<Slots> {
        let table = BoundedTable::from_bytes(state)?;
        let options = (table.shape(), table.eviction(), table.seed());
        if options != (self.shape, self.eviction, self.seed) {
            return Err(Error::state(format!(
                "the state is of a table with {:?}, {:?}, seed {}; this one has {:?}, {:?}, seed {}",
                options.0, options.1, options.2, self.shape, self.eviction, self.seed
            )));
        }
        Ok(Self::slots(table, None))
    }
}
