//! Sampling: the same for every split, exactly distributed, pinned by golden values.

#![allow(clippy::unwrap_used, clippy::unreadable_literal)]

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use ngram_copy_core::sample::{self, Categorical, Markov, Rows, TOTAL};
use proptest::prelude::*;

const CASES: u32 = 1024;

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

type Fill = Box<dyn Fn(Rows, usize, usize, &mut [u32]) -> ngram_copy_core::Result<()>>;

fn sources(vocab_size: u64, branching: u64) -> Vec<Fill> {
    let zipf = Categorical::new(&sample::zipf_counts(vocab_size, 1.0).unwrap()).unwrap();
    let chain = Markov::new(7, vocab_size, branching).unwrap();
    vec![
        Box::new(move |rows, seq_len, threads, out| sample::uniform(rows, seq_len, vocab_size, threads, out)),
        // More than half of all words are rejected.
        Box::new(|rows, seq_len, threads, out| sample::uniform(rows, seq_len, (1 << 31) + 1, threads, out)),
        Box::new(move |rows, seq_len, threads, out| zipf.fill(rows, seq_len, threads, out)),
        Box::new(move |rows, seq_len, threads, out| chain.fill(rows, seq_len, threads, out)),
    ]
}

proptest! {
    #![proptest_config(config("sampling"))]

    #[test]
    fn any_split_gives_the_same_rows(
        seed: u64, stream: u64, start in 0..1_u64 << 40, seq_len in 1..90_usize, cuts in prop::collection::vec(1..40_usize, 1..4),
        threads in 1..3_usize, vocab_size in 1..70_u64, branching in 1..5_u64,
    ) {
        let count: usize = cuts.iter().sum();
        for fill in sources(vocab_size, branching.min(vocab_size)) {
            let mut whole = vec![0; count * seq_len];
            fill(Rows { seed, stream, start }, seq_len, threads, &mut whole).unwrap();
            let mut first = 0;
            for &rows in &cuts {
                let mut part = vec![0; rows * seq_len];
                fill(Rows { seed, stream, start: start + first as u64 }, seq_len, 1, &mut part).unwrap();
                prop_assert_eq!(&part[..], &whole[first * seq_len..(first + rows) * seq_len]);
                first += rows;
            }
        }
    }

    #[test]
    fn distinct_values_are_distinct(seed: u64, start in 0..1_u64 << 40, k in 1..40_usize, more in 0..9_u64, rows in 1..5_usize) {
        let high = k as u64 + more;
        let mut whole = vec![0; rows * k];
        sample::distinct(Rows { seed, stream: 1, start }, k, high, 1, &mut whole).unwrap();
        for (row, values) in (start..).zip(whole.chunks_exact(k)) {
            let mut sorted = values.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(sorted.len(), k);
            prop_assert!(sorted[k - 1] < high);
            let mut alone = vec![0; k];
            sample::distinct(Rows { seed, stream: 1, start: row }, k, high, 2, &mut alone).unwrap();
            prop_assert_eq!(&alone[..], values);
        }
    }

    #[test]
    fn an_alias_table_has_the_exact_probabilities(weights in prop::collection::vec(0..1000_u64, 1..40)) {
        // Counts in steps of 2^21: every 2^21-th word stands for its neighbours where the table has few places.
        let sum: u64 = weights.iter().sum();
        prop_assume!(sum > 0);
        let mut counts: Vec<u64> = weights.iter().map(|weight| weight * 2048 / sum).collect();
        counts[0] += 2048 - counts.iter().sum::<u64>();
        let counts: Vec<u64> = counts.iter().map(|count| count << 21).collect();
        let table = Categorical::new(&counts).unwrap();
        let mut seen = vec![0; counts.len()];
        for word in 0..2048_u32 {
            seen[table.outcome(word << 21) as usize] += 1_u64 << 21;
        }
        prop_assert_eq!(seen, counts);
    }
}

/// Pearson's statistic of `counts` against probabilities; with f cells it exceeds f + 6·sqrt(2f) with P < 10^-6.
fn chi_square(counts: &[u64], p: impl Fn(usize) -> f64) -> f64 {
    let total: u64 = counts.iter().sum();
    counts
        .iter()
        .enumerate()
        .map(|(j, &count)| {
            let expected = total as f64 * p(j);
            (count as f64 - expected).powi(2) / expected
        })
        .sum()
}

fn assert_fits(counts: &[u64], p: impl Fn(usize) -> f64) {
    let freedom = counts.len() as f64 - 1.0;
    let statistic = chi_square(counts, p);
    let (low, high) = (freedom - 6.0 * (2.0 * freedom).sqrt(), freedom + 6.0 * (2.0 * freedom).sqrt() + 12.0);
    assert!((low..high).contains(&statistic), "{statistic} of {freedom}");
}

fn tally(cells: usize, items: impl Iterator<Item = usize>) -> Vec<u64> {
    let mut counts = vec![0; cells];
    for item in items {
        counts[item] += 1;
    }
    counts
}

const ROWS: Rows = Rows { seed: 3, stream: 5, start: 0 };

#[test]
fn uniform_tokens_fit_their_distribution() {
    for vocab_size in [3, 26, 32000_u64] {
        let mut out = vec![0; 1_000_000];
        sample::uniform(ROWS, 20, vocab_size, 1, &mut out).unwrap();
        let counts = tally(vocab_size as usize, out.iter().map(|&token| token as usize));
        assert_fits(&counts, |_| 1.0 / vocab_size as f64);
    }
    // Heavy rejection, in 64 bins of nearly equal width: 3·2^30 refuses one word in four, 2^31 + 1 one in two.
    for vocab_size in [3 << 30, (1 << 31) + 1, TOTAL - 1, TOTAL] {
        let mut out = vec![0; 400_000];
        sample::uniform(ROWS, 20, vocab_size, 1, &mut out).unwrap();
        let counts = tally(64, out.iter().map(|&token| (u64::from(token) * 64 / vocab_size) as usize));
        assert_fits(&counts, |_| 1.0 / 64.0);
        let parity = tally(2, out.iter().map(|&token| (token & 1) as usize));
        assert_fits(&parity, |_| 0.5);
    }
}

#[test]
fn zipf_tokens_and_markov_steps_fit_their_counts() {
    let counts = sample::zipf_counts(1000, 1.2).unwrap();
    assert_eq!(counts.iter().sum::<u64>(), TOTAL);
    let mut out = vec![0; 1_000_000];
    Categorical::new(&counts).unwrap().fill(ROWS, 1_000_000, 1, &mut out).unwrap();
    let seen = tally(1000, out.iter().map(|&token| token as usize));
    assert_fits(&seen, |j| counts[j] as f64 / TOTAL as f64);

    let chain = Markov::new(11, 26, 5).unwrap();
    chain.fill(ROWS, 1000, 1, &mut out).unwrap();
    for state in 0..26 {
        let (successors, counts) = (&chain.successors[5 * state..][..5], &chain.counts[5 * state..][..5]);
        assert_eq!(counts.iter().sum::<u64>(), TOTAL);
        let mut seen = [0; 5];
        for walk in out.chunks_exact(1000) {
            for step in walk.windows(2).filter(|step| step[0] as usize == state) {
                seen[successors.iter().position(|&next| next == step[1]).unwrap()] += 1;
            }
        }
        let expected: Vec<f64> = counts.iter().map(|&count| count as f64 / TOTAL as f64).collect();
        assert_fits(&seen, |j| expected[j]);
    }
}

#[test]
fn walks_side_by_side_are_walks_alone() {
    // With one successor a state, walks may never meet.
    for (vocab_size, branching) in [(26, 5), (26, 1), (1000, 1), (1000, 3), (1, 1)] {
        let chain = Markov::new(11, vocab_size, branching).unwrap();
        // The longest are walked in pieces where they are alone.
        for seq_len in [1, 7, 256, 257, 3000, 65_536, 70_003] {
            let mut walks = vec![0; 7 * seq_len];
            chain.fill(ROWS, seq_len, 1, &mut walks).unwrap();
            for (start, walk) in (0..).zip(walks.chunks(seq_len)) {
                let mut alone = vec![0; seq_len];
                chain.fill(Rows { start, ..ROWS }, seq_len, 1, &mut alone).unwrap();
                assert!(walk == alone, "rows of {seq_len}, {branching} of {vocab_size}");
                let width = branching as usize;
                let follows = |step: &[u32]| chain.successors[width * step[0] as usize..][..width].contains(&step[1]);
                assert!(walk.windows(2).all(follows));
            }
        }
    }
}

#[test]
fn every_ordered_choice_is_equally_likely() {
    let mut out = vec![0; 3 * 60_000];
    sample::distinct(ROWS, 3, 5, 1, &mut out).unwrap();
    let counts = tally(125, out.chunks_exact(3).map(|v| (25 * v[0] + 5 * v[1] + v[2]) as usize));
    let possible: Vec<u64> = counts.iter().copied().filter(|&count| count > 0).collect();
    assert_eq!(possible.len(), 60);
    assert_fits(&possible, |_| 1.0 / 60.0);
}

#[test]
fn integers_cover_their_range() {
    let mut out = vec![0; 60_000];
    sample::integers(ROWS, -3, 4, 1, &mut out).unwrap();
    let counts = tally(7, out.iter().map(|&value| (value + 3) as usize));
    assert_fits(&counts, |_| 1.0 / 7.0);
    // Half of all words are rejected; the halves of the range are equally likely.
    sample::integers(ROWS, -(1 << 62) - 1, 1 << 62, 1, &mut out).unwrap();
    let negative = out.iter().filter(|&&value| value < 0).count() as u64;
    assert_fits(&[negative, 60_000 - negative], |_| 0.5);
}

/// Uniform tokens below 2^32 are the words themselves; the cipher that writes them counts 2^36, and the generator 2^68.
#[test]
fn words_are_those_of_the_generator() {
    let (seed, stream) = (0x0123_4567_89ab_cdef, u64::MAX - 5);
    for seq_len in [1_usize, 3, 64, 100] {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&u64::to_le_bytes(seed));
        key[8] = 1; // the kind of draw
        key[16..24].copy_from_slice(&(seq_len as u64).to_le_bytes());
        key[24..].copy_from_slice(&TOTAL.to_le_bytes());
        for word in [0, 5, (1 << 36) - 300, (1 << 36) - 64, (1 << 36) - 1, (1 << 60) - 1000] {
            let start = word / seq_len as u64;
            let mut rng = ChaCha8Rng::from_seed(key);
            rng.set_stream(stream);
            rng.set_word_pos(u128::from(start) * seq_len as u128);
            let expected: Vec<u32> = (0..30 * 100 / seq_len * seq_len).map(|_| rng.next_u32()).collect();
            let mut out = vec![0; expected.len()];
            sample::uniform(Rows { seed, stream, start }, seq_len, TOTAL, 1, &mut out).unwrap();
            assert!(out == expected, "rows of {seq_len} from word {word}");
        }
    }
}

#[test]
fn golden_values() {
    let rows = Rows { seed: 1, stream: 2, start: 3 };
    let mut tokens = [0; 8];
    let mut next = |fill: &dyn Fn(&mut [u32]) -> ngram_copy_core::Result<()>| {
        fill(&mut tokens).unwrap();
        tokens
    };
    let zipf = Categorical::new(&sample::zipf_counts(100, 1.0).unwrap()).unwrap();
    let chain = Markov::new(4, 100, 4).unwrap();
    let mut distinct = [0; 4];
    sample::distinct(rows, 4, 1 << 40, 1, &mut distinct).unwrap();
    let mut integers = [0; 2];
    sample::integers(rows, -1000, 1000, 1, &mut integers).unwrap();
    assert_eq!(next(&|out| sample::uniform(rows, 8, 26, 1, out)), [14, 6, 13, 6, 7, 8, 16, 2]);
    assert_eq!(
        next(&|out| sample::uniform(rows, 8, (1 << 31) + 1, 1, out)),
        [575851320, 667584291, 859530388, 1331489240, 844375754, 336697537, 880969978, 1306342908]
    );
    assert_eq!(next(&|out| zipf.fill(rows, 8, 1, out)), [2, 80, 0, 3, 41, 1, 7, 16]);
    assert_eq!(next(&|out| chain.fill(rows, 8, 1, out)), [93, 17, 32, 69, 26, 95, 4, 13]);
    assert_eq!(distinct, [577319908897, 241509788667, 465519293181, 59226049152]);
    assert_eq!(integers, [499, -541]);
}

#[test]
fn bad_values_are_named() {
    let check = |result: ngram_copy_core::Result<()>, text: &str| assert_eq!(result.unwrap_err().to_string(), text);
    let mut out = [0; 4];
    check(sample::uniform(ROWS, 2, 0, 1, &mut out), "vocab_size must be 1 to 2^32, not 0");
    check(sample::uniform(ROWS, 2, TOTAL + 1, 1, &mut out), "vocab_size must be 1 to 2^32, not 4294967297");
    check(sample::uniform(ROWS, 3, 2, 1, &mut out), "4 items are not a whole number of rows of 3");
    check(
        sample::uniform(Rows { start: (1 << 62) - 1, ..ROWS }, 2, 2, 1, &mut out),
        "(start + count) * row length must be at most 2^63, not start = 4611686018427387903 and rows of 2",
    );
    check(sample::zipf_counts(5, f64::NAN).map(drop), "exponent must be finite and at least 0, not NaN");
    check(sample::zipf_counts(1 << 25, 1.0).map(drop), "vocab_size must be 1 to 2^24, not 33554432");
    check(Categorical::new(&[1, 2]).map(drop), "counts must sum to 2^32, not a sum of 3");
    check(Markov::new(0, 3, 4).map(drop), "branching must be 1 to vocab_size (3), not 4");
    check(
        sample::distinct(ROWS, 4, 3, 1, &mut [0; 4]),
        "k must be at most high (3): no more values are distinct, not 4",
    );
    check(sample::integers(ROWS, 3, 3, 1, &mut [0; 2]), "low must be less than high, not low = 3, high = 3");
}
