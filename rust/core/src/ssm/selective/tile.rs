//! One or two registers of a channel's states through a block of steps, forward and back.

use super::packed::{Packed, StepSizes};
use crate::simd::{Float, Vector};
use crate::ssm::sequence::BLOCK;

/// 2^x is computed without a clamp where |x| is below this.
pub(super) const BOUNDED: f64 = 120.0;

/// exp(Δ A) at each step, for up to two registers.
pub(super) type Decays<V> = [[V; 2]; BLOCK];

/// States and decays of a tile in a block of steps.
pub(super) struct History<V> {
    /// Before the first step and after each.
    pub(super) states: [[V; 2]; BLOCK + 1],
    pub(super) decays: Decays<V>,
}

/// What a tile adds to in the backward pass.
pub(super) struct TileSums<'a, V> {
    /// Gradient of the state.
    pub(super) g: &'a mut [V],
    /// Gradient of A.
    pub(super) a: &'a mut [V],
    /// Gradient of B: `b[register * BLOCK + step]`.
    pub(super) b: &'a mut [V],
    /// Gradient of C.
    pub(super) c: &'a mut [V],
    /// g ⊙ B at each step.
    pub(super) with_b: &'a mut [V; BLOCK],
    /// g ⊙ (what is left of the state before) ⊙ A at each step.
    pub(super) with_a: &'a mut [V; BLOCK],
}

/// Registers of one channel's states, with what they meet in a block of steps.
pub(super) struct Tile<'a, V, const WIDTH: usize> {
    pub(super) rates: [V; WIDTH],
    pub(super) b: [&'a [V; BLOCK]; WIDTH],
    pub(super) c: [&'a [V; BLOCK]; WIDTH],
    /// 0 in the lanes that hold states, 1 in the others.
    pub(super) unused: Option<V>,
}

impl<'a, V: Vector, const WIDTH: usize> Tile<'a, V, WIDTH> {
    #[inline(always)]
    pub(super) fn of(isa: V::Isa, packed: &'a Packed<V>, rates: &[V], first: usize) -> Self {
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
    pub(super) fn decays(
        &self,
        isa: V::Isa,
        count: usize,
        delta: &[V::Scalar; BLOCK],
        bounded: bool,
        decays: &mut Decays<V>,
    ) {
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
    pub(super) fn used(&self, isa: V::Isa, x: V) -> V {
        match self.unused {
            None => x,
            Some(unused) => unused.if_less(V::splat(isa, V::Scalar::ONE), x, V::splat(isa, V::Scalar::ZERO)),
        }
    }

    /// h = decay ⊙ h + Δ u B.
    #[inline(always)]
    pub(super) fn advance<const PARTIAL: bool>(
        &self,
        isa: V::Isa,
        t: usize,
        decays: &[V; 2],
        delta_u: V,
        h: &mut [V; WIDTH],
    ) {
        for register in 0..WIDTH {
            h[register] = decays[register].mul_add(h[register], delta_u * self.b[register][t]);
        }
        if PARTIAL {
            h[WIDTH - 1] = self.used(isa, h[WIDTH - 1]);
        }
    }

    /// `count` steps; `products` are C ⊙ h, summed over registers.
    #[inline(always)]
    pub(super) fn scan<const PARTIAL: bool>(
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
    pub(super) fn recompute<const PARTIAL: bool>(
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
    pub(super) fn products(&self, isa: V::Isa, count: usize, history: &History<V>, products: &mut [V; BLOCK]) {
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
    pub(super) fn reverse(
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
