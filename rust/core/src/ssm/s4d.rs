//! The scan of S4D (Gu et al. 2022, arXiv 2206.11893): `h_t = Ā ⊙ h_{t−1} + B̄ u_t`, `y_t = 2 Re(C · h_t) + D u_t`, for
//! each channel of `d_model`, with complex modes that stand for themselves and their conjugates. `Ā` and `B̄` come
//! discretised (by zero-order hold in the faces).
//!
//! Complex numbers are pairs of scalars in memory, and registers of real and of imaginary parts here: a register holds
//! modes of one channel. Gradients of complex numbers are conjugate, as in torch.

#![allow(clippy::needless_range_loop, clippy::many_single_char_names)] // Arrays of registers are walked in step.
#![allow(clippy::too_many_lines)] // A kernel is one loop over channels and blocks.

use super::complex::{Complex, Numbers};
use super::parts::{Part, parts, split, split_option, sum_rows};
use super::sequence::{BLOCK, Sequences};
use super::{Execution, check_len, zeros};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::{Error, Result, parallel};

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
    parallel::for_each_polled(execution.threads, work, execution.poll, |(part, (y, new_state))| {
        execution.level.run(Step { shape, inputs, state, part, y, new_state });
        Ok(())
    })
}

/// Two registers of a channel's modes at a time, or the last one.
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

/// Registers for `n_modes` complex numbers, with 0 in lanes that hold a mode and 1 in the others of the last one.
struct Lanes<V> {
    registers: usize,
    unused: Option<V>,
}

impl<V: Vector> Lanes<V> {
    #[inline(always)]
    fn new(isa: V::Isa, n_modes: usize) -> Self {
        let registers = n_modes.div_ceil(V::LANES);
        let last = n_modes - (registers - 1) * V::LANES;
        // In the order that complex numbers have in registers.
        let mut pairs = [V::Scalar::ONE; 16];
        pairs[..2 * last].fill(V::Scalar::ZERO);
        let unused = (last < V::LANES).then(|| Complex::<V>::load(isa, &pairs).re);
        Self { registers, unused }
    }

    /// `x` with zeros in the lanes that hold no mode: what stands there may be NaN where an input is infinite.
    #[inline(always)]
    fn used<const WIDTH: usize>(&self, isa: V::Isa, first: usize, register: usize, x: V) -> V {
        match self.unused {
            Some(unused) if register + 1 == WIDTH && first + WIDTH == self.registers => {
                unused.if_less(V::splat(isa, V::Scalar::ONE), x, V::splat(isa, V::Scalar::ZERO))
            }
            _ => x,
        }
    }
}

/// Reads complex numbers, as many registers as there are.
#[inline(always)]
fn load<V: Vector>(isa: V::Isa, from: &[V::Scalar], to: &mut [Complex<V>]) {
    for (from, to) in from.chunks(2 * V::LANES).zip(to) {
        *to = Complex::load(isa, from);
    }
}

#[inline(always)]
fn store<V: Vector>(from: &[Complex<V>], to: &mut [V::Scalar]) {
    for (from, to) in from.iter().zip(to.chunks_mut(2 * V::LANES)) {
        from.store(to);
    }
}

/// A channel's weights, in registers.
struct Weights<V> {
    a: Vec<Complex<V>>,
    b: Vec<Complex<V>>,
    c: Vec<Complex<V>>,
}

impl<V: Vector> Weights<V> {
    #[inline(always)]
    fn new(isa: V::Isa, registers: usize) -> Self {
        let zeros = vec![Complex::zero(isa); registers];
        Self { a: zeros.clone(), b: zeros.clone(), c: zeros }
    }

    #[inline(always)]
    fn read(&mut self, isa: V::Isa, shape: Shape, inputs: Inputs<'_, V::Scalar>, channel: usize) {
        let of = channel * shape.state()..(channel + 1) * shape.state();
        load(isa, &inputs.a[of.clone()], &mut self.a);
        load(isa, &inputs.b[of.clone()], &mut self.b);
        load(isa, &inputs.c[of], &mut self.c);
    }
}

/// The new state: Ā h + B̄ u.
#[inline(always)]
fn advance<V: Vector>(a: Complex<V>, b: Complex<V>, h: Complex<V>, u: V) -> Complex<V> {
    a.mul_add(h, Complex { re: b.re * u, im: b.im * u })
}

/// Re(C h) + sum.
#[inline(always)]
fn output<V: Vector>(c: Complex<V>, h: Complex<V>, sum: V) -> V {
    c.re.mul_add(h.re, c.im.neg_mul_add(h.im, sum))
}

struct Forward<'a, T> {
    sequences: &'a Sequences<'a>,
    shape: Shape,
    inputs: Inputs<'a, T>,
    initial_state: Option<&'a [T]>,
    part: Part,
    outputs: Outputs<'a, T>,
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, shape, inputs, initial_state, part, outputs } = self;
        let Outputs { y, last_state, mut checkpoints } = outputs;
        let (seq_len, state) = (sequences.seq_len(), shape.state());
        let lanes = Lanes::<T::Vector<I>>::new(isa, shape.n_modes);
        let mut weights = Weights::<T::Vector<I>>::new(isa, lanes.registers);
        let mut h = vec![Complex::<T::Vector<I>>::zero(isa); lanes.registers];
        let mut products = [T::Vector::<I>::splat(isa, T::ZERO); BLOCK];
        let mut sums = [T::ZERO; BLOCK];
        let two = T::Vector::<I>::splat(isa, T::ONE + T::ONE);
        let blocks = sequences.blocks(part.row);
        let steps = sequences.steps(part.row);
        let kept = sequences.checkpoints() * state;
        for channel in 0..part.channels {
            let of = part.first + channel;
            let row = part.row * shape.d_model + of;
            weights.read(isa, shape, inputs, of);
            match initial_state {
                Some(initial) => load(isa, &initial[row * state..(row + 1) * state], &mut h),
                None => h.fill(Complex::zero(isa)),
            }
            let y = &mut y[channel * seq_len..(channel + 1) * seq_len];
            y[..steps.start].fill(T::ZERO);
            y[steps.end..].fill(T::ZERO);
            let d = T::Vector::<I>::splat(isa, inputs.d.map_or(T::ZERO, |d| d[of]));
            for block in &blocks {
                match block.checkpoint {
                    None => h.fill(Complex::zero(isa)),
                    Some(at) => {
                        if let Some(checkpoints) = &mut checkpoints {
                            store(&h, &mut checkpoints[channel * kept + at * state..][..state]);
                        }
                    }
                }
                let u = &inputs.u[row * seq_len..][block.start..block.end];
                let y = &mut y[block.start..block.end];
                by_tiles!(lanes.registers, |first, WIDTH| {
                    scan::<T::Vector<I>, WIDTH>(isa, &lanes, &weights, first, u, &mut h, &mut products);
                    T::Vector::<I>::sums(&products[..u.len()], &mut sums[..u.len()]);
                    if first == 0 {
                        y.copy_from_slice(&sums[..u.len()]);
                    } else {
                        for (y, sum) in y.iter_mut().zip(&sums) {
                            *y += *sum;
                        }
                    }
                });
                for start in (0..u.len()).step_by(T::Vector::<I>::LANES) {
                    let mut out = T::Vector::<I>::load(isa, &y[start..]) * two;
                    if inputs.d.is_some() {
                        out = d.mul_add(T::Vector::<I>::load(isa, &u[start..]), out);
                    }
                    out.store(&mut y[start..]);
                }
            }
            store(&h, &mut last_state[channel * state..(channel + 1) * state]);
        }
    }
}

/// The steps of a block; `products` are Re(C ⊙ h), summed over registers.
#[inline(always)]
fn scan<V: Vector, const WIDTH: usize>(
    isa: V::Isa,
    lanes: &Lanes<V>,
    weights: &Weights<V>,
    first: usize,
    u: &[V::Scalar],
    states: &mut [Complex<V>],
    products: &mut [V; BLOCK],
) {
    let zero = Complex::zero(isa);
    let (mut h, mut a, mut b, mut c) = ([zero; WIDTH], [zero; WIDTH], [zero; WIDTH], [zero; WIDTH]);
    for n in 0..WIDTH {
        (h[n], a[n], b[n], c[n]) =
            (states[first + n], weights.a[first + n], weights.b[first + n], weights.c[first + n]);
    }
    for (u, product) in u.iter().zip(products) {
        let u = V::splat(isa, *u);
        let mut sum = zero.re;
        for n in 0..WIDTH {
            h[n] = advance(a[n], b[n], h[n], u);
            let of_register = output(c[n], h[n], zero.re);
            sum = sum + lanes.used::<WIDTH>(isa, first, n, of_register);
        }
        *product = sum;
    }
    states[first..first + WIDTH].copy_from_slice(&h);
}

/// What a part of the backward pass writes; `a`, `b`, `c` and `d` are sums over this part's row alone.
struct PartGradients<'a, T> {
    part: Part,
    u: &'a mut [T],
    a: &'a mut [T],
    b: &'a mut [T],
    c: &'a mut [T],
    d: &'a mut [T],
    initial_state: &'a mut [T],
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
        let Self { sequences, shape, inputs, upstream, gradients } = self;
        let part = gradients.part;
        let (seq_len, state) = (sequences.seq_len(), shape.state());
        let lanes = Lanes::<T::Vector<I>>::new(isa, shape.n_modes);
        let mut weights = Weights::<T::Vector<I>>::new(isa, lanes.registers);
        let mut sums = Weights::<T::Vector<I>>::new(isa, lanes.registers);
        let zero = Complex::<T::Vector<I>>::zero(isa);
        let mut start = vec![zero; lanes.registers];
        let mut g = vec![zero; lanes.registers];
        let mut history = [[zero; 2]; BLOCK + 1];
        let mut products = [zero.re; BLOCK];
        let (mut of_input, mut with_b) = ([T::ZERO; BLOCK], [T::ZERO; BLOCK]);
        let blocks = sequences.blocks(part.row);
        let steps = sequences.steps(part.row);
        let kept = sequences.checkpoints() * state;
        for channel in 0..part.channels {
            let of = part.first + channel;
            let row = part.row * shape.d_model + of;
            weights.read(isa, shape, inputs, of);
            for sums in [&mut sums.a, &mut sums.b, &mut sums.c] {
                sums.fill(zero);
            }
            match upstream.last_state {
                Some(last) => load(isa, &last[row * state..(row + 1) * state], &mut g),
                None => g.fill(zero),
            }
            let of_u = &mut gradients.u[channel * seq_len..(channel + 1) * seq_len];
            of_u[..steps.start].fill(T::ZERO);
            of_u[steps.end..].fill(T::ZERO);
            let d = T::Vector::<I>::splat(isa, inputs.d.map_or(T::ZERO, |d| d[of]));
            let mut of_d = zero.re;
            for block in blocks.iter().rev() {
                match block.checkpoint {
                    None => start.fill(zero),
                    Some(at) => {
                        let from = row * kept + at * state;
                        load(isa, &upstream.checkpoints[from..from + state], &mut start);
                    }
                }
                let u = &inputs.u[row * seq_len..][block.start..block.end];
                let dy = &upstream.y[row * seq_len..][block.start..block.end];
                with_b.fill(T::ZERO);
                by_tiles!(lanes.registers, |first, WIDTH| {
                    let mut tile = Tile::<T::Vector<I>, WIDTH>::new(isa, &lanes, &weights, &sums, first);
                    tile.recompute(isa, u, &start, &mut history);
                    tile.reverse(isa, u, dy, &history, &mut g, &mut products);
                    tile.store(&mut sums);
                    T::Vector::<I>::sums(&products[..u.len()], &mut of_input[..u.len()]);
                    for (to, sum) in with_b.iter_mut().zip(&of_input) {
                        *to += *sum;
                    }
                });
                if block.checkpoint.is_none() {
                    g.fill(zero);
                }
                let of_u = &mut of_u[block.start..block.end];
                for at in (0..u.len()).step_by(T::Vector::<I>::LANES) {
                    let dy = T::Vector::<I>::load(isa, &dy[at..]);
                    let mut out = T::Vector::<I>::load(isa, &with_b[at..]);
                    if inputs.d.is_some() {
                        out = d.mul_add(dy, out);
                    }
                    out.store(&mut of_u[at..]);
                    of_d = dy.mul_add(T::Vector::<I>::load(isa, &u[at..]), of_d);
                }
            }
            let at = channel * state..(channel + 1) * state;
            store(&g, &mut gradients.initial_state[at.clone()]);
            store(&sums.a, &mut gradients.a[at.clone()]);
            store(&sums.b, &mut gradients.b[at.clone()]);
            store(&sums.c, &mut gradients.c[at]);
            gradients.d[channel] = of_d.sum();
        }
    }
}

/// Registers of one channel's modes in the backward pass, with the sums of their weights' gradients.
struct Tile<'a, V, const WIDTH: usize> {
    lanes: &'a Lanes<V>,
    first: usize,
    a: [Complex<V>; WIDTH],
    b: [Complex<V>; WIDTH],
    c: [Complex<V>; WIDTH],
    of_a: [Complex<V>; WIDTH],
    of_b: [Complex<V>; WIDTH],
    of_c: [Complex<V>; WIDTH],
}

impl<'a, V: Vector, const WIDTH: usize> Tile<'a, V, WIDTH> {
    #[inline(always)]
    fn new(isa: V::Isa, lanes: &'a Lanes<V>, weights: &Weights<V>, sums: &Weights<V>, first: usize) -> Self {
        let zero = [Complex::zero(isa); WIDTH];
        let mut tile = Self { lanes, first, a: zero, b: zero, c: zero, of_a: zero, of_b: zero, of_c: zero };
        for n in 0..WIDTH {
            (tile.a[n], tile.of_a[n]) = (weights.a[first + n], sums.a[first + n]);
            (tile.b[n], tile.of_b[n]) = (weights.b[first + n], sums.b[first + n]);
            (tile.c[n], tile.of_c[n]) = (weights.c[first + n], sums.c[first + n]);
        }
        tile
    }

    #[inline(always)]
    fn store(&self, sums: &mut Weights<V>) {
        sums.a[self.first..self.first + WIDTH].copy_from_slice(&self.of_a);
        sums.b[self.first..self.first + WIDTH].copy_from_slice(&self.of_b);
        sums.c[self.first..self.first + WIDTH].copy_from_slice(&self.of_c);
    }

    /// The states before and after each step of a block.
    #[inline(always)]
    fn recompute(
        &self,
        isa: V::Isa,
        u: &[V::Scalar],
        start: &[Complex<V>],
        history: &mut [[Complex<V>; 2]; BLOCK + 1],
    ) {
        let mut h = [Complex::zero(isa); WIDTH];
        for n in 0..WIDTH {
            h[n] = start[self.first + n];
            history[0][n] = h[n];
        }
        for (u, after) in u.iter().zip(&mut history[1..]) {
            let u = V::splat(isa, *u);
            for n in 0..WIDTH {
                h[n] = advance(self.a[n], self.b[n], h[n], u);
                after[n] = h[n];
            }
        }
    }

    /// The steps from the last to the first. `g` is the gradient of the state, after and then before them; `products`
    /// are that of the input, summed over registers.
    #[inline(always)]
    fn reverse(
        &mut self,
        isa: V::Isa,
        u: &[V::Scalar],
        dy: &[V::Scalar],
        history: &[[Complex<V>; 2]; BLOCK + 1],
        of_states: &mut [Complex<V>],
        products: &mut [V; BLOCK],
    ) {
        let zero = Complex::zero(isa);
        let mut g = [zero; WIDTH];
        for n in 0..WIDTH {
            g[n] = of_states[self.first + n];
        }
        for t in (0..u.len().min(BLOCK)).rev() {
            let u = V::splat(isa, u[t]);
            let dy = V::splat(isa, dy[t] + dy[t]);
            let mut sum = zero.re;
            for n in 0..WIDTH {
                let (before, after) = (history[t][n], history[t + 1][n]);
                let (b, c) = (self.b[n], self.c[n]);
                g[n] = Complex { re: c.re.mul_add(dy, g[n].re), im: c.im.neg_mul_add(dy, g[n].im) };
                let (of_b, of_c) = (self.of_b[n], self.of_c[n]);
                self.of_c[n] = Complex { re: after.re.mul_add(dy, of_c.re), im: after.im.neg_mul_add(dy, of_c.im) };
                self.of_b[n] = Complex { re: g[n].re.mul_add(u, of_b.re), im: g[n].im.mul_add(u, of_b.im) };
                self.of_a[n] = before.conj_mul_add(g[n], self.of_a[n]);
                let of_register = b.re.mul_add(g[n].re, b.im * g[n].im);
                sum = sum + self.lanes.used::<WIDTH>(isa, self.first, n, of_register);
                g[n] = self.a[n].conj_mul_add(g[n], zero);
            }
            products[t] = sum;
        }
        of_states[self.first..self.first + WIDTH].copy_from_slice(&g);
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
        let scalars = shape.state();
        let lanes = Lanes::<T::Vector<I>>::new(isa, shape.n_modes);
        let rows = part.row * shape.d_model + part.first;
        let u = &inputs.u[rows..rows + part.channels];
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let (mut products, mut sums) = ([zero; BLOCK], [T::ZERO; BLOCK]);
        let sums = &mut sums[..part.channels];
        // Two registers at a time, as in the scan: the sums have one order.
        for first in (0..lanes.registers).step_by(2) {
            for channel in 0..part.channels {
                let of = (part.first + channel) * scalars..(part.first + channel + 1) * scalars;
                let (a, b, c) = (&inputs.a[of.clone()], &inputs.b[of.clone()], &inputs.c[of]);
                let state = &state[(rows + channel) * scalars..][..scalars];
                let new_state = &mut new_state[channel * scalars..][..scalars];
                let input = T::Vector::<I>::splat(isa, u[channel]);
                products[channel] = zero;
                for register in first..lanes.registers.min(first + 2) {
                    let at = register * 2 * T::Vector::<I>::LANES;
                    let (a, b) = (Complex::load(isa, &a[at..]), Complex::load(isa, &b[at..]));
                    let h = advance(a, b, Complex::load(isa, &state[at..]), input);
                    h.store(&mut new_state[at..]);
                    let product = output(Complex::load(isa, &c[at..]), h, zero);
                    products[channel] = products[channel] + lanes.used::<1>(isa, register, 0, product);
                }
            }
            T::Vector::<I>::sums(&products[..part.channels], sums);
            if first == 0 {
                y.copy_from_slice(sums);
            } else {
                for (y, sum) in y.iter_mut().zip(&*sums) {
                    *y += *sum;
                }
            }
        }
        let d = inputs.d.map(|d| &d[part.first..part.first + part.channels]);
        for start in (0..part.channels).step_by(T::Vector::<I>::LANES) {
            let y = &mut y[start..];
            let mut out = T::Vector::<I>::load(isa, y);
            out = out + out;
            if let Some(d) = d {
                out = T::Vector::<I>::load(isa, &d[start..]).mul_add(T::Vector::<I>::load(isa, &u[start..]), out);
            }
            out.store(y);
        }
    }
}
