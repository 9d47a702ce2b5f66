//! An open-addressing map from hash to position: the table under all tables.
//!
//! A slot is 64 bits: the high bits of the hash as a tag, then position + 1 in the low bits; 0 is an empty slot. The home
//! of a hash is its tag multiplied by the capacity, high half (any capacity will do): slots are therefore in order of the
//! hash, and growing reads the old slots and writes the new ones as two streams. Collisions probe linearly. The keys
//! themselves stay with the owner, who says whether the position of an equal tag is an equal key.

mod regions;

pub use regions::{Keys, REGION};

use crate::simd::{self, Zeroed};
use crate::{Error, Result};

/// Positions are below this, so that position + 1 fits in 32 bits.
pub const MAX_POSITIONS: usize = u32::MAX as usize - 1;

/// Slots of a table that has just been made.
const FIRST_CAPACITY: usize = 1 << 10;

/// Slots of a cache line.
const LINE: usize = 8;

/// Up to this capacity a table always doubles: what fits in the caches is filled fast, and tells little of what comes.
const LARGE_CAPACITY: usize = 1 << 20;

/// Where a hash belongs in an [`Index`]; good until the next insertion of a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// Map from the hash of a key to a position.
#[derive(Debug, Clone)]
pub struct Index {
    slots: Zeroed<u64>,
    len: usize,
    /// Slots in use at which the table grows.
    full: usize,
    position_mask: u64,
    limit: usize,
}

impl Index {
    /// An empty map for positions below `limit` (at most [`MAX_POSITIONS`]): the smaller the limit, the longer the tags.
    ///
    /// Keys are expected in order of position: when a large table is full and more than half of the positions so far had
    /// a new key, it grows at once to what `limit` keys need; otherwise, and where the limit is [`MAX_POSITIONS`], it
    /// doubles.
    pub fn new(limit: usize) -> Result<Self> {
        if limit > MAX_POSITIONS {
            return Err(Error::memory(format!("{limit} positions: an index holds at most {MAX_POSITIONS}")));
        }
        Self::with_capacity(limit, FIRST_CAPACITY.min(final_capacity(limit)))
    }

    /// An empty map that never grows.
    fn with_room(limit: usize) -> Result<Self> {
        Self::with_capacity(limit, final_capacity(limit))
    }

    fn with_capacity(limit: usize, capacity: usize) -> Result<Self> {
        let position_mask = u64::MAX >> (limit as u64).max(1).leading_zeros();
        Ok(Self { slots: Zeroed::new(capacity)?, len: 0, full: full_at(capacity), position_mask, limit })
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.slots.nbytes()
    }

    /// Bits of the hash that a slot keeps: without a comparison of keys, keys that agree in these are one.
    #[must_use]
    pub fn tag_bits(&self) -> u32 {
        self.position_mask.leading_zeros()
    }

    /// Asks for the cache line in which a hash is looked for first.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        simd::prefetch(&self.slots, self.home(hash));
    }

    /// The position of a key, if it is there. `equal` says whether the key at a position is the one looked for.
    #[inline(always)]
    pub fn get(&self, hash: u64, equal: impl FnMut(usize) -> bool) -> Option<usize> {
        let at = self.find(self.home(hash), hash, equal);
        self.position(at)
    }

    /// The position of a key; where it is not there it is inserted with `position`, and None is given.
    ///
    /// The slot is for [`Self::set`].
    #[inline(always)]
    pub fn get_or_insert(
        &mut self,
        hash: u64,
        position: usize,
        equal: impl FnMut(usize) -> bool,
    ) -> Result<(Slot, Option<usize>)> {
        self.get_or_insert_from(self.home(hash), hash, position, equal)
    }

    /// Gives the key of a slot another position, at which the same key stands.
    #[inline(always)]
    pub fn set(&mut self, slot: Slot, position: usize) {
        debug_assert!(position < self.limit);
        let old = self.slots[slot.0];
        self.slots[slot.0] = (old & !self.position_mask) | (position as u64 + 1);
    }

    /// All positions, in order of the hashes of their keys.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots.len()).filter_map(|at| self.position(at))
    }

    /// The first slot on the path of a hash that is empty or has its tag, and the position there: where
    /// [`Self::get_or_insert_from`] may start, as long as the capacity is the same.
    #[inline(always)]
    pub(crate) fn peek(&self, hash: u64) -> (usize, Option<usize>) {
        let at = self.find(self.home(hash), hash, |_| true);
        (at, self.position(at))
    }

    #[inline(always)]
    pub(crate) fn get_or_insert_from(
        &mut self,
        start: usize,
        hash: u64,
        position: usize,
        equal: impl FnMut(usize) -> bool,
    ) -> Result<(Slot, Option<usize>)> {
        debug_assert!(position < self.limit);
        let mut at = self.find(start, hash, equal);
        let found = self.position(at);
        if found.is_none() {
            if self.len >= self.full {
                self.grow(position)?;
                at = self.find(self.home(hash), hash, |_| false);
            }
            self.slots[at] = self.layout().entry(hash, position);
            self.len += 1;
        }
        Ok((Slot(at), found))
    }

    #[inline(always)]
    fn layout(&self) -> Layout {
        Layout { position_mask: self.position_mask, capacity: self.slots.len() }
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        self.layout().home(hash)
    }

    #[inline(always)]
    fn position(&self, at: usize) -> Option<usize> {
        (self.slots[at] & self.position_mask).checked_sub(1).map(|position| position as usize)
    }

    /// The slot of the key on the path from `at` on, or the empty one that ends the path; there always is one.
    #[inline(always)]
    fn find(&self, at: usize, hash: u64, mut equal: impl FnMut(usize) -> bool) -> usize {
        let mut from = at;
        loop {
            if let Some(at) = self.layout().find(&self.slots, from, hash, &mut equal) {
                return at;
            }
            from = 0;
        }
    }

    /// More slots: `position` is that of the key that does not fit.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, position: usize) -> Result<()> {
        let most = final_capacity(self.limit);
        let mostly_new = self.slots.len() >= LARGE_CAPACITY && self.len * 2 > position + 1;
        let capacity = if mostly_new && self.limit < MAX_POSITIONS { most } else { most.min(self.slots.len() * 2) };
        if capacity == self.slots.len() {
            return Err(Error::memory(format!(
                "an index for {} positions holds at most {} keys",
                self.limit, self.full
            )));
        }
        let mut larger = Self { slots: Zeroed::new(capacity)?, len: self.len, full: full_at(capacity), ..*self };
        for &slot in self.slots.iter().filter(|slot| **slot != 0) {
            let at = larger.find(larger.home(slot), slot, |_| false);
            larger.slots[at] = slot;
        }
        *self = larger;
        Ok(())
    }
}

/// Slots that `keys` keys need: a load of at most 0.6, and one slot always empty.
fn final_capacity(keys: usize) -> usize {
    (keys.div_ceil(3) * 5 + 1).next_multiple_of(LINE)
}

/// The most keys that `capacity` slots take.
fn full_at(capacity: usize) -> usize {
    capacity / 5 * 3 + capacity % 5 * 3 / 5
}

/// Where keys belong, and what their slots hold.
#[derive(Debug, Clone, Copy)]
struct Layout {
    position_mask: u64,
    capacity: usize,
}

impl Layout {
    /// What the slot of a key holds.
    #[inline(always)]
    fn entry(self, hash: u64, position: usize) -> u64 {
        (hash & !self.position_mask) | (position as u64 + 1)
    }

    /// The position in an entry.
    #[inline(always)]
    fn position(self, entry: u64) -> usize {
        (entry & self.position_mask) as usize - 1
    }

    /// The home of a hash, or of an entry.
    #[inline(always)]
    fn home(self, hash: u64) -> usize {
        let tag = hash & !self.position_mask;
        ((u128::from(tag) * self.capacity as u128) >> 64) as usize
    }

    /// The slot of the key on the path from `at` on, or the empty one that ends the path, in the first slots, up to the end
    /// of a line; None where the path leads out of them.
    ///
    /// A path goes once around the cache line of `at`, then through the lines that follow, each from its start.
    #[inline(always)]
    fn find(self, slots: &[u64], at: usize, hash: u64, mut equal: impl FnMut(usize) -> bool) -> Option<usize> {
        let (lines, _) = slots.as_chunks::<LINE>();
        let (mut line, mut first) = (at / LINE, at % LINE);
        while line < lines.len() {
            for step in 0..LINE {
                let at = (first + step) % LINE;
                let slot = lines[line][at];
                if slot == 0 {
                    return Some(line * LINE + at);
                }
                if (slot ^ hash) & !self.position_mask == 0 && equal(self.position(slot)) {
                    return Some(line * LINE + at);
                }
            }
            first = 0;
            line += 1;
        }
        None
    }
}
