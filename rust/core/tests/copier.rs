//! The copiers against their naive versions, and THEORY's rule.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use ngram_copy_core::naive::NaiveCopier;
use ngram_copy_core::ngram::bounded::{BoundedTable, Eviction, Shape};
use ngram_copy_core::ngram::bounded_copier::BoundedNgramCopier;
use ngram_copy_core::ngram::copier::{NgramCopier, OnMiss, Policy};
use ngram_copy_core::ngram::marks::{Answers, Batch, Copier, Marks};
use ngram_copy_core::ngram::prefix_machine::PrefixMachine;
use proptest::prelude::*;

const CASES: u32 = 1500;
const BOS: u32 = 100;
const COPY: u32 = 101;
const EOS: u32 = 102;

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

fn predict<C: Copier>(
    copier: &C,
    tokens: &[u32],
    seq_len: usize,
    start: usize,
    threads: usize,
) -> (Vec<i64>, Vec<i64>) {
    let size = tokens.len() / seq_len * (seq_len - start);
    let (mut predicted, mut sources) = (vec![-7; size], vec![-7; size]);
    let answers = Answers { predicted: &mut predicted, sources: &mut sources };
    copier.predict(Batch { tokens, seq_len, lengths: None, start, first_row: 0 }, threads, answers).unwrap();
    (predicted, sources)
}

fn policies() -> impl Strategy<Value = Policy> {
    prop::sample::select(vec![Policy::First, Policy::Last, Policy::MostFrequent])
}

prop_compose! {
    fn copiers()(
        n in 1..5_usize,
        policy in policies(),
        on_miss in prop::sample::select(vec![OnMiss::Stop, OnMiss::Repeat, OnMiss::Token(1), OnMiss::Token(BOS)]),
        boundaries in prop::sample::select(vec![vec![], vec![BOS, COPY], vec![0]]),
        end in prop::sample::select(vec![None, Some(EOS), Some(2)]),
        include_generated: bool,
        seed: u64,
    ) -> (NaiveCopier, NgramCopier, bool) {
        let marks = Marks::new(boundaries.clone(), end).unwrap();
        let copier = NgramCopier::new(n, policy, on_miss, include_generated, marks, seed).unwrap();
        (NaiveCopier { n, policy, on_miss, boundaries, end }, copier, include_generated)
    }
}

fn texts(longest: usize) -> impl Strategy<Value = Vec<u32>> {
    let token = prop_oneof![30 => 0..3_u32, 2 => Just(BOS), 2 => Just(COPY), 1 => Just(EOS), 1 => Just(u32::MAX)];
    prop::collection::vec(token, 1..longest)
}

fn strings() -> impl Strategy<Value = Vec<u32>> {
    (1..5_u32, 0..24_usize).prop_flat_map(|(vocab_size, length)| prop::collection::vec(0..vocab_size, length))
}

/// `<bos> x <copy>`.
fn prompt(x: &[u32]) -> Vec<u32> {
    [&[BOS], x, &[COPY]].concat()
}

proptest! {
    #![proptest_config(config("copier"))]

    #[test]
    fn equals_the_naive_copier((naive, copier, include_generated) in copiers(), text in texts(60), cut: prop::sample::Index) {
        let start = cut.index(text.len());
        let (predicted, sources) = predict(&copier, &text, text.len(), start, 1);
        for (column, said) in (start..text.len()).zip(predicted.into_iter().zip(sources)) {
            let learned = if include_generated { column } else { start };
            prop_assert_eq!(said, naive.next(&text[..column], learned), "at {} of {:?}", column, text);
        }
    }

    #[test]
    fn generates_what_the_naive_copier_generates((naive, copier, include_generated) in copiers(), text in texts(40), query in texts(6)) {
        let mut context = [&text[..], &query[..]].concat();
        let mut expected = Vec::new();
        while expected.len() < 30 {
            let learned = if include_generated { context.len() } else { text.len() };
            let (token, _) = naive.next(&context, learned);
            if token < 0 {
                break;
            }
            expected.push(token);
            if Some(token as u32) == naive.end {
                break;
            }
            context.push(token as u32);
        }
        let state = copier.cut(&text).unwrap();
        prop_assert_eq!(&copier.resume(&state, &query, 30, &|_| Ok(())).unwrap(), &expected);
        if include_generated {
            prop_assert_eq!(copier.complete(&[text, query].concat(), 30, &|_| Ok(())).unwrap(), expected);
        }
    }

    #[test]
    fn a_copy_succeeds_exactly_when_no_ngram_repeats(x in strings(), n in 1..5_usize, policy in policies(), include_generated: bool) {
        let marks = Marks::new(vec![BOS, COPY], Some(EOS)).unwrap();
        let copier = NgramCopier::new(n, policy, OnMiss::Stop, include_generated, marks, 0).unwrap();
        let ngrams: Vec<_> = x.windows(n).collect();
        let repeats = ngrams.iter().collect::<HashSet<_>>().len() < ngrams.len();
        let answer: Vec<i64> = x.iter().map(|&token| i64::from(token)).chain([i64::from(EOS)]).collect();

        let free = copier.complete(&prompt(&x), x.len() + 5, &|_| Ok(())).unwrap();
        prop_assert_eq!(free == answer, !repeats);
        let whole = [prompt(&x), x.clone(), vec![EOS]].concat();
        let (forced, sources) = predict(&copier, &whole, whole.len(), x.len() + 2, 1);
        prop_assert_eq!(forced == answer, !repeats);
        if !repeats {
            prop_assert_eq!(sources, (1..=x.len() as i64 + 1).collect::<Vec<_>>());
        }
    }

    #[test]
    fn rows_and_threads_are_independent((_, copier, _) in copiers(), text in texts(60), rows in 1..9_usize) {
        let seq_len = text.len().div_ceil(rows);
        let tokens: Vec<u32> = text.iter().copied().cycle().take(rows * seq_len).collect();
        let start = seq_len / 2;
        let whole = predict(&copier, &tokens, seq_len, start, 1);
        prop_assert_eq!(&predict(&copier, &tokens, seq_len, start, 2), &whole);
        let single: Vec<_> = tokens.chunks(seq_len).map(|row| predict(&copier, row, seq_len, start, 1)).collect();
        prop_assert_eq!(single.iter().flat_map(|(p, _)| p.clone()).collect::<Vec<_>>(), whole.0);
        prop_assert_eq!(single.iter().flat_map(|(_, s)| s.clone()).collect::<Vec<_>>(), whole.1);
    }
}

/// The key of the position after `tokens`; boundaries, the cut and the start are `BOS`.
fn bounded_key(tokens: &[u32], n: usize) -> Vec<u64> {
    let near = tokens.iter().rev().take_while(|&&token| token != BOS && token != COPY).take(n);
    let mut key: Vec<u64> = near.map(|&token| u64::from(token)).collect();
    key.resize(n, u64::from(BOS));
    key.reverse();
    key
}

proptest! {
    #![proptest_config(config("bounded copier"))]

    #[test]
    fn the_bounded_copier_looks_up_what_its_table_holds(
        n in 1..4_usize, slots in 1..60_usize, key_bits in prop::sample::select(vec![0, 3, 21, 64]),
        eviction in prop::sample::select(vec![Eviction::KeepFirst, Eviction::Overwrite]), on_miss in prop::sample::select(vec![OnMiss::Stop, OnMiss::Repeat]),
        end in prop::sample::select(vec![None, Some(EOS)]), x in prop::collection::vec(0..4_u32, 0..40), query in prop::collection::vec(0..4_u32, 0..5),
    ) {
        let shape = Shape { n, slots, key_bits, value_bits: 7 };
        let marks = Marks::new(vec![BOS, COPY], end).unwrap();
        let copier = BoundedNgramCopier::new(shape, eviction, on_miss, marks, 9).unwrap();
        let mut table = BoundedTable::new(shape, eviction, 9).unwrap();
        let prompt = prompt(&x);
        for at in 1..prompt.len() {
            let next = if prompt[at] == COPY { end } else { Some(prompt[at]) };
            if let Some(next) = next {
                table.insert_one(&bounded_key(&prompt[..at], n), u64::from(next)).unwrap();
            }
        }
        let said = |after: &[u32]| {
            let found = table.next_token(&bounded_key(after, n)).unwrap();
            let repeat = if on_miss == OnMiss::Repeat { after.last().copied() } else { None };
            found.or(repeat).map_or(-1, i64::from)
        };
        let mut after = query.clone();
        let mut expected = Vec::new();
        while expected.len() < 50 {
            let token = said(&after);
            if token < 0 {
                break;
            }
            expected.push(token);
            if Some(token as u32) == end {
                break;
            }
            after.push(token as u32);
        }
        let state = copier.cut(&prompt).unwrap();
        prop_assert_eq!(copier.resume(&state, &query, 50, &|_| Ok(())).unwrap(), expected);
        let whole = [&prompt[..], &query[..], &x[..]].concat();
        let (predicted, sources) = predict(&copier, &whole, whole.len(), prompt.len(), 1);
        let expected: Vec<i64> = (prompt.len()..whole.len()).map(|at| said(&whole[prompt.len()..at])).collect();
        prop_assert_eq!(&predicted, &expected);
        prop_assert!(sources.iter().all(|&source| source == -1));
        let rows: Vec<u32> = whole.iter().chain(&whole).chain(&whole).copied().collect();
        prop_assert_eq!(predict(&copier, &rows, whole.len(), prompt.len(), 2).0, expected.repeat(3));
        let load = copier.load(&prompt).unwrap();
        prop_assert_eq!((load.occupied, load.collisions), (table.occupied() as u64, table.collisions()));
        prop_assert_eq!(load.insertions, x.len() as u64 + u64::from(end.is_some()));
    }

    #[test]
    fn the_prefix_machine_says_what_it_kept(x in prop::collection::vec(0..6_u32, 0..12), kept in 0..8_usize, groups in prop::sample::select(vec![1, 2, 3, 6_u64])) {
        let marks = Marks::new(vec![BOS, COPY], Some(EOS)).unwrap();
        let machine = PrefixMachine::new(kept, groups, 6, marks).unwrap();
        let group_size = 6 / groups as u32;
        let mut expected: Vec<i64> = x.iter().map(|&token| i64::from(token)).collect();
        for (at, token) in expected.iter_mut().enumerate().skip(kept) {
            *token = if at == kept { i64::from(x[at] / group_size * group_size) } else { 0 };
        }
        expected.push(i64::from(EOS));
        let state = machine.cut(&prompt(&x)).unwrap();
        prop_assert_eq!(&machine.resume(&state, &[0; 0], 100, &|_| Ok(())).unwrap(), &expected);
        let skip = x.len().min(3);
        prop_assert_eq!(&machine.resume(&state, &x[..skip], 100, &|_| Ok(())).unwrap()[..], &expected[skip..]);
        let whole = [prompt(&x), vec![0; x.len() + 1]].concat();
        let (predicted, sources) = predict(&machine, &whole, whole.len(), x.len() + 2, 1);
        prop_assert_eq!(predicted, expected);
        let copied = (0..=x.len()).map(|at| if at < kept.min(x.len()) { at as i64 + 1 } else { -1 });
        prop_assert_eq!(sources, copied.collect::<Vec<_>>());
        // Three bits hold a token of six; header and free numbers take 19 bytes at most.
        prop_assert!(state.len() <= 19 + (3 * (kept.min(x.len()) + 1)).div_ceil(8));
    }

    #[test]
    fn bits_make_the_largest_machine(bits in 0.0..200.0_f64, vocab_size in prop::sample::select(vec![1_u64, 2, 3, 6, 26, 30, 97, 1 << 32])) {
        let machine = PrefixMachine::from_state_bits(bits, vocab_size, Marks::new(vec![], None).unwrap()).unwrap();
        prop_assert!(machine.state_bits() <= bits + 1e-6);
        let log = |number: u64| (number as f64).log2();
        if vocab_size > 1 {
            prop_assert!((machine.kept() + 1) as f64 * log(vocab_size) > bits - 1e-6);
        }
        if vocab_size < 100 {
            let larger = (machine.groups() + 1..vocab_size).find(|groups| vocab_size % groups == 0);
            prop_assert!(larger.is_none_or(|groups| machine.kept() as f64 * log(vocab_size) + log(groups) > bits - 1e-6));
        }
    }

    #[test]
    fn crafted_states_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..40), kind in 0..3_usize) {
        use ngram_copy_core::ngram::state::{Kind, Writer};
        let mut state = Writer::new([Kind::Copier, Kind::BoundedTable, Kind::PrefixMachine][kind]);
        for byte in bytes {
            state.put(u64::from(byte), 8);
        }
        let state = state.finish();
        let marks = || Marks::new(vec![BOS], Some(EOS)).unwrap();
        let shape = Shape { n: 2, slots: 3, key_bits: 4, value_bits: 7 };
        let copier = NgramCopier::new(2, Policy::First, OnMiss::Repeat, true, marks(), 0).unwrap();
        let bounded = BoundedNgramCopier::new(shape, Eviction::Overwrite, OnMiss::Stop, marks(), 0).unwrap();
        let machine = PrefixMachine::new(2, 1, 5, marks()).unwrap();
        let results = [
            copier.resume(&state, &[1_u8], 9, &|_| Ok(())),
            bounded.resume(&state, &[1_u8], 9, &|_| Ok(())),
            machine.resume(&state, &[1_u8], 9, &|_| Ok(())),
        ];
        for (other, result) in results.into_iter().enumerate() {
            prop_assert!(matches!(result, Err(ngram_copy_core::Error::State(_))) || (other == kind && result.is_ok()));
        }
    }
}

#[test]
fn long_texts_cross_blocks() {
    // Blocks of the copier hold about 1,000 symbols: boundaries, n and repeats on both sides of their edges.
    let text: Vec<u32> = (0..6000_u32).map(|i| if i % 1021 == 0 { BOS } else { (i * i / 7) % 5 + i % 3 }).collect();
    for (n, policy) in [(1, Policy::First), (7, Policy::Last), (300, Policy::MostFrequent), (2000, Policy::First)] {
        let marks = Marks::new(vec![BOS], Some(EOS)).unwrap();
        let copier = NgramCopier::new(n, policy, OnMiss::Stop, true, marks, 3).unwrap();
        let naive = NaiveCopier { n, policy, on_miss: OnMiss::Stop, boundaries: vec![BOS], end: Some(EOS) };
        let (predicted, sources) = predict(&copier, &text, text.len(), 0, 1);
        for column in [0, 1, 900, 1020, 1021, 1022, 1030, 2047, 4090, 5110, 5999] {
            let expected = naive.next(&text[..column], column);
            assert_eq!((predicted[column], sources[column]), expected, "n = {n}, column {column}");
        }
    }
}

#[test]
fn rows_of_different_lengths() {
    let marks = Marks::new(vec![BOS, COPY], Some(EOS)).unwrap();
    let copier = NgramCopier::new(2, Policy::First, OnMiss::Stop, true, marks, 0).unwrap();
    let tokens =
        [[BOS, 5, 6, COPY, 5, 6, EOS, 9], [BOS, 5, COPY, 5, EOS, 9, 9, 9], [BOS, 7, 9, 9, 9, 9, 9, 9]].concat();
    let (mut predicted, mut sources) = (vec![0; 15], vec![0; 15]);
    let batch = Batch { tokens: &tokens, seq_len: 8, lengths: Some(&[7, 5, 2]), start: 3, first_row: 0 };
    let answers = Answers { predicted: &mut predicted, sources: &mut sources };
    copier.predict(batch, 2, answers).unwrap();
    assert_eq!(predicted, [-1, 5, 6, 102, -1, 5, 102, -1, -1, -1, -1, -1, -1, -1, -1]);
    assert_eq!(sources, [-1, 1, 2, 3, -1, 1, 2, -1, -1, -1, -1, -1, -1, -1, -1]);
}

#[test]
fn bad_values_are_named() {
    let marks = || Marks::new(vec![BOS], None).unwrap();
    let message = |result: ngram_copy_core::Result<()>| result.unwrap_err().to_string();
    let copier = NgramCopier::new(2, Policy::First, OnMiss::Stop, true, marks(), 0).unwrap();
    assert!(
        message(NgramCopier::new(0, Policy::First, OnMiss::Stop, true, marks(), 0).map(drop)).starts_with("n is 0")
    );
    assert_eq!(message(Marks::new(vec![3, 4], Some(4)).map(drop)), "end must not be one of the boundaries, not 4");
    let tokens = [0, 1, -5, 2_i64];
    let run = |start, lengths: Option<&[i64]>, size| {
        let (mut predicted, mut sources) = (vec![0; size], vec![0; size]);
        let answers = Answers { predicted: &mut predicted, sources: &mut sources };
        copier.predict(Batch { tokens: &tokens, seq_len: 2, lengths, start, first_row: 10 }, 1, answers)
    };
    assert_eq!(message(run(0, None, 4)), "row 11: token -5 at index 0: tokens must be 0 to 4294967295");
    assert_eq!(message(run(3, None, 0)), "start must be 0 to the length of a row (2), not 3");
    assert_eq!(message(run(0, Some(&[1]), 4)), "lengths must have 2 elements, not 1");
    assert_eq!(message(run(0, Some(&[1, 3]), 4)), "lengths[11] must be 0 to 2, not 3");
    assert_eq!(message(run(1, None, 4)), "answers must have 2 elements");
    assert!(run(0, Some(&[2, 0]), 4).is_ok());
}
