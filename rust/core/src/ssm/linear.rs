//! The linear scan `h_t = a_t ⊙ h_{t−1} + x_t`, real or complex, with `a` that may be constant in time: what LRU
//! (Orvieto et al. 2023, arXiv 2303.06349) and RG-LRU (De et al. 2024, arXiv 2402.19427) are made of.
//!
//! Gradients of complex numbers are conjugate, as in torch: `∂h_t/∂a_t` gives `g_t · conj(h_{t−1})`.

#![allow(clippy::needless_range_loop, clippy::many_single_char_names)] // Arrays of registers are walked in step.
#![allow(clippy::too_many_arguments)] // A kernel's inner loop takes what it needs, in registers.

use super::complex::{Complex, Numbers, Real};
use super::parts::{Part, parts, split, sum_rows};
use super::sequence::{Block, Sequences};
use super::{Execution, check_len, zeros};
use crate::simd::{Float, HeadMut, Isa, Kernel, Vector};
use crate::{Result, parallel};

/// Scalars of a step that a part of the work takes: of a block of steps, a second cache holds all of them.
const TILE: usize = 256;

/// Sizes, besides those of [`Sequences`].
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Numbers of a step.
    pub width: usize,
    /// Whether they are complex: then each is two scalars, and arrays have twice the scalars.
    pub complex: bool,
    /// Whether `a` is the same at all steps of all rows.
    pub constant: bool,
}

/// What the scan reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Factors of the state, (batch, `seq_len`, `width`), or (`width`) where constant.
    pub a: &'a [T],
    /// Input, (batch, `seq_len`, `width`).
    pub x: &'a [T],
}

/// What the backward pass reads besides [`Inputs`] and the initial state.
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a, T> {
    /// States that the forward pass gave.
    pub states: &'a [T],
    /// Their gradient.
    pub h: &'a [T],
    /// Gradient of the state after the last step.
    pub last_state: Option<&'a [T]>,
}

/// Gradients, each of the shape of its input.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of `a`; summed over batch and steps where it is constant.
    pub a: &'a mut [T],
    /// Of `x`.
    pub x: &'a mut [T],
    /// Of the initial state, (batch, `width`).
    pub initial_state: &'a mut [T],
}

impl Shape {
    /// Scalars of a step.
    fn scalars(self) -> usize {
        self.width * if self.complex { 2 } else { 1 }
    }

    fn check<T>(self, sequences: &Sequences<'_>, inputs: Inputs<'_, T>, initial: Option<&[T]>) -> Result<usize> {
        let states = sequences.batch() * self.scalars();
        let all = states * sequences.seq_len();
        check_len("a", inputs.a, if self.constant { self.scalars() } else { all })?;
        check_len("x", inputs.x, all)?;
        initial.map_or(Ok(()), |state| check_len("initial_state", state, states))?;
        Ok(all)
    }
}

/// The whole sequence: `h` has shape (batch, `seq_len`, `width`) and is zero at steps that are not there; the states
/// before and after it have (batch, `width`).
pub fn forward<T: Float>(
    sequences: &Sequences<'_>,
    shape: Shape,
    inputs: Inputs<'_, T>,
    initial_state: Option<&[T]>,
    h: &mut [T],
    last_state: &mut [T],
    execution: Execution<'_>,
) -> Result<()> {
    let width = shape.scalars();
    let all = shape.check(sequences, inputs, initial_state)?;
    check_len("h", h, all)?;
    check_len("last_state", last_state, sequences.batch() * width)?;
    if sequences.seq_len() == 0 {
        copy_or_zero(initial_state, last_state);
        return Ok(());
    }
    let parts = parts(sequences.batch(), width, TILE);
    let h = HeadMut::tiles(h, sequences.seq_len(), width, TILE);
    let last_state = split(&parts, last_state, 1);
    let work = parts.into_iter().zip(h.into_iter().zip(last_state)).collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |(part, (h, last_state))| {
        execution.level.run(Forward { sequences, shape, inputs, initial_state, part, h, last_state });
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
    let (rows, seq_len, width) = (sequences.batch(), sequences.seq_len(), shape.scalars());
    let all = shape.check(sequences, inputs, initial_state)?;
    check_len("the states", upstream.states, all)?;
    check_len("the gradient of h", upstream.h, all)?;
    upstream.last_state.map_or(Ok(()), |state| check_len("the gradient of last_state", state, rows * width))?;
    check_len("the gradient of a", gradients.a, inputs.a.len())?;
    check_len("the gradient of x", gradients.x, all)?;
    check_len("the gradient of initial_state", gradients.initial_state, rows * width)?;
    if seq_len == 0 {
        gradients.a.fill(T::ZERO);
        copy_or_zero(upstream.last_state, gradients.initial_state);
        return Ok(());
    }
    let parts = parts(rows, width, TILE);
    let mut sums = zeros::<T>(if shape.constant { rows * width } else { 0 })?;
    let (of_constant, of_a) = if shape.constant {
        (split(&parts, &mut sums, 1).into_iter().map(Some).collect::<Vec<_>>(), Vec::new())
    } else {
        (Vec::new(), HeadMut::tiles(&mut *gradients.a, seq_len, width, TILE))
    };
    let mut of_constant = of_constant.into_iter();
    let mut of_a = of_a.into_iter();
    let of_x = HeadMut::tiles(gradients.x, seq_len, width, TILE).into_iter();
    let of_state = split(&parts, gradients.initial_state, 1);
    let work = parts
        .into_iter()
        .zip(of_x.zip(of_state))
        .map(|(part, (x, initial_state))| PartGradients {
            part,
            a: of_a.next(),
            constant: of_constant.next().flatten(),
            x,
            initial_state,
        })
        .collect();
    parallel::for_each_polled(execution.threads, work, execution.poll, |gradients| {
        execution.level.run(Backward { sequences, shape, inputs, initial_state, upstream, gradients });
        Ok(())
    })?;
    if shape.constant {
        sum_rows(&sums, gradients.a);
    }
    Ok(())
}

/// One step: `x`, `state` and `new_state` have shape (batch, `width`), as has `a` unless it is constant.
pub fn step<T: Float>(
    rows: usize,
    shape: Shape,
    inputs: Inputs<'_, T>,
    state: &[T],
    new_state: &mut [T],
    execution: Execution<'_>,
) -> Result<()> {
    shape.check(&Sequences::new(rows, 1), inputs, Some(state))?;
    check_len("the new state", new_state, state.len())?;
    let width = shape.scalars();
    let parts = parts(rows, width, 16 * TILE);
    let new_state = split(&parts, new_state, 1);
    let work = parts.into_iter().zip(new_state).collect();
    parallel::for_each_short(execution.threads, state.len(), work, |(part, new_state)| {
        execution.level.run(Step { shape, inputs, state, part, new_state });
        Ok(())
    })
}

fn copy_or_zero<T: Float>(from: Option<&[T]>, to: &mut [T]) {
    match from {
        Some(from) => to.copy_from_slice(from),
        None => to.fill(T::ZERO),
    }
}

/// Runs a method for real or for complex numbers.
macro_rules! by_kind {
    ($self:ident, $isa:ident, $vector:ty, $method:ident) => {
        if $self.shape.complex {
            $self.$method::<$vector, Complex<$vector>>($isa);
        } else {
            $self.$method::<$vector, Real<$vector>>($isa);
        }
    };
}

/// Walks over the registers of `$scalars` scalars: four at a time, or the last ones singly.
macro_rules! by_tiles {
    ($scalars:expr, $numbers:ty, |$at:ident, $width:ident| $work:expr) => {
        let mut $at = 0;
        while $at + 4 * <$numbers>::FLOATS * <$numbers>::LANES <= $scalars {
            const $width: usize = 4;
            $work;
            $at += 4 * <$numbers>::FLOATS * <$numbers>::LANES;
        }
        while $at < $scalars {
            const $width: usize = 1;
            $work;
            $at += <$numbers>::FLOATS * <$numbers>::LANES;
        }
    };
}

/// `WIDTH` registers of numbers from a scalar on; zeros beyond the end.
#[inline(always)]
fn load<V: Vector, N: Numbers<V>, const WIDTH: usize>(isa: V::Isa, from: &[V::Scalar], at: usize) -> [N; WIDTH] {
    let mut registers = [N::zero(isa); WIDTH];
    for n in 0..WIDTH {
        registers[n] = N::load(isa, &from[at + n * N::FLOATS * N::LANES..]);
    }
    registers
}

#[inline(always)]
fn store<V: Vector, N: Numbers<V>, const WIDTH: usize>(registers: &[N; WIDTH], to: &mut [V::Scalar], at: usize) {
    for n in 0..WIDTH {
        registers[n].store(&mut to[at + n * N::FLOATS * N::LANES..]);
    }
}

/// The part of step `step` of an array of shape (batch, `seq_len`, scalars).
#[inline(always)]
fn of_step<T>(values: &[T], part: Part, seq_len: usize, scalars: usize, step: usize) -> &[T] {
    let start = (part.row * seq_len + step) * scalars + part.first;
    &values[start..start + part.channels]
}

struct Forward<'a, T> {
    sequences: &'a Sequences<'a>,
    shape: Shape,
    inputs: Inputs<'a, T>,
    initial_state: Option<&'a [T]>,
    part: Part,
    h: HeadMut<'a, T>,
    last_state: &'a mut [T],
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        by_kind!(self, isa, T::Vector<I>, scan);
    }
}

impl<T: Float> Forward<'_, T> {
    #[inline(always)]
    fn scan<V: Vector<Scalar = T>, N: Numbers<V>>(&mut self, isa: V::Isa) {
        let Self { sequences, shape, part, .. } = *self;
        let (seq_len, scalars) = (sequences.seq_len(), shape.scalars());
        let steps = sequences.steps(part.row);
        for step in (0..steps.start).chain(steps.end..seq_len) {
            self.h.row(step).fill(T::ZERO);
        }
        // The state lies in `last_state` between blocks.
        let at = part.row * scalars + part.first;
        copy_or_zero(self.initial_state.map(|state| &state[at..at + part.channels]), self.last_state);
        for block in sequences.blocks(part.row) {
            if block.checkpoint.is_none() {
                self.last_state.fill(T::ZERO);
            }
            by_tiles!(part.channels, N, |at, WIDTH| self.block::<V, N, WIDTH>(isa, block, at));
        }
    }

    #[inline(always)]
    fn block<V: Vector<Scalar = T>, N: Numbers<V>, const WIDTH: usize>(
        &mut self,
        isa: V::Isa,
        block: Block,
        at: usize,
    ) {
        let Self { sequences, shape, inputs, part, .. } = *self;
        let (seq_len, scalars) = (sequences.seq_len(), shape.scalars());
        let mut state = load::<V, N, WIDTH>(isa, self.last_state, at);
        let mut a = state;
        if shape.constant {
            a = load(isa, &inputs.a[part.first..part.first + part.channels], at);
        }
        for t in block.start..block.end {
            if !shape.constant {
                a = load(isa, of_step(inputs.a, part, seq_len, scalars, t), at);
            }
            let x = load::<V, N, WIDTH>(isa, of_step(inputs.x, part, seq_len, scalars, t), at);
            for n in 0..WIDTH {
                state[n] = a[n].mul_add(state[n], x[n]);
            }
            store(&state, self.h.row(t), at);
        }
        store(&state, self.last_state, at);
    }
}

/// What a part of the backward pass writes.
struct PartGradients<'a, T> {
    part: Part,
    a: Option<HeadMut<'a, T>>,
    /// Summed over the steps of this part's row.
    constant: Option<&'a mut [T]>,
    x: HeadMut<'a, T>,
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
    fn run<I: Isa>(mut self, isa: I) {
        by_kind!(self, isa, T::Vector<I>, scan);
    }
}

impl<T: Float> Backward<'_, T> {
    #[inline(always)]
    fn scan<V: Vector<Scalar = T>, N: Numbers<V>>(&mut self, isa: V::Isa) {
        let (sequences, part) = (self.sequences, self.gradients.part);
        let scalars = self.shape.scalars();
        let steps = sequences.steps(part.row);
        for step in (0..steps.start).chain(steps.end..sequences.seq_len()) {
            self.gradients.x.row(step).fill(T::ZERO);
            if let Some(a) = &mut self.gradients.a {
                a.row(step).fill(T::ZERO);
            }
        }
        // The gradient of the state lies in that of the initial state between blocks.
        let at = part.row * scalars + part.first;
        let at = at..at + part.channels;
        copy_or_zero(self.upstream.last_state.map(|state| &state[at.clone()]), self.gradients.initial_state);
        for block in sequences.blocks(part.row).into_iter().rev() {
            by_tiles!(part.channels, N, |at, WIDTH| self.block::<V, N, WIDTH>(isa, block, at));
            if block.checkpoint.is_none() {
                self.gradients.initial_state.fill(T::ZERO);
            }
        }
    }

    /// The state before the first step of a block.
    #[inline(always)]
    fn before<V: Vector<Scalar = T>, N: Numbers<V>, const WIDTH: usize>(
        &self,
        isa: V::Isa,
        block: Block,
        at: usize,
    ) -> [N; WIDTH] {
        let (part, scalars) = (self.gradients.part, self.shape.scalars());
        if block.checkpoint.is_none() {
            return [N::zero(isa); WIDTH];
        }
        if block.start > self.sequences.steps(part.row).start {
            let seq_len = self.sequences.seq_len();
            return load(isa, of_step(self.upstream.states, part, seq_len, scalars, block.start - 1), at);
        }
        match self.initial_state {
            Some(state) => load(isa, &state[part.row * scalars + part.first..][..part.channels], at),
            None => [N::zero(isa); WIDTH],
        }
    }

    #[inline(always)]
    fn block<V: Vector<Scalar = T>, N: Numbers<V>, const WIDTH: usize>(
        &mut self,
        isa: V::Isa,
        block: Block,
        at: usize,
    ) {
        let (sequences, part) = (self.sequences, self.gradients.part);
        let (inputs, upstream, constant) = (self.inputs, self.upstream, self.shape.constant);
        let (seq_len, scalars) = (sequences.seq_len(), self.shape.scalars());
        let first = self.before::<V, N, WIDTH>(isa, block, at);
        let mut g = load::<V, N, WIDTH>(isa, self.gradients.initial_state, at);
        let mut a = g;
        let mut of_a = [N::zero(isa); WIDTH];
        if constant {
            a = load(isa, &inputs.a[part.first..part.first + part.channels], at);
        }
        if let Some(sum) = &self.gradients.constant {
            of_a = load(isa, sum, at);
        }
        for t in (block.start..block.end).rev() {
            let of_h = load::<V, N, WIDTH>(isa, of_step(upstream.h, part, seq_len, scalars, t), at);
            let mut before = first;
            if t > block.start {
                before = load(isa, of_step(upstream.states, part, seq_len, scalars, t - 1), at);
            }
            if !constant {
                a = load(isa, of_step(inputs.a, part, seq_len, scalars, t), at);
                of_a = [N::zero(isa); WIDTH];
            }
            for n in 0..WIDTH {
                g[n] = g[n].add(of_h[n]);
                // conj(h) g, and g conj(h) are the same.
                of_a[n] = before[n].conj_mul_add(g[n], of_a[n]);
            }
            store(&g, self.gradients.x.row(t), at);
            if let Some(a) = &mut self.gradients.a {
                store(&of_a, a.row(t), at);
            }
            for n in 0..WIDTH {
                g[n] = a[n].conj_mul_add(g[n], N::zero(isa));
            }
        }
        store(&g, self.gradients.initial_state, at);
        if let Some(sum) = &mut self.gradients.constant {
            store(&of_a, sum, at);
        }
    }
}

struct Step<'a, T> {
    shape: Shape,
    inputs: Inputs<'a, T>,
    state: &'a [T],
    part: Part,
    new_state: &'a mut [T],
}

impl<T: Float> Kernel for Step<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        by_kind!(self, isa, T::Vector<I>, step);
    }
}

impl<T: Float> Step<'_, T> {
    #[inline(always)]
    fn step<V: Vector<Scalar = T>, N: Numbers<V>>(&mut self, isa: V::Isa) {
        let Self { shape, inputs, state, part, .. } = *self;
        let scalars = shape.scalars();
        let (state, x) = (of_step(state, part, 1, scalars, 0), of_step(inputs.x, part, 1, scalars, 0));
        let a = if shape.constant {
            &inputs.a[part.first..part.first + part.channels]
        } else {
            of_step(inputs.a, part, 1, scalars, 0)
        };
        for at in (0..part.channels).step_by(N::FLOATS * N::LANES) {
            let new_state = N::load(isa, &a[at..]).mul_add(N::load(isa, &state[at..]), N::load(isa, &x[at..]));
            new_state.store(&mut self.new_state[at..]);
        }
    }
}
