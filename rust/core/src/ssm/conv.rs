//! The causal short convolution in front of most recurrences: `y_t = bias + Σ_j weight_j x_{t − kernel + 1 + j}` for each
//! channel, perhaps through `SiLU` (`causal_conv1d` of mamba). Its state are the last `kernel` − 1 inputs.
//!
//! Registers hold steps of one channel. What lies before an example are zeros: taps never reach into another one.

#![allow(clippy::needless_range_loop, clippy::many_single_char_names)] // Buffers are walked in step.
#![allow(clippy::too_many_lines)] // A kernel is one loop over channels and blocks.

use super::parts::{Part, parts, split, sum_rows};
use super::sequence::{BLOCK, Block, Sequences};
use super::{Execution, check_len, zeros};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::{Error, Result, parallel};

/// Channels that one part of the work goes over.
const CHANNELS: usize = 32;

/// The most lanes of a register.
const LANES: usize = 8;

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
    let parts = parts(rows, shape.channels, CHANNELS);
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
    let parts = parts(rows, shape.channels, CHANNELS);
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

/// The inputs of a block with the `kernel` − 1 before them, and zeros after them.
struct Window<T> {
    values: Vec<T>,
    state: usize,
}

impl<T: Float> Window<T> {
    #[inline(always)]
    fn new(state: usize) -> Self {
        Self { values: vec![T::ZERO; state + BLOCK + LANES], state }
    }

    /// Puts a block's inputs after those before it, of the same example.
    #[inline(always)]
    fn read(&mut self, x: &[T]) {
        self.values[self.state..][..x.len()].copy_from_slice(x);
        self.values[self.state + x.len()..].fill(T::ZERO);
    }

    /// What lies before the block that is read next.
    #[inline(always)]
    fn before(&mut self) -> &mut [T] {
        &mut self.values[..self.state]
    }

    /// Goes on after a block of so many steps.
    #[inline(always)]
    fn advance(&mut self, steps: usize) {
        self.values.copy_within(steps..steps + self.state, 0);
    }
}

/// The sums over the taps for each of `count` steps, as registers.
#[inline(always)]
fn sums<V: Vector>(isa: V::Isa, window: &[V::Scalar], weight: &[V], bias: V, count: usize, out: &mut [V]) {
    for (register, start) in (0..count).step_by(V::LANES).enumerate() {
        let mut sum = bias;
        for (tap, weight) in weight.iter().enumerate() {
            sum = weight.mul_add(V::load(isa, &window[start + tap..start + tap + V::LANES]), sum);
        }
        out[register] = sum;
    }
}

/// [`sums`], unrolled for the usual numbers of taps.
#[inline(always)]
fn convolve<V: Vector>(isa: V::Isa, window: &[V::Scalar], weight: &[V], bias: V, count: usize, out: &mut [V]) {
    if let Ok(weight) = <&[V; 4]>::try_from(weight) {
        sums(isa, window, weight, bias, count, out);
    } else if let Ok(weight) = <&[V; 3]>::try_from(weight) {
        sums(isa, window, weight, bias, count, out);
    } else if let Ok(weight) = <&[V; 2]>::try_from(weight) {
        sums(isa, window, weight, bias, count, out);
    } else {
        sums(isa, window, weight, bias, count, out);
    }
}

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
        let Self { sequences, shape, inputs, initial_state, part, y, last_state } = self;
        let (seq_len, state, lanes) = (sequences.seq_len(), shape.state(), T::Vector::<I>::LANES);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let blocks = sequences.blocks(part.row);
        let steps = sequences.steps(part.row);
        let mut window = Window::new(state);
        let mut weight = vec![zero; shape.kernel];
        let mut out = [zero; BLOCK];
        for channel in 0..part.channels {
            let of = part.first + channel;
            let row = part.row * shape.channels + of;
            let bias = load_weight::<T, I>(isa, shape, inputs, of, &mut weight);
            let x = &inputs.x[row * seq_len..(row + 1) * seq_len];
            let y = &mut y[channel * seq_len..(channel + 1) * seq_len];
            y[..steps.start].fill(T::ZERO);
            y[steps.end..].fill(T::ZERO);
            let before_all = initial_state.map(|initial| &initial[row * state..(row + 1) * state]);
            read_before(window.before(), x, steps.start, 0, before_all);
            for block in &blocks {
                if block.checkpoint.is_none() {
                    window.before().fill(T::ZERO);
                }
                window.read(&x[block.start..block.end]);
                let count = block.steps();
                convolve(isa, &window.values, &weight, bias, count, &mut out);
                for (sum, y) in out.iter().zip(y[block.start..block.end].chunks_mut(lanes)) {
                    activate::<T, I>(isa, *sum, inputs.silu).store(y);
                }
                window.advance(count);
            }
            last_state[channel * state..(channel + 1) * state].copy_from_slice(window.before());
        }
    }
}

/// The taps of a channel in all lanes; gives its bias.
#[inline(always)]
fn load_weight<T: Float, I: Isa>(
    isa: I,
    shape: Shape,
    inputs: Inputs<'_, T>,
    channel: usize,
    weight: &mut [T::Vector<I>],
) -> T::Vector<I> {
    for (register, tap) in weight.iter_mut().zip(&inputs.weight[channel * shape.kernel..]) {
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
        let Self { sequences, shape, inputs, initial_state, upstream, gradients } = self;
        let PartGradients { part, x: of_x, weight: of_weight, bias: of_bias, initial_state: of_state } = gradients;
        let (seq_len, state, lanes) = (sequences.seq_len(), shape.state(), T::Vector::<I>::LANES);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let blocks = sequences.blocks(part.row);
        let begins = begins(&blocks);
        let steps = sequences.steps(part.row);
        let mut window = Window::new(state);
        // Gradients of the sums of a block, and of the `kernel` − 1 after it.
        let mut of_sums = vec![T::ZERO; BLOCK + state + LANES];
        let mut weight = vec![zero; shape.kernel];
        let mut reversed = vec![zero; shape.kernel];
        let mut weight_sums = vec![zero; shape.kernel];
        let mut out = [zero; BLOCK];
        for channel in 0..part.channels {
            let of = part.first + channel;
            let row = part.row * shape.channels + of;
            let bias = load_weight::<T, I>(isa, shape, inputs, of, &mut weight);
            for (to, from) in reversed.iter_mut().zip(weight.iter().rev()) {
                *to = *from;
            }
            let x = &inputs.x[row * seq_len..(row + 1) * seq_len];
            let before_all = initial_state.map(|initial| &initial[row * state..(row + 1) * state]);
            let of_y = &upstream.y[row * seq_len..(row + 1) * seq_len];
            let of_x = &mut of_x[channel * seq_len..(channel + 1) * seq_len];
            let of_state = &mut of_state[channel * state..(channel + 1) * state];
            of_x[..steps.start].fill(T::ZERO);
            of_x[steps.end..].fill(T::ZERO);
            weight_sums.fill(zero);
            of_sums.fill(T::ZERO);
            of_state.fill(T::ZERO);
            let mut bias_sum = zero;
            for (block, begins) in blocks.iter().zip(&begins).rev() {
                let earlier = if begins.is_none() { before_all } else { None };
                let inside = block.start - begins.unwrap_or(steps.start);
                read_before(window.before(), x, block.start, inside, earlier);
                window.read(&x[block.start..block.end]);
                let count = block.steps();
                if inputs.silu {
                    convolve(isa, &window.values, &weight, bias, count, &mut out);
                }
                // Blocks are only shorter than BLOCK where an example ends: then zeros follow.
                of_sums.copy_within(..state, count);
                of_sums[count + state..].fill(T::ZERO);
                let of_y = &of_y[block.start..block.end];
                for (register, start) in (0..count).step_by(lanes).enumerate() {
                    let mut gradient = T::Vector::<I>::load(isa, &of_y[start..]);
                    if inputs.silu {
                        gradient = gradient * silu_derivative::<T, I>(isa, out[register]);
                    }
                    let end = count.min(start + lanes);
                    gradient.store(&mut of_sums[start..end]);
                    let gradient = T::Vector::<I>::load(isa, &of_sums[start..end]);
                    bias_sum = bias_sum + gradient;
                    for (tap, sum) in weight_sums.iter_mut().enumerate() {
                        let x = T::Vector::<I>::load(isa, &window.values[start + tap..start + tap + lanes]);
                        *sum = gradient.mul_add(x, *sum);
                    }
                }
                convolve(isa, &of_sums, &reversed, zero, count, &mut out);
                for (sum, x) in out.iter().zip(of_x[block.start..block.end].chunks_mut(lanes)) {
                    sum.store(x);
                }
                if block.checkpoint.is_none() {
                    of_sums.fill(T::ZERO);
                }
            }
            // The inputs before the first step: each meets the taps that reach it from later ones.
            let taps = &inputs.weight[of * shape.kernel..][..shape.kernel];
            for before in 0..state {
                for tap in 0..=before {
                    of_state[before] += taps[tap] * of_sums[before - tap];
                }
            }
            if let Some(of_last) = upstream.last_state {
                let of_last = &of_last[row * state..(row + 1) * state];
                last_state(of_last, &steps, begins.last().copied().flatten(), of_x, of_state);
            }
            of_bias[channel] = bias_sum.sum();
            T::Vector::<I>::sums(&weight_sums, &mut of_weight[channel * shape.kernel..][..shape.kernel]);
        }
    }
}

/// Adds the gradient of the last state to that of the inputs that it holds; `begins` is where its example does, if
/// that is in this sequence.
#[inline(always)]
fn last_state<T: Float>(
    of_last: &[T],
    steps: &std::ops::Range<usize>,
    begins: Option<usize>,
    of_x: &mut [T],
    of_state: &mut [T],
) {
    let held = of_last.len();
    let count = steps.end - begins.unwrap_or(steps.start);
    for (at, gradient) in of_last.iter().enumerate() {
        // So many steps before the end.
        let ago = held - at;
        if ago <= count {
            of_x[steps.end - ago] += *gradient;
        } else if begins.is_none() {
            of_state[held - (ago - count)] += *gradient;
        }
    }
}

/// Where the example of each block begins, if it does so in this sequence.
fn begins(blocks: &[Block]) -> Vec<Option<usize>> {
    let mut begins = None;
    let of = |block: &Block| {
        begins = if block.checkpoint.is_none() { Some(block.start) } else { begins };
        begins
    };
    blocks.iter().map(of).collect()
}

/// The inputs before a step of an example, which is `inside` steps long so far; before these, `earlier`.
#[inline(always)]
fn read_before<T: Float>(before: &mut [T], x: &[T], step: usize, inside: usize, earlier: Option<&[T]>) {
    let held = before.len();
    let inside = held.min(inside);
    match earlier {
        Some(state) => before[..held - inside].copy_from_slice(&state[inside..]),
        None => before[..held - inside].fill(T::ZERO),
    }
    before[held - inside..].copy_from_slice(&x[step - inside..step]);
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
            for (weight, x) in weight.iter().zip(&state[channel * held..(channel + 1) * held]) {
                sum = T::Vector::<I>::mul_add_one(isa, *weight, *x, sum);
            }
            *y = T::Vector::<I>::mul_add_one(isa, weight[held], x[channel], sum);
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
