//! The whole sequence.

use super::Head;
use super::pack::{
    Ahead, Keys, Mix, Span, load_tiles, next_of, padded_rows, pairs, read_columns, store_tiles, write_columns,
};
use super::tile::{CHUNK, CHUNKS, Columns, ROWS, scan};
use crate::simd::{Float, HeadMut, Isa, Kernel, Vector};
use crate::ssm::Sequences;

/// One head of one row.
pub(super) struct OneHead<'a, T> {
    pub(super) head: Head<'a, T>,
    pub(super) o: HeadMut<'a, T>,
    pub(super) last_state: HeadMut<'a, T>,
}

/// Heads of one row, side by side.
pub(super) struct Forward<'a, T> {
    pub(super) sequences: &'a Sequences<'a>,
    pub(super) row: usize,
    pub(super) heads: Vec<OneHead<'a, T>>,
}

/// Sets the steps that are not there to zero.
#[inline(always)]
pub(super) fn clear_padding<T: Float>(sequences: &Sequences<'_>, row: usize, of: &mut HeadMut<'_, T>) {
    let steps = sequences.steps(row);
    for step in (0..steps.start).chain(steps.end..sequences.seq_len()) {
        of.row(step).fill(T::ZERO);
    }
}

/// What each step of a chunk has of the values of it and of earlier steps.
#[inline(always)]
pub(super) fn mix_forward<V: Vector>(
    isa: V::Isa,
    mix: &[Mix<V::Scalar>],
    values: &[Columns<V>],
    out: &mut [Columns<V>],
) {
    for ((mix, values), out) in mix.iter().zip(values).zip(out) {
        for t in 0..CHUNK {
            let weight = V::splat(isa, mix[t][0]);
            let mut sum = [weight * values[0][0], weight * values[0][1]];
            for s in 1..=t {
                let weight = V::splat(isa, mix[t][s]);
                sum = [weight.mul_add(values[s][0], sum[0]), weight.mul_add(values[s][1], sum[1])];
            }
            out[t] = sum;
        }
    }
}

impl<T: Float> Kernel for Forward<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, row, mut heads } = self;
        let Some(OneHead { head: Head { head_k, head_v, .. }, .. }) = heads.first() else { return };
        let (head_k, head_v) = (*head_k, *head_v);
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let row_tiles = head_k.div_ceil(ROWS);
        let columns = pairs::<T, I>(head_v);
        let mut keys = Keys::<T::Vector<I>>::new(isa, head_k);
        let mut weights = vec![[[T::ZERO; ROWS]; 9]; padded_rows::<T, I>(head_k) * CHUNKS];
        let mut mix = [[[T::ZERO; CHUNK]; CHUNK]; CHUNKS];
        let mut values = vec![[[zero; 2]; CHUNK]; columns * CHUNKS];
        let mut outs = values.clone();
        let mut states = vec![[[zero; 2]; ROWS]; heads.len() * columns * row_tiles];
        for (head, states) in heads.iter_mut().zip(states.chunks_mut(columns * row_tiles)) {
            if let Some(initial) = &head.head.initial_state {
                load_tiles(isa, initial, head_k, states);
            }
            clear_padding(sequences, row, &mut head.o);
        }
        let mut places = Vec::with_capacity(heads.len());
        for head in &heads {
            let [q, k, gates, v] = head.head.soon();
            places.push([q, k, gates, v, head.o.soon()]);
        }
        let spans = Span::of(sequences, row);
        for (at, span) in spans.iter().enumerate() {
            let chunks = span.chunks();
            for (nth, (head, states)) in heads.iter_mut().zip(states.chunks_mut(columns * row_tiles)).enumerate() {
                let next = next_of(&places, nth, span, spans.get(at + 1));
                let mut ahead = Ahead::new(next, columns * row_tiles);
                if span.begins {
                    states.fill([[zero; 2]; ROWS]);
                }
                keys.read(isa, &head.head, *span);
                read_columns(isa, &head.head.v, *span, &mut values);
                keys.weights(isa, chunks, &mut weights, &mut mix);
                for column in 0..columns {
                    let values = &values[column * CHUNKS..][..chunks];
                    let out = &mut outs[column * CHUNKS..][..chunks];
                    mix_forward(isa, &mix[..chunks], values, out);
                    for tile in 0..row_tiles {
                        ahead.ask();
                        let weights = &weights[tile * CHUNKS..][..chunks];
                        scan::<_, false>(isa, weights, None, values, out, &mut states[column * row_tiles + tile]);
                    }
                }
                write_columns(isa, &outs, *span, &mut head.o);
            }
        }
        for (head, states) in heads.iter_mut().zip(states.chunks(columns * row_tiles)) {
            store_tiles(isa, states, head_k, &mut head.last_state);
        }
    }
}
