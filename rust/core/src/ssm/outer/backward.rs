//! Gradients, in two passes over a head.
//!
//! The first, forward in time, has `dq_t = scale · S_t do_t`: the same recurrence with its state transposed, where do
//! reads. The second, backward in time, has the gradient of the state, `D_t = α_{t+1} D_{t+1} + scale · q_t do_tᵀ`, and
//! of it `dk_t = D_t v_t` and `dv_t = D_tᵀ k_t`.
//!
//! The gradient of a log-gate, the sum over v of `D_t ⊙ α_t S_{t−1}`, needs no states of single steps: it is the sum of
//! all that step t lets through, from keys and the state before to queries and the state after. In a chunk these are
//! products of decays with what the two passes have anyhow; from chunk to chunk it is `R = Σ_v D ⊙ S` of a key channel
//! that is carried. That is the reverse sum of `q ⊙ dq − k ⊙ dk`, without its large terms that cancel where gates are
//! nearly closed. R begins anew from D and S every few blocks, where the first pass kept the state, so that its error does
//! not grow with the length. (NaN in k or v reaches the gradients of gates so much earlier than in the recurrence.)

use super::forward::clear_padding;
use super::gradients::Scratch;
use super::pack::{Span, next_of, store_tiles};
use super::{Gate, Gradients, Head, Heads, Rows, SHARERS, Upstream, sum_partial};
use crate::simd::{Float, HeadMut, Isa, Kernel, Soon};
use crate::ssm::{Execution, Sequences, zeros};
use crate::{Result, parallel};

/// Where the gradient of a head's log-gates goes.
pub(super) enum OfGate<'a, T> {
    None,
    /// The sum over steps.
    Constant(&'a mut f64),
    Head(HeadMut<'a, T>),
    Channel(HeadMut<'a, T>),
}

/// One head of v in one part of the work.
pub(super) struct OneHead<'a, T> {
    pub(super) head: Head<'a, T>,
    pub(super) upstream: Rows<'a, T>,
    pub(super) last_state: Option<Rows<'a, T>>,
    pub(super) of_v: HeadMut<'a, T>,
    pub(super) of_gate: OfGate<'a, T>,
    pub(super) of_initial: HeadMut<'a, T>,
}

impl<T: Float> OneHead<'_, T> {
    /// What a pass reads and writes.
    fn soon(&self, of_keys: Soon, of_values: Option<Soon>) -> [Soon; 8] {
        let [q, k, gates, v] = self.head.soon();
        let of_gate = match &self.of_gate {
            OfGate::Head(of_gate) | OfGate::Channel(of_gate) => of_gate.soon(),
            OfGate::None | OfGate::Constant(_) => gates,
        };
        [q, k, gates, v, self.upstream.soon(), of_keys, of_gate, of_values.unwrap_or(v)]
    }
}

/// Heads of one row that share a head of q and k, and its gradients.
struct Shared<'a, T> {
    heads: Vec<OneHead<'a, T>>,
    of_q: HeadMut<'a, T>,
    of_k: HeadMut<'a, T>,
}

/// Some of these of one row: they go through its steps together, so that what lies side by side is read at one time.
struct Backward<'a, T> {
    sequences: &'a Sequences<'a>,
    row: usize,
    parts: Vec<Shared<'a, T>>,
}

/// Views that are taken one by one, in any order.
struct Taken<'a, T>(Vec<Option<HeadMut<'a, T>>>);

impl<'a, T> Taken<'a, T> {
    fn new(views: Vec<HeadMut<'a, T>>) -> Self {
        Self(views.into_iter().map(Some).collect())
    }

    fn take(&mut self, at: usize) -> Option<HeadMut<'a, T>> {
        self.0.get_mut(at).and_then(Option::take)
    }
}

/// `seq_len` and the batch are at least 1, and all sizes fit.
pub(super) fn run<T: Float>(
    sequences: &Sequences<'_>,
    heads: Heads<'_, T>,
    upstream: Upstream<'_, T>,
    gradients: Gradients<'_, T>,
    execution: Execution<'_>,
) -> Result<()> {
    let (rows, seq_len, shape, splits) = (sequences.batch(), sequences.seq_len(), heads.shape, heads.splits);
    let Gradients { q, k, v, mut gate, initial_state } = gradients;
    // Parts that share a head of q and k, or of the gates, have sums of their own.
    let in_part = heads.ratio().div_ceil(SHARERS);
    let sharers = heads.ratio().div_ceil(in_part);
    let constant = matches!(heads.inputs.gate, Gate::Constant(_));
    let own = |sharers: usize, len: usize| zeros::<T>(if sharers == 1 { 0 } else { sharers * len });
    let (mut sums_q, mut sums_k) = (own(sharers, q.len())?, own(sharers, k.len())?);
    let mut sums_gate = own(if constant { 1 } else { splits }, gate.as_ref().map_or(0, |gate| gate.len()))?;
    let mut constants = vec![0.0; rows * heads.count()];

    let to_q = if sharers == 1 { &mut *q } else { &mut sums_q[..] };
    let to_k = if sharers == 1 { &mut *k } else { &mut sums_k[..] };
    let wanted = gate.is_some();
    let to_gate = match &mut gate {
        Some(gate) if splits == 1 && !constant => gate,
        _ => &mut sums_gate[..],
    };
    let gate_width = if matches!(heads.inputs.gate, Gate::Channel(_)) { shape.head_k } else { 1 };
    let mut of_q = Taken::new(HeadMut::split(to_q, seq_len, shape.n_heads_k, shape.head_k));
    let mut of_k = Taken::new(HeadMut::split(to_k, seq_len, shape.n_heads_k, shape.head_k));
    let mut of_gate = Taken::new(HeadMut::split(to_gate, seq_len, shape.n_heads, gate_width));
    let mut each = heads.split_values(v).into_iter().zip(heads.split_states(initial_state)).zip(&mut constants);
    let mut work = Vec::new();
    let all_parts = rows * shape.n_heads_k * sharers;
    let together = Heads::<T>::together(all_parts, in_part, execution.threads);
    for row in 0..rows {
        let mut parts = Vec::with_capacity(shape.n_heads_k * sharers);
        for (shared, sharer) in (0..shape.n_heads_k).flat_map(|shared| (0..sharers).map(move |sharer| (shared, sharer)))
        {
            let first = shared * heads.ratio() + sharer * in_part;
            let last = (first + in_part).min((shared + 1) * heads.ratio());
            let mut in_this = Vec::with_capacity(last - first);
            for (head, ((of_v, of_initial), sum)) in (first..last).zip(&mut each) {
                let view = of_gate.take((head % splits * rows + row) * shape.n_heads + head / splits);
                let of_gate = match (heads.inputs.gate, view) {
                    (Gate::Constant(_), _) if wanted => OfGate::Constant(sum),
                    (Gate::Head(_), Some(view)) => OfGate::Head(view),
                    (Gate::Channel(_), Some(view)) => OfGate::Channel(view),
                    _ => OfGate::None,
                };
                in_this.push(OneHead {
                    head: heads.get(row, head),
                    upstream: heads.of_values(upstream.o, row, head),
                    last_state: upstream.last_state.map(|state| heads.of_states(state, row, head)),
                    of_v,
                    of_gate,
                    of_initial,
                });
            }
            let view = (sharer * rows + row) * shape.n_heads_k + shared;
            if let (Some(of_q), Some(of_k)) = (of_q.take(view), of_k.take(view)) {
                parts.push(Shared { heads: in_this, of_q, of_k });
            }
        }
        while !parts.is_empty() {
            let rest = parts.split_off(together.min(parts.len()));
            work.push(Backward { sequences, row, parts });
            parts = rest;
        }
    }
    parallel::for_each_polled(execution.threads, work, execution.poll, |part| {
        execution.level.run(part);
        Ok(())
    })?;

    if sharers > 1 {
        sum_partial(&sums_q, q, execution.threads)?;
        sum_partial(&sums_k, k, execution.threads)?;
    }
    if let Some(gate) = gate {
        if constant {
            for (head, out) in gate.iter_mut().enumerate() {
                let of_row = |row: usize| &constants[row * heads.count() + head * splits..][..splits];
                *out = T::from_f64((0..rows).flat_map(of_row).sum());
            }
        } else if splits > 1 {
            sum_partial(&sums_gate, gate, execution.threads)?;
        }
    }
    Ok(())
}

impl<T: Float> Kernel for Backward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, row, mut parts } = self;
        let Some(first) = parts.first().and_then(|part| part.heads.first()) else { return };
        let spans = Span::of(sequences, row);
        let mut scratch = Scratch::<T::Vector<I>>::new(isa, &first.head);
        let mut carried = Vec::new();
        for part in &mut parts {
            clear_padding(sequences, row, &mut part.of_q);
            clear_padding(sequences, row, &mut part.of_k);
            for head in &mut part.heads {
                clear_padding(sequences, row, &mut head.of_v);
                if let OfGate::Head(of_gate) | OfGate::Channel(of_gate) = &mut head.of_gate {
                    clear_padding(sequences, row, of_gate);
                }
                carried.push(scratch.start(isa, head, &spans));
            }
        }
        let mut places = Vec::with_capacity(carried.len());
        for part in &parts {
            for head in &part.heads {
                places.push(head.soon(part.of_q.soon(), None));
            }
        }
        for (at, span) in spans.iter().enumerate() {
            let mut carried = carried.iter_mut().enumerate();
            for part in &mut parts {
                for ((nth, head), (place, carried)) in part.heads.iter_mut().enumerate().zip(&mut carried) {
                    let next = next_of(&places, place, span, spans.get(at + 1));
                    scratch.queries(isa, head, carried, *span, nth > 0, &mut part.of_q, next);
                }
            }
        }
        let heads = parts.iter().flat_map(|part| &part.heads);
        for (head, carried) in heads.zip(&mut carried) {
            scratch.turn(isa, head, carried);
        }
        places.clear();
        for part in &parts {
            for head in &part.heads {
                places.push(head.soon(part.of_k.soon(), Some(head.of_v.soon())));
            }
        }
        for (at, span) in spans.iter().enumerate().rev() {
            let mut carried = carried.iter_mut().enumerate();
            for part in &mut parts {
                for ((nth, head), (place, carried)) in part.heads.iter_mut().enumerate().zip(&mut carried) {
                    let next = next_of(&places, place, span, at.checked_sub(1).map(|before| &spans[before]));
                    scratch.keys_and_values(isa, head, carried, *span, nth > 0, &mut part.of_k, next);
                }
            }
        }
        let heads = parts.iter_mut().flat_map(|part| &mut part.heads);
        for (head, carried) in heads.zip(&carried) {
            store_tiles(isa, &carried.tiles, head.head.head_k, &mut head.of_initial);
        }
    }
}
