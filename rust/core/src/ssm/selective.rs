//! The selective scan of Mamba (S6), a member of the diagonal family:
//!
//! `h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t u_t B_t`, `y_t = C_t · h_t + D u_t`, for each channel of `d_model`, with `Δ` perhaps
//! through softplus and `y` perhaps times `SiLU(z)` (Gu and Dao 2023, arXiv 2312.00752; `selective_scan_ref` of mamba).
//!
//! A register holds states of one channel: `B_t` and `C_t` are packed once for a block of steps, and 64 channels use them.

mod backward;
mod forward;
mod packed;
mod step;
mod tile;

use std::ops::Range;

use super::parts::{Part, parts, split, split_option, sum_rows};
use super::sequence::{BLOCK, Sequences};
use super::{Execution, check_len, zeros};
use crate::simd::Float;
use crate::{Error, Result, parallel};
use backward::{Backward, PartGradients};
use forward::Forward;
use packed::largest_rates;
use step::Step;

/// Channels that one part of the work goes over: they share packed `B` and `C`, and one sum of their gradients.
const CHANNELS: usize = 64;

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

    fn channels_of_a_group(&self) -> usize {
        self.d_model / self.n_groups
    }

    /// The parts of the work: channels of one group of one row each.
    fn parts(&self, rows: usize) -> Vec<Part> {
        let in_group = self.channels_of_a_group();
        let parts = parts(rows * self.n_groups, in_group, CHANNELS).into_iter();
        let within = |part: Part| {
            let (row, group) = (part.row / self.n_groups, part.row % self.n_groups);
            Part { row, first: group * in_group + part.first, channels: part.channels }
        };
        parts.map(within).collect()
    }

    /// Where the weights of a part stand in B and in C.
    fn weights(&self, part: Part, seq_len: usize) -> Range<usize> {
        let group = part.first / self.channels_of_a_group();
        let size = self.d_state * seq_len;
        let first = (part.row * self.n_groups + group) * size;
        first..first + size
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
    let largest = &largest_rates(inputs.a, shape.d_state);
    let parts = shape.parts(rows);
    let y = split(&parts, outputs.y, seq_len);
    let last_state = split(&parts, outputs.last_state, shape.d_state);
    let checkpoints = split_option(&parts, outputs.checkpoints, kept);
    let work = parts.into_iter().zip(y).zip(last_state.into_iter().zip(checkpoints));
    let work = work.map(|((part, y), (last_state, checkpoints))| (part, y, last_state, checkpoints)).collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |(part, y, last_state, checkpoints)| {
        let outputs = Outputs { y, last_state, checkpoints };
        execution.level.run(Forward { sequences, shape, inputs, largest, initial_state, part, outputs });
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

    let largest = &largest_rates(inputs.a, shape.d_state);
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
        execution.level.run(Backward { sequences, shape, inputs, largest, upstream, gradients });
        Ok(())
    })?;

    sum_rows(&of_a, gradients.a);
    if let Some(d) = gradients.d {
        sum_rows(&of_d, d);
    }
    if let Some(bias) = gradients.delta_bias {
        sum_rows(&of_bias, bias);
    }
    let in_group = shape.channels_of_a_group().div_ceil(CHANNELS);
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
    parallel::for_each_short(execution.threads, state.len(), work, |(part, (y, new_state))| {
        execution.level.run(Step { shape, inputs, state, part, y, new_state });
        Ok(())
    })
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
