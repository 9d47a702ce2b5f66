//! The causal short convolution in front of most recurrences: `y_t = bias + Σ_j weight_j x_{t − kernel + 1 + j}` for each
//! channel, perhaps through `SiLU` (`causal_conv1d` of mamba). Its state are the last `kernel` − 1 inputs.
//!
//! Registers hold steps of one channel, one for each tap: the inputs so many steps earlier. What lies before an example are
//! zeros: taps never reach into another one.

#![allow(clippy::too_many_lines)] // A kernel is one loop over channels and examples.

use super::parts::{Part, parts, split, sum_rows};
use super::sequence::{Example, Sequences};
use super::{Execution, check_len, zeros};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::{Error, Result, parallel};

/// Channels that one part of the work goes over, at least.
const CHANNELS: usize = 32;

/// Steps of all its channels, at least, where there are so many channels.
const STEPS: usize = 4096;

/// The largest kernel.
pub const MAX_KERNEL: usize = 256;

/// Sizes, besides those of [`Sequences`].
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Taps, at least 1.
    pub kernel: usize,
}

/// What the convolution reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Input, (batch, `channels`, `seq_len`).
    pub x: &'a [T],
    /// Taps, the last one for the present step, (`channels`, `kernel`).
    pub weight: &'a [T],
    /// Added to the sum, (`channels`).
    pub bias: Option<&'a [T]>,
    /// Whether the sum goes through `SiLU`.
    pub silu: bool,
}

/// What the backward pass reads besides [`Inputs`] and the initial state.
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a, T> {
    /// Gradient of the output.
    pub y: &'a [T],
    /// Gradient of the state after the last step.
    pub last_state: Option<&'a [T]>,
}

/// Gradients, each of the shape of its input.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of `x`.
    pub x: &'a mut [T],
    /// Of `weight`.
    pub weight: &'a mut [T],
    /// Of `bias`; there where `bias` is.
    pub bias: Option<&'a mut [T]>,
    /// Of the initial state, (batch, `channels`, `kernel` − 1).
    pub initial_state: &'a mut [T],
}

impl Shape {
    /// Inputs that the state holds.
    fn state(self) -> usize {
        self.kernel - 1
    }

    fn parts(self, sequences: &Sequences<'_>) -> Vec<Part> {
        parts(sequences.batch(), self.channels, CHANNELS.max(STEPS / sequences.seq_len().max(1)))
    }

    fn check<T>(self, rows: usize, seq_len: usize, inputs: Inputs<'_, T>, initial: Option<&[T]>) -> Result<usize> {
        if !(1..=MAX_KERNEL).contains(&self.kernel) {
            return Err(Error::value(format!("the kernel has {} taps; it must have 1 to {MAX_KERNEL}", self.kernel)));
        }
        let all = rows * self.channels * seq_len;
        check_len("x", inputs.x, all)?;
        check_len("weight", inputs.weight, self.channels * self.kernel)?;
        inputs.bias.map_or(Ok(()), |bias| check_len("bias", bias, self.channels))?;
        initial.map_or(Ok(()), |state| check_len("initial_state", state, rows * self.channels * self.state()))?;
        Ok(all)
    }
}

/// The whole sequence: `y` has shape (batch, `channels`, `seq_len`) and is zero at steps that are not there; states have
/// (batch, `channels`, `kernel` − 1), oldest first, zeros for what lies before an example.
pub fn forward<T: Float>(
    sequences: &Sequences<'_>,
    shape: Shape,
    inputs: Inputs<'_, T>,
    initial_state: Option<&[T]>,
    y: &mut [T],
    last_state: &mut [T],
    execution: Execution<'_>,
) -> Result<()> {
    let rows = sequences.batch();
    let all = shape.check(rows, sequences.seq_len(), inputs, initial_state)?;
    check_len("y", y, all)?;
    check_len("last_state", last_state, rows * shape.channels * shape.state())?;
    let parts = shape.parts(sequences);
    let y = split(&parts, y, sequences.seq_len());
    let last_state = split(&parts, last_state, shape.state());
    let work = parts.into_iter().zip(y.into_iter().zip(last_state)).collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |(part, (y, last_state))| {
        execution.level.run(Forward { sequences, shape, inputs, initial_state, part, y, last_state });
        Ok(())
    })
}

/// Gradients of everything that [`forward`] reads.
pub fn backward<T: Float>(
    sequences: &Sequences<'_>,
    shape: Shape,
    inputs: Inputs<'_, T>,
    initial_state: Option<&[T]>,
    upstream: Upstream<'_, T>,
    gradients: Gradients<'_, T>,
    execution: Execution<'_>,
) -> Result<()> {
    let (rows, seq_len) = (sequences.batch(), sequences.seq_len());
    let all = shape.check(rows, seq_len, inputs, initial_state)?;
    let states = rows * shape.channels * shape.state();
    check_len("the gradient of y", upstream.y, all)?;
    upstream.last_state.map_or(Ok(()), |state| check_len("the gradient of last_state", state, states))?;
    check_len("the gradient of x", gradients.x, all)?;
    check_len("the gradient of weight", gradients.weight, inputs.weight.len())?;
    gradients.bias.as_ref().map_or(Ok(()), |bias| check_len("the gradient of bias", bias, shape.channels))?;
    check_len("the gradient of initial_state", gradients.initial_state, states)?;
    let parts = shape.parts(sequences);
    let mut of_weight = zeros::<T>(rows * shape.channels * shape.kernel)?;
    let mut of_bias = zeros::<T>(rows * shape.channels)?;
    let pieces = split(&parts, gradients.x, seq_len).into_iter().zip(split(&parts, &mut of_weight, shape.kernel));
    let pieces = pieces.zip(split(&parts, &mut of_bias, 1));
    let pieces = pieces.zip(split(&parts, gradients.initial_state, shape.state()));
    let work = parts
        .into_iter()
        .zip(pieces)
        .map(|(part, (((x, weight), bias), initial_state))| PartGradients { part, x, weight, bias, initial_state })
        .collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |gradients| {
        execution.level.run(Backward { sequences, shape, inputs, initial_state, upstream, gradients });
        Ok(())
    })?;
    sum_rows(&of_weight, gradients.weight);
    if let Some(bias) = gradients.bias {
        sum_rows(&of_bias, bias);
    }
    Ok(())
}

/// One step: `inputs` with `seq_len` 1; `y` has shape (batch, `channels`), states have (batch, `channels`, `kernel` − 1).
pub fn step<T: Float>(
    rows: usize,
    shape: Shape,
    inputs: Inputs<'_, T>,
    state: &[T],
    y: &mut [T],
    new_state: &mut [T],
    execution: Execution<'_>,
) -> Result<()> {
    let all = shape.check(rows, 1, inputs, Some(state))?;
    check_len("y", y, all)?;
    check_len("the new state", new_state, state.len())?;
    let parts = parts(rows, shape.channels, 16 * CHANNELS);
    let work = parts.iter().copied().zip(split(&parts, y, 1).into_iter().zip(split(&parts, new_state, shape.state())));
    let work = work.collect();
    parallel::for_each_short(execution.threads, state.len(), work, |(part, (y, new_state))| {
        execution.level.run(Step { shape, inputs, state, part, y, new_state });
        Ok(())
    })
}

/// The inputs of a channel in one example.
#[derive(Clone, Copy)]
struct Line<'a, T> {
    /// Of the whole row up to the example's end.
    x: &'a [T],
    /// Where the example begins, or goes on from what was before this row.
    start: usize,
    /// The last inputs before `start`; zeros if there are none.
    before: Option<&'a [T]>,
}

impl<'a, T: Float> Line<'a, T> {
    #[inline(always)]
    fn new(x: &'a [T], example: Example, before: Option<&'a [T]>) -> Self {
        Self { x: &x[..example.end], start: example.start, before: if example.begins { None } else { before } }
    }

    /// The input so many steps, at least 1, before one of the example.
    #[inline(always)]
    fn ago(&self, step: usize, ago: usize) -> T {
        let inside = step - self.start;
        if ago <= inside {
            self.x[step - ago]
        } else {
            self.before.map_or(T::ZERO, |before| before[before.len() + inside - ago])
        }
    }

    /// The sums over the taps, of the steps from `step` on; the inputs that each tap met are written to `met`.
    #[inline(always)]
    fn sums<V: Vector<Scalar = T>>(&self, isa: V::Isa, step: usize, weight: &[V], bias: V, met: &mut [V]) -> V {
        let (kernel, inside) = (weight.len(), step - self.start);
        let mut sum = bias;
        // Most registers lie whole in the example, with all that their taps reach.
        let whole = if kernel <= inside + 1 { self.x.get(step + 1 - kernel..step + V::LANES) } else { None };
        if let Some(whole) = whole {
            for (ago, weight) in weight.iter().enumerate() {
                let x = V::load(isa, &whole[kernel - 1 - ago..][..V::LANES]);
                sum = weight.mul_add(x, sum);
                if let Some(met) = met.get_mut(ago) {
                    *met = x;
                }
            }
            return sum;
        }
        let mut x = bias;
        for (ago, weight) in weight.iter().enumerate() {
            x = if ago <= inside {
                V::load(isa, &self.x[step - ago..])
            } else {
                x.later(V::splat(isa, self.ago(step, ago)))
            };
            sum = weight.mul_add(x, sum);
            if let Some(met) = met.get_mut(ago) {
                *met = x;
            }
        }
        sum
    }

    /// The inputs that the state holds after the example, oldest first.
    #[inline(always)]
    fn held(&self, state: &mut [T]) {
        let count = state.len();
        for (at, held) in state.iter_mut().enumerate() {
            *held = self.ago(self.x.len(), count - at);
        }
    }
}

/// A register for each tap; their number is known where they are an array.
trait Taps<V>: AsMut<[V]> + Clone {}

impl<V, A: AsMut<[V]> + Clone> Taps<V> for A {}

struct Forward<'a, T> {
    sequences: &'a Sequences<'a>,
    shape: Shape,
    inputs: Inputs<'a, T>,
    initial_state: Option<&'a [T]>,
    part: Part,
    y: &'a mut [T],
    last_state: &'a mut [T],
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        match self.shape.kernel {
            4 => self.filter(isa, [zero; 4]), // The models' own.
            kernel => self.filter(isa, vec![zero; kernel]),
        }
    }
}

impl<T: Float> Forward<'_, T> {
    #[inline(always)]
    fn filter<I: Isa>(self, isa: I, taps: impl Taps<T::Vector<I>>) {
        let Self { sequences, shape, inputs, initial_state, part, y, last_state } = self;
        let (seq_len, state, lanes) = (sequences.seq_len(), shape.state(), T::Vector::<I>::LANES);
        let mut weight = taps;
        let weight = weight.as_mut();
        let examples = sequences.examples(part.row);
        let steps = sequences.steps(part.row);
        for channel in 0..part.channels {
            let of = part.first + channel;
            let row = part.row * shape.channels + of;
            let bias = load_weight::<T, I>(isa, inputs, of, weight);
            let x = &inputs.x[row * seq_len..(row + 1) * seq_len];
            let y = &mut y[channel * seq_len..(channel + 1) * seq_len];
            y[..steps.start].fill(T::ZERO);
            y[steps.end..].fill(T::ZERO);
            let before = initial_state.map(|initial| &initial[row * state..(row + 1) * state]);
            for example in &examples {
                let line = Line::new(x, *example, before);
                let mut step = example.start;
                for y in y[example.start..example.end].chunks_mut(lanes) {
                    activate::<T, I>(isa, line.sums(isa, step, weight, bias, &mut []), inputs.silu).store(y);
                    step += lanes;
                }
            }
            let last = examples.last().copied().unwrap_or_default();
            Line::new(x, last, before).held(&mut last_state[channel * state..(channel + 1) * state]);
        }
    }
}

/// The taps of a channel in all lanes, that of the present step first; gives its bias.
#[inline(always)]
fn load_weight<T: Float, I: Isa>(
    isa: I,
    inputs: Inputs<'_, T>,
    channel: usize,
    weight: &mut [T::Vector<I>],
) -> T::Vector<I> {
    let kernel = weight.len();
    for (register, tap) in weight.iter_mut().rev().zip(&inputs.weight[channel * kernel..]) {
        *register = T::Vector::<I>::splat(isa, *tap);
    }
    T::Vector::<I>::splat(isa, inputs.bias.map_or(T::ZERO, |bias| bias[channel]))
}

#[inline(always)]
fn activate<T: Float, I: Isa>(isa: I, sum: T::Vector<I>, silu: bool) -> T::Vector<I> {
    if silu { sum * T::sigmoid(isa, sum) } else { sum }
}

/// What a part of the backward pass writes; `weight` and `bias` are sums over this part's row alone.
struct PartGradients<'a, T> {
    part: Part,
    x: &'a mut [T],
    weight: &'a mut [T],
    bias: &'a mut [T],
    initial_state: &'a mut [T],
}

struct Backward<'a, T> {
    sequences: &'a Sequences<'a>,
    shape: Shape,
    inputs: Inputs<'a, T>,
    initial_state: Option<&'a [T]>,
    upstream: Upstream<'a, T>,
    gradients: PartGradients<'a, T>,
}

impl<T: Float> Kernel for Backward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        match self.shape.kernel {
            4 => self.filter(isa, [zero; 4]), // The models' own.
            kernel => self.filter(isa, vec![zero; kernel]),
        }
    }
}

impl<T: Float> Backward<'_, T> {
    #[inline(always)]
    fn filter<I: Isa>(self, isa: I, taps: impl Taps<T::Vector<I>>) {
        let Self { sequences, shape, inputs, initial_state, upstream, gradients } = self;
        let PartGradients { part, x: of_x, weight: of_weight, bias: of_bias, initial_state: of_state } = gradients;
        let (seq_len, state, lanes) = (sequences.seq_len(), shape.state(), T::Vector::<I>::LANES);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let (mut weight, mut met, mut weight_sums) = (taps.clone(), taps.clone(), taps.clone());
        let (weight, met, weight_sums) = (weight.as_mut(), met.as_mut(), weight_sums.as_mut());
        // Gradients of the sums from a step on, from the next one on, …: of the register after the present one.
        let mut ahead = taps;
        let ahead = ahead.as_mut();
        let examples = sequences.examples(part.row);
        let steps = sequences.steps(part.row);
        for channel in 0..part.channels {
            let of = part.first + channel;
            let row = part.row * shape.channels + of;
            let bias = load_weight::<T, I>(isa, inputs, of, weight);
            let x = &inputs.x[row * seq_len..(row + 1) * seq_len];
            let before = initial_state.map(|initial| &initial[row * state..(row + 1) * state]);
            let of_y = &upstream.y[row * seq_len..(row + 1) * seq_len];
            let of_x = &mut of_x[channel * seq_len..(channel + 1) * seq_len];
            let of_state = &mut of_state[channel * state..(channel + 1) * state];
            of_x[..steps.start].fill(T::ZERO);
            of_x[steps.end..].fill(T::ZERO);
            of_state.fill(T::ZERO);
            weight_sums.fill(zero);
            let mut bias_sum = zero;
            for example in examples.iter().rev() {
                let line = Line::new(x, *example, before);
                ahead.fill(zero);
                for step in (example.start..example.end).step_by(lanes).rev() {
                    let here = step..example.end.min(step + lanes);
                    let sums = line.sums(isa, step, weight, bias, met);
                    let mut gradient = T::Vector::<I>::load(isa, &of_y[here.clone()]);
                    if inputs.silu {
                        gradient = gradient * silu_derivative::<T, I>(isa, sums);
                    }
                    bias_sum = bias_sum + gradient;
                    for (x, sum) in met.iter().zip(weight_sums.iter_mut()) {
                        *sum = gradient.mul_add(*x, *sum);
                    }
                    // Each input meets the taps that reach it from this step and later ones.
                    let mut of_input = zero;
                    for (weight, ahead) in weight.iter().zip(ahead.iter_mut()) {
                        of_input = weight.mul_add(gradient, of_input);
                        (*ahead, gradient) = (gradient, gradient.earlier(*ahead));
                    }
                    of_input.store(&mut of_x[here]);
                }
                if !example.begins {
                    // The inputs before the first step: `ahead` begins with its gradient, the second's, …
                    let taps = &inputs.weight[of * shape.kernel..][..shape.kernel];
                    for (at, gradient) in ahead.iter().enumerate().take(state) {
                        let gradient = gradient.first();
                        for (to, tap) in of_state[at..].iter_mut().zip(taps) {
                            *to += *tap * gradient;
                        }
                    }
                }
            }
            if let Some(of_last) = upstream.last_state {
                let of_last = &of_last[row * state..(row + 1) * state];
                last_state(of_last, examples.last().copied().unwrap_or_default(), of_x, of_state);
            }
            of_bias[channel] = bias_sum.sum();
            let of_weight = &mut of_weight[channel * shape.kernel..][..shape.kernel];
            T::Vector::<I>::sums(weight_sums, of_weight);
            of_weight.reverse();
        }
    }
}

/// Adds the gradient of the last state to that of the inputs that it holds: the last ones of the last example.
#[inline(always)]
fn last_state<T: Float>(of_last: &[T], example: Example, of_x: &mut [T], of_state: &mut [T]) {
    let held = of_last.len();
    let Example { start, end, begins } = example;
    for (at, gradient) in of_last.iter().enumerate() {
        // So many steps before the end.
        let ago = held - at;
        if ago <= end - start {
            of_x[end - ago] += *gradient;
        } else if !begins {
            of_state[held - (ago - (end - start))] += *gradient;
        }
    }
}

/// The derivative of `SiLU`.
#[inline(always)]
fn silu_derivative<T: Float, I: Isa>(isa: I, x: T::Vector<I>) -> T::Vector<I> {
    let one = T::Vector::<I>::splat(isa, T::ONE);
    let gate = T::sigmoid(isa, x);
    gate * (x * (one - gate) + one)
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
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.shape.kernel {
            4 => self.filter(isa, 4), // The models' own, with loops of known length.
            kernel => self.filter(isa, kernel),
        }
    }
}

impl<T: Float> Step<'_, T> {
    #[inline(always)]
    fn filter<I: Isa>(self, isa: I, kernel: usize) {
        let Self { shape, inputs, state, part, y, new_state } = self;
        let held = kernel - 1;
        let first = part.row * shape.channels + part.first;
        let x = &inputs.x[first..first + part.channels];
        let state = &state[first * held..(first + part.channels) * held];
        let weight = &inputs.weight[part.first * kernel..(part.first + part.channels) * kernel];
        let bias = inputs.bias.map(|bias| &bias[part.first..part.first + part.channels]);
        // Channel by channel: what a channel needs lies side by side.
        for (channel, (y, weight)) in y.iter_mut().zip(weight.chunks_exact(kernel)).enumerate() {
            let mut sum = bias.map_or(T::ZERO, |bias| bias[channel]);
            sum = T::Vector::<I>::mul_add_one(isa, weight[held], x[channel], sum);
            for (weight, x) in weight.iter().zip(&state[channel * held..(channel + 1) * held]).rev() {
                sum = T::Vector::<I>::mul_add_one(isa, *weight, *x, sum);
            }
            *y = sum;
        }
        for y in y.chunks_mut(T::Vector::<I>::LANES) {
            activate::<T, I>(isa, T::Vector::<I>::load(isa, y), inputs.silu).store(y);
        }
        if held > 0 {
            for ((from, to), x) in state.chunks_exact(held).zip(new_state.chunks_exact_mut(held)).zip(x) {
                // Not a copy: that would be a call for two numbers.
                for (to, from) in to.iter_mut().zip(&from[1..]) {
                    *to = *from;
                }
                to[held - 1] = *x;
            }
        }
    }
}
