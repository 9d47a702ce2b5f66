//! The linear scan, S4D's and the causal convolution: against their equations in double precision on every level, cut and
//! packed and padded in every way, with their gradients.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;

use ngram_copy_core::naive::{self, Complex};
use ngram_copy_core::simd::{Float, Level};
use ngram_copy_core::ssm::{Execution, Sequences, conv, linear, s4d};
use proptest::prelude::*;

/// Where the steps of an array are.
#[derive(Clone, Copy, PartialEq)]
enum Time {
    /// Nowhere.
    None,
    /// (batch, `seq_len`, …).
    Outer,
    /// (batch, …, `seq_len`).
    Inner,
}

/// Arrays by their place: the inputs, the initial state last.
type Arrays<T> = Vec<Vec<T>>;

/// A recurrence, for arrays of either type.
trait Family {
    /// The size of each array, and where its steps are; the initial state comes last.
    fn sizes(&self, rows: usize, seq_len: usize) -> Vec<(usize, Time)>;
    /// Where the steps of the output are.
    fn output(&self) -> Time;
    /// The output and the last state.
    fn naive(&self, sequences: &Sequences<'_>, arrays: &Arrays<f64>) -> [Vec<f64>; 2];
    /// The same, by the kernel.
    fn forward<T: Float>(&self, sequences: &Sequences<'_>, arrays: &Arrays<T>, run: Execution<'_>) -> [Vec<T>; 2];
    /// The output and the new state of one step.
    fn step<T: Float>(&self, rows: usize, arrays: &Arrays<T>, run: Execution<'_>) -> [Vec<T>; 2];
    /// Gradients of the arrays.
    fn backward<T: Float>(
        &self,
        sequences: &Sequences<'_>,
        arrays: &Arrays<T>,
        upstream: [&[T]; 2],
        run: Execution<'_>,
    ) -> Arrays<T>;
}

fn pairs(values: &[f64]) -> Vec<Complex> {
    values.as_chunks::<2>().0.to_vec()
}

#[derive(Debug, Clone, Copy)]
struct Linear(linear::Shape);

impl Linear {
    fn scalars(self) -> usize {
        self.0.width * if self.0.complex { 2 } else { 1 }
    }
}

impl Family for Linear {
    fn sizes(&self, rows: usize, seq_len: usize) -> Vec<(usize, Time)> {
        let all = (rows * seq_len * self.scalars(), Time::Outer);
        let a = if self.0.constant { (self.scalars(), Time::None) } else { all };
        vec![a, all, (rows * self.scalars(), Time::None)]
    }

    fn output(&self) -> Time {
        Time::Outer
    }

    fn naive(&self, sequences: &Sequences<'_>, arrays: &Arrays<f64>) -> [Vec<f64>; 2] {
        let complex =
            |x: &[f64]| if self.0.complex { pairs(x) } else { x.iter().map(|x| [*x, 0.0]).collect::<Vec<_>>() };
        let flat = |x: Vec<Complex>| -> Vec<f64> {
            if self.0.complex { x.concat() } else { x.into_iter().map(|x| x[0]).collect() }
        };
        let mut a = complex(&arrays[0]);
        if self.0.constant {
            a = a.repeat(sequences.batch() * sequences.seq_len());
        }
        let (x, state) = (complex(&arrays[1]), complex(&arrays[2]));
        let (h, last) = naive::linear_scan(sequences, self.0.width, &a, &x, &state);
        [flat(h), flat(last)]
    }

    fn forward<T: Float>(&self, sequences: &Sequences<'_>, arrays: &Arrays<T>, run: Execution<'_>) -> [Vec<T>; 2] {
        let (mut h, mut last) = (nans(arrays[1].len()), nans(arrays[2].len()));
        let inputs = linear::Inputs { a: &arrays[0], x: &arrays[1] };
        linear::forward(sequences, self.0, inputs, Some(&arrays[2]), &mut h, &mut last, run).unwrap();
        [h, last]
    }

    fn step<T: Float>(&self, rows: usize, arrays: &Arrays<T>, run: Execution<'_>) -> [Vec<T>; 2] {
        let mut last = nans(arrays[2].len());
        let inputs = linear::Inputs { a: &arrays[0], x: &arrays[1] };
        linear::step(rows, self.0, inputs, &arrays[2], &mut last, run).unwrap();
        [last.clone(), last]
    }

    fn backward<T: Float>(
        &self,
        sequences: &Sequences<'_>,
        arrays: &Arrays<T>,
        upstream: [&[T]; 2],
        run: Execution<'_>,
    ) -> Arrays<T> {
        let [states, _] = self.forward(sequences, arrays, run);
        let mut out: Arrays<T> = arrays.iter().map(|array| nans(array.len())).collect();
        let [a, x, initial_state] = out.get_disjoint_mut([0, 1, 2]).unwrap();
        let gradients = linear::Gradients { a, x, initial_state };
        let upstream = linear::Upstream { states: &states, h: upstream[0], last_state: Some(upstream[1]) };
        let inputs = linear::Inputs { a: &arrays[0], x: &arrays[1] };
        linear::backward(sequences, self.0, inputs, Some(&arrays[2]), upstream, gradients, run).unwrap();
        out
    }
}

#[derive(Debug, Clone, Copy)]
struct S4d(s4d::Shape);

impl S4d {
    fn inputs<T>(arrays: &Arrays<T>) -> s4d::Inputs<'_, T> {
        s4d::Inputs { u: &arrays[0], a: &arrays[1], b: &arrays[2], c: &arrays[3], d: Some(&arrays[4]) }
    }
}

impl Family for S4d {
    fn sizes(&self, rows: usize, seq_len: usize) -> Vec<(usize, Time)> {
        let s4d::Shape { d_model, n_modes } = self.0;
        let weights = (2 * d_model * n_modes, Time::None);
        let state = (2 * rows * d_model * n_modes, Time::None);
        vec![(rows * d_model * seq_len, Time::Inner), weights, weights, weights, (d_model, Time::None), state]
    }

    fn output(&self) -> Time {
        Time::Inner
    }

    fn naive(&self, sequences: &Sequences<'_>, arrays: &Arrays<f64>) -> [Vec<f64>; 2] {
        let weights = [pairs(&arrays[1]), pairs(&arrays[2]), pairs(&arrays[3])];
        let weights = [&weights[0][..], &weights[1][..], &weights[2][..]];
        let state = pairs(&arrays[5]);
        let (y, last) = naive::s4d_scan(sequences, self.0.d_model, &arrays[0], weights, &arrays[4], &state);
        [y, last.concat()]
    }

    fn forward<T: Float>(&self, sequences: &Sequences<'_>, arrays: &Arrays<T>, run: Execution<'_>) -> [Vec<T>; 2] {
        let (mut y, mut last_state) = (nans(arrays[0].len()), nans(arrays[5].len()));
        let outputs = s4d::Outputs { y: &mut y, last_state: &mut last_state, checkpoints: None };
        s4d::forward(sequences, self.0, Self::inputs(arrays), Some(&arrays[5]), outputs, run).unwrap();
        [y, last_state]
    }

    fn step<T: Float>(&self, rows: usize, arrays: &Arrays<T>, run: Execution<'_>) -> [Vec<T>; 2] {
        let (mut y, mut last_state) = (nans(arrays[0].len()), nans(arrays[5].len()));
        s4d::step(rows, self.0, Self::inputs(arrays), &arrays[5], &mut y, &mut last_state, run).unwrap();
        [y, last_state]
    }

    fn backward<T: Float>(
        &self,
        sequences: &Sequences<'_>,
        arrays: &Arrays<T>,
        upstream: [&[T]; 2],
        run: Execution<'_>,
    ) -> Arrays<T> {
        let (mut y, mut last_state) = (nans(arrays[0].len()), nans(arrays[5].len()));
        let mut checkpoints = nans(arrays[5].len() * sequences.checkpoints());
        let outputs = s4d::Outputs { y: &mut y, last_state: &mut last_state, checkpoints: Some(&mut checkpoints) };
        s4d::forward(sequences, self.0, Self::inputs(arrays), Some(&arrays[5]), outputs, run).unwrap();
        let mut out: Arrays<T> = arrays.iter().map(|array| nans(array.len())).collect();
        let [u, a, b, c, d, initial_state] = out.get_disjoint_mut([0, 1, 2, 3, 4, 5]).unwrap();
        let gradients = s4d::Gradients { u, a, b, c, d: Some(d), initial_state };
        let upstream = s4d::Upstream { checkpoints: &checkpoints, y: upstream[0], last_state: Some(upstream[1]) };
        s4d::backward(sequences, self.0, Self::inputs(arrays), upstream, gradients, run).unwrap();
        out
    }
}

#[derive(Debug, Clone, Copy)]
struct Conv(conv::Shape, bool);

impl Conv {
    fn inputs<'a, T>(&self, arrays: &'a Arrays<T>) -> conv::Inputs<'a, T> {
        conv::Inputs { x: &arrays[0], weight: &arrays[1], bias: Some(&arrays[2]), silu: self.1 }
    }
}

impl Family for Conv {
    fn sizes(&self, rows: usize, seq_len: usize) -> Vec<(usize, Time)> {
        let conv::Shape { channels, kernel } = self.0;
        let state = (rows * channels * (kernel - 1), Time::None);
        vec![(rows * channels * seq_len, Time::Inner), (channels * kernel, Time::None), (channels, Time::None), state]
    }

    fn output(&self) -> Time {
        Time::Inner
    }

    fn naive(&self, sequences: &Sequences<'_>, arrays: &Arrays<f64>) -> [Vec<f64>; 2] {
        naive::causal_conv1d(sequences, &arrays[0], &arrays[1], &arrays[2], self.1, &arrays[3]).into()
    }

    fn forward<T: Float>(&self, sequences: &Sequences<'_>, arrays: &Arrays<T>, run: Execution<'_>) -> [Vec<T>; 2] {
        let (mut y, mut last) = (nans(arrays[0].len()), nans(arrays[3].len()));
        conv::forward(sequences, self.0, self.inputs(arrays), Some(&arrays[3]), &mut y, &mut last, run).unwrap();
        [y, last]
    }

    fn step<T: Float>(&self, rows: usize, arrays: &Arrays<T>, run: Execution<'_>) -> [Vec<T>; 2] {
        let (mut y, mut last) = (nans(arrays[0].len()), nans(arrays[3].len()));
        conv::step(rows, self.0, self.inputs(arrays), &arrays[3], &mut y, &mut last, run).unwrap();
        [y, last]
    }

    fn backward<T: Float>(
        &self,
        sequences: &Sequences<'_>,
        arrays: &Arrays<T>,
        upstream: [&[T]; 2],
        run: Execution<'_>,
    ) -> Arrays<T> {
        let mut out: Arrays<T> = arrays.iter().map(|array| nans(array.len())).collect();
        let [x, weight, bias, initial_state] = out.get_disjoint_mut([0, 1, 2, 3]).unwrap();
        let gradients = conv::Gradients { x, weight, bias: Some(bias), initial_state };
        let upstream = conv::Upstream { y: upstream[0], last_state: Some(upstream[1]) };
        conv::backward(sequences, self.0, self.inputs(arrays), Some(&arrays[3]), upstream, gradients, run).unwrap();
        out
    }
}

/// What kernels must overwrite.
fn nans<T: Float>(len: usize) -> Vec<T> {
    vec![T::from_f64(f64::NAN); len]
}

fn run(threads: usize, level: Level) -> Execution<'static> {
    Execution { threads, level, poll: &|_| Ok(()) }
}

/// Numbers in −0.7 … 0.7: states stay bounded.
fn random(len: usize, seed: &mut u64) -> Vec<f64> {
    (0..len)
        .map(|_| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((*seed >> 33) as f64 / (1_u64 << 31) as f64 - 0.5) * 1.4
        })
        .collect()
}

/// The same numbers, rounded to f32 so that both types compute from the same.
fn arrays(family: &impl Family, rows: usize, seq_len: usize, seed: &mut u64) -> Arrays<f64> {
    let sizes = family.sizes(rows, seq_len);
    sizes.iter().map(|(size, _)| random(*size, seed).iter().map(|x| f64::from(*x as f32)).collect()).collect()
}

fn cast<T: Float>(values: &[f64]) -> Vec<T> {
    values.iter().map(|x| T::from_f64(*x)).collect()
}

fn cast_all<T: Float>(arrays: &Arrays<f64>) -> Arrays<T> {
    arrays.iter().map(|array| cast(array)).collect()
}

fn assert_close<T: Float>(what: &str, got: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got.to_f64() - expected).abs();
        assert!(error <= tolerance * scale, "{what}[{at}]: {got:?}, not {expected} (scale {scale})");
    }
}

/// The steps `range` of an array of (rows, `seq_len`, …) or (rows, …, `seq_len`).
fn cut<T: Float>(values: &[T], time: Time, rows: usize, seq_len: usize, range: Range<usize>) -> Vec<T> {
    if time == Time::None || values.is_empty() {
        return values.to_vec();
    }
    let width = values.len() / (rows * seq_len);
    match time {
        Time::Outer => values
            .chunks(seq_len * width)
            .flat_map(|row| row[range.start * width..range.end * width].to_vec())
            .collect(),
        _ => values.chunks(seq_len).flat_map(|row| row[range.clone()].to_vec()).collect(),
    }
}

fn cut_all<T: Float>(
    family: &impl Family,
    arrays: &Arrays<T>,
    rows: usize,
    seq_len: usize,
    range: Range<usize>,
    state: &[T],
) -> Arrays<T> {
    let times = family.sizes(rows, seq_len);
    let mut cut: Arrays<T> =
        arrays.iter().zip(times).map(|(x, (_, time))| cut(x, time, rows, seq_len, range.clone())).collect();
    *cut.last_mut().unwrap() = state.to_vec();
    cut
}

/// A batch with lengths and resets.
#[derive(Debug, Clone)]
struct Batch {
    rows: usize,
    seq_len: usize,
    lengths: Option<Vec<usize>>,
    left: bool,
    resets: Option<Vec<bool>>,
    seed: u64,
}

impl Batch {
    fn sequences(&self) -> Sequences<'_> {
        let mut sequences = Sequences::new(self.rows, self.seq_len);
        if let Some(lengths) = &self.lengths {
            sequences = sequences.with_lengths(lengths, self.left).unwrap();
        }
        if let Some(resets) = &self.resets {
            sequences = sequences.with_resets(resets).unwrap();
        }
        sequences
    }
}

fn batches() -> impl Strategy<Value = Batch> {
    let size = (1..4_usize, prop_oneof![0..9_usize, 60..140_usize]);
    (size, any::<bool>(), any::<bool>(), any::<bool>(), any::<u64>()).prop_map(
        |((rows, seq_len), has_lengths, has_resets, left, mut seed)| {
            let below = |limit: usize, seed: &mut u64| ((random(1, seed)[0] / 1.4 + 0.5) * limit as f64) as usize;
            let lengths = has_lengths.then(|| (0..rows).map(|_| below(seq_len + 1, &mut seed)).collect());
            let rare = 2 + below(40, &mut seed);
            let resets = has_resets.then(|| (0..rows * seq_len).map(|_| below(rare, &mut seed) == 0).collect());
            Batch { rows, seq_len, lengths, left, resets, seed }
        },
    )
}

/// Everything that must hold for a recurrence on a batch.
fn check(family: &impl Family, batch: &Batch) {
    let mut seed = batch.seed;
    let sequences = batch.sequences();
    let inputs = arrays(family, batch.rows, batch.seq_len, &mut seed);
    let [y, last] = family.naive(&sequences, &inputs);
    let upstream = [random(y.len(), &mut seed), random(last.len(), &mut seed)];
    let loss = |inputs: &Arrays<f64>| {
        let out = family.naive(&sequences, inputs);
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        dot(&out[0], &upstream[0]) + dot(&out[1], &upstream[1])
    };
    let upstream = [&upstream[0][..], &upstream[1][..]];
    let narrow_upstream = upstream.map(cast::<f32>);
    let narrow_upstream = [&narrow_upstream[0][..], &narrow_upstream[1][..]];
    let narrow = cast_all::<f32>(&inputs);
    let rounded = narrow_upstream.map(|x| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
    let mut first: Option<Arrays<f64>> = None;
    for level in Level::available() {
        let out = family.forward(&sequences, &inputs, run(1, level));
        assert_close("y", &out[0], &y, 1e-13);
        assert_close("last state", &out[1], &last, 1e-13);
        assert_eq!(out, family.forward(&sequences, &inputs, run(2, level)), "threads");
        let out = family.forward(&sequences, &narrow, run(1, level));
        assert_close("y of f32", &out[0], &y, 2e-6);
        assert_close("last state of f32", &out[1], &last, 2e-6);
        assert_eq!(out, family.forward(&sequences, &narrow, run(2, level)), "threads");

        let wide = family.backward(&sequences, &inputs, upstream, run(1, level));
        assert_eq!(wide, family.backward(&sequences, &inputs, upstream, run(2, level)), "threads");
        let of_rounded = family.backward(&sequences, &inputs, [&rounded[0], &rounded[1]], run(1, level));
        let got = family.backward(&sequences, &narrow, narrow_upstream, run(1, level));
        assert_eq!(got, family.backward(&sequences, &narrow, narrow_upstream, run(2, level)), "threads");
        for (array, (got, expected)) in got.iter().zip(&of_rounded).enumerate() {
            assert_close(&format!("gradient {array} of f32"), got, expected, 1e-5);
        }
        match &first {
            Some(first) => {
                for (array, (got, expected)) in wide.iter().zip(first).enumerate() {
                    assert_close(&format!("gradient {array} at {level:?}"), got, expected, 1e-12);
                }
            }
            None => first = Some(wide),
        }
    }
    for (array, gradient) in first.unwrap().iter().enumerate() {
        for _ in 0..if gradient.is_empty() { 0 } else { 6 } {
            let at = ((random(1, &mut seed)[0] / 1.4 + 0.5) * gradient.len() as f64) as usize;
            let mut moved = inputs.clone();
            let step = 1e-5;
            moved[array][at] = inputs[array][at] + step;
            let above = loss(&moved);
            moved[array][at] = inputs[array][at] - step;
            let slope = (above - loss(&moved)) / (2.0 * step);
            let error = (slope - gradient[at]).abs();
            assert!(error <= 1e-6 * (1.0 + slope.abs()), "gradient {array}[{at}]: {}, not {slope}", gradient[at]);
        }
    }
}

/// Whole = any split = steps; packed = separate; padded = unpadded: to the bit, as each is the same arithmetic.
fn check_cuts<T: Float>(family: &impl Family, rows: usize, seq_len: usize, at: usize, mut seed: u64) {
    let inputs = cast_all::<T>(&arrays(family, rows, seq_len, &mut seed));
    let state = inputs.last().unwrap().clone();
    let zero = vec![T::ZERO; state.len()];
    for level in Level::available() {
        let run = run(1, level);
        let part = |range: Range<usize>, state: &[T]| {
            let inputs = cut_all(family, &inputs, rows, seq_len, range.clone(), state);
            family.forward(&Sequences::new(rows, range.len()), &inputs, run)
        };
        let of = |y: &[T], range| cut(y, family.output(), rows, seq_len, range);
        let [y, last] = family.forward(&Sequences::new(rows, seq_len), &inputs, run);
        let [y1, middle] = part(0..at, &state);
        let [y2, end] = part(at..seq_len, &middle);
        assert_eq!((of(&y, 0..at), of(&y, at..seq_len), &last), (y1.clone(), y2, &end), "split at {at}");

        let mut now = state.clone();
        for t in 0..seq_len {
            let inputs = cut_all(family, &inputs, rows, seq_len, t..t + 1, &now);
            let [y1, next] = family.step(rows, &inputs, run);
            assert_eq!(of(&y, t..t + 1), y1, "step {t}");
            now = next;
        }
        assert_eq!(now, last, "steps");

        let mut resets = vec![false; rows * seq_len];
        (0..rows).filter(|_| at < seq_len).for_each(|row| resets[row * seq_len + at] = true);
        let packed = Sequences::new(rows, seq_len).with_resets(&resets).unwrap();
        let [y, last] = family.forward(&packed, &inputs, run);
        if at < seq_len {
            let [y2, end] = part(at..seq_len, &zero);
            assert_eq!((of(&y, 0..at), of(&y, at..seq_len), last), (y1, y2, end), "packed at {at}");
        }

        for (left, range) in [(false, 0..at), (true, seq_len - at..seq_len)] {
            let lengths = vec![at; rows];
            let padded = Sequences::new(rows, seq_len).with_lengths(&lengths, left).unwrap();
            let [y, last] = family.forward(&padded, &inputs, run);
            let [y1, end] = part(range.clone(), &state);
            assert_eq!((of(&y, range), last), (y1, end), "padded, left: {left}");
        }
    }
}

fn linear_shapes() -> impl Strategy<Value = Linear> {
    (prop_oneof![1..40_usize, 120..150_usize, 250..270_usize], any::<bool>(), any::<bool>())
        .prop_map(|(width, complex, constant)| Linear(linear::Shape { width, complex, constant }))
}

fn s4d_shapes() -> impl Strategy<Value = S4d> {
    (1..20_usize, 1..35_usize).prop_map(|(d_model, n_modes)| S4d(s4d::Shape { d_model, n_modes }))
}

fn conv_shapes() -> impl Strategy<Value = Conv> {
    (1..40_usize, prop_oneof![1..6_usize, 1..100_usize], any::<bool>())
        .prop_map(|(channels, kernel, silu)| Conv(conv::Shape { channels, kernel }, silu))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn linear_scan_is_right(family in linear_shapes(), batch in batches()) {
        check(&family, &batch);
    }

    #[test]
    fn s4d_scan_is_right(family in s4d_shapes(), batch in batches()) {
        check(&family, &batch);
    }

    #[test]
    fn convolution_is_right(family in conv_shapes(), batch in batches()) {
        check(&family, &batch);
    }

    #[test]
    fn linear_scan_can_be_cut(
        family in linear_shapes(), rows in 1..3_usize, seq_len in 0..140_usize, at in 0.0..1.0, seed: u64
    ) {
        check_cuts::<f32>(&family, rows, seq_len, (at * (seq_len + 1) as f64) as usize, seed);
        check_cuts::<f64>(&family, rows, seq_len, (at * (seq_len + 1) as f64) as usize, seed);
    }

    #[test]
    fn s4d_scan_can_be_cut(
        family in s4d_shapes(), rows in 1..3_usize, seq_len in 0..140_usize, at in 0.0..1.0, seed: u64
    ) {
        check_cuts::<f32>(&family, rows, seq_len, (at * (seq_len + 1) as f64) as usize, seed);
        check_cuts::<f64>(&family, rows, seq_len, (at * (seq_len + 1) as f64) as usize, seed);
    }

    #[test]
    fn convolution_can_be_cut(
        family in conv_shapes(), rows in 1..3_usize, seq_len in 0..140_usize, at in 0.0..1.0, seed: u64
    ) {
        check_cuts::<f32>(&family, rows, seq_len, (at * (seq_len + 1) as f64) as usize, seed);
        check_cuts::<f64>(&family, rows, seq_len, (at * (seq_len + 1) as f64) as usize, seed);
    }
}

#[test]
fn nan_stays_in_its_channel_and_infinity_makes_none() {
    for level in Level::available() {
        let (rows, seq_len, d_model) = (1, 9, 3);
        let family = S4d(s4d::Shape { d_model, n_modes: 3 });
        let mut inputs = cast_all::<f32>(&arrays(&family, rows, seq_len, &mut 1));
        // With weights of such signs, an infinite input gives an infinite output.
        for (weights, imaginary) in [(1, f32::MIN_POSITIVE), (2, f32::MIN_POSITIVE), (3, -f32::MIN_POSITIVE)] {
            let of = |i| if i % 2 == 0 { 0.5 } else { imaginary };
            inputs[weights] = (0..inputs[weights].len()).map(of).collect();
        }
        inputs[4].fill(0.5);
        inputs[0][4] = f32::INFINITY;
        inputs[0][seq_len + 2] = f32::NAN;
        let [y, _] = family.forward(&Sequences::new(rows, seq_len), &inputs, run(1, level));
        assert!(y[..4].iter().all(|y| y.is_finite()) && y[4] == f32::INFINITY, "{y:?}");
        assert!(y[seq_len..seq_len + 2].iter().all(|y| y.is_finite()), "{y:?}");
        assert!(y[seq_len + 2..2 * seq_len].iter().all(|y| y.is_nan()), "{y:?}");
        assert!(y[2 * seq_len..].iter().all(|y| y.is_finite()), "{y:?}");
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let sequences = Sequences::new(1, 2);
    let shape = linear::Shape { width: 3, complex: true, constant: false };
    let (mut h, mut last) = ([0.0; 12], [0.0; 6]);
    let inputs = linear::Inputs { a: &[0.0; 12], x: &[0.0; 11] };
    let error = linear::forward(&sequences, shape, inputs, None, &mut h, &mut last, Execution::new(1)).unwrap_err();
    assert_eq!(error.to_string(), "x has 11 elements; its shape has 12");
    let shape = conv::Shape { channels: 1, kernel: 0 };
    let inputs = conv::Inputs { x: &[0.0; 2], weight: &[], bias: None, silu: false };
    let error = conv::forward(&sequences, shape, inputs, None, &mut [0.0; 2], &mut [], Execution::new(1)).unwrap_err();
    assert_eq!(error.to_string(), "the kernel has 0 taps; it must have 1 to 256");
}
