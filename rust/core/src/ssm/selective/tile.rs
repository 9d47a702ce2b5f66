//! One or two registers of a channel's states through a block of steps, forward and back.

use super::packed::{Packed, StepSizes};
use crate::simd::{Float, MOST_LANES, Vector};
use crate::ssm::sequence::BLOCK;

/// 2^x is computed without a clamp where |x| is below this.
pub(super) const LARGEST: f64 = 120.0;

/// States and decays of a tile in a block of steps.
pub(super) struct History<V> {
    /// Of each register the state before each step, and exp(Δ A) at it.
    pub(super) steps: [[[V; 2]; 2]; BLOCK],
    /// The state after the last step.
    pub(super) end: [V; 2],
}

/// What a tile adds to in the backward pass.
pub(super) struct TileSums<'a, V: Vector> {
    /// Gradient of the state.
    pub(super) g: &'a mut [V],
    /// Gradient of A.
    pub(super) a: &'a mut [V],
    /// Gradients of B and of C: `weights[register * BLOCK + step]`.
    pub(super) weights: &'a mut [[V; 2]],
    /// The sum of g ⊙ B at each step.
    pub(super) with_b: &'a mut [V::Scalar; BLOCK],
    /// The sum of g ⊙ (what is left of the state before) ⊙ A at each step.
    pub(super) with_a: &'a mut [V::Scalar; BLOCK],
}

/// Steps whose products are summed at once.
pub(super) const SUMMED: usize = 16;

/// Registers of one channel's states, with what they meet in a block of steps.
pub(super) struct Tile<'a, V, const WIDTH: usize> {
    rates: [V; WIDTH],
    /// B and C of each step.
    weights: [&'a [[V; 2]; BLOCK]; WIDTH],
    constants: &'a [V; 8],
    /// 0 in the lanes that hold states, 1 in the others.
    unused: Option<V>,
}

impl<'a, V: Vector, const WIDTH: usize> Tile<'a, V, WIDTH> {
    #[inline(always)]
    pub(super) fn of(isa: V::Isa, packed: &'a Packed<V>, rates: &[V], first: usize) -> Self {
        let weights = packed.weights.as_chunks::<BLOCK>().0;
        let partial = first + WIDTH == packed.registers && packed.last < V::LANES;
        let unused = partial.then(|| {
            let mut lanes = [V::Scalar::ZERO; MOST_LANES];
            lanes[packed.last..].fill(V::Scalar::ONE);
            V::load(isa, &lanes)
        });
        Self {
            rates: std::array::from_fn(|register| rates[first + register]),
            weights: std::array::from_fn(|register| &weights[first + register]),
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
            h[register] = decays[register].mul_add(h[register], delta_u * self.weights[register][t][0]);
        }
        if PARTIAL {
            h[WIDTH - 1] = self.used(isa, h[WIDTH - 1]);
        }
    }

    /// C ⊙ h, summed over registers.
    #[inline(always)]
    fn product(&self, t: usize, h: &[V; WIDTH]) -> V {
        let mut product = self.weights[0][t][1] * h[0];
        for register in 1..WIDTH {
            product = self.weights[register][t][1].mul_add(h[register], product);
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
        for pair in 0..count.div_ceil(2) {
            let delta = [V::splat(isa, sizes.delta[2 * pair]), V::splat(isa, sizes.delta[2 * pair + 1])];
            let decays = self.decays::<BOUNDED>(isa, delta);
            for (step, decays) in decays.iter().enumerate() {
                let t = 2 * pair + step;
                if t < count {
                    for register in 0..WIDTH {
                        history.steps[t][register] = [h[register], decays[register]];
                    }
                    self.advance::<PARTIAL>(isa, t, decays, sizes.delta_u[t], &mut h);
                }
            }
        }
        history.end[..WIDTH].copy_from_slice(&h);
    }

    /// C ⊙ h at each step, summed over registers.
    #[inline(always)]
    pub(super) fn products(&self, count: usize, history: &History<V>, products: &mut [V; BLOCK]) {
        let count = count.min(BLOCK);
        for t in 0..count {
            let mut h: [V; WIDTH] = std::array::from_fn(|register| history.end[register]);
            if t + 1 < count {
                for register in 0..WIDTH {
                    h[register] = history.steps[t + 1][register][0];
                }
            }
            products[t] = self.product(t, &h);
        }
    }

    /// The steps from the last to the first. `g` is the gradient of the state, after and then before them; `a` are the
    /// rates themselves.
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
        if self.unused.is_some() {
            self.reverse_as::<true>(isa, count, sizes, dy, a, history, sums);
        } else {
            self.reverse_as::<false>(isa, count, sizes, dy, a, history, sums);
        }
    }

    #[inline(always)]
    fn reverse_as<const PARTIAL: bool>(
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
        let mut after: [V; WIDTH] = std::array::from_fn(|register| history.end[register]);
        let a: [V; WIDTH] = std::array::from_fn(|register| a[register]);
        let (zero, one) = (V::splat(isa, V::Scalar::ZERO), V::splat(isa, V::Scalar::ONE));
        // Steps of one register wait for each other: there g leaves a step undecayed, so that from one to the next it is
        // one operation, g decay + (C dy). Two registers hide that, and save the product.
        let mut decay_after = [one; WIDTH];
        let of_weights = sums.weights.as_chunks_mut::<BLOCK>().0;
        let count = count.min(BLOCK);
        for start in (0..count).step_by(SUMMED).rev() {
            let (mut with_b, mut with_a) = ([zero; SUMMED], [zero; SUMMED]);
            for nth in (0..SUMMED.min(count - start)).rev() {
                let t = start + nth;
                let dy = V::splat(isa, dy[t]);
                let (delta, delta_u) = (V::splat(isa, sizes.delta[t]), V::splat(isa, sizes.delta_u[t]));
                for register in 0..WIDTH {
                    let [b, c] = self.weights[register][t];
                    let [before, decay] = history.steps[t][register];
                    let of_weights = &mut of_weights[register][t];
                    g[register] = if WIDTH == 1 {
                        g[register].mul_add(decay_after[register], c * dy)
                    } else {
                        c.mul_add(dy, g[register])
                    };
                    if PARTIAL && register + 1 == WIDTH {
                        g[register] = self.used(isa, g[register]);
                    }
                    of_weights[0] = delta_u.mul_add(g[register], of_weights[0]);
                    of_weights[1] = after[register].mul_add(dy, of_weights[1]);
                    with_b[nth] = b.mul_add(g[register], with_b[nth]);
                    let decayed = g[register] * decay;
                    let moved = decayed * before;
                    with_a[nth] = a[register].mul_add(moved, with_a[nth]);
                    of_a[register] = delta.mul_add(moved, of_a[register]);
                    after[register] = before;
                    if WIDTH == 1 {
                        decay_after[register] = decay;
                    } else {
                        g[register] = decayed;
                    }
                }
            }
            add_sums(&with_b, &mut sums.with_b[start..]);
            add_sums(&with_a, &mut sums.with_a[start..]);
        }
        for register in 0..WIDTH {
            sums.g[register] = g[register] * decay_after[register];
            sums.a[register] = of_a[register];
        }
    }
}

/// Adds the sum of each register.
#[inline(always)]
pub(super) fn add_sums<V: Vector, const N: usize>(rows: &[V; N], to: &mut [V::Scalar]) {
    let mut sums = [V::Scalar::ZERO; N];
    V::sums(rows, &mut sums);
    for (to, sum) in to.iter_mut().zip(sums) {
        *to += sum;
    }
}
