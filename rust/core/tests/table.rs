//! Tables against maps of the standard library, for every policy, length and kind of text.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use ngram_copy_core::ngram::bounded::{BoundedTable, Eviction, Shape};
use ngram_copy_core::ngram::hash::NgramHasher;
use ngram_copy_core::ngram::table::{NgramTable, Policy};
use ngram_copy_core::{Error, naive};
use proptest::prelude::*;

const CASES: u32 = 1024;

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

fn table(tokens: &[u64], n: usize, policy: Policy) -> NgramTable {
    NgramTable::new(tokens, n, policy, true, 5, &|_| Ok(())).unwrap()
}

/// Texts over small and large alphabets, with runs.
fn text() -> impl Strategy<Value = Vec<u64>> {
    (1_u64..6, any::<bool>(), proptest::collection::vec((any::<u64>(), 1_usize..4), 0..80)).prop_map(
        |(alphabet, large, runs)| {
            let token = |x: u64| if large { x % alphabet * 0x3fff_ffff } else { x % alphabet };
            runs.into_iter().flat_map(|(x, len)| std::iter::repeat_n(token(x), len)).collect()
        },
    )
}

proptest! {
    #![proptest_config(config("a table of every policy is a map of positions"))]

    #[test]
    fn is_a_map_of_positions(tokens in text(), n in prop_oneof![1_usize..=9, 10_usize..20], other in text()) {
        prop_assume!(tokens.len() >= n);
        let expected = naive::positions(&tokens, n);
        let [first, last, most_frequent, positions] =
            [Policy::First, Policy::Last, Policy::MostFrequent, Policy::Positions].map(|policy| table(&tokens, n, policy));
        let absent: Vec<usize> = vec![];
        for ngram in tokens.windows(n).chain(other.windows(n)) {
            let at = expected.get(ngram).unwrap_or(&absent);
            prop_assert_eq!(first.source(ngram).unwrap(), at.first().copied());
            prop_assert_eq!(last.source(ngram).unwrap(), at.last().copied());
            prop_assert_eq!(most_frequent.source(ngram).unwrap(), naive::most_frequent(&tokens, at));
            prop_assert_eq!(positions.source(ngram).unwrap(), at.first().copied());
            prop_assert_eq!(&positions.positions(ngram).unwrap(), at);
            for table in [&first, &last, &most_frequent, &positions] {
                let token = table.source(ngram).unwrap().map(|source| tokens[source] as u32);
                prop_assert_eq!(table.next_token(ngram).unwrap(), token);
                prop_assert_eq!(table.len(), expected.len());
            }
        }
        let ngrams: Vec<u64> = other.windows(n).chain(tokens.windows(n)).flatten().copied().collect();
        let mut out = vec![0; ngrams.len() / n];
        last.next_tokens(&ngrams, -7, &mut out, &|_| Ok(())).unwrap();
        let one_by_one: Vec<i64> =
            ngrams.chunks(n).map(|ngram| last.next_token(ngram).unwrap().map_or(-7, i64::from)).collect();
        prop_assert_eq!(out, one_by_one);
    }
}

#[test]
fn large_texts_grow_the_table() {
    // Mostly new n-grams at first (a large step), then copies of them: both sides of the growth rule, and full tables.
    let tokens: Vec<u32> = (0..1_500_000_u32).map(|i| (i % 900_000).wrapping_mul(0x9e37_79b9) >> 12).collect();
    for policy in [Policy::First, Policy::Last, Policy::MostFrequent, Policy::Positions] {
        let table = NgramTable::new(&tokens, 2, policy, true, 0, &|_| Ok(())).unwrap();
        let mut expected: HashMap<&[u32], (usize, usize)> = HashMap::new();
        for (start, window) in tokens[..tokens.len() - 1].windows(2).enumerate() {
            expected.entry(window).and_modify(|at| at.1 = start + 2).or_insert((start + 2, start + 2));
        }
        assert_eq!(table.len(), expected.len());
        for (ngram, (first, last)) in expected {
            if policy == Policy::Positions {
                let positions = table.positions(ngram).unwrap();
                assert_eq!((positions[0], positions[positions.len() - 1]), (first, last));
            } else if policy != Policy::MostFrequent {
                let source = if policy == Policy::Last { last } else { first };
                assert_eq!(table.source(ngram).unwrap(), Some(source));
            }
        }
    }
}

/// Texts of so many windows that the table is filled region by region: mostly new ones, one of them in great number, and
/// others that come again much later.
#[test]
fn very_large_texts_are_sorted_first() {
    let mut state = 1_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 40
    };
    let mut tokens: Vec<u64> = (0..1_300_000).map(|_| draw()).collect();
    tokens.resize(2_000_000, 7);
    tokens.extend_from_within(100_000..300_000);
    let n = 3;
    let mut expected: HashMap<&[u64], [usize; 2]> = HashMap::new();
    for (start, window) in tokens[..tokens.len() - 1].windows(n).enumerate() {
        expected.entry(window).or_insert([start + n; 2])[1] = start + n;
    }
    for (which, policy) in [Policy::First, Policy::Last].into_iter().enumerate() {
        let table = table(&tokens, n, policy);
        assert_eq!(table.len(), expected.len());
        for (ngram, sources) in expected.iter().step_by(7).chain(expected.get_key_value(&[7; 3][..])) {
            assert_eq!(table.source(ngram).unwrap(), Some(sources[which]), "{ngram:?}");
        }
        assert_eq!(table.source(&[7, 7, 8]).unwrap(), None);
    }
}

#[test]
fn without_verification_known_ngrams_are_found() {
    let tokens: Vec<u16> = (0..5000_u32).map(|i| (i * i % 811) as u16).collect();
    let exact = NgramTable::new(&tokens, 3, Policy::First, true, 0, &|_| Ok(())).unwrap();
    let hashed = NgramTable::new(&tokens, 3, Policy::First, false, 0, &|_| Ok(())).unwrap();
    for ngram in tokens.windows(3) {
        assert_eq!(exact.source(ngram).unwrap(), hashed.source(ngram).unwrap());
    }
}

#[test]
fn the_size_is_that_of_its_parts() {
    let table = table(&[1, 2, 3, 1, 2, 4], 2, Policy::Positions);
    let padded = |numbers: usize, bytes: usize| numbers * bytes + 64;
    assert_eq!(table.nbytes(), padded(table.capacity(), 8) + padded(6, 4) + padded(4, 4) + 3 * 8);
    assert_eq!((table.n(), table.len(), table.policy()), (2, 3, Policy::Positions));
}

#[test]
fn bad_arguments_of_tables_are_named() {
    let text = |error: Error| error.to_string();
    let new =
        |tokens: &[i64], n| NgramTable::new(tokens, n, Policy::First, true, 0, &|_| Ok(())).map(|table| table.len());
    assert_eq!(text(new(&[1, 2], 3).unwrap_err()), "2 tokens; a table with n = 3 needs at least 3");
    assert_eq!(text(new(&[], 1).unwrap_err()), "0 tokens; a table with n = 1 needs at least 1");
    assert_eq!(text(new(&[1, -2, 3], 1).unwrap_err()), "token -2 at index 1: tokens must be 0 to 4294967295");
    assert_eq!(text(new(&[1, 2], 0).unwrap_err()), "n is 0; it must be 1 to 65536");
    assert_eq!(new(&[1, 2, 3], 3), Ok(0));
    let empty = table(&[1, 2, 3], 3, Policy::First);
    assert!(empty.is_empty());
    assert_eq!(empty.next_token(&[1_u8, 2, 3]), Ok(None));
    let table = table(&[1, 2, 3, 4], 2, Policy::First);
    assert_eq!(text(table.next_token(&[1_u8]).unwrap_err()), "an n-gram of 1 tokens; the table has n = 2");
    assert_eq!(
        text(table.next_token(&[1_i32, -1]).unwrap_err()),
        "token -1 at index 1: tokens must be 0 to 4294967295"
    );
    assert_eq!(
        text(table.positions(&[1_u8, 2]).unwrap_err()),
        "positions are kept by a table with policy \"positions\" alone"
    );
    assert_eq!(
        text(table.next_tokens(&[1_u8, 2, 3], -1, &mut [0; 2], &|_| Ok(())).unwrap_err()),
        "3 tokens are not 2 n-grams of 2"
    );
    assert!(text("frist".parse::<Policy>().unwrap_err()).starts_with("policy is \"frist\"; it must be \"first\""));
    let stopped =
        NgramTable::new(&[1_u8; 100], 2, Policy::MostFrequent, true, 0, &|_| Err(Error::Interrupted)).unwrap_err();
    assert_eq!(stopped, Error::Interrupted);
}

fn shapes() -> impl Strategy<Value = Shape> {
    (1_usize..4, 1_usize..50, 0_u32..=64, 3_u32..=32).prop_map(|(n, slots, key_bits, value_bits)| Shape {
        n,
        slots,
        key_bits,
        value_bits,
    })
}

proptest! {
    #![proptest_config(config("a bounded table is a list of slots, and its bytes are the table"))]

    #[test]
    fn is_a_list_of_slots(
        tokens in proptest::collection::vec(0_u64..8, 0..200),
        shape in shapes(),
        overwrite: bool,
        seed: u64,
        one_by_one: bool,
    ) {
        let Shape { n, slots, key_bits, value_bits } = shape;
        let eviction = if overwrite { Eviction::Overwrite } else { Eviction::KeepFirst };
        let mut table = BoundedTable::new(shape, eviction, seed).unwrap();
        if one_by_one {
            for window in tokens.windows(n + 1) {
                table.insert_one(&window[..n], window[n]).unwrap();
            }
        } else {
            table.insert(&tokens, &|_| Ok(())).unwrap();
        }
        let hasher = NgramHasher::new(n, seed).unwrap();
        let hash = |ngram: &[u64]| hasher.hash_one(ngram.iter().copied());
        let slot = |ngram: &[u64]| ((u128::from(hash(ngram)) * slots as u128) >> 64) as usize;
        let key = |ngram: &[u64]| {
            if n as u32 * value_bits <= key_bits {
                ngram.iter().rev().fold(0, |key, symbol| (key << value_bits) | symbol)
            } else {
                (u128::from(hash(ngram)) % (1 << key_bits)) as u64
            }
        };
        let expected = naive::bounded(&tokens, n, slots, overwrite, slot, key);
        prop_assert_eq!(table.occupied(), expected.iter().flatten().count());
        prop_assert_eq!(shape.state_bits(), slots as u64 * (1 + u64::from(key_bits) + u64::from(value_bits)));
        let bytes = table.to_bytes();
        let restored = BoundedTable::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&restored.to_bytes(), &bytes);
        prop_assert_eq!(restored.shape(), shape);
        prop_assert_eq!(restored.eviction(), eviction);
        for ngram in tokens.windows(n).map(<[u64]>::to_vec).chain([vec![7; n], vec![0; n]]) {
            let answer = expected[slot(&ngram)].filter(|slot| slot.0 == key(&ngram)).map(|slot| slot.1 as u32);
            prop_assert_eq!(table.next_token(&ngram).unwrap(), answer);
            prop_assert_eq!(restored.next_token(&ngram).unwrap(), answer);
        }
    }
}

proptest! {
    #![proptest_config(config("an exact bounded table never takes an n-gram for another"))]

    #[test]
    fn exact_keys_never_lie(
        tokens in proptest::collection::vec(0_u64..8, 3..200),
        slots in 1_usize..50,
        overwrite: bool,
        seed: u64,
    ) {
        let shape = Shape { n: 2, slots, key_bits: 6, value_bits: 3 };
        prop_assert!(shape.is_exact());
        let eviction = if overwrite { Eviction::Overwrite } else { Eviction::KeepFirst };
        let mut table = BoundedTable::new(shape, eviction, seed).unwrap();
        table.insert(&tokens, &|_| Ok(())).unwrap();
        let positions = naive::positions(&tokens, 2);
        let mut dropped = 0;
        for ngram in (0..64_u64).map(|i| [i / 8, i % 8]) {
            let token = |at: &usize| tokens[*at] as u32;
            match (table.next_token(&ngram).unwrap(), positions.get(&ngram[..])) {
                (answer, None) => prop_assert_eq!(answer, None),
                (None, Some(_)) => dropped += 1,
                (answer, Some(at)) if overwrite => prop_assert!(at.iter().map(token).any(|x| Some(x) == answer)),
                (answer, Some(at)) => prop_assert_eq!(answer, at.first().map(token)),
            }
        }
        prop_assert_eq!(table.occupied() + dropped, positions.len());
        prop_assert!(table.collisions() >= dropped as u64);
    }
}

proptest! {
    #![proptest_config(config("no damaged state of a bounded table is read"))]

    #[test]
    fn damage_is_an_error(
        tokens in proptest::collection::vec(0_u64..8, 0..60),
        shape in shapes(),
        at: prop::sample::Index,
        flip in 1_u8..=255,
        cut: prop::sample::Index,
    ) {
        let mut table = BoundedTable::new(shape, Eviction::KeepFirst, 1).unwrap();
        table.insert(&tokens, &|_| Ok(())).unwrap();
        let bytes = table.to_bytes();
        let mut damaged = bytes.clone();
        damaged[at.index(bytes.len())] ^= flip;
        for state in [&damaged, &bytes[..cut.index(bytes.len())]] {
            prop_assert!(matches!(BoundedTable::from_bytes(state), Err(Error::State(_))));
        }
    }
}

#[test]
fn bad_arguments_of_bounded_tables_are_named() {
    let text = |error: Error| error.to_string();
    let shape = Shape { n: 2, slots: 4, key_bits: 8, value_bits: 3 };
    let new = |shape| text(BoundedTable::new(shape, Eviction::KeepFirst, 0).unwrap_err());
    assert_eq!(new(Shape { slots: 0, ..shape }), "slots is 0; it must be 1 to 4294967296");
    assert_eq!(new(Shape { key_bits: 65, ..shape }), "key_bits is 65; it must be 0 to 64");
    assert_eq!(new(Shape { value_bits: 0, ..shape }), "value_bits is 0; it must be 1 to 32");
    assert_eq!(new(Shape { value_bits: 33, ..shape }), "value_bits is 33; it must be 1 to 32");
    assert_eq!(new(Shape { n: 0, ..shape }), "n is 0; it must be 1 to 65536");
    let mut table = BoundedTable::new(shape, Eviction::KeepFirst, 0).unwrap();
    assert_eq!(
        text(table.insert(&[1_u8, 2, 8], &|_| Ok(())).unwrap_err()),
        "token 8 at index 2: value_bits = 3 hold 0 to 7"
    );
    assert_eq!(table.occupied(), 0);
    assert_eq!(text(table.insert_one(&[1, 2], 9).unwrap_err()), "token 9: value_bits = 3 hold 0 to 7");
    assert_eq!(text(table.insert_one(&[1], 2).unwrap_err()), "an n-gram of 1 symbols; the table has n = 2");
    assert_eq!(text(table.next_token(&[1_u8]).unwrap_err()), "an n-gram of 1 tokens; the table has n = 2");
    assert_eq!(table.next_token(&[100_u8, 200]), Ok(None));
    assert_eq!(table.insert(&[1_u8], &|_| Ok(())), Ok(()));
    assert!("evict".parse::<Eviction>().unwrap_err().to_string().contains("\"keep_first\" or \"overwrite\""));
}
