//! A table of a fixed number of bits: n-gram → next token in M slots, without probing.
//!
//! A slot is an occupied flag, a key and a value. An n-gram has one slot, its hash times M (high half); the key is the
//! n-gram itself where it fits (n·`value_bits` ≤ `key_bits`), otherwise the low bits of the hash, and with `key_bits` = 0
//! nothing: whatever is in the slot is taken for the answer. The state is M·(1 + `key_bits` + `value_bits`) bits.

use super::hash::{NgramHasher, Token};
use super::state::{Kind, Reader, Writer};
use crate::simd::{self, Zeroed};
use crate::{Error, Poll, Result};

/// The most slots of a table.
pub const MAX_SLOTS: usize = 1 << 32;

/// N-grams that are looked up together, so that their slots are fetched from memory at the same time.
const BLOCK: usize = 64;

/// N-grams between two polls.
const POLL_EVERY: usize = 1 << 20;

/// What to do with an n-gram whose slot another one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// The slot stays as it is: the first n-gram and its first next token are kept.
    KeepFirst,
    /// The slot is overwritten: the last n-gram and its last next token are kept.
    Overwrite,
}

impl Eviction {
    /// The name that is read by `from_str`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeepFirst => "keep_first",
            Self::Overwrite => "overwrite",
        }
    }
}

impl std::str::FromStr for Eviction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "keep_first" => Ok(Self::KeepFirst),
            "overwrite" => Ok(Self::Overwrite),
            _ => Err(Error::value(format!("eviction is {name:?}; it must be \"keep_first\" or \"overwrite\""))),
        }
    }
}

/// Sizes of a [`BoundedTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Length of the n-grams.
    pub n: usize,
    /// M, the number of slots, 1 to [`MAX_SLOTS`].
    pub slots: usize,
    /// Bits of a key, 0 to 64.
    pub key_bits: u32,
    /// Bits of a token, 1 to 32.
    pub value_bits: u32,
}

impl Shape {
    /// Bits of the state: M·(1 + `key_bits` + `value_bits`).
    #[must_use]
    pub fn state_bits(&self) -> u64 {
        self.slots as u64 * u64::from(1 + self.key_bits + self.value_bits)
    }

    /// Whether keys are whole n-grams, so that no n-gram is taken for another.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.n as u64 * u64::from(self.value_bits) <= u64::from(self.key_bits)
    }

    /// Refuses sizes that cannot be.
    pub fn check(&self) -> Result<()> {
        let Self { n, slots, key_bits, value_bits } = *self;
        NgramHasher::new(n, 0)?;
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(Error::value(format!("slots is {slots}; it must be 1 to {MAX_SLOTS}")));
        }
        if key_bits > 64 {
            return Err(Error::value(format!("key_bits is {key_bits}; it must be 0 to 64")));
        }
        if !(1..=32).contains(&value_bits) {
            return Err(Error::value(format!("value_bits is {value_bits}; it must be 1 to 32")));
        }
        Ok(())
    }
}

/// Map from n-gram to next token in a fixed number of bits.
#[derive(Debug, Clone)]
pub struct BoundedTable {
    shape: Shape,
    eviction: Eviction,
    seed: u64,
    hasher: NgramHasher,
    /// Value + 1, 0 for an empty slot.
    values: Zeroed<u64>,
    keys: Zeroed<u64>,
    occupied: usize,
    collisions: u64,
}

impl BoundedTable {
    /// An empty table.
    pub fn new(shape: Shape, eviction: Eviction, seed: u64) -> Result<Self> {
        shape.check()?;
        Ok(Self {
            shape,
            eviction,
            seed,
            hasher: NgramHasher::new(shape.n, seed)?,
            values: Zeroed::new(shape.slots)?,
            keys: Zeroed::new(if shape.key_bits == 0 { 0 } else { shape.slots })?,
            occupied: 0,
            collisions: 0,
        })
    }

    /// The sizes.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The eviction policy.
    #[must_use]
    pub fn eviction(&self) -> Eviction {
        self.eviction
    }

    /// The seed of the hash.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Slots in use.
    #[must_use]
    pub fn occupied(&self) -> usize {
        self.occupied
    }

    /// Insertions so far that found another key in their slot: their key was dropped, or the other one replaced.
    ///
    /// It counts what keys can tell apart (nothing without key bits), and is not part of the state.
    #[must_use]
    pub fn collisions(&self) -> u64 {
        self.collisions
    }

    /// Inserts every n-gram of `tokens` that has a next token, in order.
    ///
    /// All tokens must be below 2^`value_bits`; otherwise nothing is inserted, and the error names the first.
    pub fn insert<T: Token>(&mut self, tokens: &[T], poll: Poll<'_>) -> Result<()> {
        T::validate(tokens)?;
        let limit = 1_u64 << self.shape.value_bits;
        if let Some(at) = tokens.iter().position(|token| token.to_u64() >= limit) {
            let (token, bits) = (tokens[at], self.shape.value_bits);
            return Err(Error::value(format!(
                "token {token} at index {at}: value_bits = {bits} hold 0 to {}",
                limit - 1
            )));
        }
        let n = self.shape.n;
        let count = tokens.len().saturating_sub(n);
        let mut hashes = [0; BLOCK];
        for start in (0..count).step_by(BLOCK) {
            if start.is_multiple_of(POLL_EVERY) {
                poll(start as u64)?;
            }
            let hashes = &mut hashes[..BLOCK.min(count - start)];
            self.hasher.hash_valid(&tokens[start..], hashes);
            for hash in &*hashes {
                simd::prefetch(&self.values, self.slot(*hash));
                simd::prefetch(&self.keys, self.slot(*hash));
            }
            for (at, hash) in hashes.iter().enumerate().map(|(i, hash)| (start + i, *hash)) {
                let key = self.key(tokens[at..at + n].iter().map(|token| token.to_u64()), hash);
                self.put(self.slot(hash), key, tokens[at + n].to_u64());
            }
        }
        Ok(())
    }

    /// Inserts one n-gram of n symbols and its next token.
    ///
    /// The next token, and where keys are exact the symbols too, must be below 2^`value_bits`.
    pub fn insert_one(&mut self, ngram: &[u64], next: u64) -> Result<()> {
        let Shape { n, value_bits, .. } = self.shape;
        if ngram.len() != n {
            return Err(Error::value(format!("an n-gram of {} symbols; the table has n = {n}", ngram.len())));
        }
        let symbols: &[u64] = if self.shape.is_exact() { ngram } else { &[] };
        if let Some(symbol) = symbols.iter().chain([&next]).find(|symbol| **symbol >> value_bits != 0) {
            let most = (1_u64 << value_bits) - 1;
            return Err(Error::value(format!("token {symbol}: value_bits = {value_bits} hold 0 to {most}")));
        }
        let hash = self.hasher.hash_one(ngram.iter().copied());
        let key = self.key(ngram.iter().copied(), hash);
        self.put(self.slot(hash), key, next);
        Ok(())
    }

    /// The next token of an n-gram of n symbols, if its slot has its key.
    pub fn next_token<T: Token>(&self, ngram: &[T]) -> Result<Option<u32>> {
        let Shape { n, value_bits, .. } = self.shape;
        if ngram.len() != n {
            return Err(Error::value(format!("an n-gram of {} tokens; the table has n = {n}", ngram.len())));
        }
        T::validate(ngram)?;
        let symbols = ngram.iter().map(|token| token.to_u64());
        if self.shape.is_exact() && symbols.clone().any(|symbol| symbol >> value_bits != 0) {
            return Ok(None);
        }
        let hash = self.hasher.hash_one(symbols.clone());
        let slot = self.slot(hash);
        let same = self.shape.key_bits == 0 || self.keys[slot] == self.key(symbols, hash);
        Ok(self.values[slot].checked_sub(1).filter(|_| same).map(|value| value as u32))
    }

    /// Appends the slots: for each its flag, key and value; zeros for an empty slot.
    pub fn write_slots(&self, writer: &mut Writer) {
        let Shape { key_bits, value_bits, .. } = self.shape;
        for (slot, value) in self.values.iter().enumerate() {
            writer.put(u64::from(*value > 0), 1);
            writer.put(self.keys.get(slot).copied().unwrap_or(0), key_bits);
            writer.put(value.saturating_sub(1), value_bits);
        }
    }

    /// The table of slots that [`Self::write_slots`] wrote; [`Error::State`] where no insertions leave such slots.
    pub fn read_slots(shape: Shape, eviction: Eviction, seed: u64, reader: &mut Reader<'_>) -> Result<Self> {
        shape.check()?;
        reader.expect(shape.slots as u64, 1 + shape.key_bits + shape.value_bits)?;
        let mut table = Self::new(shape, eviction, seed)?;
        for slot in 0..shape.slots {
            let occupied = reader.take(1)? == 1;
            let key = reader.take(shape.key_bits)?;
            let value = reader.take(shape.value_bits)?;
            if !occupied && (key, value) != (0, 0) {
                return Err(Error::state(format!("slot {slot} is empty but has a key or a value")));
            }
            if occupied && shape.is_exact() && table.home_of_exact_key(key) != Some(slot) {
                return Err(Error::state(format!("slot {slot} has the key of another slot")));
            }
            if occupied {
                table.put(slot, key, value);
            }
        }
        Ok(table)
    }

    /// The table as bytes: its options, which are free, and its slots.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Shape { n, slots, key_bits, value_bits } = self.shape;
        let mut writer = Writer::new(Kind::BoundedTable);
        for option in
            [n as u64, slots as u64, u64::from(key_bits), u64::from(value_bits), self.eviction as u64, self.seed]
        {
            writer.put_number(option);
        }
        self.write_slots(&mut writer);
        writer.finish()
    }

    /// The table of [`Self::to_bytes`]; its count of collisions starts at zero.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, Kind::BoundedTable)?;
        let mut option = || reader.take_number();
        let (n, slots) = (option()? as usize, option()? as usize);
        let bits = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let (key_bits, value_bits) = (bits(option()?), bits(option()?));
        let eviction = match option()? {
            0 => Eviction::KeepFirst,
            1 => Eviction::Overwrite,
            other => return Err(Error::state(format!("eviction {other} in the state; 0 and 1 are known"))),
        };
        let seed = option()?;
        let shape = Shape { n, slots, key_bits, value_bits };
        shape.check().map_err(Error::state)?;
        let table = Self::read_slots(shape, eviction, seed, &mut reader)?;
        reader.finish()?;
        Ok(table)
    }

    /// Slot of the n-gram that an exact key packs; None for a key that packs none.
    fn home_of_exact_key(&self, key: u64) -> Option<usize> {
        let Shape { n, value_bits, .. } = self.shape;
        let symbol = |j: usize| (key >> (j as u32 * value_bits)) & ((1 << value_bits) - 1);
        let used = n as u32 * value_bits;
        let unused_are_zero = used == 64 || key >> used == 0;
        unused_are_zero.then(|| self.slot(self.hasher.hash_one((0..n).map(symbol))))
    }

    #[inline(always)]
    fn slot(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.shape.slots as u128) >> 64) as usize
    }

    #[inline(always)]
    fn key(&self, symbols: impl Iterator<Item = u64>, hash: u64) -> u64 {
        let Shape { key_bits, value_bits, .. } = self.shape;
        if key_bits == 0 {
            0
        } else if self.shape.is_exact() {
            symbols.enumerate().fold(0, |key, (j, symbol)| key | (symbol << (j as u32 * value_bits)))
        } else {
            hash & (u64::MAX >> (64 - key_bits))
        }
    }

    #[inline(always)]
    fn put(&mut self, slot: usize, key: u64, value: u64) {
        let has_keys = self.shape.key_bits > 0;
        if self.values[slot] == 0 {
            self.occupied += 1;
        } else {
            self.collisions += u64::from(has_keys && self.keys[slot] != key);
            if self.eviction == Eviction::KeepFirst {
                return;
            }
        }
        self.values[slot] = value + 1;
        if has_keys {
            self.keys[slot] = key;
        }
    }
}
