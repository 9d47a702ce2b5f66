//! Statistics against their naive versions.

#![allow(clippy::unwrap_used)]

use ngram_copy_core::naive;
use ngram_copy_core::ngram::statistics::{
    NgramStatistics, Windows, first_conflict, first_repeat, ngram_statistics, repeat_windows, sampled_repeat_windows,
};
use ngram_copy_core::{Error, Poll, sample};
use proptest::prelude::*;

const CASES: u32 = 1500;
const QUIET: Poll<'_> = &|_| Ok(());

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

fn texts() -> impl Strategy<Value = Vec<u32>> {
    (1..9_u32, 0..120_usize).prop_flat_map(|(vocab_size, length)| prop::collection::vec(0..vocab_size, length))
}

proptest! {
    #![proptest_config(config("statistics"))]

    #[test]
    fn equal_the_naive_statistics(text in texts(), n in 1..6_usize, lengths in prop::collection::vec(1..140_usize, 0..4), threads in 1..4_usize) {
        prop_assert_eq!(ngram_statistics(&text, n, threads, QUIET).unwrap(), naive::ngram_statistics(&text, n));
        let expected: Vec<_> = lengths.iter().map(|&length| naive::repeat_windows(&text, n, length)).collect();
        prop_assert_eq!(repeat_windows(&text, n, &lengths, QUIET).unwrap(), expected);
        prop_assert_eq!(first_repeat(&text, n, QUIET).unwrap(), naive::first_repeat(&text, n));
        prop_assert_eq!(first_conflict(&text, n, QUIET).unwrap(), naive::first_conflict(&text, n));
    }
}

#[test]
fn long_texts_cross_blocks_and_grow() {
    let mut text = vec![0; 200_000];
    sample::uniform(sample::Rows { seed: 0, stream: 0, start: 0 }, 1000, 60, 1, &mut text).unwrap();
    let expected = naive::ngram_statistics(&text, 3);
    for threads in [1, 2, 3] {
        assert_eq!(ngram_statistics(&text, 3, threads, QUIET).unwrap(), expected);
    }
    let part = &text[..6000];
    assert_eq!(first_repeat(part, 2, QUIET).unwrap(), naive::first_repeat(part, 2));
    assert_eq!(first_conflict(part, 3, QUIET).unwrap(), naive::first_conflict(part, 3));
    assert_eq!(repeat_windows(part, 3, &[300], QUIET).unwrap(), [naive::repeat_windows(part, 3, 300)]);
}

#[test]
fn sampled_windows_are_close_to_all_windows() {
    let mut text = vec![0; 20_000];
    sample::uniform(sample::Rows { seed: 1, stream: 0, start: 0 }, 1000, 26, 1, &mut text).unwrap();
    let lengths = [2, 100, 160, 20_000, 20_001];
    let all = repeat_windows(&text, 3, &lengths, QUIET).unwrap();
    let sampled = sampled_repeat_windows(&text, 3, &lengths, 4000, 5, QUIET).unwrap();
    assert_eq!(sampled[0], Windows { repeating: 0, total: 4000 });
    assert_eq!(sampled[3], Windows { repeating: 4000, total: 4000 });
    assert_eq!(sampled[4], Windows::default());
    for (all, sampled) in all[1..3].iter().zip(&sampled[1..3]) {
        let p = all.repeating as f64 / all.total as f64;
        assert!((0.1..0.9).contains(&p));
        // Six standard deviations.
        assert!((sampled.repeating as f64 / 4000.0 - p).abs() < 6.0 * (p * (1.0 - p) / 4000.0).sqrt());
    }
}

#[test]
fn short_texts_and_polls() {
    assert_eq!(ngram_statistics::<u8>(&[], 2, 1, QUIET).unwrap(), NgramStatistics::default());
    assert_eq!(ngram_statistics(&[1_u8], 2, 1, QUIET).unwrap(), NgramStatistics::default());
    assert_eq!(
        repeat_windows(&[1_u8], 2, &[1, 2], QUIET).unwrap(),
        [Windows { repeating: 0, total: 1 }, Windows::default()]
    );
    assert_eq!(first_repeat(&[1_u8], 2, QUIET).unwrap(), None);
    assert!(matches!(ngram_statistics(&[-1_i64], 2, 1, QUIET), Err(Error::Value(_))));
    assert!(matches!(ngram_statistics(&[1_u8], 0, 1, QUIET), Err(Error::Value(_))));
    assert!(matches!(ngram_statistics(&[1_u8], 1, 0, QUIET), Err(Error::Value(_))));
    let stop: Poll<'_> = &|_| Err(Error::Interrupted);
    assert_eq!(ngram_statistics(&[1_u8, 2], 1, 2, stop), Err(Error::Interrupted));
    assert_eq!(repeat_windows(&[1_u8, 2], 1, &[2], stop), Err(Error::Interrupted));
}
