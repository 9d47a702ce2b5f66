//! Strings without a repeated n-gram against their naive versions.

#![allow(clippy::unwrap_used)]

use ngram_copy_core::naive;
use ngram_copy_core::ngram::repeat_free::{Event, repeat_free};
use ngram_copy_core::sample::Rows;
use ngram_copy_core::{Error, Poll};
use proptest::prelude::*;

const CASES: u32 = 1500;
const QUIET: Poll<'_> = &|_| Ok(());

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

fn naive_events(rows: Rows, count: usize, n: usize, vocab_size: u64, length: usize) -> Vec<Vec<Event>> {
    let numbers = rows.start..rows.start + count as u64;
    numbers.map(|start| naive::repeat_free(Rows { start, ..rows }, n, vocab_size, length).unwrap().1).collect()
}

proptest! {
    #![proptest_config(config("repeat_free"))]

    #[test]
    fn equals_the_naive_version(
        seed in any::<u64>(), stream in any::<u64>(), start in 0..9_u64,
        n in 1..8_usize, vocab_size in 1..7_u64, length in 0..90_usize, threads in 1..4_usize,
    ) {
        let rows = Rows { seed, stream, start };
        let found = repeat_free(rows, 3, n, vocab_size, length, threads, QUIET).unwrap();
        prop_assert_eq!(found, naive_events(rows, 3, n, vocab_size, length));
        let (tokens, _) = naive::repeat_free(rows, n, vocab_size, length).unwrap();
        prop_assert_eq!(naive::first_repeat(&tokens, n), None);
    }
}

#[test]
fn long_strings_cross_blocks_and_grow() {
    // Forbidden tokens are drawn at the ends of blocks too, and (n-1)-grams reach over them.
    let rows = Rows { seed: 1, stream: 2, start: 3 };
    for (n, vocab_size, length) in [(12, 2, 2500), (40, 2, 2100), (4, 9, 2500), (2, 60, 2500), (1100, 2, 2300)] {
        let found = repeat_free(rows, 1, n, vocab_size, length, 1, QUIET).unwrap();
        assert_eq!(found, naive_events(rows, 1, n, vocab_size, length), "n = {n}, D = {vocab_size}");
    }
}

#[test]
fn a_longer_string_begins_like_a_shorter_one() {
    let rows = Rows { seed: 0, stream: 7, start: 0 };
    let long = repeat_free(rows, 4, 14, 2, 20_000, 1, QUIET).unwrap();
    let short = repeat_free(rows, 4, 14, 2, 3000, 2, QUIET).unwrap();
    for (long, short) in long.iter().zip(&short) {
        assert!(long.len() > short.len() && !short.is_empty());
        assert!(long.starts_with(short) && long[short.len()].position >= 3000);
    }
}

#[test]
fn sees_what_cannot_be_grown() {
    let rows = Rows { seed: 0, stream: 0, start: 0 };
    let grow = |n, vocab_size, length, threads, poll| repeat_free(rows, 2, n, vocab_size, length, threads, poll);
    assert!(matches!(grow(0, 2, 10, 1, QUIET), Err(Error::Value(text)) if text.contains("n is 0")));
    assert!(matches!(grow(2, 0, 10, 1, QUIET), Err(Error::Value(text)) if text.contains("vocab_size")));
    assert!(matches!(grow(2, 2, 10, 0, QUIET), Err(Error::Value(text)) if text.contains("threads")));
    assert!(matches!(grow(2, 2, usize::MAX, 1, QUIET), Err(Error::Memory(text)) if text.contains("length")));
    assert_eq!(grow(2, 2, 10, 1, &|_| Err(Error::Interrupted)), Err(Error::Interrupted));
    // One token: the second 2-gram would be the first again. No tokens forbidden where no n-gram is complete.
    assert_eq!(grow(2, 1, 9, 1, QUIET).unwrap(), vec![vec![Event { position: 2, forbidden: 1 }]; 2]);
    assert_eq!(grow(5, 2, 5, 1, QUIET).unwrap(), vec![vec![]; 2]);
}
