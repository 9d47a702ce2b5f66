//! What a head reads in a block of steps, next to each other.

use super::{Gate, Inputs, Shape};
use crate::simd::{Float, Isa, Vector};
use crate::ssm::sequence::{BLOCK, Block};

/// `by_gate!(gate, PER_KEY => expression)`: the expression with a constant that tells gates of channels of keys from those
/// of heads; no gate is one of heads that is 1.
macro_rules! by_gate {
    ($gate:expr, $per_key:ident => $work:expr) => {
        if matches!($gate, $crate::ssm::delta::Gate::Key(_)) {
            const $per_key: bool = true;
            $work
        } else {
            const $per_key: bool = false;
            $work
        }
    };
}
pub(super) use by_gate;

/// A block of steps of one head. Vectors of keys follow each other, filled with zeros to whole registers; `decay` with
/// ones.
pub(super) struct Packed<T> {
    /// Length of a vector of keys, filled.
    pub(super) width: usize,
    /// scale · q.
    pub(super) q: Vec<T>,
    /// k: what is written by.
    pub(super) k: Vec<T>,
    /// e^g ⊙ k: what the state before the step is read by for what is erased. Zeros follow the last one.
    pub(super) erase: Vec<T>,
    /// e^g for each channel of a key, where there is such a gate.
    pub(super) decay: Vec<T>,
    /// e^g for each step, where the gate is one of heads; 1 where there is none.
    pub(super) head_decay: [T; BLOCK],
    /// beta.
    pub(super) beta: [T; BLOCK],
}

impl<T: Float> Packed<T> {
    #[inline(always)]
    pub(super) fn new<I: Isa>(head_k: usize, g: &Gate<'_, T>, steps: usize) -> Self {
        let lanes = T::Vector::<I>::LANES;
        let width = head_k.div_ceil(lanes) * lanes;
        let zeros = || vec![T::ZERO; steps * width];
        let decay = if matches!(g, Gate::Key(_)) { vec![T::ONE; steps * width] } else { Vec::new() };
        Self {
            width,
            q: zeros(),
            k: zeros(),
            erase: vec![T::ZERO; (steps + 1) * width],
            decay,
            head_decay: [T::ONE; BLOCK],
            beta: [T::ZERO; BLOCK],
        }
    }

    /// Reads a block of steps of a head of a row.
    #[inline(always)]
    pub(super) fn pack<I: Isa>(
        &mut self,
        isa: I,
        shape: Shape,
        inputs: &Inputs<'_, T>,
        (row, head, seq_len): (usize, usize, usize),
        block: Block,
    ) {
        let (head_k, width, lanes) = (shape.head_k, self.width, T::Vector::<I>::LANES);
        let count = block.steps().min(BLOCK);
        let token = row * seq_len + block.start;
        for (t, beta) in self.beta[..count].iter_mut().enumerate() {
            *beta = inputs.beta[(token + t) * shape.n_heads + head];
        }
        if let Gate::Head(g) = inputs.g {
            for (t, decay) in self.head_decay[..count].iter_mut().enumerate() {
                *decay = g[(token + t) * shape.n_heads + head];
            }
            for decay in self.head_decay[..count].chunks_mut(lanes) {
                T::exp(isa, T::Vector::<I>::load(isa, decay)).store(decay);
            }
        }
        let key_head = shape.key_head(head);
        let scale = T::Vector::<I>::splat(isa, inputs.scale);
        for t in 0..count {
            let from = ((token + t) * shape.n_heads_k + key_head) * head_k;
            let (q, k) = (&inputs.q[from..from + head_k], &inputs.k[from..from + head_k]);
            let to = t * width..(t + 1) * width;
            let into = self.q[to.clone()].chunks_mut(lanes).zip(self.k[to.clone()].chunks_mut(lanes));
            let into = into.zip(self.erase[to.clone()].chunks_mut(lanes));
            let from = q.chunks(lanes).zip(k.chunks(lanes));
            if let Gate::Key(g) = inputs.g {
                let at = ((token + t) * shape.n_heads + head) * head_k;
                let g = g[at..at + head_k].chunks(lanes).zip(self.decay[to].chunks_mut(lanes));
                for ((((q_to, k_to), erase), (q, k)), (g, decay)) in into.zip(from).zip(g) {
                    let k = T::Vector::<I>::load(isa, k);
                    let factor = T::exp(isa, T::Vector::<I>::load(isa, g));
                    (T::Vector::<I>::load(isa, q) * scale).store(q_to);
                    k.store(k_to);
                    (factor * k).store(erase);
                    factor.store(decay);
                }
            } else {
                let factor = T::Vector::<I>::splat(isa, self.head_decay[t]);
                for (((q_to, k_to), erase), (q, k)) in into.zip(from) {
                    let k = T::Vector::<I>::load(isa, k);
                    (T::Vector::<I>::load(isa, q) * scale).store(q_to);
                    k.store(k_to);
                    (factor * k).store(erase);
                }
            }
        }
        self.erase[count * width..(count + 1) * width].fill(T::ZERO);
    }

    /// A step of an array of vectors of keys.
    #[inline(always)]
    pub(super) fn at(values: &[T], step: usize, width: usize) -> &[T] {
        &values[step * width..(step + 1) * width]
    }
}
