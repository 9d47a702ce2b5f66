//! The delta rule with gates, the family of `DeltaNet`, Gated `DeltaNet` and Kimi Delta Attention:
//!
//! `S' = Diag(e^g_t) S_{t−1}`, `u_t = β_t (v_t − S'ᵀ k_t)`, `S_t = S' + k_t u_tᵀ`, `o_t = scale · S_tᵀ q_t`
//!
//! for each head: what the state holds under a key is erased, then written anew (Yang et al. 2024, arXiv 2406.06484 and
//! 2412.06464; Kimi Team 2025, arXiv 2510.26692). `g` is a number a head, a number a key channel, or not there (0).
//!
//! Forward, values are on the lanes: the columns of a state never meet, so that a tile of columns stays in the first
//! cache for a block of steps and is gone over once a step, in which what the next step erases is read as well.
//! Backward, keys are on the lanes, as nearly all of its sums go over values.
//!
//! RWKV-7 (`S = Diag(w) S + b (aᵀ S) + k vᵀ`) fits in: the kernels already read the state by a packed vector of its own
//! (`erase` of what they pack, here e^g ⊙ k) that is not the one they write by, so that it packs `a` there and `b` as the
//! vector of that write. What is added is one more write, `k vᵀ`, in the same pass, with its gradient.

#![allow(clippy::many_single_char_names)] // The names of the equation.

mod backward;
mod forward;
mod packed;
mod step;

use super::sequence::Sequences;
use super::{Execution, check_len, zeros};
use crate::simd::{Float, HeadMut};
use crate::{Error, Result, parallel};

/// Sizes, besides those of [`Sequences`].
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Heads of q and k.
    pub n_heads_k: usize,
    /// Heads of all else, a multiple: head h uses head h / (`n_heads` / `n_heads_k`) of q and k.
    pub n_heads: usize,
    /// Channels of a key.
    pub head_k: usize,
    /// Channels of a value.
    pub head_v: usize,
}

/// The logarithm of what is left of a state at each step.
#[derive(Debug, Clone, Copy)]
pub enum Gate<'a, T> {
    /// All of it.
    None,
    /// For each head, (batch, `seq_len`, `n_heads`).
    Head(&'a [T]),
    /// For each channel of a key, (batch, `seq_len`, `n_heads`, `head_k`).
    Key(&'a [T]),
}

/// What the recurrence reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Queries, (batch, `seq_len`, `n_heads_k`, `head_k`).
    pub q: &'a [T],
    /// Keys, (batch, `seq_len`, `n_heads_k`, `head_k`).
    pub k: &'a [T],
    /// Values, (batch, `seq_len`, `n_heads`, `head_v`).
    pub v: &'a [T],
    /// Gates.
    pub g: Gate<'a, T>,
    /// How much of a value is written, (batch, `seq_len`, `n_heads`).
    pub beta: &'a [T],
    /// Factor of the output.
    pub scale: T,
}

/// What the forward pass writes.
#[derive(Debug)]
pub struct Outputs<'a, T> {
    /// Output, (batch, `seq_len`, `n_heads`, `head_v`); zero at steps that are not there.
    pub o: &'a mut [T],
    /// The state after the last step, (batch, `n_heads`, `head_k`, `head_v`).
    pub last_state: &'a mut [T],
    /// States at the start of blocks for the backward pass, (batch, `n_heads`, [`Sequences::checkpoints`], `head_k`,
    /// `head_v`).
    pub checkpoints: Option<&'a mut [T]>,
}

/// What the backward pass reads besides [`Inputs`].
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a, T> {
    /// States that the forward pass kept.
    pub checkpoints: &'a [T],
    /// Gradient of the output.
    pub o: &'a [T],
    /// Gradient of the state after the last step.
    pub last_state: Option<&'a [T]>,
}

/// Gradients, each of the shape of its input.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of `q`.
    pub q: &'a mut [T],
    /// Of `k`.
    pub k: &'a mut [T],
    /// Of `v`.
    pub v: &'a mut [T],
    /// Of `g`; there where `g` is.
    pub g: Option<&'a mut [T]>,
    /// Of `beta`.
    pub beta: &'a mut [T],
    /// Of the initial state, (batch, `n_heads`, `head_k`, `head_v`).
    pub initial_state: &'a mut [T],
}

/// Fewer heads than this in all are cut into [`PIECE`]s of their values, where these are of one size.
const ENOUGH: usize = 16;

/// The least columns that a head is cut into.
const PIECE: usize = 32;

impl Shape {
    fn check(&self) -> Result<()> {
        let Self { n_heads_k, n_heads, head_k, head_v } = *self;
        if n_heads_k == 0 || n_heads == 0 || n_heads % n_heads_k != 0 {
            return Err(Error::value(format!(
                "the heads of v, {n_heads}, must be a multiple of those of q and k, {n_heads_k}"
            )));
        }
        if head_k == 0 || head_v == 0 {
            return Err(Error::value(format!(
                "channels of keys and values must be at least 1, not {head_k}, {head_v}"
            )));
        }
        Ok(())
    }

    fn check_inputs<T>(&self, tokens: usize, inputs: &Inputs<'_, T>) -> Result<()> {
        self.check()?;
        let (keys, heads) = (tokens * self.n_heads_k * self.head_k, tokens * self.n_heads);
        check_len("q", inputs.q, keys)?;
        check_len("k", inputs.k, keys)?;
        check_len("v", inputs.v, heads * self.head_v)?;
        check_len("beta", inputs.beta, heads)?;
        match inputs.g {
            Gate::None => Ok(()),
            Gate::Head(g) => check_len("g", g, heads),
            Gate::Key(g) => check_len("g", g, heads * self.head_k),
        }
    }

    /// Numbers in the states of so many rows.
    fn states(&self, rows: usize) -> usize {
        rows * self.n_heads * self.head_k * self.head_v
    }

    /// The head of q and k that a head uses.
    fn key_head(&self, head: usize) -> usize {
        head / (self.n_heads / self.n_heads_k)
    }

    /// How many parts the columns of a head are cut into.
    fn pieces(&self, rows: usize) -> usize {
        let most = self.head_v / PIECE;
        let wanted = ENOUGH.div_ceil((rows * self.n_heads).max(1));
        let mut fitting = (1..=most).filter(|pieces| self.head_v.is_multiple_of(pieces * PIECE));
        fitting.clone().find(|pieces| *pieces >= wanted).or_else(|| fitting.next_back()).unwrap_or(1)
    }

    /// The parts of the work, in the order of [`HeadMut::split`].
    fn parts(&self, rows: usize) -> Vec<Part> {
        let pieces = self.pieces(rows);
        let columns = self.head_v / pieces;
        let heads = (0..rows).flat_map(|row| (0..self.n_heads).map(move |head| (row, head)));
        heads
            .flat_map(|(row, head)| (0..pieces).map(move |piece| Part { row, head, first: piece * columns, columns }))
            .collect()
    }
}

/// Consecutive columns of the state of one head of one row.
#[derive(Debug, Clone, Copy)]
struct Part {
    row: usize,
    head: usize,
    first: usize,
    columns: usize,
}

/// The whole sequence. `initial_state` has shape (batch, `n_heads`, `head_k`, `head_v`).
pub fn forward<T: Float>(
    sequences: &Sequences<'_>,
    shape: Shape,
    inputs: Inputs<'_, T>,
    initial_state: Option<&[T]>,
    outputs: Outputs<'_, T>,
    execution: Execution<'_>,
) -> Result<()> {
    let (rows, seq_len) = (sequences.batch(), sequences.seq_len());
    let states = shape.states(rows);
    shape.check_inputs(rows * seq_len, &inputs)?;
    initial_state.map_or(Ok(()), |state| check_len("initial_state", state, states))?;
    check_len("o", outputs.o, rows * seq_len * shape.n_heads * shape.head_v)?;
    check_len("last_state", outputs.last_state, states)?;
    if let Some(checkpoints) = &outputs.checkpoints {
        check_len("checkpoints", checkpoints, states * sequences.checkpoints())?;
    }
    if seq_len == 0 {
        copy_or_zero(initial_state, outputs.last_state);
        return parallel::check(execution.threads);
    }
    let pieces = shape.pieces(rows);
    let columns = shape.head_v / pieces;
    let o = HeadMut::split(outputs.o, seq_len, shape.n_heads * pieces, columns);
    let last_state = HeadMut::split(outputs.last_state, shape.head_k, pieces, columns);
    let kept = sequences.checkpoints() * shape.head_k;
    let parts = shape.parts(rows);
    let checkpoints = outputs.checkpoints.map(|states| HeadMut::split(states, kept, pieces, columns));
    let checkpoints = optional(checkpoints, parts.len());
    let work = parts.into_iter().zip(o).zip(last_state.into_iter().zip(checkpoints));
    let work = work
        .map(|((part, o), (last_state, checkpoints))| forward::Written { part, o, last_state, checkpoints })
        .collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |written| {
        execution.level.run(forward::Forward { sequences, shape, inputs, initial_state, written });
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
    let (states, tokens) = (shape.states(rows), rows * seq_len);
    shape.check_inputs(tokens, &inputs)?;
    check_len("checkpoints", upstream.checkpoints, states * sequences.checkpoints())?;
    check_len("the gradient of o", upstream.o, inputs.v.len())?;
    upstream.last_state.map_or(Ok(()), |state| check_len("the gradient of last_state", state, states))?;
    check_len("the gradient of q", gradients.q, inputs.q.len())?;
    check_len("the gradient of k", gradients.k, inputs.k.len())?;
    check_len("the gradient of v", gradients.v, inputs.v.len())?;
    check_len("the gradient of beta", gradients.beta, inputs.beta.len())?;
    check_len("the gradient of initial_state", gradients.initial_state, states)?;
    let (of_gate, gate_width) = match (inputs.g, gradients.g) {
        (Gate::None, _) | (_, None) => (None, 1),
        (Gate::Head(g), Some(of_g)) => check_len("the gradient of g", of_g, g.len()).map(|()| (Some(of_g), 1))?,
        (Gate::Key(g), Some(of_g)) => {
            check_len("the gradient of g", of_g, g.len()).map(|()| (Some(of_g), shape.head_k))?
        }
    };
    if seq_len == 0 {
        copy_or_zero(upstream.last_state, gradients.initial_state);
        return parallel::check(execution.threads);
    }
    let pieces = shape.pieces(rows);
    let columns = shape.head_v / pieces;
    let parts_of_key = shape.n_heads / shape.n_heads_k * pieces;
    let mut of_q = Sums::new(gradients.q, parts_of_key, shape.head_k)?;
    let mut of_k = Sums::new(gradients.k, parts_of_key, shape.head_k)?;
    let mut of_g = of_gate.map(|of_g| Sums::new(of_g, pieces, gate_width)).transpose()?;
    let mut of_beta = Sums::new(gradients.beta, pieces, 1)?;
    let parts = shape.parts(rows);
    let heads = shape.n_heads * pieces;
    let of_gates = optional(of_g.as_mut().map(|of_g| of_g.split(seq_len, heads)), parts.len());
    let views = parts.into_iter().zip(of_q.split(seq_len, heads).into_iter().zip(of_k.split(seq_len, heads)));
    let views = views.zip(HeadMut::split(gradients.v, seq_len, heads, columns));
    let views = views.zip(of_beta.split(seq_len, heads));
    let views = views.zip(of_gates).zip(HeadMut::split(gradients.initial_state, shape.head_k, pieces, columns));
    let work = views
        .map(|(((((part, (q, k)), v), beta), g), initial_state)| backward::Written {
            part,
            q,
            k,
            v,
            g,
            beta,
            initial_state,
        })
        .collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |written| {
        execution.level.run(backward::Backward { sequences, shape, inputs, upstream, written });
        Ok(())
    })?;
    of_q.sum(execution.threads)?;
    of_k.sum(execution.threads)?;
    of_beta.sum(execution.threads)?;
    of_g.map_or(Ok(()), |of_g| of_g.sum(execution.threads))
}

/// One step: `inputs` with `seq_len` 1; `state` and `new_state` have shape (batch, `n_heads`, `head_k`, `head_v`), `o`
/// has (batch, `n_heads`, `head_v`).
pub fn step<T: Float>(
    rows: usize,
    shape: Shape,
    inputs: Inputs<'_, T>,
    state: &[T],
    o: &mut [T],
    new_state: &mut [T],
    execution: Execution<'_>,
) -> Result<()> {
    shape.check_inputs(rows, &inputs)?;
    check_len("state", state, shape.states(rows))?;
    check_len("the new state", new_state, shape.states(rows))?;
    check_len("o", o, rows * shape.n_heads * shape.head_v)?;
    let heads = o.chunks_mut(shape.head_v).zip(new_state.chunks_mut(shape.head_k * shape.head_v));
    let states = state.chunks(shape.head_k * shape.head_v);
    let mut parts = heads.zip(states).enumerate();
    // Few heads are not worth a thread of their own.
    let mut work = Vec::new();
    while parts.len() > 0 {
        work.push(parts.by_ref().take(step::HEADS).collect::<Vec<_>>());
    }
    parallel::for_each_short(execution.threads, state.len(), work, |heads| {
        execution.level.run(step::Step { shape, inputs, heads });
        Ok(())
    })
}

/// Views that may not be there, for so many parts.
fn optional<T>(views: Option<Vec<T>>, parts: usize) -> Vec<Option<T>> {
    match views {
        Some(views) => views.into_iter().map(Some).collect(),
        None => (0..parts).map(|_| None).collect(),
    }
}

fn copy_or_zero<T: Float>(from: Option<&[T]>, to: &mut [T]) {
    match from {
        Some(from) => to.copy_from_slice(from),
        None => to.fill(T::ZERO),
    }
}

/// A gradient that several parts add to: each has numbers of its own, which are summed in one order at the end.
struct Sums<'a, T> {
    out: &'a mut [T],
    parts: Vec<T>,
    count: usize,
    width: usize,
}

impl<'a, T: Float> Sums<'a, T> {
    /// `count` parts add to each `width` numbers of `out`.
    fn new(out: &'a mut [T], count: usize, width: usize) -> Result<Self> {
        let parts = if count == 1 { Vec::new() } else { zeros(out.len() * count)? };
        Ok(Self { out, parts, count, width })
    }

    /// What each part writes to, for (batch, `seq_len`, `heads`) parts.
    fn split(&mut self, seq_len: usize, heads: usize) -> Vec<HeadMut<'_, T>> {
        HeadMut::split(if self.count == 1 { self.out } else { &mut self.parts }, seq_len, heads, self.width)
    }

    fn sum(self, threads: usize) -> Result<()> {
        const ROWS: usize = 1024;
        let Self { out, parts, count, width } = self;
        if count == 1 {
            return Ok(());
        }
        let work = out.chunks_mut(ROWS * width).zip(parts.chunks(ROWS * width * count)).collect();
        parallel::for_each(threads, work, |(out, parts): (&mut [T], &[T])| {
            for (out, parts) in out.chunks_mut(width).zip(parts.chunks(width * count)) {
                let (first, others) = parts.split_at(width);
                out.copy_from_slice(first);
                for part in others.chunks(width) {
                    for (sum, x) in out.iter_mut().zip(part) {
                        *sum += *x;
                    }
                }
            }
            Ok(())
        })
    }
}
