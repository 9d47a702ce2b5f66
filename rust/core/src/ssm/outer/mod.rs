//! The outer family: a gated matrix state for each head,
//!
//! `S_t = Diag(exp(g_t)) S_{t−1} + k_t v_tᵀ`, `o_t = scale · S_tᵀ q_t`: linear attention (g = 0), `RetNet` (a constant for
//! each head), Mamba-2 (a number for each head and step), gated linear attention (one for each key channel too).
//!
//! Four steps are taken at once ([`tile`]): with b the products of decays inside these, `S_4 = b_4 S_0 + Σ_s (b_4 / b_s)
//! k_s v_sᵀ` and `o_t = (b_t q_t)ᵀ S_0 + Σ_{s≤t} (q_tᵀ (b_t / b_s) k_s) v_s`, where each `b_t` / `b_s` is a product of decays,
//! not a quotient: 9 multiplications an element of the state where step by step there are 12, and nothing overflows that
//! would not in the recurrence. The backward pass has the same form with the roles of its arrays exchanged
//! ([`backward`](mod@backward)); it keeps no states of the forward pass.
//!
//! mLSTM fits as it stands: its normaliser is one more column of S, where v is 1, and its running maximum only changes
//! g and the scale of k, which are read in one place ([`pack`]). So does Mamba-3: the second term of step t + 1 has the
//! value `v_t` again, so that it only changes the weights `(b_t / b_s) k_s` that [`pack`] computes, with one step carried
//! from block to block.

#![allow(
    // Loops over the registers of a tile and the steps of a chunk index several arrays at once and are unrolled.
    clippy::needless_range_loop,
    // The letters of the equations.
    clippy::many_single_char_names,
    clippy::too_many_arguments
)]

mod backward;
mod forward;
mod gradients;
mod pack;
mod step;
mod tile;

use super::sequence::Sequences;
use super::{Execution, check_len};
use crate::simd::{Float, HeadMut, Soon};
use crate::{Error, Result, parallel};

pub use step::step;

/// Sizes, besides those of [`Sequences`].
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Heads of q and k; head h of v uses head h / (`n_heads` / `n_heads_k`) of these.
    pub n_heads_k: usize,
    /// Heads of v, of the gates, of the state and of the output.
    pub n_heads: usize,
    /// Channels of a head of q and k.
    pub head_k: usize,
    /// Channels of a head of v.
    pub head_v: usize,
}

/// Logarithms of the decays of the state.
#[derive(Debug, Clone, Copy)]
pub enum Gate<'a, T> {
    /// Nothing decays.
    None,
    /// One for each head, (`n_heads`).
    Constant(&'a [T]),
    /// (batch, `seq_len`, `n_heads`).
    Head(&'a [T]),
    /// (batch, `seq_len`, `n_heads`, `head_k`).
    Channel(&'a [T]),
}

/// What the recurrence reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Queries, (batch, `seq_len`, `n_heads_k`, `head_k`).
    pub q: &'a [T],
    /// Keys, of the same shape.
    pub k: &'a [T],
    /// Values, (batch, `seq_len`, `n_heads`, `head_v`).
    pub v: &'a [T],
    /// Log-gates.
    pub gate: Gate<'a, T>,
    /// What the output is multiplied by.
    pub scale: T,
}

/// What the recurrence writes.
#[derive(Debug)]
pub struct Outputs<'a, T> {
    /// Output, (batch, `seq_len`, `n_heads`, `head_v`); zero at steps that are not there.
    pub o: &'a mut [T],
    /// The state after the last step, (batch, `n_heads`, `head_k`, `head_v`).
    pub last_state: &'a mut [T],
}

/// What the backward pass reads besides what the forward pass does.
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a, T> {
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
    /// Of the log-gates, where it is wanted.
    pub gate: Option<&'a mut [T]>,
    /// Of the initial state.
    pub initial_state: &'a mut [T],
}

/// Fewer parts than this, and heads are split.
const PARTS: usize = 4;

/// Heads that go through the steps together are at most so many: their states stay in the second cache.
const TOGETHER: usize = 8;

/// The parts that share a head of q and k in the backward pass, each with its own sum of gradients, are at most so many.
const SHARERS: usize = 8;

impl Shape {
    fn check<T>(&self, rows: usize, seq_len: usize, inputs: &Inputs<'_, T>) -> Result<()> {
        let Self { n_heads_k, n_heads, head_k, head_v } = *self;
        if n_heads_k == 0 || n_heads == 0 || n_heads % n_heads_k != 0 {
            return Err(Error::value(format!(
                "the heads of v, {n_heads}, must be a multiple of those of q and k, {n_heads_k}, and at least 1"
            )));
        }
        if head_k == 0 || head_v == 0 {
            return Err(Error::value(format!("heads must have at least 1 channel: q and k {head_k}, v {head_v}")));
        }
        let steps = rows * seq_len;
        check_len("q", inputs.q, steps * n_heads_k * head_k)?;
        check_len("k", inputs.k, steps * n_heads_k * head_k)?;
        check_len("v", inputs.v, steps * n_heads * head_v)?;
        match inputs.gate {
            Gate::None => Ok(()),
            Gate::Constant(g) => check_len("g", g, n_heads),
            Gate::Head(g) => check_len("g", g, steps * n_heads),
            Gate::Channel(g) => check_len("g", g, steps * n_heads * head_k),
        }
    }

    fn states(&self, rows: usize) -> usize {
        rows * self.n_heads * self.head_k * self.head_v
    }

    /// How many heads each head of v is taken as, so that there are [`PARTS`] of the work.
    fn splits(&self, rows: usize) -> usize {
        let wanted = PARTS.div_ceil((rows * self.n_heads).max(1));
        let mut splits = 1;
        while splits < wanted && self.head_v.is_multiple_of(2 * splits) && self.head_v / (2 * splits) >= 16 {
            splits *= 2;
        }
        splits
    }
}

/// The rows of one head of an array of shape (…, steps, heads, width).
#[derive(Debug, Clone, Copy)]
struct Rows<'a, T> {
    values: &'a [T],
    stride: usize,
    width: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Of the array's steps from `step` on, head `head`.
    #[inline(always)]
    fn new(values: &'a [T], step: usize, heads: usize, head: usize, width: usize) -> Self {
        let stride = heads * width;
        Self { values: &values[(step * stride + head * width).min(values.len())..], stride, width }
    }

    #[inline(always)]
    fn row(&self, step: usize) -> &'a [T] {
        &self.values[step * self.stride..][..self.width]
    }

    fn soon(&self) -> Soon {
        Soon::new(self.values, self.stride, self.width)
    }
}

/// Log-gates of one head.
#[derive(Debug, Clone, Copy)]
enum HeadGate<'a, T> {
    /// The decay itself.
    Constant(T),
    Head(Rows<'a, T>),
    Channel(Rows<'a, T>),
}

/// What one head of one row reads; a split of a head's values is a head too.
#[derive(Debug, Clone, Copy)]
struct Head<'a, T> {
    q: Rows<'a, T>,
    k: Rows<'a, T>,
    v: Rows<'a, T>,
    gate: HeadGate<'a, T>,
    scale: T,
    initial_state: Option<Rows<'a, T>>,
    head_k: usize,
    head_v: usize,
}

impl<T> Head<'_, T> {
    /// What it reads; where it has no gates, the queries in their place.
    fn soon(&self) -> [Soon; 4] {
        let gates = match &self.gate {
            HeadGate::Constant(_) => &self.q,
            HeadGate::Head(gates) | HeadGate::Channel(gates) => gates,
        };
        [self.q.soon(), self.k.soon(), gates.soon(), self.v.soon()]
    }
}

/// The heads of all rows, splits included.
#[derive(Debug, Clone, Copy)]
struct Heads<'a, T> {
    shape: Shape,
    seq_len: usize,
    splits: usize,
    inputs: Inputs<'a, T>,
    initial_state: Option<&'a [T]>,
}

impl<'a, T: Float> Heads<'a, T> {
    /// For each row.
    fn count(&self) -> usize {
        self.shape.n_heads * self.splits
    }

    /// Heads that share one of q and k.
    fn ratio(&self) -> usize {
        self.count() / self.shape.n_heads_k
    }

    fn width(&self) -> usize {
        self.shape.head_v / self.splits
    }

    fn of_values(&self, values: &'a [T], row: usize, head: usize) -> Rows<'a, T> {
        Rows::new(values, row * self.seq_len, self.count(), head, self.width())
    }

    fn of_states(&self, states: &'a [T], row: usize, head: usize) -> Rows<'a, T> {
        let Shape { n_heads, head_k, .. } = self.shape;
        let whole = row * n_heads + head / self.splits;
        Rows::new(states, whole * head_k, self.splits, head % self.splits, self.width())
    }

    fn get(&self, row: usize, head: usize) -> Head<'a, T> {
        let Shape { n_heads_k, n_heads, head_k, .. } = self.shape;
        let first = row * self.seq_len;
        let (whole, shared) = (head / self.splits, head / self.ratio());
        let gate = match self.inputs.gate {
            Gate::None => HeadGate::Constant(T::ONE),
            Gate::Constant(g) => HeadGate::Constant(T::from_f64(libm::exp(g[whole].to_f64()))),
            Gate::Head(g) => HeadGate::Head(Rows::new(g, first, n_heads, whole, 1)),
            Gate::Channel(g) => HeadGate::Channel(Rows::new(g, first, n_heads, whole, head_k)),
        };
        Head {
            q: Rows::new(self.inputs.q, first, n_heads_k, shared, head_k),
            k: Rows::new(self.inputs.k, first, n_heads_k, shared, head_k),
            v: self.of_values(self.inputs.v, row, head),
            gate,
            scale: self.inputs.scale,
            initial_state: self.initial_state.map(|state| self.of_states(state, row, head)),
            head_k,
            head_v: self.width(),
        }
    }

    /// How many parts of the work, of so many heads each, are best taken together where there are `all` of them.
    fn together(all: usize, in_part: usize, threads: usize) -> usize {
        let for_each_thread = all / threads.saturating_mul(2).max(1);
        for_each_thread.clamp(1, (TOGETHER / in_part.max(1)).max(1))
    }

    /// Views of an array of values, (batch, `seq_len`, `n_heads`, `head_v`), head by head.
    fn split_values<'b, U>(&self, values: &'b mut [U]) -> Vec<HeadMut<'b, U>> {
        HeadMut::split(values, self.seq_len, self.count(), self.width())
    }

    /// Views of states, (batch, `n_heads`, `head_k`, `head_v`), in the same order.
    fn split_states<'b, U>(&self, states: &'b mut [U]) -> Vec<HeadMut<'b, U>> {
        HeadMut::split(states, self.shape.head_k, self.splits, self.width())
    }
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
    shape.check(rows, seq_len, &inputs)?;
    initial_state.map_or(Ok(()), |state| check_len("initial_state", state, shape.states(rows)))?;
    check_len("o", outputs.o, inputs.v.len())?;
    check_len("last_state", outputs.last_state, shape.states(rows))?;
    if seq_len == 0 {
        copy_or_zero(initial_state, outputs.last_state);
        return Ok(());
    }
    let heads = Heads { shape, seq_len, splits: shape.splits(rows), inputs, initial_state };
    let together = Heads::<T>::together(rows * heads.count(), 1, execution.threads);
    let mut views = heads.split_values(outputs.o).into_iter().zip(heads.split_states(outputs.last_state));
    let mut work = Vec::new();
    for row in 0..rows {
        for first in (0..heads.count()).step_by(together) {
            let these = first..heads.count().min(first + together);
            let views = these.zip(&mut views);
            let each =
                views.map(|(head, (o, last_state))| forward::OneHead { head: heads.get(row, head), o, last_state });
            work.push(forward::Forward { sequences, row, heads: each.collect() });
        }
    }
    parallel::for_each_polled(execution.threads, work, execution.poll, |part| {
        execution.level.run(part);
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
    mut gradients: Gradients<'_, T>,
    execution: Execution<'_>,
) -> Result<()> {
    let (rows, seq_len) = (sequences.batch(), sequences.seq_len());
    shape.check(rows, seq_len, &inputs)?;
    initial_state.map_or(Ok(()), |state| check_len("initial_state", state, shape.states(rows)))?;
    check_len("the gradient of o", upstream.o, inputs.v.len())?;
    upstream.last_state.map_or(Ok(()), |state| check_len("the gradient of last_state", state, shape.states(rows)))?;
    check_len("the gradient of q", gradients.q, inputs.q.len())?;
    check_len("the gradient of k", gradients.k, inputs.k.len())?;
    check_len("the gradient of v", gradients.v, inputs.v.len())?;
    check_len("the gradient of initial_state", gradients.initial_state, shape.states(rows))?;
    match (inputs.gate, &gradients.gate) {
        (Gate::None, Some(_)) => return Err(Error::value("there is no gradient of a gate that is not there")),
        (Gate::Constant(g) | Gate::Head(g) | Gate::Channel(g), Some(of)) => {
            check_len("the gradient of g", of, g.len())?;
        }
        (_, None) => {}
    }
    if seq_len == 0 || rows == 0 {
        copy_or_zero(upstream.last_state, gradients.initial_state);
        if let Some(gate) = &mut gradients.gate {
            gate.fill(T::ZERO);
        }
        return Ok(());
    }
    let heads = Heads { shape, seq_len, splits: shape.splits(rows), inputs, initial_state };
    backward::run(sequences, heads, upstream, gradients, execution)
}

fn copy_or_zero<T: Float>(from: Option<&[T]>, to: &mut [T]) {
    match from {
        Some(from) => to.copy_from_slice(from),
        None => to.fill(T::ZERO),
    }
}

/// The sum of `partial` arrays of the size of `out`, one after another, in their order.
fn sum_partial<T: Float>(partial: &[T], out: &mut [T], threads: usize) -> Result<()> {
    const PIECE: usize = 1 << 14;
    let all = out.len();
    let work = out.chunks_mut(PIECE).enumerate().collect();
    parallel::for_each(threads, work, |(piece, out): (usize, &mut [T])| {
        let start = piece * PIECE;
        for (nth, values) in partial.chunks(all).enumerate() {
            let values = &values[start..start + out.len()];
            if nth == 0 {
                out.copy_from_slice(values);
            } else {
                for (sum, value) in out.iter_mut().zip(values) {
                    *sum += *value;
                }
            }
        }
        Ok(())
    })
}
