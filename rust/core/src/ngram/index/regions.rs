//! Filling an index region by region.
//!
//! In an index far larger than the caches every insertion waits for memory. Here keys are first sorted by where they belong:
//! for a while each region of the slots holds a list of the keys that it will have, in their order. Then one region
//! after another, each small enough for a cache, is filled from its list. No memory is needed but that of one region.

use super::{Index, LINE, Layout};
use crate::simd::{self, Isa, Kernel, Level};
use crate::{Error, Poll, Result};

/// Lines of a region: it is of 512 KiB, and its list, copied out of it, of no more. Not a power of two: the ends of the
/// lists would share a few sets of the caches.
pub const REGION: usize = (1 << 13) + 17;

/// Keys that are looked for at once, before those that are compared are.
const BLOCK: usize = 64;

/// Keys between asking for a line and looking at it.
const AHEAD: usize = 16;

/// Keys between two polls.
const POLL_EVERY: usize = 1 << 20;

/// What [`Index::fill`] asks the owner of the keys.
pub trait Keys {
    /// The hashes of keys from `first` on.
    fn hashes(&self, first: usize, out: &mut [u64]);
    /// Whether two keys are equal.
    fn equal(&self, one: usize, other: usize) -> bool;
    /// Fetches what [`Self::equal`] will need.
    fn prefetch(&self, one: usize, other: usize);
}

impl Index {
    /// Inserts keys at the positions 0 … `count` − 1 (at most the limit) into an empty index, which from then on has room for
    /// as many; of equal keys the first stays, or with `last` the last. `region` is in lines, at least 1: [`REGION`].
    pub fn fill(&mut self, count: usize, last: bool, region: usize, keys: &impl Keys, poll: Poll<'_>) -> Result<()> {
        if count > self.limit || region == 0 {
            let limit = self.limit;
            return Err(Error::value(format!("{count} keys in regions of {region}: at most {limit}, in at least 1")));
        }
        *self = Self::with_room(self.limit)?;
        let layout = self.layout();
        let region = region * LINE;
        let (len, beyond) = Level::best().run(Filling {
            slots: &mut self.slots,
            layout,
            keys,
            count,
            last,
            region,
            reciprocal: u64::MAX / region as u64 + 1,
            listed: vec![0; layout.capacity.div_ceil(region)],
            list: Vec::new(),
            filled: Filled { len: 0, beyond: Vec::new() },
            poll,
        })?;
        self.len = len;
        for entry in beyond {
            let position = layout.position(entry);
            let (slot, found) = self.get_or_insert(entry, position, |other| keys.equal(other, position))?;
            if last && found.is_some() {
                self.set(slot, position);
            }
        }
        Ok(())
    }
}

/// An index that is being filled.
struct Filling<'a, K> {
    slots: &'a mut [u64],
    layout: Layout,
    keys: &'a K,
    count: usize,
    last: bool,
    /// Slots of a region, and 2^64 by that, rounded up: the region of a slot is exact as the product of both is below 2^64.
    region: usize,
    reciprocal: u64,
    /// For each region the length of its list; [`FILLED`] where there is none any more.
    listed: Vec<usize>,
    /// The list of the region that is filled.
    list: Vec<u64>,
    filled: Filled,
    poll: Poll<'a>,
}

/// A region that is filled takes what comes at once.
const FILLED: usize = usize::MAX;

/// What filled regions hold and do not hold.
struct Filled {
    /// Keys.
    len: usize,
    /// Entries whose path leads out of their region: they come last. (Equal ones do so all: what they find full stays full.)
    beyond: Vec<u64>,
}

impl<K: Keys> Kernel for Filling<'_, K> {
    type Output = Result<(usize, Vec<u64>)>;

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) -> Self::Output {
        let mut hashes = [0; BLOCK];
        for first in (0..self.count).step_by(BLOCK) {
            if first.is_multiple_of(POLL_EVERY) {
                (self.poll)(first as u64)?;
            }
            let hashes = &mut hashes[..BLOCK.min(self.count - first)];
            self.keys.hashes(first, hashes);
            self.sort(isa, first, hashes);
        }
        for region in 0..self.listed.len() {
            if self.listed[region] != FILLED {
                (self.poll)(self.count as u64)?;
                self.fill(isa, region);
            }
        }
        Ok((self.filled.len, self.filled.beyond))
    }
}

impl<K: Keys> Filling<'_, K> {
    /// Appends keys to the lists.
    #[inline(always)]
    fn sort<I: Isa>(&mut self, isa: I, first: usize, hashes: &[u64]) {
        let (layout, width, reciprocal) = (self.layout, self.region, self.reciprocal);
        let region_of = |entry| ((layout.home(entry) as u128 * u128::from(reciprocal)) >> 64) as usize;
        let (slots, listed) = (&mut *self.slots, &mut self.listed[..]);
        let mut outgrown = [0; BLOCK];
        let mut count = 0;
        for (nth, hash) in hashes.iter().enumerate() {
            let entry = layout.entry(*hash, first + nth);
            let region = region_of(entry);
            let (start, listed) = (region * width, &mut listed[region]);
            if *listed < width.min(slots.len() - start) {
                let at = start + *listed;
                slots[at] = entry;
                simd::prefetch(slots, at + 2 * LINE);
                *listed += 1;
            } else {
                outgrown[count] = entry;
                count += 1;
            }
        }
        // Of lists that are full, or were: many keys are equal.
        for entry in &outgrown[..count] {
            let region = region_of(*entry);
            if self.listed[region] != FILLED {
                self.fill(isa, region);
            }
            let end = self.slots.len().min((region + 1) * width);
            self.filled.insert(self.slots, layout, self.keys, self.last, *entry, end);
        }
    }

    /// Fills a region from its list.
    #[inline(always)]
    fn fill<I: Isa>(&mut self, isa: I, region: usize) {
        let end = self.slots.len().min((region + 1) * self.region);
        let waiting = &mut self.slots[region * self.region..][..self.listed[region]];
        self.listed[region] = FILLED;
        self.list.clear();
        self.list.extend_from_slice(waiting);
        waiting.fill(0);
        let (layout, slots, list) = (self.layout, &mut *self.slots, &self.list[..]);
        let mut compared = [0; BLOCK];
        for (block, entries) in list.chunks(BLOCK).enumerate() {
            let (mut count, mut new) = (0, 0);
            let soon = list.get(block * BLOCK + AHEAD..).unwrap_or(&[]);
            for (nth, entry) in entries.iter().enumerate() {
                if let Some(soon) = soon.get(nth) {
                    simd::prefetch(slots, layout.home(*soon));
                }
                let home = layout.home(*entry);
                // No branch for each slot, which would often go another way than foreseen: the first one on the path in
                // this line that is empty or has the tag.
                let line = &mut slots.as_chunks_mut::<LINE>().0[home / LINE];
                let (zeros, matches) = isa.zeros_and_matches(line, *entry, !layout.position_mask);
                let first = (home % LINE) as u32;
                let at = first + (zeros | matches).rotate_right(first).trailing_zeros();
                let slot = &mut line[at as usize % LINE];
                if zeros.rotate_right(at) & 1 == 1 {
                    *slot = *entry;
                    new += 1;
                    continue;
                }
                // A likely match, or a full line. What has this tag waits as well: equal keys stay in order.
                if let Some(other) = (*slot & layout.position_mask).checked_sub(1) {
                    self.keys.prefetch(other as usize, layout.position(*entry));
                }
                compared[count] = *entry;
                count += 1;
            }
            self.filled.len += new;
            for entry in &compared[..count] {
                self.filled.insert(slots, layout, self.keys, self.last, *entry, end);
            }
        }
    }
}

impl Filled {
    /// Inserts a key into its region, if its path does not lead to `end`.
    #[inline(always)]
    fn insert(&mut self, slots: &mut [u64], layout: Layout, keys: &impl Keys, last: bool, entry: u64, end: usize) {
        let position = layout.position(entry);
        let equal = |other| keys.equal(other, position);
        match layout.find(&slots[..end], layout.home(entry), entry, equal) {
            None => self.beyond.push(entry),
            Some(at) if slots[at] == 0 => {
                slots[at] = entry;
                self.len += 1;
            }
            Some(at) if last => slots[at] = entry,
            Some(_) => {}
        }
    }
}
