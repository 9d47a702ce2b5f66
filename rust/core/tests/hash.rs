//! The n-gram hash: golden values, and every type, instruction set, thread count and batch shape against the oracle.

#![allow(clippy::unwrap_used)]

use ngram_copy_core::ngram::hash::{BOUNDARY, MAX_N, NgramHasher, Token, finish};
use ngram_copy_core::simd::Level;
use ngram_copy_core::{Error, naive};
use proptest::prelude::*;

const CASES: u32 = 1024;

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

fn hashes<T: Token>(tokens: &[T], n: usize, seed: u64, level: Level, threads: usize) -> Vec<u64> {
    let hasher = NgramHasher::new(n, seed).unwrap().with_level(level);
    let mut out = vec![0; hasher.count(tokens.len())];
    hasher.hash_into(tokens, &mut out, threads).unwrap();
    out
}

fn cast<T: TryFrom<u64>>(tokens: &[u64]) -> Option<Vec<T>> {
    tokens.iter().map(|token| T::try_from(*token).ok()).collect()
}

#[test]
fn golden_values() {
    let tokens = [3_u32, 1, 4, 1, 5, 9, 2, 6, 5, 3, u32::MAX];
    let first_and_last = |n, seed| {
        let hashes = hashes(&tokens, n, seed, Level::best(), 1);
        (hashes[0], hashes[hashes.len() - 1])
    };
    assert_eq!(first_and_last(1, 0), (0x3e2c_6070_b44b_0a22, 0xdd8e_5879_03e9_e663));
    assert_eq!(first_and_last(4, 0), (0x3448_fefd_d46c_c5fd, 0x344a_bf09_b21c_0df3));
    assert_eq!(first_and_last(4, 1), (0x0f99_a738_1229_b963, 0x597f_8381_1532_95a5));
    assert_eq!(first_and_last(9, u64::MAX), (0x024d_6e53_11f6_627a, 0xde1f_2e34_c874_89ff));
}

proptest! {
    #![proptest_config(config("hash equals the oracle for every type, instruction set and thread count"))]

    #[test]
    fn equals_the_oracle(
        (bits, len) in (1_u32..=32, prop_oneof![0_usize..40, 500_usize..1100]),
        n in prop_oneof![1_usize..=9, 10_usize..40],
        seed: u64,
        threads in 1_usize..=3,
        random in proptest::collection::vec(any::<u64>(), 1100),
    ) {
        let tokens: Vec<u64> = random[..len].iter().map(|x| x >> (64 - bits)).collect();
        let expected = naive::hash_ngrams(&tokens, n, seed);
        for level in Level::available() {
            prop_assert_eq!(&hashes(&tokens, n, seed, level, threads), &expected);
            if let Some(tokens) = cast::<u8>(&tokens) {
                prop_assert_eq!(&hashes(&tokens, n, seed, level, threads), &expected);
            }
            if let Some(tokens) = cast::<u16>(&tokens) {
                prop_assert_eq!(&hashes(&tokens, n, seed, level, threads), &expected);
            }
            if let Some(tokens) = cast::<u32>(&tokens) {
                prop_assert_eq!(&hashes(&tokens, n, seed, level, threads), &expected);
            }
            if let Some(tokens) = cast::<i32>(&tokens) {
                prop_assert_eq!(&hashes(&tokens, n, seed, level, threads), &expected);
            }
            if let Some(tokens) = cast::<i64>(&tokens) {
                prop_assert_eq!(&hashes(&tokens, n, seed, level, threads), &expected);
            }
        }
        let hasher = NgramHasher::new(n, seed).unwrap();
        let one_by_one: Vec<u64> = tokens.windows(n).map(|window| hasher.hash_one(window.iter().copied())).collect();
        prop_assert_eq!(&one_by_one, &expected);
    }
}

proptest! {
    #![proptest_config(config("the finaliser can be undone"))]

    #[test]
    fn the_finaliser_can_be_undone(sum: u64) {
        let hash = finish(sum);
        let low = u64::from((hash as u32).wrapping_mul(0x0e8b_2f51));
        let high = hash.wrapping_sub(low * 0x9e37_79b1) >> 32;
        prop_assert_eq!((high << 32) | (low ^ (((high * high) >> 16) & 0xffff_ffff)), sum);
    }
}

proptest! {
    #![proptest_config(config("a batch is its rows"))]

    #[test]
    fn a_batch_is_its_rows(
        (rows, seq_len, n) in (0_usize..9, 1_usize..30, 1_usize..12),
        threads in 1_usize..=4,
        random in proptest::collection::vec(any::<u16>(), 9 * 30),
    ) {
        let tokens = &random[..rows * seq_len];
        let hasher = NgramHasher::new(n, 7).unwrap();
        let mut out = vec![0; rows * hasher.count(seq_len)];
        hasher.hash_rows_into(tokens, seq_len, &mut out, threads, &|_| Ok(())).unwrap();
        let expected: Vec<u64> =
            tokens.chunks(seq_len).flat_map(|row| hashes(row, n, 7, Level::best(), 1)).collect();
        prop_assert_eq!(out, expected);
    }
}

proptest! {
    #![proptest_config(config("the first value that is no token is named"))]

    #[test]
    fn the_first_invalid_value_is_named(
        (len, at, n) in (1_usize..1200).prop_flat_map(|len| (Just(len), 0..len, 1_usize..12)),
        value in prop_oneof![i64::MIN..0, (1_i64 << 32)..=i64::MAX],
        threads in 1_usize..=3,
    ) {
        let mut tokens = vec![5_i64; len];
        tokens[at] = value;
        let hasher = NgramHasher::new(n, 0).unwrap();
        let mut out = vec![0; hasher.count(len)];
        let message = format!("token {value} at index {at}: tokens must be 0 to 4294967295");
        prop_assert_eq!(hasher.hash_into(&tokens, &mut out, threads), Err(Error::Value(message.clone())));
        prop_assert_eq!(i64::validate(&tokens), Err(Error::Value(message)));
        let row = format!("token {value} at index [1, {at}]: tokens must be 0 to 4294967295");
        let batch: Vec<i64> = vec![5; len].into_iter().chain(tokens).collect();
        let mut out = vec![0; 2 * hasher.count(len)];
        prop_assert_eq!(hasher.hash_rows_into(&batch, len, &mut out, threads, &|_| Ok(())), Err(Error::Value(row)));
        let mut narrow = vec![5_i32; len];
        narrow[at] = value as i32 | i32::MIN;
        prop_assert!(hasher.hash_into(&narrow, &mut vec![0; hasher.count(len)], threads).is_err());
    }
}

#[test]
fn outputs_larger_than_the_caches_are_the_same() {
    let tokens: Vec<u64> = (0..1_100_000_u64).map(|i| i * i % 1009).collect();
    let (narrow, wide): (Vec<u16>, Vec<u32>) = (cast(&tokens).unwrap(), cast(&tokens).unwrap());
    // Up to 97,776: some blocks have a second limb.
    let large: Vec<u64> = (0..).zip(&tokens).map(|(i, token)| token * if i % 10_000 < 5000 { 97 } else { 1 }).collect();
    for n in [1, 2, 3, 4, 7, 8, 9] {
        let [expected, of_large] = [&tokens, &large].map(|tokens| naive::hash_ngrams(tokens, n, 3));
        for level in Level::available() {
            // Every alignment of the output to a cache line.
            for start in 0..8 {
                let hasher = NgramHasher::new(n, 3).unwrap().with_level(level);
                let mut out = vec![0; start + expected.len()];
                let same = |out: &[u64]| assert!(out[start..] == expected, "n {n}, level {level:?}, start {start}");
                hasher.hash_into(&narrow, &mut out[start..], 1).unwrap();
                same(&out);
                if n == 4 || start == 3 {
                    hasher.hash_into(&wide, &mut out[start..], 2).unwrap();
                    same(&out);
                    hasher.hash_into(&tokens, &mut out[start..], 1).unwrap();
                    same(&out);
                    hasher.hash_into(&large, &mut out[start..], 1).unwrap();
                    assert!(out[start..] == of_large, "n {n}, level {level:?}, start {start}, large tokens");
                }
            }
        }
    }
}

#[test]
fn the_boundary_symbol_is_hashed_as_itself() {
    let boundary = |i: u64| i < 9 || i.is_multiple_of(61);
    let symbols: Vec<u64> = (0..200).map(|i| if boundary(i) { BOUNDARY } else { i * 0x9e37 }).collect();
    for n in 1..=20 {
        let expected = naive::hash_ngrams(&symbols, n, 0);
        for level in Level::available() {
            assert_eq!(hashes(&symbols, n, 0, level, 1), expected);
        }
    }
    let too_large = [BOUNDARY + 1];
    assert!(u64::validate(&too_large).is_err());
}

#[test]
fn bad_arguments_are_named() {
    let text = |error: Error| error.to_string();
    assert_eq!(text(NgramHasher::new(0, 0).unwrap_err()), "n is 0; it must be 1 to 65536");
    assert_eq!(text(NgramHasher::new(MAX_N + 1, 0).unwrap_err()), "n is 65537; it must be 1 to 65536");
    let hasher = NgramHasher::new(3, 0).unwrap();
    assert_eq!(
        text(hasher.hash_into(&[1_u8, 2, 3], &mut [0; 2], 1).unwrap_err()),
        "out has 2 elements; the tokens have 1 windows of 3"
    );
    assert_eq!(
        text(hasher.hash_into(&[1_u8, 2, 3], &mut [0; 1], 0).unwrap_err()),
        "threads is 0; it must be 1 to 1024"
    );
    assert_eq!(hasher.hash_into(&[1_u8, 2], &mut [], 1), Ok(()));
    assert_eq!(
        hasher.hash_rows_into(&[1_u8, 2, 3], 2, &mut [], 1, &|_| Ok(())).unwrap_err().to_string(),
        "3 tokens are not rows of 2"
    );
}
