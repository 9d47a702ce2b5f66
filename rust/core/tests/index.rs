//! The index against a map of the standard library, with tags that collide.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use ngram_copy_core::Error;
use ngram_copy_core::ngram::index::{Index, Keys, MAX_POSITIONS};
use ngram_copy_core::simd::{Isa, Kernel, Level};
use proptest::prelude::*;

const CASES: u32 = 1024;

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

fn high_bits_of_hash(key: u64, bits: u32) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15) & (u64::MAX << (64 - bits))
}

proptest! {
    #![proptest_config(config("an index is a map"))]

    /// Hashes keep only a few of the bits of their keys, so that tags are equal where keys are not; keys come again.
    #[test]
    fn is_a_map(
        keys in proptest::collection::vec(any::<u64>(), 0..4000),
        (key_bits, hash_bits) in (1_u32..=64, 1_u32..=64),
        limited: bool,
        last: bool,
    ) {
        let keys: Vec<u64> = keys.iter().map(|key| key >> (64 - key_bits)).collect();
        let hash = |key| high_bits_of_hash(key, hash_bits);
        let mut index = Index::new(if limited { keys.len() } else { MAX_POSITIONS }).unwrap();
        let mut expected = HashMap::new();
        for (position, &key) in keys.iter().enumerate() {
            prop_assert_eq!(index.get(hash(key), |at| keys[at] == key), expected.get(&key).copied());
            let (slot, found) = index.get_or_insert(hash(key), position, |at| keys[at] == key).unwrap();
            prop_assert_eq!(found, expected.get(&key).copied());
            if last {
                index.set(slot, position);
                expected.insert(key, position);
            } else {
                expected.entry(key).or_insert(position);
            }
            prop_assert_eq!(index.len(), expected.len());
        }
        for (&key, &position) in &expected {
            prop_assert_eq!(index.get(hash(key), |at| keys[at] == key), Some(position));
        }
        let mut positions: Vec<usize> = index.positions().collect();
        positions.sort_unstable();
        let mut all: Vec<usize> = expected.values().copied().collect();
        all.sort_unstable();
        prop_assert_eq!(positions, all);
        prop_assert!(index.len() * 5 <= index.capacity() * 3);
        prop_assert_eq!(index.nbytes(), index.capacity() * 8 + 64);
    }
}

/// Keys of a list, of whose hashes only the high bits are there.
struct Listed {
    keys: Vec<u64>,
    hash_bits: u32,
}

impl Listed {
    fn hash(&self, key: u64) -> u64 {
        high_bits_of_hash(key, self.hash_bits)
    }
}

impl Keys for Listed {
    fn hashes(&self, first: usize, out: &mut [u64]) {
        for (out, key) in out.iter_mut().zip(&self.keys[first..]) {
            *out = self.hash(*key);
        }
    }

    fn equal(&self, one: usize, other: usize) -> bool {
        self.keys[one] == self.keys[other]
    }

    fn prefetch(&self, one: usize, other: usize) {
        assert!(one != other && one.max(other) < self.keys.len(), "positions of two keys");
    }
}

proptest! {
    #![proptest_config(config("an index that is filled is a map"))]

    /// Regions so small that paths lead out of them, and lists outgrow them.
    #[test]
    fn is_a_map_when_filled(
        keys in proptest::collection::vec(any::<u64>(), 0..4000),
        (key_bits, hash_bits) in (1_u32..=64, 1_u32..=64),
        region in 1_usize..200,
        last: bool,
    ) {
        let keys: Vec<u64> = keys.iter().map(|key| key >> (64 - key_bits)).collect();
        let keys = Listed { keys, hash_bits };
        let mut index = Index::new(keys.keys.len()).unwrap();
        index.fill(keys.keys.len(), last, region, &keys, &|_| Ok(())).unwrap();
        let mut expected = HashMap::new();
        for (position, &key) in keys.keys.iter().enumerate() {
            let kept = expected.entry(key).or_insert(position);
            if last {
                *kept = position;
            }
        }
        prop_assert_eq!(index.len(), expected.len());
        for (&key, &position) in &expected {
            prop_assert_eq!(index.get(keys.hash(key), |at| keys.keys[at] == key), Some(position));
        }
        prop_assert_eq!(index.positions().count(), expected.len());
        for absent in keys.keys.iter().map(|key| key ^ 1).filter(|key| !expected.contains_key(key)) {
            prop_assert_eq!(index.get(keys.hash(absent), |at| keys.keys[at] == absent), None);
        }
    }
}

/// What is to be said of a line of eight numbers.
struct Line([u64; 8], u64, u64);

impl Kernel for Line {
    type Output = (u8, u8);

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> (u8, u8) {
        isa.zeros_and_matches(&self.0, self.1, self.2)
    }
}

proptest! {
    #![proptest_config(config("every level says which slots of a line are empty or match"))]

    #[test]
    fn lines_are_looked_at(line: [u64; 8], zero: u8, same: u8, value: u64, bits in 0_u32..64) {
        let mask = !(u64::MAX >> bits);
        let mut line = line.map(|number| number & 0xff << 56);
        for at in 0..8 {
            if same >> at & 1 == 1 {
                line[at] = value & mask | line[at] & !mask;
            }
            if zero >> at & 1 == 1 {
                line[at] = 0;
            }
        }
        let bits = |says: &dyn Fn(u64) -> bool| (0..8).map(|at| u8::from(says(line[at])) << at).sum::<u8>();
        let expected = (bits(&|number| number == 0), bits(&|number| (number ^ value) & mask == 0));
        for level in Level::available() {
            prop_assert_eq!(level.run(Line(line, value, mask)), expected, "{:?}", level);
        }
    }
}

#[test]
fn limits_are_told() {
    assert!(matches!(Index::new(MAX_POSITIONS + 1), Err(Error::Memory(_))));
    let mut index = Index::new(2).unwrap();
    for key in 0..4 {
        index.get_or_insert(key << 60, 0, |_| false).unwrap();
    }
    assert_eq!(
        index.get_or_insert(4 << 60, 1, |_| false),
        Err(Error::Memory("an index for 2 positions holds at most 4 keys".into()))
    );
    let keys = Listed { keys: vec![1, 2, 3], hash_bits: 64 };
    for (count, region) in [(3, 1), (2, 0)] {
        let error = Index::new(2).unwrap().fill(count, false, region, &keys, &|_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(&format!("{count} keys in regions of {region}")), "{error}");
    }
    assert_eq!(Index::new(255).unwrap().tag_bits(), 56);
    assert_eq!(Index::new(MAX_POSITIONS).unwrap().tag_bits(), 32);
}

#[test]
fn an_empty_index_answers() {
    let index = Index::new(0).unwrap();
    assert!(index.is_empty());
    assert_eq!(index.get(5, |_| true), None);
}

/// Mostly new keys: one large step; few keys: the table stays small.
#[test]
fn growth_follows_the_share_of_new_keys() {
    const LIMIT: usize = 3_000_000;
    let hash = |key: usize| (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut distinct = Index::new(LIMIT).unwrap();
    let mut few = Index::new(LIMIT).unwrap();
    let mut capacities = vec![];
    for position in 0..LIMIT {
        distinct.get_or_insert(hash(position), position, |at| at == position).unwrap();
        few.get_or_insert(hash(position % 1000), position, |at| at % 1000 == position % 1000).unwrap();
        if capacities.last() != Some(&distinct.capacity()) {
            capacities.push(distinct.capacity());
        }
    }
    assert_eq!(distinct.len(), LIMIT);
    assert_eq!(capacities.last(), Some(&5_000_008));
    assert_eq!(capacities[capacities.len() - 2], 1 << 20);
    assert_eq!((few.len(), few.capacity()), (1000, 2048));
}
