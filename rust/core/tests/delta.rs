//! The delta rule against its equation in f64, on every instruction set; and against itself, cut in other ways.

#![allow(clippy::unwrap_used)]

use ngram_copy_core::naive::{self, DeltaStep};
use ngram_copy_core::simd::{Float, Level};
use ngram_copy_core::ssm::delta::{self, Gate, Gradients, Inputs, Outputs, Shape, Upstream};
use ngram_copy_core::ssm::{Execution, Sequences};
use proptest::prelude::*;

const CASES: u32 = 1024;

fn config(name: &str) -> ProptestConfig {
    println!("{name}: {CASES} cases");
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

/// Numbers in 0 … 1 by a linear congruence.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f64 / (1_u64 << 24) as f64
    }

    /// Numbers that f32 holds.
    fn many(&mut self, len: usize, low: f64, high: f64) -> Vec<f64> {
        (0..len).map(|_| (low + (high - low) * self.next()) as f32 as f64).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    None,
    Head,
    Key,
}

/// A whole call, in f64.
#[derive(Debug, Clone)]
struct Case {
    shape: Shape,
    kind: Kind,
    batch: usize,
    seq_len: usize,
    lengths: Option<Vec<usize>>,
    left: bool,
    resets: Option<Vec<bool>>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    g: Vec<f64>,
    beta: Vec<f64>,
    scale: f64,
    initial_state: Option<Vec<f64>>,
    of_o: Vec<f64>,
    of_last_state: Option<Vec<f64>>,
}

impl Case {
    fn new(shape: Shape, kind: Kind, batch: usize, seq_len: usize, seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let Shape { n_heads_k, n_heads, head_k, head_v } = shape;
        let (tokens, states) = (batch * seq_len, batch * n_heads * head_k * head_v);
        // Keys of length about 1.
        let size = (3.0 / head_k as f64).sqrt();
        let gates = match kind {
            Kind::None => 0,
            Kind::Head => 1,
            Kind::Key => head_k,
        };
        Self {
            shape,
            kind,
            batch,
            seq_len,
            lengths: None,
            left: false,
            resets: None,
            q: numbers.many(tokens * n_heads_k * head_k, -1.0, 1.0),
            k: numbers.many(tokens * n_heads_k * head_k, -size, size),
            v: numbers.many(tokens * n_heads * head_v, -1.0, 1.0),
            g: numbers.many(tokens * n_heads * gates, -0.5, 0.0),
            beta: numbers.many(tokens * n_heads, 0.0, 1.0),
            scale: 0.5,
            initial_state: Some(numbers.many(states, -1.0, 1.0)),
            of_o: numbers.many(tokens * n_heads * head_v, -1.0, 1.0),
            of_last_state: Some(numbers.many(states, -1.0, 1.0)),
        }
    }

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

    fn states(&self) -> usize {
        self.batch * self.shape.n_heads * self.shape.head_k * self.shape.head_v
    }

    fn run<T: Float>(&self, level: Level, threads: usize) -> Results {
        let numbers = |values: &[f64]| values.iter().map(|x| T::from_f64(*x)).collect::<Vec<T>>();
        let (q, k, v) = (numbers(&self.q), numbers(&self.k), numbers(&self.v));
        let (g, beta, of_o) = (numbers(&self.g), numbers(&self.beta), numbers(&self.of_o));
        let initial_state = self.initial_state.as_deref().map(numbers);
        let of_last_state = self.of_last_state.as_deref().map(numbers);
        let gate = match self.kind {
            Kind::None => Gate::None,
            Kind::Head => Gate::Head(&g),
            Kind::Key => Gate::Key(&g),
        };
        let inputs = Inputs { q: &q, k: &k, v: &v, g: gate, beta: &beta, scale: T::from_f64(self.scale) };
        let sequences = self.sequences();
        let execution = Execution { level, ..Execution::new(threads) };
        let nan = T::from_f64(f64::NAN);
        let like = |values: &[T]| vec![nan; values.len()];
        let mut o = like(&v);
        let mut last_state = vec![nan; self.states()];
        let mut checkpoints = vec![nan; self.states() * sequences.checkpoints()];
        let outputs = Outputs { o: &mut o, last_state: &mut last_state, checkpoints: Some(&mut checkpoints) };
        delta::forward(&sequences, self.shape, inputs, initial_state.as_deref(), outputs, execution).unwrap();
        let upstream = Upstream { checkpoints: &checkpoints, o: &of_o, last_state: of_last_state.as_deref() };
        let (mut of_q, mut of_k, mut of_v, mut of_g, mut of_beta) =
            (like(&q), like(&k), like(&v), like(&g), like(&beta));
        let mut of_initial_state = vec![nan; self.states()];
        let gradients = Gradients {
            q: &mut of_q,
            k: &mut of_k,
            v: &mut of_v,
            g: Some(&mut of_g),
            beta: &mut of_beta,
            initial_state: &mut of_initial_state,
        };
        delta::backward(&sequences, self.shape, inputs, upstream, gradients, execution).unwrap();
        let doubles = |values: Vec<T>| values.into_iter().map(T::to_f64).collect();
        Results {
            o: doubles(o),
            last_state: doubles(last_state),
            q: doubles(of_q),
            k: doubles(of_k),
            v: doubles(of_v),
            g: doubles(of_g),
            beta: doubles(of_beta),
            initial_state: doubles(of_initial_state),
        }
    }

    /// The steps of a head of a row that are there, and where they are.
    fn steps(&self, row: usize, head: usize) -> (std::ops::Range<usize>, Vec<DeltaStep>) {
        let Shape { n_heads_k, n_heads, head_k, head_v } = self.shape;
        let sequences = self.sequences();
        let range = sequences.steps(row);
        let steps = range.clone().map(|t| {
            let token = row * self.seq_len + t;
            let (of_key, of_head) = (token * n_heads_k + head / (n_heads / n_heads_k), token * n_heads + head);
            DeltaStep {
                q: self.q[of_key * head_k..][..head_k].to_vec(),
                k: self.k[of_key * head_k..][..head_k].to_vec(),
                v: self.v[of_head * head_v..][..head_v].to_vec(),
                g: match self.kind {
                    Kind::None => vec![0.0; head_k],
                    Kind::Head => vec![self.g[of_head]; head_k],
                    Kind::Key => self.g[of_head * head_k..][..head_k].to_vec(),
                },
                beta: self.beta[of_head],
                begins: sequences.begins(row, t),
            }
        });
        (range, steps.collect())
    }

    fn naive(&self) -> Results {
        let Shape { n_heads_k, n_heads, head_k, head_v } = self.shape;
        let zeros = |values: &[f64]| vec![0.0; values.len()];
        let mut results = Results {
            o: zeros(&self.v),
            last_state: vec![0.0; self.states()],
            q: zeros(&self.q),
            k: zeros(&self.k),
            v: zeros(&self.v),
            g: zeros(&self.g),
            beta: zeros(&self.beta),
            initial_state: vec![0.0; self.states()],
        };
        for (row, head) in (0..self.batch).flat_map(|row| (0..n_heads).map(move |head| (row, head))) {
            let at = (row * n_heads + head) * head_k * head_v;
            let at = at..at + head_k * head_v;
            let matrix = |values: &Option<Vec<f64>>| match values {
                Some(values) => values[at.clone()].chunks(head_v).map(<[f64]>::to_vec).collect(),
                None => vec![vec![0.0; head_v]; head_k],
            };
            let (range, steps) = self.steps(row, head);
            let (outputs, last) = naive::delta_rule(&steps, self.scale, matrix(&self.initial_state));
            results.last_state[at.clone()].copy_from_slice(&last.concat());
            let of_head = |t: usize| (row * self.seq_len + t) * n_heads + head;
            let of_outputs: Vec<_> =
                range.clone().map(|t| self.of_o[of_head(t) * head_v..][..head_v].to_vec()).collect();
            let (gradients, of_initial) = naive::delta_rule_backward(
                &steps,
                self.scale,
                matrix(&self.initial_state),
                &of_outputs,
                matrix(&self.of_last_state),
            );
            results.initial_state[at.clone()].copy_from_slice(&of_initial.concat());
            for (t, (step, output)) in range.zip(gradients.iter().zip(outputs)) {
                let (of_head, of_key) =
                    (of_head(t), (row * self.seq_len + t) * n_heads_k + head / (n_heads / n_heads_k));
                results.o[of_head * head_v..][..head_v].copy_from_slice(&output);
                results.v[of_head * head_v..][..head_v].copy_from_slice(&step.v);
                results.beta[of_head] = step.beta;
                match self.kind {
                    Kind::None => {}
                    Kind::Head => results.g[of_head] = step.g.iter().sum(),
                    Kind::Key => results.g[of_head * head_k..][..head_k].copy_from_slice(&step.g),
                }
                for (sums, of) in [(&mut results.q, &step.q), (&mut results.k, &step.k)] {
                    for (sum, x) in sums[of_key * head_k..][..head_k].iter_mut().zip(of) {
                        *sum += x;
                    }
                }
            }
        }
        results
    }

    /// Steps `range` of every row, from a state.
    fn part(&self, range: std::ops::Range<usize>, initial_state: Option<Vec<f64>>) -> Self {
        let cut = |values: &[f64]| -> Vec<f64> {
            let width = values.len() / (self.batch * self.seq_len).max(1);
            let rows = values.chunks((self.seq_len * width).max(1));
            rows.flat_map(|row| row[range.start * width..range.end * width].iter().copied()).collect()
        };
        let resets = self.resets.as_ref().map(|resets| {
            resets.chunks(self.seq_len.max(1)).flat_map(|row| row[range.clone()].iter().copied()).collect()
        });
        Self {
            seq_len: range.len(),
            resets,
            lengths: None,
            q: cut(&self.q),
            k: cut(&self.k),
            v: cut(&self.v),
            g: cut(&self.g),
            beta: cut(&self.beta),
            of_o: cut(&self.of_o),
            initial_state,
            ..self.clone()
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Results {
    o: Vec<f64>,
    last_state: Vec<f64>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    g: Vec<f64>,
    beta: Vec<f64>,
    initial_state: Vec<f64>,
}

impl Results {
    fn named(&self) -> [(&'static str, &[f64]); 8] {
        [
            ("o", &self.o),
            ("last_state", &self.last_state),
            ("of q", &self.q),
            ("of k", &self.k),
            ("of v", &self.v),
            ("of g", &self.g),
            ("of beta", &self.beta),
            ("of initial_state", &self.initial_state),
        ]
    }

    /// The largest difference, in the largest number of the array (at least 1).
    fn error(&self, exact: &Self) -> (f64, &'static str) {
        let errors = self.named().into_iter().zip(exact.named()).map(|((name, values), (_, exact))| {
            let largest = exact.iter().fold(1.0_f64, |largest, x| largest.max(x.abs()));
            let error = values.iter().zip(exact).fold(0.0_f64, |error, (x, y)| {
                let difference = (x - y).abs();
                if difference <= error { error } else { difference }
            });
            (error / largest, name)
        });
        // NaN counts as the largest.
        errors.fold((0.0, ""), |worst, error| if error.0 <= worst.0 { worst } else { error })
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let kind = prop_oneof![Just(Kind::None), Just(Kind::Head), Just(Kind::Key)];
    let shape = (1_usize..3, 1_usize..3, 1_usize..20, prop_oneof![1_usize..20, Just(32), Just(64), 30_usize..70]);
    let steps = prop_oneof![3 => 0_usize..12, 1 => 60_usize..140];
    let marks = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (kind, shape, 1_usize..3, steps, any::<u64>(), marks).prop_map(
        |(kind, (n_heads_k, ratio, head_k, head_v), batch, seq_len, seed, marks)| {
            let shape = Shape { n_heads_k, n_heads: n_heads_k * ratio, head_k, head_v };
            let mut case = Case::new(shape, kind, batch, seq_len, seed);
            let mut numbers = Numbers(seed ^ 1);
            let (with_lengths, left, with_resets, no_initial, no_last) = marks;
            case.left = left;
            if with_lengths {
                case.lengths = Some((0..batch).map(|_| (numbers.next() * (seq_len + 1) as f64) as usize).collect());
            }
            if with_resets {
                let rare = numbers.next();
                case.resets = Some((0..batch * seq_len).map(|_| numbers.next() < 0.3 * rare).collect());
            }
            if no_initial {
                case.initial_state = None;
            }
            if no_last {
                case.of_last_state = None;
            }
            case
        },
    )
}

proptest! {
    #![proptest_config(config("outputs and gradients are those of the equation"))]

    #[test]
    fn is_the_equation(case in cases()) {
        let exact = case.naive();
        for level in Level::available() {
            let results = case.run::<f64>(level, 1);
            let (error, name) = results.error(&exact);
            prop_assert!(error < 1e-12, "{name}: {error:e} in f64 at {level:?}");
            prop_assert_eq!(&case.run::<f64>(level, 2), &results);
            let results = case.run::<f32>(level, 2);
            let (error, name) = results.error(&exact);
            prop_assert!(error < 1e-5, "{name}: {error:e} in f32 at {level:?}");
            prop_assert_eq!(&case.run::<f32>(level, 1), &results);
        }
    }
}

proptest! {
    #![proptest_config(config("a sequence is its parts, and its steps"))]

    #[test]
    fn is_its_parts(case in cases(), at in 0.0_f64..1.0) {
        let case = Case { lengths: None, ..case };
        let whole = case.run::<f32>(Level::best(), 1);
        let middle = (at * case.seq_len as f64) as usize;
        let first = case.part(0..middle, case.initial_state.clone()).run::<f32>(Level::best(), 1);
        let second = case.part(middle..case.seq_len, Some(first.last_state)).run::<f32>(Level::best(), 1);
        prop_assert_eq!(&second.last_state, &whole.last_state);
        let width = case.shape.n_heads * case.shape.head_v;
        for (row, o) in whole.o.chunks((case.seq_len * width).max(1)).enumerate() {
            let (first_o, second_o) = o.split_at(middle * width);
            prop_assert_eq!(first_o, &first.o[row * first_o.len()..][..first_o.len()]);
            prop_assert_eq!(second_o, &second.o[row * second_o.len()..][..second_o.len()]);
        }
        // Padding changes nothing, on either side; nor what stands there.
        let after = case.seq_len - middle;
        for left in [false, true] {
            let (length, kept) = if left { (after, middle..case.seq_len) } else { (middle, 0..middle) };
            let mut padded = Case { lengths: Some(vec![length; case.batch]), left, ..case.clone() };
            for (t, v) in padded.v.chunks_mut(width).enumerate() {
                if !kept.contains(&(t % case.seq_len.max(1))) {
                    v.fill(f64::NAN);
                }
            }
            let padded = padded.run::<f32>(Level::best(), 1);
            let part = case.part(kept.clone(), case.initial_state.clone()).run::<f32>(Level::best(), 1);
            prop_assert_eq!(&padded.last_state, &part.last_state);
            prop_assert_eq!(&padded.initial_state, &part.initial_state);
            let pairs = padded.named().into_iter().zip(part.named());
            for ((name, values), (_, expected)) in pairs.filter(|((name, _), _)| !name.contains("state")) {
                let width = values.len() / (case.batch * case.seq_len).max(1);
                for (t, values) in values.chunks(width.max(1)).enumerate() {
                    let (row, t) = (t / case.seq_len, t % case.seq_len);
                    if kept.contains(&t) {
                        let at = (row * length + t - kept.start) * width;
                        prop_assert_eq!(values, &expected[at..at + width], "{} at {}", name, t);
                    } else {
                        prop_assert!(values.iter().all(|x| *x == 0.0), "{name} at {t}");
                    }
                }
            }
        }
    }

    #[test]
    fn packed_examples_are_separate(case in cases(), at in 0.0_f64..1.0) {
        prop_assume!(case.seq_len > 0);
        let middle = (at * case.seq_len as f64) as usize;
        let resets = (0..case.batch * case.seq_len).map(|at| at % case.seq_len == middle).collect();
        let case = Case { lengths: None, resets: Some(resets), ..case };
        let whole = case.run::<f32>(Level::best(), 1);
        let separate = Case { resets: None, ..case.part(middle..case.seq_len, None) }.run::<f32>(Level::best(), 1);
        prop_assert_eq!(&separate.last_state, &whole.last_state);
        prop_assert!(middle > 0 || whole.initial_state.iter().all(|x| *x == 0.0));
        for ((name, values), (_, expected)) in whole.named().into_iter().zip(separate.named()) {
            if !name.contains("state") {
                for (values, expected) in values
                    .chunks((values.len() / case.batch).max(1))
                    .zip(expected.chunks((expected.len() / case.batch).max(1)))
                {
                    prop_assert_eq!(&values[values.len() - expected.len()..], expected, "{}", name);
                }
            }
        }
    }

    #[test]
    fn steps_are_the_sequence(case in cases()) {
        let case = Case { lengths: None, ..case.part(0..case.seq_len.min(5), case.initial_state.clone()) };
        let case = Case { resets: None, ..case };
        for level in Level::available() {
            let whole = case.run::<f32>(level, 1);
            let mut state = case.initial_state.clone().unwrap_or_else(|| vec![0.0; case.states()]);
            for t in 0..case.seq_len {
                let (new_state, o) = step(&case.part(t..t + 1, Some(state)), level);
                state = new_state;
                let width = case.shape.n_heads * case.shape.head_v;
                for (row, o) in o.chunks(width).enumerate() {
                    prop_assert_eq!(o, &whole.o[(row * case.seq_len + t) * width..][..width]);
                }
            }
            prop_assert_eq!(&state, &whole.last_state);
        }
    }
}

fn step(case: &Case, level: Level) -> (Vec<f64>, Vec<f64>) {
    let numbers = |values: &[f64]| values.iter().map(|x| *x as f32).collect::<Vec<_>>();
    let (q, k, v) = (numbers(&case.q), numbers(&case.k), numbers(&case.v));
    let (g, beta) = (numbers(&case.g), numbers(&case.beta));
    let gate = match case.kind {
        Kind::None => Gate::None,
        Kind::Head => Gate::Head(&g),
        Kind::Key => Gate::Key(&g),
    };
    let inputs = Inputs { q: &q, k: &k, v: &v, g: gate, beta: &beta, scale: case.scale as f32 };
    let state = numbers(case.initial_state.as_deref().unwrap());
    let (mut o, mut new_state) = (vec![f32::NAN; v.len()], vec![f32::NAN; state.len()]);
    let execution = Execution { level, ..Execution::new(2) };
    delta::step(case.batch, case.shape, inputs, &state, &mut o, &mut new_state, execution).unwrap();
    let doubles = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
    (doubles(new_state), doubles(o))
}

const SHAPE: Shape = Shape { n_heads_k: 2, n_heads: 4, head_k: 64, head_v: 64 };

#[test]
fn long_sequences_of_the_usual_sizes_are_exact() {
    for kind in [Kind::None, Kind::Head, Kind::Key] {
        let case = Case::new(SHAPE, kind, 1, 300, 7);
        let exact = case.naive();
        for level in Level::available() {
            let (error, name) = case.run::<f32>(level, 1).error(&exact);
            assert!(error < 2e-6, "{kind:?}: {name}: {error:e} in f32 at {level:?}");
            let (error, name) = case.run::<f64>(level, 2).error(&exact);
            assert!(error < 1e-14, "{kind:?}: {name}: {error:e} in f64 at {level:?}");
        }
    }
}

/// The oracle's gradients are those of differences of the oracle.
#[test]
fn naive_gradients_are_finite_differences() {
    type Field = fn(&mut Case) -> &mut Vec<f64>;
    let shape = Shape { n_heads_k: 1, n_heads: 2, head_k: 3, head_v: 2 };
    for kind in [Kind::None, Kind::Head, Kind::Key] {
        let mut case = Case::new(shape, kind, 2, 7, 3);
        case.lengths = Some(vec![7, 5]);
        case.resets = Some((0..14).map(|at| at == 4 || at == 8).collect());
        let gradients = case.naive();
        let loss = |case: &Case| {
            let results = case.naive();
            let last = case.of_last_state.as_deref().unwrap();
            let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            sum(&results.o, &case.of_o) + sum(&results.last_state, last)
        };
        let fields: [(Field, &[f64]); 6] = [
            (|case| &mut case.q, &gradients.q),
            (|case| &mut case.k, &gradients.k),
            (|case| &mut case.v, &gradients.v),
            (|case| &mut case.g, &gradients.g),
            (|case| &mut case.beta, &gradients.beta),
            (|case| case.initial_state.as_mut().unwrap(), &gradients.initial_state),
        ];
        for (field, gradient) in fields {
            for (at, gradient) in gradient.iter().enumerate() {
                let moved = |by: f64| {
                    let mut case = case.clone();
                    field(&mut case)[at] += by;
                    loss(&case)
                };
                let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((difference - gradient).abs() < 1e-8, "{kind:?}: {difference} is not {gradient}");
            }
        }
    }
}

#[test]
fn nan_stays_in_its_column_and_its_head() {
    let mut case = Case::new(SHAPE, Kind::Key, 1, 70, 5);
    // Column 3 of head 1 at step 66; its keys are those of head 0.
    case.v[(66 * 4 + 1) * 64 + 3] = f64::NAN;
    let results = case.run::<f32>(Level::best(), 1);
    for (at, o) in results.o.iter().enumerate() {
        let (t, head, column) = (at / 256, at / 64 % 4, at % 64);
        assert_eq!(o.is_nan(), t >= 66 && head == 1 && column == 3, "o at {t}, {head}, {column}");
    }
    for (at, s) in results.last_state.iter().enumerate() {
        assert_eq!(s.is_nan(), at / 4096 == 1 && at % 64 == 3);
    }
    // Without its gradient it is where errors and states meet: in q, k, g and beta of its head.
    for (at, x) in results.beta.iter().enumerate() {
        assert!(at % 4 == 1 || !x.is_nan());
    }
    assert!(results.k.chunks(128).all(|heads| heads[64..].iter().all(|x| !x.is_nan())));
}

#[test]
fn infinities_do_not_leak_from_unused_lanes() {
    for kind in [Kind::None, Kind::Head, Kind::Key] {
        let shape = Shape { n_heads_k: 1, n_heads: 1, head_k: 5, head_v: 3 };
        let mut case = Case::new(shape, kind, 1, 4, 9);
        for k in &mut case.k {
            *k = k.abs();
        }
        case.v[2 * 3 + 1] = f64::INFINITY;
        case.of_o[3 * 3 + 2] = f64::INFINITY;
        case.of_last_state = None;
        let exact = case.naive();
        for level in Level::available() {
            let results = case.run::<f64>(level, 1);
            for ((name, values), (_, exact)) in results.named().into_iter().zip(exact.named()) {
                for (x, y) in values.iter().zip(exact) {
                    // Infinities and NaN depend on the order of sums; where there are none is exact.
                    assert!((x - y).abs() < 1e-12 || !x.is_finite() && !y.is_finite(), "{name}: {x} is not {y}");
                }
            }
        }
    }
}

#[test]
fn errors_name_what_was_wrong() {
    let case = Case::new(Shape { n_heads_k: 1, n_heads: 2, head_k: 3, head_v: 2 }, Kind::Head, 1, 2, 1);
    let forward = |shape: Shape, initial: usize| {
        let inputs =
            Inputs { q: &case.q[..], k: &case.k, v: &case.v, g: Gate::Head(&case.g), beta: &case.beta, scale: 1.0 };
        let (mut o, mut last_state) = (vec![0.0; 8], vec![0.0; 12]);
        let outputs = Outputs { o: &mut o, last_state: &mut last_state, checkpoints: None };
        let initial = vec![0.0; initial];
        delta::forward(&Sequences::new(1, 2), shape, inputs, Some(&initial), outputs, Execution::new(1))
    };
    let message = |shape, initial| forward(shape, initial).unwrap_err().to_string();
    forward(case.shape, 12).unwrap();
    assert_eq!(message(case.shape, 11), "initial_state has 11 elements; its shape has 12");
    let shape = Shape { n_heads_k: 2, n_heads: 3, ..case.shape };
    assert_eq!(message(shape, 12), "the heads of v, 3, must be a multiple of those of q and k, 2");
    let shape = Shape { head_k: 0, ..case.shape };
    assert_eq!(message(shape, 12), "channels of keys and values must be at least 1, not 0, 2");
    assert_eq!(message(Shape { head_k: 4, ..case.shape }, 12), "q has 6 elements; its shape has 8");
}
