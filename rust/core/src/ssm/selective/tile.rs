//! One or two registers of a channel's states through a block of steps, forward and back.

use super::packed::{Packed, StepSizes};
use crate::simd::{Float, MOST_LANES, Vector};
use crate::ssm::sequence::BLOCK;

/// 2^x is computed without a clamp where |x| is below this.
pub(super) const LARGEST: f64 = 120.0;

/// States and decays of a tile in a block of steps.
pub(super) struct History<V> {
    /// Before the first step and after each.
    pub(super) states: [[V; 2]; BLOCK + 1],
    /// exp(Δ A) at each step.
    pub(super) decays: [[V; 2]; BLOCK],
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
    rates: [V; WIDTH],
    b: [&'a [V; BLOCK]; WIDTH],
    c: [&'a [V; BLOCK]; WIDTH],
    constants: &'a [V; 8],
    /// 0 in the lanes that hold states, 1 in the others.
    unused: Option<V>,
}

impl<'a, V: Vector, const WIDTH: usize> Tile<'a, V, WIDTH> {
    #[inline(always)]
    pub(super) fn of(isa: V::Isa, packed: &'a Packed<V>, rates: &[V], first: usize) -> Self {
        let (b, c) = (packed.b.as_chunks::<BLOCK>().0, packed.c.as_chunks::<BLOCK>().0);
        let at = |register| first + register;
        let partial = first + WIDTH == packed.registers && packed.last < V::LANES;
        let unused = partial.then(|| {
            let mut lanes = [V::Scalar::ZERO; MOST_LANES];
            lanes[packed.last..].fill(V::Scalar::ONE);
            V::load(isa, &lanes)
        });
        Self {
            rates: std::array::from_fn(|register| rates[at(register)]),
            b: std::array::from_fn(|register| &b[at(register)]),
            c: std::array::from_fn(|register| &c[at(register)]),
            constants: &packed.exp2,
            unused,
        }
    }

    /// exp(Δ A) at two steps: `rates` are A log2 e where `BOUNDED` says that the product is below [`LARGEST`], else A.
    #[inline(always)]
    fn decays<const BOUNDED: bool>(&self, isa: V::Isa, delta: [V; 2]) -> [[V; WIDTH]; 2] {
        let (a, b) = (self.rates[0], self.rates[WIDTH - 1]);
        let mut decays = [self.rates; 2];
        if !BOUNDED {
            for step in 0..2 {
                for register in 0..WIDTH {
                    decays[step][register] = V::Scalar::exp(isa, delta[step] * self.rates[register]);
                }
            }
        } else if WIDTH == 1 {
            [decays[0][0], decays[1][0]] = V::Scalar::exp2_of_products(isa, self.constants, delta, [a; 2]);
        } else {
            // Four registers in step.
            let deltas = [delta[0], delta[0], delta[1], delta[1]];
            [decays[0][0], decays[0][1], decays[1][0], decays[1][1]] =
                V::Scalar::exp2_of_products(isa, self.constants, deltas, [a, b, a, b]);
        }
        decays
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
    fn advance<const PARTIAL: bool>(
        &self,
        isa: V::Isa,
        t: usize,
        decays: &[V; WIDTH],
        delta_u: V::Scalar,
        h: &mut [V; WIDTH],
    ) {
        let delta_u = V::splat(isa, delta_u);
        for register in 0..WIDTH {
            h[register] = decays[register].mul_add(h[register], delta_u * self.b[register][t]);
        }
        if PARTIAL {
            h[WIDTH - 1] = self.used(isa, h[WIDTH - 1]);
        }
    }

    /// C ⊙ h, summed over registers.
    #[inline(always)]
    fn product(&self, t: usize, h: &[V; WIDTH]) -> V {
        let mut product = self.c[0][t] * h[0];
        for register in 1..WIDTH {
            product = self.c[register][t].mul_add(h[register], product);
        }
        product
    }

    /// `count` steps; `products` are C ⊙ h, summed over registers. `bounded` as for [`Self::decays`].
    #[inline(always)]
    pub(super) fn scan(
        &self,
        isa: V::Isa,
        count: usize,
        sizes: &StepSizes<V::Scalar>,
        bounded: bool,
        states: &mut [V],
        products: &mut [V; BLOCK],
    ) {
        match (bounded, self.unused) {
            (true, None) => self.scan_as::<false, true>(isa, count, sizes, states, products),
            (true, Some(_)) => self.scan_as::<true, true>(isa, count, sizes, states, products),
            (false, _) => self.scan_as::<true, false>(isa, count, sizes, states, products),
        }
    }

    #[inline(always)]
    fn scan_as<const PARTIAL: bool, const BOUNDED: bool>(
        &self,
        isa: V::Isa,
        count: usize,
        sizes: &StepSizes<V::Scalar>,
        states: &mut [V],
        products: &mut [V; BLOCK],
    ) {
        let mut h: [V; WIDTH] = std::array::from_fn(|register| states[register]);
        let count = count.min(BLOCK);
        for pair in 0..count.div_ceil(2) {
            let delta = [V::splat(isa, sizes.delta[2 * pair]), V::splat(isa, sizes.delta[2 * pair + 1])];
            // Of both steps, also where the second is beyond the last: it is not taken.
            let decays = self.decays::<BOUNDED>(isa, delta);
            for (step, decays) in decays.iter().enumerate() {
                let t = 2 * pair + step;
                if t < count {
                    self.advance::<PARTIAL>(isa, t, decays, sizes.delta_u[t], &mut h);
                    products[t] = self.product(t, &h);
                }
            }
        }
        states[..WIDTH].copy_from_slice(&h);
    }

    /// The decays of `count` steps, and the states before and after each, from those before the first. `bounded` as for
    /// [`Self::decays`].
    #[inline(always)]
    pub(super) fn recompute(
        &self,
        isa: V::Isa,
        count: usize,
        sizes: &StepSizes<V::Scalar>,
        bounded: bool,
        start: &[V],
        history: &mut History<V>,
    ) {
        match (bounded, self.unused) {
            (true, None) => self.recompute_as::<false, true>(isa, count, sizes, start, history),
            (true, Some(_)) => self.recompute_as::<true, true>(isa, count, sizes, start, history),
            (false, _) => self.recompute_as::<true, false>(isa, count, sizes, start, history),
        }
    }

    #[inline(always)]
    fn recompute_as<const PARTIAL: bool, const BOUNDED: bool>(
        &self,
        isa: V::Isa,
        count: usize,
        sizes: &StepSizes<V::Scalar>,
        start: &[V],
        history: &mut History<V>,
    ) {
        let mut h: [V; WIDTH] = std::array::from_fn(|register| start[register]);
        let count = count.min(BLOCK);
        history.states[0][..WIDTH].copy_from_slice(&h);
        for pair in 0..count.div_ceil(2) {
            let delta = [V::splat(isa, sizes.delta[2 * pair]), V::splat(isa, sizes.delta[2 * pair + 1])];
            let decays = self.decays::<BOUNDED>(isa, delta);
            for (step, decays) in decays.iter().enumerate() {
                let t = 2 * pair + step;
                if t < count {
                    history.decays[t][..WIDTH].copy_from_slice(decays);
                    self.advance::<PARTIAL>(isa, t, decays, sizes.delta_u[t], &mut h);
                    history.states[t + 1][..WIDTH].copy_from_slice(&h);
                }
            }
        }
    }

    /// C ⊙ h at each step, summed over registers.
    #[inline(always)]
    pub(super) fn products(&self, count: usize, history: &History<V>, products: &mut [V; BLOCK]) {
        for (t, product) in products.iter_mut().enumerate().take(count) {
            let h = history.states[t + 1];
            *product = self.product(t, &std::array::from_fn(|register| h[register]));
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
