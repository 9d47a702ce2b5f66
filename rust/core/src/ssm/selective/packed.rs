//! What the kernels have in registers or step by step: weights, rates and step sizes; the output's last touch.

use crate::simd::{self, Float, Isa, MOST_LANES, Vector};
use crate::ssm::sequence::{BLOCK, Block};

/// What is the same for all channels of a part in one block of steps.
pub(super) struct Packed<V> {
    /// Registers of a channel's states.
    pub(super) registers: usize,
    /// Lanes of the last register.
    pub(super) last: usize,
    /// B and C: `weights[register * BLOCK + step]`.
    pub(super) weights: Vec<[V; 2]>,
    /// [`Float::exp2_constants`].
    pub(super) exp2: [V; 8],
}

impl<V: Vector> Packed<V> {
    #[inline(always)]
    pub(super) fn new(isa: V::Isa, d_state: usize) -> Self {
        let registers = d_state.div_ceil(V::LANES);
        Self {
            registers,
            last: d_state - (registers - 1) * V::LANES,
            weights: vec![[V::splat(isa, V::Scalar::ZERO); 2]; registers * BLOCK],
            exp2: V::Scalar::exp2_constants(isa),
        }
    }

    /// Takes the steps of a block from (`d_state`, `seq_len`).
    #[inline(always)]
    pub(super) fn pack(&mut self, isa: V::Isa, b: &[V::Scalar], c: &[V::Scalar], seq_len: usize, block: Block) {
        let zero = V::splat(isa, V::Scalar::ZERO);
        for (which, from) in [b, c].into_iter().enumerate() {
            for (rows, weights) in from.chunks(V::LANES * seq_len).zip(self.weights.chunks_mut(BLOCK)) {
                for (group, weights) in weights.chunks_mut(V::LANES).take(block.steps().div_ceil(V::LANES)).enumerate()
                {
                    let steps = block.start + group * V::LANES..block.end;
                    let mut lanes = [zero; MOST_LANES];
                    for (lane, row) in lanes.iter_mut().zip(rows.chunks(seq_len)) {
                        *lane = V::load(isa, &row[steps.clone()]);
                    }
                    V::transpose(&mut lanes);
                    for (weights, lane) in weights.iter_mut().zip(lanes) {
                        weights[which] = lane;
                    }
                }
            }
        }
    }
}

/// The rates of some channels, in registers.
pub(super) struct Rates<V> {
    /// Rates: `a[channel * registers + register]`.
    pub(super) a: Vec<V>,
    /// The same times log2 e.
    pub(super) a2: Vec<V>,
}

impl<V: Vector> Rates<V> {
    #[inline(always)]
    pub(super) fn new(isa: V::Isa, a: &[V::Scalar], d_state: usize) -> Self {
        let registers = d_state.div_ceil(V::LANES);
        let channels = a.len() / d_state;
        let mut rates =
            Self { a: Vec::with_capacity(channels * registers), a2: Vec::with_capacity(channels * registers) };
        let log2_e = V::splat(isa, V::Scalar::from_f64(std::f64::consts::LOG2_E));
        for a in a.chunks(d_state) {
            for a in a.chunks(V::LANES) {
                let a = V::load(isa, a);
                rates.a.push(a);
                rates.a2.push(a * log2_e);
            }
        }
        rates
    }
}

/// The largest absolute value of each channel's rates, times log2 e.
pub(super) fn largest_rates<T: Float>(a: &[T], d_state: usize) -> Vec<f64> {
    let largest = |a: &[T]| {
        let mut largest = 0.0;
        for a in a {
            let a = a.to_f64().abs() * std::f64::consts::LOG2_E;
            // NaN stays.
            largest = if a <= largest { largest } else { a };
        }
        largest
    };
    a.chunks(d_state).map(largest).collect()
}

/// Registers of step sizes that go through softplus at once.
const AT_ONCE: usize = 4;

/// A channel's step sizes in a block of steps, and the inputs times these.
pub(super) struct StepSizes<T> {
    pub(super) delta: [T; BLOCK],
    pub(super) delta_u: [T; BLOCK],
    /// The derivative of softplus, where `delta` goes through it.
    pub(super) slope: [T; BLOCK],
    pub(super) largest: f64,
}

impl<T: Float> StepSizes<T> {
    pub(super) const EMPTY: Self =
        Self { delta: [T::ZERO; BLOCK], delta_u: [T::ZERO; BLOCK], slope: [T::ONE; BLOCK], largest: 0.0 };

    /// Of a block; the derivative of softplus where `SLOPE`.
    #[inline(always)]
    pub(super) fn read<I: Isa, const SLOPE: bool>(
        &mut self,
        isa: I,
        u: &[T],
        delta: &[T],
        bias: impl Fn(usize) -> T::Vector<I>,
        softplus: bool,
    ) {
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let mut seen = [zero; 2];
        let lanes = T::Vector::<I>::LANES;
        let mut start = 0;
        // Several at once, each by itself a chain of dependent operations.
        while start + lanes < u.len() {
            self.read_some::<I, SLOPE, AT_ONCE>(isa, u, delta, &bias, softplus, start, &mut seen);
            start += AT_ONCE * lanes;
        }
        if start < u.len() {
            self.read_some::<I, SLOPE, 1>(isa, u, delta, &bias, softplus, start, &mut seen);
        }
        let [largest, not_finite] = seen;
        let mut lanes = [T::ZERO; MOST_LANES];
        largest.store(&mut lanes);
        let largest = lanes.iter().fold(T::ZERO, |most, x| if *x > most { *x } else { most });
        self.largest = if not_finite.sum() == T::ZERO { largest.to_f64() } else { f64::INFINITY };
    }

    /// Of `N` registers from `start` on; `seen` are the largest of each lane, and NaN where one was not finite.
    #[inline(always)]
    fn read_some<I: Isa, const SLOPE: bool, const N: usize>(
        &mut self,
        isa: I,
        u: &[T],
        delta: &[T],
        bias: &impl Fn(usize) -> T::Vector<I>,
        softplus: bool,
        start: usize,
        seen: &mut [T::Vector<I>; 2],
    ) {
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let lanes = T::Vector::<I>::LANES;
        let mut steps = [zero; N];
        let mut slopes = [zero; N];
        for register in 0..N {
            let at = (start + register * lanes).min(u.len());
            steps[register] = T::Vector::<I>::load(isa, &delta[at..]) + bias(at);
        }
        if softplus {
            for register in 0..N {
                (steps[register], slopes[register]) = T::softplus_and_slope(isa, steps[register]);
            }
        }
        for register in 0..N {
            let (step, at) = (steps[register], start + register * lanes);
            step.store(&mut self.delta[at..]);
            if SLOPE && softplus {
                slopes[register].store(&mut self.slope[at..]);
            }
            (step * T::Vector::<I>::load(isa, &u[at.min(u.len())..])).store(&mut self.delta_u[at..]);
            // What is read beyond the slice are zeros: finite, and at most softplus(bias).
            seen[0] = seen[0].max(step.abs());
            seen[1] = step.mul_add(zero, seen[1]);
        }
    }
}

#[inline(always)]
pub(super) fn load_states<V: Vector>(isa: V::Isa, from: &[V::Scalar], d_state: usize, to: &mut [V]) {
    for (from, to) in from.chunks(d_state).zip(to.chunks_mut(d_state.div_ceil(V::LANES))) {
        for (from, to) in from.chunks(V::LANES).zip(to) {
            *to = V::load(isa, from);
        }
    }
}

#[inline(always)]
pub(super) fn store_states<V: Vector>(from: &[V], to: &mut [V::Scalar]) {
    for (from, to) in from.iter().zip(to.chunks_mut(V::LANES)) {
        from.store(to);
    }
}

/// Asks for numbers of the next channel: rows are so far apart that no processor foresees them.
#[inline(always)]
pub(super) fn prefetch<T>(values: &[T], start: usize, count: usize) {
    let mut at = start;
    while at < start + count {
        simd::prefetch(values, at);
        at += 64 / size_of::<T>();
    }
    // In a line of its own where rows do not begin with one.
    simd::prefetch(values, start + count - 1);
}

/// y + D u, then times `SiLU(z)`.
#[inline(always)]
pub(super) fn finish<T: Float, I: Isa>(
    isa: I,
    y: &mut [T],
    u: &[T],
    d: Option<impl Fn(usize) -> T::Vector<I>>,
    z: Option<&[T]>,
) {
    if d.is_none() && z.is_none() {
        return;
    }
    for start in (0..y.len()).step_by(T::Vector::<I>::LANES) {
        let mut out = T::Vector::<I>::load(isa, &y[start..]);
        if let Some(d) = &d {
            out = d(start).mul_add(T::Vector::<I>::load(isa, &u[start..]), out);
        }
        if let Some(z) = z {
            let z = T::Vector::<I>::load(isa, &z[start..]);
            out = out * (z * T::sigmoid(isa, z));
        }
        out.store(&mut y[start..]);
    }
}
