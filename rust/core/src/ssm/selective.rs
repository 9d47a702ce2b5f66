//! The selective scan of Mamba (S6), a member of the diagonal family:
//!
//! `h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t u_t B_t`, `y_t = C_t · h_t + D u_t`, for each channel of `d_model`, with `Δ` perhaps
//! through softplus and `y` perhaps times `SiLU(z)` (Gu and Dao 2023, arXiv 2312.00752; `selective_scan_ref` of mamba).
//!
//! A register holds states of one channel: `B_t` and `C_t` are packed once for a block of steps, and 64 channels use them.

use super::sequence::{BLOCK, Block, Sequences};
use super::{Execution, check_len, zeros};
use crate::simd::{self, Float, Isa, Kernel, Vector};
use crate::{Error, Result, parallel};

/// Channels that one part of the work goes over: they share packed `B` and `C`, and one sum of their gradients.
const CHANNELS: usize = 64;

/// 2^x is computed without a clamp where |x| is below this.
const BOUNDED: f64 = 120.0;

/// Sizes, besides those of [`Sequences`].
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Channels.
    pub d_model: usize,
    /// States of a channel.
    pub d_state: usize,
    /// Groups of channels that share `B` and `C`.
    pub n_groups: usize,
}

/// What the scan reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Input, (batch, `d_model`, `seq_len`).
    pub u: &'a [T],
    /// Step sizes, (batch, `d_model`, `seq_len`).
    pub delta: &'a [T],
    /// Rates, (`d_model`, `d_state`).
    pub a: &'a [T],
    /// Input weights, (batch, `n_groups`, `d_state`, `seq_len`).
    pub b: &'a [T],
    /// Output weights, (batch, `n_groups`, `d_state`, `seq_len`).
    pub c: &'a [T],
    /// Weights of the input in the output, (`d_model`).
    pub d: Option<&'a [T]>,
    /// Gates, (batch, `d_model`, `seq_len`).
    pub z: Option<&'a [T]>,
    /// Added to `delta`, (`d_model`).
    pub delta_bias: Option<&'a [T]>,
    /// Whether `delta` goes through softplus.
    pub softplus: bool,
}

/// What the scan writes.
#[derive(Debug)]
pub struct Outputs<'a, T> {
    /// Output, (batch, `d_model`, `seq_len`); zero at steps that are not there.
    pub y: &'a mut [T],
    /// The state after the last step, (batch, `d_model`, `d_state`).
    pub last_state: &'a mut [T],
    /// States at the start of blocks for the backward pass, (batch, `d_model`, [`Sequences::checkpoints`], `d_state`).
    pub checkpoints: Option<&'a mut [T]>,
}

/// What the backward pass reads besides [`Inputs`].
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a, T> {
    /// States that the forward pass kept.
    pub checkpoints: &'a [T],
    /// Gradient of the output.
    pub y: &'a [T],
    /// Gradient of the state after the last step.
    pub last_state: Option<&'a [T]>,
}

/// Gradients, each of the shape of its input.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of `u`.
    pub u: &'a mut [T],
    /// Of `delta`.
    pub delta: &'a mut [T],
    /// Of `a`.
    pub a: &'a mut [T],
    /// Of `b`.
    pub b: &'a mut [T],
    /// Of `c`.
    pub c: &'a mut [T],
    /// Of `d`; there where `d` is.
    pub d: Option<&'a mut [T]>,
    /// Of `z`; there where `z` is.
    pub z: Option<&'a mut [T]>,
    /// Of `delta_bias`; there where `delta_bias` is.
    pub delta_bias: Option<&'a mut [T]>,
    /// Of the initial state, (batch, `d_model`, `d_state`).
    pub initial_state: &'a mut [T],
}

impl Shape {
    fn check(&self) -> Result<()> {
        let Self { d_model, d_state, n_groups } = *self;
        if n_groups == 0 || d_model % n_groups != 0 {
            return Err(Error::value(format!(
                "d_model, {d_model}, must be a multiple of the groups of B and C, {n_groups}"
            )));
        }
        if d_state == 0 {
            return Err(Error::value("d_state must be at least 1, not 0"));
        }
        Ok(())
    }

    fn check_inputs<T>(&self, rows: usize, seq_len: usize, inputs: &Inputs<'_, T>) -> Result<()> {
        self.check()?;
        let channels = rows * self.d_model * seq_len;
        let weights = rows * self.n_groups * self.d_state * seq_len;
        check_len("u", inputs.u, channels)?;
        check_len("delta", inputs.delta, channels)?;
        check_len("A", inputs.a, self.d_model * self.d_state)?;
        check_len("B", inputs.b, weights)?;
        check_len("C", inputs.c, weights)?;
        inputs.d.map_or(Ok(()), |d| check_len("D", d, self.d_model))?;
        inputs.z.map_or(Ok(()), |z| check_len("z", z, channels))?;
        inputs.delta_bias.map_or(Ok(()), |bias| check_len("delta_bias", bias, self.d_model))
    }

    /// The parts of the work: channels of one group of one row each.
    fn parts(&self, rows: usize) -> Vec<Part> {
        let in_group = self.d_model / self.n_groups;
        let mut parts = Vec::new();
        for row in 0..rows {
            for group in 0..self.n_groups {
                for start in (0..in_group).step_by(CHANNELS) {
                    let first = group * in_group + start;
                    parts.push(Part { row, group, first, channels: CHANNELS.min(in_group - start) });
                }
            }
        }
        parts
    }
}

/// Consecutive channels of one group of one row of the batch.
#[derive(Debug, Clone, Copy)]
struct Part {
    row: usize,
    group: usize,
    first: usize,
    channels: usize,
}

/// Cuts an array of shape (batch, `d_model`, `width`) into what belongs to each part, in their order.
fn split<'a, T>(parts: &[Part], mut values: &'a mut [T], width: usize) -> Vec<&'a mut [T]> {
    parts
        .iter()
        .map(|part| {
            let (head, tail) = std::mem::take(&mut values).split_at_mut(part.channels * width);
            values = tail;
            head
        })
        .collect()
}

/// Splits an array that may not be there.
fn split_option<'a, T>(parts: &[Part], values: Option<&'a mut [T]>, width: usize) -> Vec<Option<&'a mut [T]>> {
    match values {
        Some(values) => split(parts, values, width).into_iter().map(Some).collect(),
        None => parts.iter().map(|_| None).collect(),
    }
}

/// The whole sequence. `initial_state` has shape (batch, `d_model`, `d_state`).
pub fn forward<T: Float>(
    sequences: &Sequences<'_>,
    shape: Shape,
    inputs: Inputs<'_, T>,
    initial_state: Option<&[T]>,
    outputs: Outputs<'_, T>,
    execution: Execution<'_>,
) -> Result<()> {
    let (rows, seq_len) = (sequences.batch(), sequences.seq_len());
    let states = rows * shape.d_model * shape.d_state;
    let kept = sequences.checkpoints() * shape.d_state;
    shape.check_inputs(rows, seq_len, &inputs)?;
    initial_state.map_or(Ok(()), |state| check_len("initial_state", state, states))?;
    check_len("y", outputs.y, rows * shape.d_model * seq_len)?;
    check_len("last_state", outputs.last_state, states)?;
    if let Some(checkpoints) = &outputs.checkpoints {
        check_len("checkpoints", checkpoints, rows * shape.d_model * kept)?;
    }
    let parts = shape.parts(rows);
    let y = split(&parts, outputs.y, seq_len);
    let last_state = split(&parts, outputs.last_state, shape.d_state);
    let checkpoints = split_option(&parts, outputs.checkpoints, kept);
    let work = parts.into_iter().zip(y).zip(last_state.into_iter().zip(checkpoints));
    let work = work.map(|((part, y), (last_state, checkpoints))| (part, y, last_state, checkpoints)).collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |(part, y, last_state, checkpoints)| {
        let outputs = Outputs { y, last_state, checkpoints };
        execution.level.run(Forward { sequences, shape, inputs, initial_state, part, outputs });
        Ok(())
    })
}

/// Gradients of everything that [`forward`] reads.
pub fn backward<T: Float>(
    sequences: &Sequences<'_>,
    shape: Shape,
    inputs: Inputs<'_, T>,
    upstream: Upstream<'_, T>,
    gradients: Gradients<'_, T>,
    execution: Execution<'_>,
) -> Result<()> {
    let (rows, seq_len) = (sequences.batch(), sequences.seq_len());
    let (channels, states) = (rows * shape.d_model * seq_len, rows * shape.d_model * shape.d_state);
    let weights = rows * shape.n_groups * shape.d_state * seq_len;
    shape.check_inputs(rows, seq_len, &inputs)?;
    check_len("checkpoints", upstream.checkpoints, states * sequences.checkpoints())?;
    check_len("the gradient of y", upstream.y, channels)?;
    upstream.last_state.map_or(Ok(()), |state| check_len("the gradient of last_state", state, states))?;
    check_len("the gradient of u", gradients.u, channels)?;
    check_len("the gradient of delta", gradients.delta, channels)?;
    check_len("the gradient of A", gradients.a, shape.d_model * shape.d_state)?;
    check_len("the gradient of B", gradients.b, weights)?;
    check_len("the gradient of C", gradients.c, weights)?;
    check_len("the gradient of initial_state", gradients.initial_state, states)?;

    let parts = shape.parts(rows);
    // Sums over the channels of a part and over the steps of a row, which are summed further below.
    let packed = seq_len * shape.d_state;
    let mut of_b = zeros::<T>(parts.len() * packed)?;
    let mut of_c = zeros::<T>(parts.len() * packed)?;
    let mut of_a = zeros::<T>(states)?;
    let mut of_d = zeros::<T>(rows * shape.d_model)?;
    let mut of_bias = zeros::<T>(rows * shape.d_model)?;

    let mut work: Vec<PartGradients<'_, T>> = Vec::with_capacity(parts.len());
    let pieces = split(&parts, gradients.u, seq_len).into_iter().zip(split(&parts, gradients.delta, seq_len));
    let pieces = pieces.zip(split_option(&parts, gradients.z, seq_len));
    let pieces = pieces.zip(split(&parts, gradients.initial_state, shape.d_state));
    let pieces = pieces.zip(split(&parts, &mut of_a, shape.d_state));
    let pieces = pieces.zip(split(&parts, &mut of_d, 1).into_iter().zip(split(&parts, &mut of_bias, 1)));
    let (mut rest_b, mut rest_c) = (&mut of_b[..], &mut of_c[..]);
    for (part, (((((u, delta), z), initial_state), a), (d, delta_bias))) in parts.iter().zip(pieces) {
        let (b, c);
        (b, rest_b) = std::mem::take(&mut rest_b).split_at_mut(packed);
        (c, rest_c) = std::mem::take(&mut rest_c).split_at_mut(packed);
        work.push(PartGradients { part: *part, u, delta, z, initial_state, a, b, c, d, delta_bias });
    }
    parallel::for_each_polled(execution.threads, work, execution.poll, |gradients| {
        execution.level.run(Backward { sequences, shape, inputs, upstream, gradients });
        Ok(())
    })?;

    sum_rows(&of_a, gradients.a);
    if let Some(d) = gradients.d {
        sum_rows(&of_d, d);
    }
    if let Some(bias) = gradients.delta_bias {
        sum_rows(&of_bias, bias);
    }
    let per_group = shape.d_model / shape.n_groups;
    let in_group = per_group.div_ceil(CHANNELS);
    let groups = (gradients.b.chunks_mut(packed.max(1)))
        .zip(gradients.c.chunks_mut(packed.max(1)))
        .enumerate()
        .flat_map(|(group, (b, c))| [(&of_b, group, b), (&of_c, group, c)])
        .collect();
    parallel::for_each(execution.threads, groups, |(sums, group, out): (_, usize, &mut [T])| {
        let parts = &sums[group * in_group * packed..][..in_group * packed];
        sum_and_transpose(parts, packed, shape.d_state, out);
        Ok(())
    })
}

/// One step: `inputs` with `seq_len` 1; `state` and `new_state` have shape (batch, `d_model`, `d_state`), `y` has
/// (batch, `d_model`).
pub fn step<T: Float>(
    rows: usize,
    shape: Shape,
    inputs: Inputs<'_, T>,
    state: &[T],
    y: &mut [T],
    new_state: &mut [T],
    execution: Execution<'_>,
) -> Result<()> {
    let states = rows * shape.d_model * shape.d_state;
    shape.check_inputs(rows, 1, &inputs)?;
    check_len("state", state, states)?;
    check_len("the new state", new_state, states)?;
    check_len("y", y, rows * shape.d_model)?;
    let parts = shape.parts(rows);
    let (y, new_state) = (split(&parts, y, 1), split(&parts, new_state, shape.d_state));
    let work = parts.into_iter().zip(y.into_iter().zip(new_state)).collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |(part, (y, new_state))| {
        execution.level.run(Step { shape, inputs, state, part, y, new_state });
        Ok(())
    })
}

/// The sum of the rows of an array of shape (rows, `out.len()`).
fn sum_rows<T: Float>(values: &[T], out: &mut [T]) {
    out.fill(T::ZERO);
    for row in values.chunks(out.len().max(1)) {
        for (sum, value) in out.iter_mut().zip(row) {
            *sum += *value;
        }
    }
}

/// The sum of arrays of shape (`seq_len`, `d_state`), one after another, as (`d_state`, `seq_len`).
fn sum_and_transpose<T: Float>(parts: &[T], packed: usize, d_state: usize, out: &mut [T]) {
    let seq_len = packed / d_state;
    for start in (0..seq_len).step_by(BLOCK) {
        let end = seq_len.min(start + BLOCK);
        for state in 0..d_state {
            for step in start..end {
                let mut sum = T::ZERO;
                for part in parts.chunks(packed) {
                    sum += part[step * d_state + state];
                }
                out[state * seq_len + step] = sum;
            }
        }
    }
}

/// What is the same for all channels of a part in one block of steps.
struct Packed<V> {
    /// Registers of a channel's states.
    registers: usize,
    /// Lanes of the last register.
    last: usize,
    /// `b[register * BLOCK + step]`.
    b: Vec<V>,
    c: Vec<V>,
}

impl<V: Vector> Packed<V> {
    #[inline(always)]
    fn new(isa: V::Isa, d_state: usize) -> Self {
        let registers = d_state.div_ceil(V::LANES);
        let zeros = vec![V::splat(isa, V::Scalar::ZERO); registers * BLOCK];
        Self { registers, last: d_state - (registers - 1) * V::LANES, b: zeros.clone(), c: zeros }
    }

    /// Takes the steps of a block from (`d_state`, `seq_len`).
    #[inline(always)]
    fn pack(&mut self, isa: V::Isa, b: &[V::Scalar], c: &[V::Scalar], seq_len: usize, block: Block) {
        for (from, to) in [(b, &mut self.b), (c, &mut self.c)] {
            for (rows, registers) in from.chunks(V::LANES * seq_len).zip(to.chunks_mut(BLOCK)) {
                let mut lanes = [[V::Scalar::ZERO; 8]; BLOCK];
                for (lane, row) in rows.chunks(seq_len).enumerate() {
                    for (lanes, value) in lanes.iter_mut().zip(&row[block.start..block.end]) {
                        lanes[lane] = *value;
                    }
                }
                for (register, lanes) in registers.iter_mut().zip(&lanes[..block.steps()]) {
                    *register = V::load(isa, lanes);
                }
            }
        }
    }
}

/// A channel's rates, in registers.
struct Rates<V> {
    /// Rates: `a[channel * registers + register]`.
    a: Vec<V>,
    /// The same times log2 e.
    a2: Vec<V>,
    /// The largest absolute value of a channel's.
    largest: Vec<f64>,
}

impl<V: Vector> Rates<V> {
    #[inline(always)]
    fn new(isa: V::Isa, a: &[V::Scalar], d_state: usize) -> Self {
        let registers = d_state.div_ceil(V::LANES);
        let channels = a.len() / d_state;
        let mut rates = Self {
            a: Vec::with_capacity(channels * registers),
            a2: Vec::with_capacity(channels * registers),
            largest: Vec::with_capacity(channels),
        };
        let log2_e = V::splat(isa, V::Scalar::from_f64(std::f64::consts::LOG2_E));
        for a in a.chunks(d_state) {
            for a in a.chunks(V::LANES) {
                let a = V::load(isa, a);
                rates.a.push(a);
                rates.a2.push(a * log2_e);
            }
            let mut largest = 0.0;
            for a in a {
                let a = a.to_f64().abs() * std::f64::consts::LOG2_E;
                // NaN stays.
                largest = if a <= largest { largest } else { a };
            }
            rates.largest.push(largest);
        }
        rates
    }
}

/// A channel's step sizes in a block of steps, and the inputs times these.
struct StepSizes<T> {
    delta: [T; BLOCK],
    delta_u: [T; BLOCK],
    /// The derivative of softplus, where `delta` goes through it.
    slope: [T; BLOCK],
    largest: f64,
}

impl<T: Float> StepSizes<T> {
    const EMPTY: Self =
        Self { delta: [T::ZERO; BLOCK], delta_u: [T::ZERO; BLOCK], slope: [T::ONE; BLOCK], largest: 0.0 };

    #[inline(always)]
    fn read<I: Isa>(&mut self, isa: I, u: &[T], delta: &[T], bias: impl Fn(usize) -> T::Vector<I>, softplus: bool) {
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let (mut largest, mut not_finite) = (zero, zero);
        let lanes = T::Vector::<I>::LANES;
        for start in (0..u.len()).step_by(lanes) {
            let mut step = T::Vector::<I>::load(isa, &delta[start..]) + bias(start);
            if softplus {
                let slope;
                (step, slope) = T::softplus_and_slope(isa, step);
                slope.store(&mut self.slope[start..]);
            }
            step.store(&mut self.delta[start..]);
            (step * T::Vector::<I>::load(isa, &u[start..])).store(&mut self.delta_u[start..]);
            // What is read beyond the slice are zeros: finite, and at most softplus(bias).
            largest = largest.max(step.abs());
            not_finite = step.mul_add(zero, not_finite);
        }
        let mut lanes = [T::ZERO; 8];
        largest.store(&mut lanes);
        let largest = lanes.iter().fold(T::ZERO, |most, x| if *x > most { *x } else { most });
        self.largest = if not_finite.sum() == T::ZERO { largest.to_f64() } else { f64::INFINITY };
    }
}

struct Forward<'a, T> {
    sequences: &'a Sequences<'a>,
    shape: Shape,
    inputs: Inputs<'a, T>,
    initial_state: Option<&'a [T]>,
    part: Part,
    outputs: Outputs<'a, T>,
}

/// Two registers of a channel's states at a time, or the last one.
macro_rules! by_tiles {
    ($registers:expr, |$first:ident, $width:ident| $work:expr) => {
        let mut $first = 0;
        while $first + 2 <= $registers {
            const $width: usize = 2;
            $work;
            $first += 2;
        }
        if $first < $registers {
            const $width: usize = 1;
            $work;
        }
    };
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, shape, inputs, initial_state, part, outputs } = self;
        let Outputs { y, last_state, mut checkpoints } = outputs;
        let (seq_len, d_state) = (sequences.seq_len(), shape.d_state);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let mut packed = Packed::<T::Vector<I>>::new(isa, d_state);
        let registers = packed.registers;
        let rates =
            Rates::<T::Vector<I>>::new(isa, &inputs.a[part.first * d_state..][..part.channels * d_state], d_state);
        let mut states = vec![zero; part.channels * registers];
        if let Some(initial) = initial_state {
            let first = (part.row * shape.d_model + part.first) * d_state;
            load_states(isa, &initial[first..][..part.channels * d_state], d_state, &mut states);
        }
        let weights = (part.row * shape.n_groups + part.group) * d_state * seq_len;
        let weights = weights..weights + d_state * seq_len;
        let steps = sequences.steps(part.row);
        for y in y.chunks_mut(seq_len.max(1)) {
            y[..steps.start].fill(T::ZERO);
            y[steps.end..].fill(T::ZERO);
        }
        let kept = sequences.checkpoints() * d_state;
        let mut sizes = StepSizes::EMPTY;
        let mut decays = [[zero; 2]; BLOCK];
        let mut products = [zero; BLOCK];
        let mut sums = [T::ZERO; BLOCK];
        for block in sequences.blocks(part.row) {
            packed.pack(isa, &inputs.b[weights.clone()], &inputs.c[weights.clone()], seq_len, block);
            let count = block.steps();
            for channel in 0..part.channels {
                let of = part.first + channel;
                let start = (part.row * shape.d_model + of) * seq_len + block.start;
                for values in [Some(inputs.u), Some(inputs.delta), inputs.z].into_iter().flatten() {
                    prefetch(values, start + seq_len, count);
                }
                prefetch(y, (channel + 1) * seq_len + block.start, count);
                let u = &inputs.u[start..start + count];
                let bias = inputs.delta_bias.map_or(T::ZERO, |bias| bias[of]);
                let delta = &inputs.delta[start..start + count];
                sizes.read::<I>(isa, u, delta, |_| T::Vector::<I>::splat(isa, bias), inputs.softplus);
                let states = &mut states[channel * registers..][..registers];
                match block.checkpoint {
                    None => states.fill(zero),
                    Some(at) => {
                        if let Some(checkpoints) = &mut checkpoints {
                            store_states(states, &mut checkpoints[channel * kept + at * d_state..][..d_state]);
                        }
                    }
                }
                let y = &mut y[channel * seq_len + block.start..][..count];
                let bounded = sizes.largest * rates.largest[channel] < BOUNDED;
                let rates = if bounded { &rates.a2 } else { &rates.a };
                let rates = &rates[channel * registers..][..registers];
                by_tiles!(registers, |first, WIDTH| {
                    let tile = Tile::<T::Vector<I>, WIDTH>::of(isa, &packed, rates, first);
                    let states = &mut states[first..];
                    tile.decays(isa, count, &sizes.delta, bounded, &mut decays);
                    if tile.unused.is_some() {
                        tile.scan::<true>(isa, count, &sizes.delta_u, &decays, states, &mut products);
                    } else {
                        tile.scan::<false>(isa, count, &sizes.delta_u, &decays, states, &mut products);
                    }
                    T::Vector::<I>::sums(&products[..count], &mut sums[..count]);
                    if first == 0 {
                        y.copy_from_slice(&sums[..count]);
                    } else {
                        for (y, sum) in y.iter_mut().zip(&sums) {
                            *y += *sum;
                        }
                    }
                });
                let d = inputs.d.map(|d| T::Vector::<I>::splat(isa, d[of]));
                let d = d.map(|d| move |_| d);
                finish::<T, I>(isa, y, u, d, inputs.z.map(|z| &z[start..start + count]));
            }
        }
        for (states, last_state) in states.chunks(registers).zip(last_state.chunks_mut(d_state)) {
            store_states(states, last_state);
        }
    }
}

/// Asks for numbers of the next channel: rows are so far apart that no processor foresees them.
#[inline(always)]
fn prefetch<T>(values: &[T], start: usize, count: usize) {
    for at in (start..start + count).step_by(64 / size_of::<T>()) {
        simd::prefetch(values, at);
    }
}

/// y + D u, then times `SiLU(z)`.
#[inline(always)]
fn finish<T: Float, I: Isa>(isa: I, y: &mut [T], u: &[T], d: Option<impl Fn(usize) -> T::Vector<I>>, z: Option<&[T]>) {
    if d.is_none() && z.is_none() {
        return;
    }
    for start in (0..y.len()).step_by(T::Vector::<I>::LANES) {
        let mut out = T::Vector::<I>::load(isa, &y[start..]);
        if let Some(d) = &d {
            out = d(start).mul_add(T::Vector::<I>::load(isa, &u[start..]), out);
        }
        if let Some(z) = z {
            let z = T::Vector::<I>::load(isa, &z[start..]);
            out = out * (z * T::sigmoid(isa, z));
        }
        out.store(&mut y[start..]);
    }
}

#[inline(always)]
fn load_states<V: Vector>(isa: V::Isa, from: &[V::Scalar], d_state: usize, to: &mut [V]) {
    for (from, to) in from.chunks(d_state).zip(to.chunks_mut(d_state.div_ceil(V::LANES))) {
        for (from, to) in from.chunks(V::LANES).zip(to) {
            *to = V::load(isa, from);
        }
    }
}

#[inline(always)]
fn store_states<V: Vector>(from: &[V], to: &mut [V::Scalar]) {
    for (from, to) in from.iter().zip(to.chunks_mut(V::LANES)) {
        from.store(to);
    }
}

/// Registers of one channel's states, with what they meet in a block of steps.
struct Tile<'a, V, const WIDTH: usize> {
    rates: [V; WIDTH],
    b: [&'a [V; BLOCK]; WIDTH],
    c: [&'a [V; BLOCK]; WIDTH],
    /// 0 in the lanes that hold states, 1 in the others.
    unused: Option<V>,
}

impl<'a, V: Vector, const WIDTH: usize> Tile<'a, V, WIDTH> {
    #[inline(always)]
    fn of(isa: V::Isa, packed: &'a Packed<V>, rates: &[V], first: usize) -> Self {
        let (b, c) = (packed.b.as_chunks::<BLOCK>().0, packed.c.as_chunks::<BLOCK>().0);
        let at = |register| first + register;
        let partial = first + WIDTH == packed.registers && packed.last < V::LANES;
        let unused = partial.then(|| {
            let mut lanes = [V::Scalar::ZERO; 8];
            lanes[packed.last..].fill(V::Scalar::ONE);
            V::load(isa, &lanes)
        });
        Self {
            rates: std::array::from_fn(|register| rates[at(register)]),
            b: std::array::from_fn(|register| &b[at(register)]),
            c: std::array::from_fn(|register| &c[at(register)]),
            unused,
        }
    }

    /// exp(Δ A) at each step: `rates` are A log2 e where `bounded` says that the product is below [`BOUNDED`], else A.
    #[inline(always)]
    fn decays(&self, isa: V::Isa, count: usize, delta: &[V::Scalar; BLOCK], bounded: bool, decays: &mut Decays<V>) {
        if !bounded {
            for (t, decays) in decays.iter_mut().enumerate().take(count) {
                let delta = V::splat(isa, delta[t]);
                for register in 0..WIDTH {
                    decays[register] = V::Scalar::exp(isa, delta * self.rates[register]);
                }
            }
            return;
        }
        // Four registers in step: a pair of steps beyond the last one does no harm.
        let (deltas, pairs) = (delta.as_chunks::<2>().0, decays.as_chunks_mut::<2>().0);
        for (delta, [first, second]) in deltas.iter().zip(pairs).take(count.div_ceil(2)) {
            let [delta_1, delta_2] = delta.map(|delta| V::splat(isa, delta));
            let (a, b) = (self.rates[0], self.rates[WIDTH - 1]);
            if WIDTH == 1 {
                [first[0], second[0]] = V::Scalar::exp2_bounded(isa, [delta_1 * a, delta_2 * a]);
            } else {
                [first[0], first[1], second[0], second[1]] =
                    V::Scalar::exp2_bounded(isa, [delta_1 * a, delta_1 * b, delta_2 * a, delta_2 * b]);
            }
        }
    }

    /// 0 in the lanes that hold no states: what stands there may be NaN where a step size is infinite.
    #[inline(always)]
    fn used(&self, isa: V::Isa, x: V) -> V {
        match self.unused {
            None => x,
            Some(unused) => unused.if_less(V::splat(isa, V::Scalar::ONE), x, V::splat(isa, V::Scalar::ZERO)),
        }
    }

    /// h = decay ⊙ h + Δ u B.
    #[inline(always)]
    fn advance<const PARTIAL: bool>(&self, isa: V::Isa, t: usize, decays: &[V; 2], delta_u: V, h: &mut [V; WIDTH]) {
        for register in 0..WIDTH {
            h[register] = decays[register].mul_add(h[register], delta_u * self.b[register][t]);
        }
        if PARTIAL {
            h[WIDTH - 1] = self.used(isa, h[WIDTH - 1]);
        }
    }

    /// `count` steps; `products` are C ⊙ h, summed over registers.
    #[inline(always)]
    fn scan<const PARTIAL: bool>(
        &self,
        isa: V::Isa,
        count: usize,
        delta_u: &[V::Scalar; BLOCK],
        decays: &Decays<V>,
        states: &mut [V],
        products: &mut [V; BLOCK],
    ) {
        let mut h: [V; WIDTH] = std::array::from_fn(|register| states[register]);
        for t in 0..count.min(BLOCK) {
            self.advance::<PARTIAL>(isa, t, &decays[t], V::splat(isa, delta_u[t]), &mut h);
            let mut product = self.c[0][t] * h[0];
            for register in 1..WIDTH {
                product = self.c[register][t].mul_add(h[register], product);
            }
            products[t] = product;
        }
        states[..WIDTH].copy_from_slice(&h);
    }

    /// The states before and after each of `count` steps, from those before the first.
    #[inline(always)]
    fn recompute<const PARTIAL: bool>(
        &self,
        isa: V::Isa,
        count: usize,
        delta_u: &[V::Scalar; BLOCK],
        start: &[V],
        history: &mut History<V>,
    ) {
        let mut h: [V; WIDTH] = std::array::from_fn(|register| start[register]);
        history.states[0][..WIDTH].copy_from_slice(&h);
        for t in 0..count.min(BLOCK) {
            self.advance::<PARTIAL>(isa, t, &history.decays[t], V::splat(isa, delta_u[t]), &mut h);
            history.states[t + 1][..WIDTH].copy_from_slice(&h);
        }
    }

    /// C ⊙ h at each step, summed over registers.
    #[inline(always)]
    fn products(&self, isa: V::Isa, count: usize, history: &History<V>, products: &mut [V; BLOCK]) {
        for (t, product) in products.iter_mut().enumerate().take(count) {
            *product = V::splat(isa, V::Scalar::ZERO);
            for register in 0..WIDTH {
                *product = self.c[register][t].mul_add(history.states[t + 1][register], *product);
            }
        }
    }

    /// The steps from the last to the first. `g` is the gradient of the state, after and then before them; the products
    /// are summed over registers.
    #[inline(always)]
    fn reverse(
        &self,
        isa: V::Isa,
        count: usize,
        sizes: &StepSizes<V::Scalar>,
        dy: &[V::Scalar; BLOCK],
        a: &[V],
        history: &History<V>,
        sums: &mut TileSums<'_, V>,
    ) {
        let mut g: [V; WIDTH] = std::array::from_fn(|register| sums.g[register]);
        let mut of_a: [V; WIDTH] = std::array::from_fn(|register| sums.a[register]);
        let a: [V; WIDTH] = std::array::from_fn(|register| a[register]);
        let zero = V::splat(isa, V::Scalar::ZERO);
        let (of_b, of_c) = (sums.b.as_chunks_mut::<BLOCK>().0, sums.c.as_chunks_mut::<BLOCK>().0);
        for t in (0..count.min(BLOCK)).rev() {
            let dy = V::splat(isa, dy[t]);
            let (delta, delta_u) = (V::splat(isa, sizes.delta[t]), V::splat(isa, sizes.delta_u[t]));
            let (mut with_b, mut with_a) = (zero, zero);
            for register in 0..WIDTH {
                g[register] = self.c[register][t].mul_add(dy, g[register]);
                if register + 1 == WIDTH {
                    g[register] = self.used(isa, g[register]);
                }
                of_c[register][t] = history.states[t + 1][register].mul_add(dy, of_c[register][t]);
                of_b[register][t] = delta_u.mul_add(g[register], of_b[register][t]);
                with_b = self.b[register][t].mul_add(g[register], with_b);
                g[register] = g[register] * history.decays[t][register];
                let moved = g[register] * history.states[t][register];
                with_a = a[register].mul_add(moved, with_a);
                of_a[register] = delta.mul_add(moved, of_a[register]);
            }
            sums.with_b[t] = with_b;
            sums.with_a[t] = with_a;
        }
        sums.g[..WIDTH].copy_from_slice(&g);
        sums.a[..WIDTH].copy_from_slice(&of_a);
    }
}

/// exp(Δ A) at each step, for up to two registers.
type Decays<V> = [[V; 2]; BLOCK];

/// States and decays of a tile in a block of steps.
struct History<V> {
    /// Before the first step and after each.
    states: [[V; 2]; BLOCK + 1],
    decays: Decays<V>,
}

/// What a tile adds to in the backward pass.
struct TileSums<'a, V> {
    /// Gradient of the state.
    g: &'a mut [V],
    /// Gradient of A.
    a: &'a mut [V],
    /// Gradient of B: `b[register * BLOCK + step]`.
    b: &'a mut [V],
    /// Gradient of C.
    c: &'a mut [V],
    /// g ⊙ B at each step.
    with_b: &'a mut [V; BLOCK],
    /// g ⊙ (what is left of the state before) ⊙ A at each step.
    with_a: &'a mut [V; BLOCK],
}

/// What a part of the backward pass writes; `b`, `c`, `a`, `d` and `delta_bias` are sums over this part alone.
struct PartGradients<'a, T> {
    part: Part,
    u: &'a mut [T],
    delta: &'a mut [T],
    z: Option<&'a mut [T]>,
    initial_state: &'a mut [T],
    a: &'a mut [T],
    /// (`seq_len`, `d_state`).
    b: &'a mut [T],
    c: &'a mut [T],
    d: &'a mut [T],
    delta_bias: &'a mut [T],
}

struct Backward<'a, T> {
    sequences: &'a Sequences<'a>,
    shape: Shape,
    inputs: Inputs<'a, T>,
    upstream: Upstream<'a, T>,
    gradients: PartGradients<'a, T>,
}

impl<T: Float> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, shape, inputs, upstream, mut gradients } = self;
        let part = gradients.part;
        let (seq_len, d_state) = (sequences.seq_len(), shape.d_state);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let mut packed = Packed::<T::Vector<I>>::new(isa, d_state);
        let registers = packed.registers;
        let rates =
            Rates::<T::Vector<I>>::new(isa, &inputs.a[part.first * d_state..][..part.channels * d_state], d_state);
        let mut of_states = vec![zero; part.channels * registers];
        let mut of_rates = vec![zero; part.channels * registers];
        let first = part.row * shape.d_model + part.first;
        if let Some(last_state) = upstream.last_state {
            load_states(isa, &last_state[first * d_state..][..part.channels * d_state], d_state, &mut of_states);
        }
        let weights = (part.row * shape.n_groups + part.group) * d_state * seq_len;
        let weights = weights..weights + d_state * seq_len;
        let steps = sequences.steps(part.row);
        for channel in 0..part.channels {
            for padding in [0..steps.start, steps.end..seq_len] {
                let padding = channel * seq_len + padding.start..channel * seq_len + padding.end;
                gradients.u[padding.clone()].fill(T::ZERO);
                gradients.delta[padding.clone()].fill(T::ZERO);
                if let Some(z) = &mut gradients.z {
                    z[padding].fill(T::ZERO);
                }
            }
        }
        let kept = sequences.checkpoints() * d_state;
        let (mut of_b, mut of_c) = (vec![zero; registers * BLOCK], vec![zero; registers * BLOCK]);
        let mut history = History { states: [[zero; 2]; BLOCK + 1], decays: [[zero; 2]; BLOCK] };
        let (mut with_b, mut with_a, mut products) = ([zero; BLOCK], [zero; BLOCK], [zero; BLOCK]);
        let mut sizes = StepSizes::EMPTY;
        let mut start_states = vec![zero; registers];
        for block in sequences.blocks(part.row).into_iter().rev() {
            packed.pack(isa, &inputs.b[weights.clone()], &inputs.c[weights.clone()], seq_len, block);
            of_b.fill(zero);
            of_c.fill(zero);
            let count = block.steps();
            for channel in 0..part.channels {
                let of = part.first + channel;
                let start = (part.row * shape.d_model + of) * seq_len + block.start;
                for values in [Some(inputs.u), Some(inputs.delta), Some(upstream.y), inputs.z].into_iter().flatten() {
                    prefetch(values, start + seq_len, count);
                }
                for values in [&*gradients.u, &*gradients.delta] {
                    prefetch(values, (channel + 1) * seq_len + block.start, count);
                }
                let (u, delta) = (&inputs.u[start..start + count], &inputs.delta[start..start + count]);
                let bias = inputs.delta_bias.map_or(T::ZERO, |bias| bias[of]);
                sizes.read::<I>(isa, u, delta, |_| T::Vector::<I>::splat(isa, bias), inputs.softplus);
                match block.checkpoint {
                    None => start_states.fill(zero),
                    Some(at) => {
                        let at = (first + channel) * kept + at * d_state;
                        load_states(isa, &upstream.checkpoints[at..at + d_state], d_state, &mut start_states);
                    }
                }
                let z = inputs.z.map(|z| &z[start..start + count]);
                let out = &upstream.y[start..start + count];
                let mut dy = [T::ZERO; BLOCK];
                before_gate::<T, I>(isa, out, z, &mut dy);
                let (mut sum_b, mut sum_a, mut y) = ([T::ZERO; BLOCK], [T::ZERO; BLOCK], [T::ZERO; BLOCK]);
                let bounded = sizes.largest * rates.largest[channel] < BOUNDED;
                let of_channel = channel * registers..(channel + 1) * registers;
                let a = &rates.a[of_channel.clone()];
                let for_decay = if bounded { &rates.a2[of_channel.clone()] } else { a };
                by_tiles!(registers, |register, WIDTH| {
                    let tile = Tile::<T::Vector<I>, WIDTH>::of(isa, &packed, for_decay, register);
                    tile.decays(isa, count, &sizes.delta, bounded, &mut history.decays);
                    let start = &start_states[register..];
                    if tile.unused.is_some() {
                        tile.recompute::<true>(isa, count, &sizes.delta_u, start, &mut history);
                    } else {
                        tile.recompute::<false>(isa, count, &sizes.delta_u, start, &mut history);
                    }
                    if z.is_some() {
                        tile.products(isa, count, &history, &mut products);
                        add_sums(&products, &mut y);
                    }
                    let mut sums = TileSums {
                        g: &mut of_states[of_channel.clone()][register..],
                        a: &mut of_rates[of_channel.clone()][register..],
                        b: &mut of_b[register * BLOCK..],
                        c: &mut of_c[register * BLOCK..],
                        with_b: &mut with_b,
                        with_a: &mut with_a,
                    };
                    tile.reverse(isa, count, &sizes, &dy, &a[register..], &history, &mut sums);
                    add_sums(&with_b, &mut sum_b);
                    add_sums(&with_a, &mut sum_a);
                });
                if block.checkpoint.is_none() {
                    of_states[of_channel].fill(zero);
                }
                let d = inputs.d.map_or(T::ZERO, |d| d[of]);
                let at = channel * seq_len + block.start;
                let at = at..at + count;
                let ends = ChannelEnds { u, d, sizes: &sizes };
                let (of_d, of_bias) = ends.inputs::<I>(
                    isa,
                    &dy,
                    &sum_b,
                    &sum_a,
                    &mut gradients.u[at.clone()],
                    &mut gradients.delta[at.clone()],
                );
                gradients.d[channel] += of_d;
                gradients.delta_bias[channel] += of_bias;
                if let (Some(z), Some(of_z)) = (z, &mut gradients.z) {
                    of_gate::<T, I>(isa, out, z, u, d, &y, &mut of_z[at]);
                }
            }
            for step in 0..count {
                let at = (block.start + step) * d_state;
                for (registers, sums) in [(&of_b, &mut *gradients.b), (&of_c, &mut *gradients.c)] {
                    for (register, sums) in sums[at..at + d_state].chunks_mut(T::Vector::<I>::LANES).enumerate() {
                        registers[register * BLOCK + step].store(sums);
                    }
                }
            }
        }
        for (from, to) in of_states.chunks(registers).zip(gradients.initial_state.chunks_mut(d_state)) {
            store_states(from, to);
        }
        for (from, to) in of_rates.chunks(registers).zip(gradients.a.chunks_mut(d_state)) {
            store_states(from, to);
        }
    }
}

/// Adds the sum of each register.
#[inline(always)]
fn add_sums<V: Vector>(rows: &[V; BLOCK], to: &mut [V::Scalar; BLOCK]) {
    let mut sums = [V::Scalar::ZERO; BLOCK];
    V::sums(rows, &mut sums);
    for (to, sum) in to.iter_mut().zip(sums) {
        *to += sum;
    }
}

/// The gradient of y before its gate.
#[inline(always)]
fn before_gate<T: Float, I: Isa>(isa: I, out: &[T], z: Option<&[T]>, dy: &mut [T; BLOCK]) {
    let Some(z) = z else {
        dy[..out.len()].copy_from_slice(out);
        return;
    };
    for start in (0..out.len()).step_by(T::Vector::<I>::LANES) {
        let z = T::Vector::<I>::load(isa, &z[start..]);
        (T::Vector::<I>::load(isa, &out[start..]) * (z * T::sigmoid(isa, z))).store(&mut dy[start..]);
    }
}

/// The gradient of the gate: that of the output, times y + D u, times the derivative of `SiLU`.
#[inline(always)]
fn of_gate<T: Float, I: Isa>(isa: I, out: &[T], z: &[T], u: &[T], d: T, y: &[T; BLOCK], of_z: &mut [T]) {
    let splat = |x| T::Vector::<I>::splat(isa, x);
    for start in (0..out.len()).step_by(T::Vector::<I>::LANES) {
        let load = |from: &[T]| T::Vector::<I>::load(isa, &from[start..]);
        let (z, y) = (load(z), splat(d).mul_add(load(u), load(y)));
        let gate = T::sigmoid(isa, z);
        let derivative = gate * (z * (splat(T::ONE) - gate) + splat(T::ONE));
        (load(out) * y * derivative).store(&mut of_z[start..]);
    }
}

/// One channel in one block of steps, for the gradients of its inputs.
struct ChannelEnds<'a, T> {
    u: &'a [T],
    d: T,
    sizes: &'a StepSizes<T>,
}

impl<T: Float> ChannelEnds<'_, T> {
    /// The gradients of u and delta; gives those of D and of the bias.
    #[inline(always)]
    fn inputs<I: Isa>(
        &self,
        isa: I,
        dy: &[T; BLOCK],
        sum_b: &[T; BLOCK],
        sum_a: &[T; BLOCK],
        of_u: &mut [T],
        of_delta: &mut [T],
    ) -> (T, T) {
        let splat = |x| T::Vector::<I>::splat(isa, x);
        let (mut of_d, mut of_bias) = (splat(T::ZERO), splat(T::ZERO));
        for start in (0..of_u.len()).step_by(T::Vector::<I>::LANES) {
            let load = |from: &[T]| T::Vector::<I>::load(isa, &from[start..of_u.len().min(from.len())]);
            let (u, dy, sum_b) = (load(self.u), load(dy), load(sum_b));
            let size = load(&self.sizes.delta);
            let step = u.mul_add(sum_b, load(sum_a)) * load(&self.sizes.slope);
            size.mul_add(sum_b, splat(self.d) * dy).store(&mut of_u[start..]);
            step.store(&mut of_delta[start..]);
            of_d = dy.mul_add(u, of_d);
            of_bias = of_bias + step;
        }
        (of_d.sum(), of_bias.sum())
    }
}

struct Step<'a, T> {
    shape: Shape,
    inputs: Inputs<'a, T>,
    state: &'a [T],
    part: Part,
    y: &'a mut [T],
    new_state: &'a mut [T],
}

impl<T: Float> Kernel for Step<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { shape, inputs, state, part, y, new_state } = self;
        let d_state = shape.d_state;
        let channels = part.row * shape.d_model + part.first;
        let channels = channels..channels + part.channels;
        let of = part.first..part.first + part.channels;
        let weights = (part.row * shape.n_groups + part.group) * d_state;
        let (b, c) = (&inputs.b[weights..weights + d_state], &inputs.c[weights..weights + d_state]);
        let u = &inputs.u[channels.clone()];
        let mut sizes = StepSizes::EMPTY;
        let bias = inputs.delta_bias.map(|bias| &bias[of.clone()]);
        let bias = |start| match bias {
            Some(bias) => T::Vector::<I>::load(isa, &bias[start..]),
            None => T::Vector::<I>::splat(isa, T::ZERO),
        };
        sizes.read::<I>(isa, u, &inputs.delta[channels.clone()], bias, inputs.softplus);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let mut products = [zero; CHANNELS];
        let lanes = T::Vector::<I>::LANES;
        let states = state[channels.start * d_state..].chunks(d_state).zip(new_state.chunks_mut(d_state));
        for (channel, (state, new_state)) in states.enumerate() {
            let delta = T::Vector::<I>::splat(isa, sizes.delta[channel]);
            let delta_u = T::Vector::<I>::splat(isa, sizes.delta_u[channel]);
            let a = &inputs.a[(part.first + channel) * d_state..][..d_state];
            for start in (0..d_state).step_by(lanes) {
                let load = |from: &[T]| T::Vector::<I>::load(isa, &from[start..]);
                let decay = T::exp(isa, delta * load(a));
                decay.mul_add(load(state), delta_u * load(b)).store(&mut new_state[start..]);
                // Loaded again: zeros, not what stands in unused lanes.
                products[channel] = load(c).mul_add(load(new_state), products[channel]);
            }
        }
        T::Vector::<I>::sums(&products[..part.channels], y);
        let d = inputs.d.map(|d| &d[of]);
        let d = d.map(|d| move |start: usize| T::Vector::<I>::load(isa, &d[start..]));
        finish::<T, I>(isa, y, u, d, inputs.z.map(|z| &z[channels]));
    }
}
