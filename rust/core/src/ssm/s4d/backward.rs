//! The backward pass: blocks from the last to the first, each recomputed from the state that the forward pass kept.

use super::weights::{Lanes, Weights, advance, load, store};
use super::{Inputs, Part, Shape, Upstream};
use crate::simd::{Float, Isa, Kernel, Vector};
use crate::ssm::complex::{Complex, Numbers};
use crate::ssm::parts::by_twos;
use crate::ssm::sequence::{BLOCK, Sequences};

/// What a part of the backward pass writes; `a`, `b`, `c` and `d` are sums over this part's row alone.
pub(super) struct PartGradients<'a, T> {
    pub(super) part: Part,
    pub(super) u: &'a mut [T],
    pub(super) a: &'a mut [T],
    pub(super) b: &'a mut [T],
    pub(super) c: &'a mut [T],
    pub(super) d: &'a mut [T],
    pub(super) initial_state: &'a mut [T],
}

pub(super) struct Backward<'a, T> {
    pub(super) sequences: &'a Sequences<'a>,
    pub(super) shape: Shape,
    pub(super) inputs: Inputs<'a, T>,
    pub(super) upstream: Upstream<'a, T>,
    pub(super) gradients: PartGradients<'a, T>,
}

impl<T: Float> Kernel for Backward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

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
                by_twos!(lanes.registers, |first, WIDTH| {
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
