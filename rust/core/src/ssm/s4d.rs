//! The scan of S4D (Gu et al. 2022, arXiv 2206.11893): `h_t = Ā ⊙ h_{t−1} + B̄ u_t`, `y_t = 2 Re(C · h_t) + D u_t`, for
//! each channel of `d_model`, with complex modes that stand for themselves and their conjugates. `Ā` and `B̄` come
//! discretised (by zero-order hold in the faces).
//!
//! Complex numbers are pairs of scalars in memory, and registers of real and of imaginary parts here: a register holds
//! modes of one channel. Gradients of complex numbers are conjugate, as in torch.

#![allow(clippy::needless_range_loop, clippy::many_single_char_names)] // Arrays of registers are walked in step.
#![allow(clippy::too_many_lines)] // A kernel is one loop over channels and blocks.

mod backward;
mod forward;
mod step;
mod weights;

use super::parts::{Part, parts, split, split_option, sum_rows};
use super::sequence::{BLOCK, Sequences};
use super::{Execution, check_len, zeros};
use crate::simd::Float;
use crate::{Error, Result, parallel};
use backward::{Backward, PartGradients};
use forward::Forward;
use step::Step;

/// Channels that one part of the work goes over.
const CHANNELS: usize = 16;

/// Sizes, besides those of [`Sequences`].
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Channels.
    pub d_model: usize,
    /// Complex modes of a channel.
    pub n_modes: usize,
}

/// What the scan reads; of complex numbers, twice the scalars.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Input, (batch, `d_model`, `seq_len`).
    pub u: &'a [T],
    /// Factors of the state, (`d_model`, `n_modes`), complex.
    pub a: &'a [T],
    /// Input weights, (`d_model`, `n_modes`), complex.
    pub b: &'a [T],
    /// Output weights, (`d_model`, `n_modes`), complex.
    pub c: &'a [T],
    /// Weights of the input in the output, (`d_model`).
    pub d: Option<&'a [T]>,
}

/// What the scan writes.
#[derive(Debug)]
pub struct Outputs<'a, T> {
    /// Output, (batch, `d_model`, `seq_len`); zero at steps that are not there.
    pub y: &'a mut [T],
    /// The state after the last step, (batch, `d_model`, `n_modes`), complex.
    pub last_state: &'a mut [T],
    /// States at the start of blocks for the backward pass, (batch, `d_model`, [`Sequences::checkpoints`], `n_modes`),
    /// complex.
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
    /// Of `a`.
    pub a: &'a mut [T],
    /// Of `b`.
    pub b: &'a mut [T],
    /// Of `c`.
    pub c: &'a mut [T],
    /// Of `d`; there where `d` is.
    pub d: Option<&'a mut [T]>,
    /// Of the initial state, (batch, `d_model`, `n_modes`), complex.
    pub initial_state: &'a mut [T],
}

impl Shape {
    /// Scalars of a channel's state.
    fn state(self) -> usize {
        2 * self.n_modes
    }

    fn check<T>(self, rows: usize, seq_len: usize, inputs: Inputs<'_, T>) -> Result<()> {
        if self.n_modes == 0 {
            return Err(Error::value("n_modes must be at least 1, not 0"));
        }
        let weights = self.d_model * self.state();
        check_len("u", inputs.u, rows * self.d_model * seq_len)?;
        check_len("A", inputs.a, weights)?;
        check_len("B", inputs.b, weights)?;
        check_len("C", inputs.c, weights)?;
        inputs.d.map_or(Ok(()), |d| check_len("D", d, self.d_model))
    }
}

/// The whole sequence. `initial_state` has shape (batch, `d_model`, `n_modes`), complex.
pub fn forward<T: Float>(
    sequences: &Sequences<'_>,
    shape: Shape,
    inputs: Inputs<'_, T>,
    initial_state: Option<&[T]>,
    outputs: Outputs<'_, T>,
    execution: Execution<'_>,
) -> Result<()> {
    let (rows, seq_len) = (sequences.batch(), sequences.seq_len());
    let states = rows * shape.d_model * shape.state();
    let kept = sequences.checkpoints() * shape.state();
    shape.check(rows, seq_len, inputs)?;
    initial_state.map_or(Ok(()), |state| check_len("initial_state", state, states))?;
    check_len("y", outputs.y, inputs.u.len())?;
    check_len("last_state", outputs.last_state, states)?;
    if let Some(checkpoints) = &outputs.checkpoints {
        check_len("checkpoints", checkpoints, states * sequences.checkpoints())?;
    }
    let parts = parts(rows, shape.d_model, CHANNELS);
    let y = split(&parts, outputs.y, seq_len);
    let last_state = split(&parts, outputs.last_state, shape.state());
    let checkpoints = split_option(&parts, outputs.checkpoints, kept);
    let work = parts.into_iter().zip(y.into_iter().zip(last_state).zip(checkpoints)).collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |(part, ((y, last_state), checkpoints))| {
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
    let (rows, seq_len, state) = (sequences.batch(), sequences.seq_len(), shape.state());
    let states = rows * shape.d_model * state;
    shape.check(rows, seq_len, inputs)?;
    check_len("checkpoints", upstream.checkpoints, states * sequences.checkpoints())?;
    check_len("the gradient of y", upstream.y, inputs.u.len())?;
    upstream.last_state.map_or(Ok(()), |state| check_len("the gradient of last_state", state, states))?;
    check_len("the gradient of u", gradients.u, inputs.u.len())?;
    check_len("the gradient of A", gradients.a, inputs.a.len())?;
    check_len("the gradient of B", gradients.b, inputs.b.len())?;
    check_len("the gradient of C", gradients.c, inputs.c.len())?;
    gradients.d.as_ref().map_or(Ok(()), |d| check_len("the gradient of D", d, shape.d_model))?;
    check_len("the gradient of initial_state", gradients.initial_state, states)?;

    let parts = parts(rows, shape.d_model, CHANNELS);
    // Sums over the steps of a row, which are summed over rows below.
    let (mut of_a, mut of_b, mut of_c) = (zeros::<T>(states)?, zeros::<T>(states)?, zeros::<T>(states)?);
    let mut of_d = zeros::<T>(rows * shape.d_model)?;
    let pieces = split(&parts, gradients.u, seq_len).into_iter().zip(split(&parts, gradients.initial_state, state));
    let pieces = pieces.zip(split(&parts, &mut of_a, state).into_iter().zip(split(&parts, &mut of_b, state)));
    let pieces = pieces.zip(split(&parts, &mut of_c, state).into_iter().zip(split(&parts, &mut of_d, 1)));
    let work = parts
        .iter()
        .zip(pieces)
        .map(|(part, (((u, initial_state), (a, b)), (c, d)))| PartGradients {
            part: *part,
            u,
            a,
            b,
            c,
            d,
            initial_state,
        })
        .collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |gradients| {
        execution.level.run(Backward { sequences, shape, inputs, upstream, gradients });
        Ok(())
    })?;
    sum_rows(&of_a, gradients.a);
    sum_rows(&of_b, gradients.b);
    sum_rows(&of_c, gradients.c);
    if let Some(d) = gradients.d {
        sum_rows(&of_d, d);
    }
    Ok(())
}

/// One step: `inputs` with `seq_len` 1; states have shape (batch, `d_model`, `n_modes`), complex, `y` has (batch,
/// `d_model`).
pub fn step<T: Float>(
    rows: usize,
    shape: Shape,
    inputs: Inputs<'_, T>,
    state: &[T],
    y: &mut [T],
    new_state: &mut [T],
    execution: Execution<'_>,
) -> Result<()> {
    let states = rows * shape.d_model * shape.state();
    shape.check(rows, 1, inputs)?;
    check_len("state", state, states)?;
    check_len("the new state", new_state, states)?;
    check_len("y", y, inputs.u.len())?;
    let parts = parts(rows, shape.d_model, BLOCK);
    let work = parts.iter().copied().zip(split(&parts, y, 1).into_iter().zip(split(&parts, new_state, shape.state())));
    let work = work.collect();
    parallel::for_each_short(execution.threads, state.len(), work, |(part, (y, new_state))| {
        execution.level.run(Step { shape, inputs, state, part, y, new_state });
        Ok(())
    })
}
