//! The outer family against its equation in float64, on every instruction set, with gradients, splits, packing, padding.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

use ngram_copy_core::naive::{self, OuterInputs};
use ngram_copy_core::simd::{Float, Level};
use ngram_copy_core::ssm::outer::{self, Gate, Gradients, Inputs, Outputs, Shape, Upstream};
use ngram_copy_core::ssm::{Execution, Sequences};
use proptest::prelude::*;

const CASES: u32 = 200;

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

/// Numbers in −1 … 1, the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Numbers that float32 has.
    fn take(&mut self, len: usize, scale: f64) -> Vec<f64> {
        (0..len).map(|_| f64::from((self.next() * scale) as f32)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    None,
    Constant,
    Head,
    Channel,
}

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    seq_len: usize,
    shape: Shape,
    kind: Kind,
    lengths: Option<Vec<usize>>,
    left: bool,
    resets: Option<Vec<bool>>,
    initial: bool,
    of_last: bool,
    seed: u64,
}

/// A case's arrays.
struct Arrays {
    /// Of the gates' own shape.
    g: Vec<f64>,
    inputs: OuterInputs,
    of_o: Vec<f64>,
    of_last: Vec<f64>,
}

impl Case {
    fn sequences(&self) -> Sequences<'_> {
        let mut sequences = Sequences::new(self.batch, self.seq_len);
        if let Some(lengths) = &self.lengths {
            sequences = sequences.with_lengths(lengths, self.left).unwrap();
        }
        if let Some(resets) = &self.resets {
            sequences = sequences.with_resets(resets).unwrap();
        }
        sequences
    }

    fn arrays(&self) -> Arrays {
        let Shape { n_heads_k, n_heads, head_k, head_v } = self.shape;
        let (steps, mut numbers) = (self.batch * self.seq_len, Numbers(self.seed));
        let states = self.batch * n_heads * head_k * head_v;
        let g_len = match self.kind {
            Kind::None => 0,
            Kind::Constant => n_heads,
            Kind::Head => steps * n_heads,
            Kind::Channel => steps * n_heads * head_k,
        };
        // Mostly decays near 1, now and then none or much.
        let g: Vec<f64> = numbers.take(g_len, 1.0).iter().map(|x| f64::from((-8.0 * x.powi(6)) as f32)).collect();
        let mut all = Vec::new();
        for at in 0..steps * n_heads {
            match self.kind {
                Kind::None => all.extend(std::iter::repeat_n(0.0, head_k)),
                Kind::Constant => all.extend(std::iter::repeat_n(g[at % n_heads], head_k)),
                Kind::Head => all.extend(std::iter::repeat_n(g[at], head_k)),
                Kind::Channel => all.extend_from_slice(&g[at * head_k..][..head_k]),
            }
        }
        let inputs = OuterInputs {
            q: numbers.take(steps * n_heads_k * head_k, 1.0),
            k: numbers.take(steps * n_heads_k * head_k, 1.0),
            v: numbers.take(steps * n_heads * head_v, 1.0),
            g: all,
            scale: 0.375,
            initial_state: numbers.take(states, f64::from(u8::from(self.initial))),
        };
        let of_o = numbers.take(steps * n_heads * head_v, 1.0);
        Arrays { g, inputs, of_o, of_last: numbers.take(states, f64::from(u8::from(self.of_last))) }
    }

    /// The gradient of the gates in their own shape.
    fn reduce(&self, g: &[f64]) -> Vec<f64> {
        let Shape { n_heads, head_k, .. } = self.shape;
        match self.kind {
            Kind::None => vec![],
            Kind::Channel => g.to_vec(),
            Kind::Head => g.chunks(head_k).map(|channels| channels.iter().sum()).collect(),
            Kind::Constant => {
                (0..n_heads).map(|head| g.chunks(head_k).skip(head).step_by(n_heads).flatten().sum()).collect()
            }
        }
    }
}

fn cast<T: Float>(values: &[f64]) -> Vec<T> {
    values.iter().map(|x| T::from_f64(*x)).collect()
}

fn gate<T>(kind: Kind, g: &[T]) -> Gate<'_, T> {
    match kind {
        Kind::None => Gate::None,
        Kind::Constant => Gate::Constant(g),
        Kind::Head => Gate::Head(g),
        Kind::Channel => Gate::Channel(g),
    }
}

/// The output, the last state, gradients of q, k, v, g and the initial state.
fn run<T: Float>(case: &Case, arrays: &Arrays, threads: usize, level: Level) -> [Vec<T>; 7] {
    let execution = Execution { level, ..Execution::new(threads) };
    let of = &arrays.inputs;
    let [q, k, v, g, initial, of_o, of_last] =
        [&of.q, &of.k, &of.v, &arrays.g, &of.initial_state, &arrays.of_o, &arrays.of_last].map(|x| cast::<T>(x));
    let inputs = Inputs { q: &q, k: &k, v: &v, gate: gate(case.kind, &g), scale: T::from_f64(of.scale) };
    let initial_state = case.initial.then_some(&initial[..]);
    let unwritten = |like: &[T]| vec![T::from_f64(f64::NAN); like.len()];
    let (mut o, mut last_state) = (unwritten(&v), unwritten(&initial));
    let outputs = Outputs { o: &mut o, last_state: &mut last_state };
    outer::forward(&case.sequences(), case.shape, inputs, initial_state, outputs, execution).unwrap();
    let [mut of_q, mut of_k, mut of_v, mut of_g, mut of_initial] = [&q, &k, &v, &g, &initial].map(|x| unwritten(x));
    let upstream = Upstream { o: &of_o, last_state: case.of_last.then_some(&of_last[..]) };
    let gradients = Gradients {
        q: &mut of_q,
        k: &mut of_k,
        v: &mut of_v,
        gate: (!matches!(case.kind, Kind::None)).then_some(&mut of_g[..]),
        initial_state: &mut of_initial,
    };
    outer::backward(&case.sequences(), case.shape, inputs, initial_state, upstream, gradients, execution).unwrap();
    [o, last_state, of_q, of_k, of_v, of_g, of_initial]
}

fn bytes<T: Float>(values: &[T]) -> Vec<u64> {
    values.iter().map(|x| x.to_f64().to_bits()).collect()
}

/// The largest difference, by the largest number of `scale`.
fn error_by<T: Float>(values: &[T], expected: &[f64], scale: &[f64]) -> f64 {
    assert_eq!(values.len(), expected.len());
    let largest = scale.iter().fold(1e-3_f64, |most, x| most.max(x.abs()));
    let of = |(x, expected): (&T, &f64)| {
        let difference = (x.to_f64() - expected).abs();
        if difference.is_nan() { f64::INFINITY } else { difference }
    };
    values.iter().zip(expected).map(of).fold(0.0, f64::max) / largest
}

/// The largest difference, by the largest number that is expected.
fn error<T: Float>(values: &[T], expected: &[f64]) -> f64 {
    error_by(values, expected, expected)
}

const NAMES: [&str; 7] = ["o", "last_state", "of q", "of k", "of v", "of g", "of initial_state"];

/// What [`run`] computes, by the equation.
fn exact(case: &Case, arrays: &Arrays) -> [Vec<f64>; 7] {
    let (o, last_state) = naive::outer(&case.sequences(), case.shape, &arrays.inputs);
    let of = naive::outer_backward(&case.sequences(), case.shape, &arrays.inputs, &arrays.of_o, &arrays.of_last);
    [o, last_state, of.q, of.k, of.v, case.reduce(&of.g), of.initial_state]
}

/// The arrays without signs: what is computed of them are the sums of the absolute values of all terms, by which rounding
/// is judged. A sum that cancels by chance has the errors of its terms.
fn absolute(arrays: &Arrays) -> Arrays {
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let Arrays { g, inputs, of_o, of_last } = arrays;
    let OuterInputs { q, k, v, g: all, scale, initial_state } = inputs;
    let initial_state = abs(initial_state);
    let inputs = OuterInputs { q: abs(q), k: abs(k), v: abs(v), g: all.clone(), scale: *scale, initial_state };
    Arrays { g: g.clone(), inputs, of_o: abs(of_o), of_last: abs(of_last) }
}

/// By what each of the results of [`exact`] is judged: gates' gradients by the running sums of q ∂q − k ∂k that they are
/// made of, which later steps pass through, the others by their own terms.
fn scales(case: &Case, arrays: &Arrays) -> [Vec<f64>; 7] {
    let arrays = absolute(arrays);
    let mut scales = exact(case, &arrays);
    let width = case.shape.n_heads_k * case.shape.head_k;
    let (q, k) = (arrays.inputs.q.iter().zip(&scales[2]), arrays.inputs.k.iter().zip(&scales[3]));
    let terms: Vec<f64> = q.zip(k).map(|((q, of_q), (k, of_k))| q * of_q + k * of_k).collect();
    // Of each row, key head and channel.
    let channels: Vec<f64> = (terms.chunks((case.seq_len * width).max(1)))
        .flat_map(|row| (0..width).map(|channel| row.iter().skip(channel).step_by(width).sum()))
        .collect();
    scales[5] = match case.kind {
        Kind::Channel => channels,
        _ => channels.chunks(case.shape.head_k).map(|channels| channels.iter().sum()).collect(),
    };
    scales
}

fn agrees<T: Float>(case: &Case, tolerance: f64) -> Result<(), TestCaseError> {
    let arrays = case.arrays();
    let (expected, scales) = (exact(case, &arrays), scales(case, &arrays));
    for level in Level::available() {
        let found = run::<T>(case, &arrays, 1, level);
        for (which, name) in NAMES.iter().enumerate() {
            let error = error_by(&found[which], &expected[which], &scales[which]);
            prop_assert!(error < tolerance, "{name}: {error:e}, {level:?}");
        }
        let threaded = run::<T>(case, &arrays, 2, level);
        for ((name, found), threaded) in NAMES.iter().zip(&found).zip(&threaded) {
            prop_assert_eq!(bytes(found), bytes(threaded), "{} differs between 1 thread and 2", name);
        }
    }
    Ok(())
}

fn shape() -> impl Strategy<Value = Shape> {
    let heads = prop_oneof![4 => (1_usize..=2, 1_usize..=3), 1 => (1_usize..=1, 9_usize..=20)];
    let width = || prop_oneof![4 => 1_usize..=20, 1 => Just(32), 1 => Just(64), 1 => 21_usize..=70];
    (heads, width(), width()).prop_map(|((n_heads_k, ratio), head_k, head_v)| Shape {
        n_heads_k,
        n_heads: n_heads_k * ratio,
        head_k,
        head_v,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let kind = prop_oneof![Just(Kind::None), Just(Kind::Constant), Just(Kind::Head), Just(Kind::Channel)];
    let seq_len = prop_oneof![4 => 0_usize..20, 2 => 20_usize..80, 1 => 80_usize..150];
    (1_usize..=3, seq_len, shape(), kind, any::<[bool; 6]>(), any::<u64>()).prop_map(
        |(batch, seq_len, shape, kind, [has_lengths, left, has_resets, dense, initial, of_last], seed)| {
            let mut numbers = Numbers(seed ^ 1);
            let mut below = |limit: usize| (numbers.next().midpoint(1.0) * limit as f64) as usize;
            let lengths = has_lengths.then(|| (0..batch).map(|_| below(seq_len + 1)).collect());
            let resets =
                has_resets.then(|| (0..batch * seq_len).map(|_| below(if dense { 3 } else { 40 }) == 0).collect());
            Case { batch, seq_len, shape, kind, lengths, left, resets, initial, of_last, seed }
        },
    )
}

/// Of an example: at times so many blocks that a state is kept inside it.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1_usize..70, 1 => 250_usize..330]
}

proptest! {
    #![proptest_config(config("the outer family is its equation"))]

    #[test]
    fn is_its_equation(case in case()) {
        agrees::<f64>(&case, 5e-15)?;
        agrees::<f32>(&case, 2e-6)?;
    }

    #[test]
    fn whole_is_any_split(case in case(), at in 0.0..=1.0_f64) {
        let case = Case { lengths: None, ..case };
        let arrays = case.arrays();
        let whole = run::<f64>(&case, &arrays, 1, Level::best());
        let at = (at * case.seq_len as f64) as usize;
        let mut state = arrays.inputs.initial_state.clone();
        let mut o = vec![0.0; whole[0].len()];
        for steps in [0..at, at..case.seq_len] {
            let of = |values: &[f64]| {
                let width = values.len() / (case.batch * case.seq_len).max(1);
                let rows = (0..case.batch).map(|row| row * case.seq_len);
                rows.flat_map(|row| values[(row + steps.start) * width..(row + steps.end) * width].to_vec())
                    .collect::<Vec<f64>>()
            };
            let [q, k, v] = [&arrays.inputs.q, &arrays.inputs.k, &arrays.inputs.v].map(|x| of(x));
            let g = if matches!(case.kind, Kind::Constant) { arrays.g.clone() } else { of(&arrays.g) };
            let resets = case.resets.as_ref().map(|resets| {
                let rows = resets.chunks(case.seq_len.max(1));
                rows.flat_map(|row| row[steps.clone()].to_vec()).collect::<Vec<bool>>()
            });
            let inputs = Inputs { q: &q, k: &k, v: &v, gate: gate(case.kind, &g), scale: arrays.inputs.scale };
            let mut sequences = Sequences::new(case.batch, steps.len());
            if let Some(resets) = &resets {
                sequences = sequences.with_resets(resets).unwrap();
            }
            let (mut part, mut last_state) = (vec![0.0; v.len()], vec![0.0; state.len()]);
            let outputs = Outputs { o: &mut part, last_state: &mut last_state };
            outer::forward(&sequences, case.shape, inputs, Some(&state), outputs, Execution::new(1)).unwrap();
            state = last_state;
            let width = case.shape.n_heads * case.shape.head_v;
            for row in 0..case.batch {
                let to = (row * case.seq_len + steps.start) * width..(row * case.seq_len + steps.end) * width;
                o[to].copy_from_slice(&part[row * steps.len() * width..(row + 1) * steps.len() * width]);
            }
        }
        prop_assert!(error(&o, &whole[0]) < 1e-12);
        prop_assert!(error(&state, &whole[1]) < 1e-12);
    }

    /// One row of examples, one after another, against rows of one example each, padded on either side.
    #[test]
    fn packed_is_separate(case in case(), lengths in proptest::collection::vec(length(), 1..4)) {
        let (shape, kind) = (case.shape, case.kind);
        let total: usize = lengths.iter().sum();
        let longest = lengths.iter().copied().max().unwrap();
        let starts: Vec<usize> = lengths.iter().scan(0, |sum, length| { *sum += length; Some(*sum - length) }).collect();
        let mut resets = vec![false; total];
        for start in &starts {
            resets[*start] = true;
        }
        let packed = Case {
            batch: 1, seq_len: total, resets: Some(resets), lengths: None, initial: false, of_last: false, ..case
        };
        let arrays = packed.arrays();
        let found = run::<f32>(&packed, &arrays, 1, Level::best());
        let separate = Case {
            batch: lengths.len(), seq_len: longest, resets: None, lengths: Some(lengths.clone()), ..packed.clone()
        };
        let place = |nth: usize| if separate.left { longest - lengths[nth] } else { 0 };
        let spread = |values: &[f64]| {
            let width = values.len() / total;
            // What stands in the padding is never read.
            let mut out = vec![f64::NAN; lengths.len() * longest * width];
            for (nth, (start, length)) in starts.iter().zip(&lengths).enumerate() {
                let to = (nth * longest + place(nth)) * width;
                out[to..to + length * width].copy_from_slice(&values[start * width..(start + length) * width]);
            }
            out
        };
        let of = &arrays.inputs;
        let apart = Arrays {
            g: if matches!(kind, Kind::Constant) { arrays.g.clone() } else { spread(&arrays.g) },
            inputs: OuterInputs {
                q: spread(&of.q), k: spread(&of.k), v: spread(&of.v), g: vec![], scale: of.scale,
                initial_state: vec![0.0; lengths.len() * of.initial_state.len()],
            },
            of_o: spread(&arrays.of_o),
            of_last: vec![0.0; lengths.len() * of.initial_state.len()],
        };
        let found_apart = run::<f32>(&separate, &apart, 1, Level::best());
        // The number of rows may change how heads are split, and so the order of sums over these.
        let exact = shape.n_heads >= 4;
        for which in [0, 2, 3, 4, 5] {
            if which == 5 && matches!(kind, Kind::Constant) {
                continue;
            }
            let width = found[which].len() / total;
            for (nth, (start, length)) in starts.iter().zip(&lengths).enumerate() {
                let row = &found_apart[which][nth * longest * width..(nth + 1) * longest * width];
                let place = place(nth) * width..(place(nth) + length) * width;
                let expected = &found[which][start * width..(start + length) * width];
                if exact {
                    prop_assert_eq!(bytes(&row[place.clone()]), bytes(expected), "{}", NAMES[which]);
                } else {
                    let expected: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
                    prop_assert!(error(&row[place.clone()], &expected) < 1e-5, "{}", NAMES[which]);
                }
                prop_assert!(row[..place.start].iter().chain(&row[place.end..]).all(|x| *x == 0.0));
            }
        }
    }

    #[test]
    fn a_step_is_a_sequence_of_one(case in case()) {
        let case = Case { seq_len: 1, lengths: None, resets: None, initial: true, ..case };
        let arrays = case.arrays();
        for level in Level::available() {
            let whole = run::<f64>(&case, &arrays, 1, level);
            let execution = Execution { level, ..Execution::new(1) };
            let of = &arrays.inputs;
            let inputs = Inputs { q: &of.q, k: &of.k, v: &of.v, gate: gate(case.kind, &arrays.g), scale: of.scale };
            let (head_k, head_v) = (case.shape.head_k, case.shape.head_v);
            let (mut o, mut state) = (vec![f64::NAN; of.v.len()], vec![f64::NAN; of.initial_state.len()]);
            let initial = &of.initial_state;
            outer::step(case.batch, case.shape, inputs, initial, false, &mut o, &mut state, execution).unwrap();
            prop_assert!(error(&o, &whole[0]) < 1e-13);
            prop_assert!(error(&state, &whole[1]) < 1e-13);
            let transpose = |state: &[f64], rows: usize, columns: usize| {
                let of = |matrix: &[f64]| {
                    let entry = |at: usize| matrix[at % rows * columns + at / rows];
                    (0..rows * columns).map(entry).collect::<Vec<f64>>()
                };
                state.chunks(rows * columns).flat_map(of).collect::<Vec<f64>>()
            };
            let initial = transpose(initial, head_k, head_v);
            let mut new = vec![f64::NAN; initial.len()];
            outer::step(case.batch, case.shape, inputs, &initial, true, &mut o, &mut new, execution).unwrap();
            prop_assert!(error(&o, &whole[0]) < 1e-13);
            prop_assert!(error(&transpose(&new, head_v, head_k), &whole[1]) < 1e-13);
        }
    }

    /// NaN and infinity go where the equation takes them.
    #[test]
    fn not_finite_is_where_the_equation_has_it(case in case(), which in 0_usize..4, at in any::<u64>(), infinite in any::<bool>()) {
        let mut arrays = case.arrays();
        let of = &mut arrays.inputs;
        let bad = if infinite { f64::INFINITY } else { f64::NAN };
        let steps = case.batch * case.seq_len;
        let values = [&mut of.q, &mut of.k, &mut of.v, &mut of.initial_state][which].as_mut_slice();
        prop_assume!(!values.is_empty() && steps > 0 && (which < 3 || case.initial));
        let len = values.len();
        values[(at % len as u64) as usize] = bad;
        let (o, last_state) = naive::outer(&case.sequences(), case.shape, &arrays.inputs);
        let found = run::<f64>(&case, &arrays, 1, Level::best());
        for (found, expected) in [(&found[0], o), (&found[1], last_state)] {
            let finite = |values: &[f64]| values.iter().map(|x| x.is_finite()).collect::<Vec<_>>();
            prop_assert_eq!(finite(found), finite(&expected));
        }
    }
}

#[test]
fn many_steps_are_as_exact_as_few() {
    let shape = Shape { n_heads_k: 1, n_heads: 1, head_k: 16, head_v: 16 };
    let case = Case {
        batch: 1,
        seq_len: 4096,
        shape,
        kind: Kind::Channel,
        lengths: None,
        left: false,
        resets: None,
        initial: true,
        of_last: true,
        seed: 3,
    };
    agrees::<f32>(&case, 2e-6).unwrap();
    agrees::<f32>(&Case { kind: Kind::Constant, seq_len: 1024, ..case.clone() }, 1e-5).unwrap();
    agrees::<f64>(&case, 5e-15).unwrap();
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let shape = Shape { n_heads_k: 2, n_heads: 3, head_k: 4, head_v: 4 };
    let run = |shape: Shape, q: &[f32], g: Gate<'_, f32>| {
        let (k, v) = ([0.0; 16], [0.0; 16]);
        let inputs = Inputs { q, k: &k, v: &v, gate: g, scale: 1.0 };
        let (mut o, mut last_state) = ([0.0; 16], [0.0; 32]);
        let outputs = Outputs { o: &mut o, last_state: &mut last_state };
        let sequences = Sequences::new(1, 2);
        outer::forward(&sequences, shape, inputs, None, outputs, Execution::new(1)).map_err(|error| error.to_string())
    };
    let q = [0.0; 16];
    assert!(run(shape, &q, Gate::None).unwrap_err().contains("the heads of v, 3, must be a multiple"));
    let shape = Shape { n_heads: 2, ..shape };
    assert!(run(shape, &q, Gate::None).is_ok());
    assert!(run(Shape { head_k: 0, ..shape }, &[], Gate::None).unwrap_err().contains("at least 1 channel"));
    assert!(run(shape, &q[1..], Gate::None).unwrap_err().contains("q has 15 elements; its shape has 16"));
    assert!(run(shape, &q, Gate::Head(&q)).unwrap_err().contains("g has 16 elements; its shape has 4"));
}
