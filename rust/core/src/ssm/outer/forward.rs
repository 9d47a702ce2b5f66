//! The whole sequence.

use super::Head;
use super::pack::{
    Keys, Mix, Span, load_tiles, padded_rows, pairs, prefetch, prefetch_out, read_columns, store_tiles, write_columns,
};
use super::tile::{CHUNK, CHUNKS, Columns, ROWS, scan};
use crate::simd::{Float, HeadMut, Isa, Kernel, Vector};
use crate::ssm::Sequences;

/// One head of one row.
pub(super) struct Forward<'a, T> {
    pub(super) sequences: &'a Sequences<'a>,
    pub(super) row: usize,
    pub(super) head: Head<'a, T>,
    pub(super) o: HeadMut<'a, T>,
    pub(super) last_state: HeadMut<'a, T>,
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

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { sequences, row, head, mut o, mut last_state } = self;
        let zero = T::Vector::<I>::splat(isa, T::ZERO);
        let row_tiles = head.head_k.div_ceil(ROWS);
        let columns = pairs::<T, I>(head.head_v);
        let mut keys = Keys::<T::Vector<I>>::new(isa, head.head_k);
        let mut weights = vec![[[T::ZERO; ROWS]; 9]; padded_rows::<T, I>(head.head_k) * CHUNKS];
        let mut mix = [[[T::ZERO; CHUNK]; CHUNK]; CHUNKS];
        let mut values = vec![[[zero; 2]; CHUNK]; columns * CHUNKS];
        let mut out = [[[zero; 2]; CHUNK]; CHUNKS];
        let mut outs = values.clone();
        let mut states = vec![[[zero; 2]; ROWS]; columns * row_tiles];
        if let Some(initial) = &head.initial_state {
            load_tiles(isa, initial, head.head_k, &mut states);
        }
        clear_padding(sequences, row, &mut o);
        let spans = Span::of(sequences, row);
        for (nth, span) in spans.iter().enumerate() {
            let span = *span;
            if span.begins {
                states.fill([[zero; 2]; ROWS]);
            }
            let chunks = span.chunks();
            keys.read(isa, &head, span);
            keys.weights(isa, chunks, &mut weights, &mut mix);
            read_columns(isa, &head.v, span, &mut values);
            prefetch(&head, None, spans.get(nth + 1));
            prefetch_out(&mut o, spans.get(nth + 1));
            for column in 0..columns {
                let values = &values[column * CHUNKS..][..chunks];
                mix_forward(isa, &mix[..chunks], values, &mut out[..chunks]);
                for tile in 0..row_tiles {
                    let weights = &weights[tile * CHUNKS..][..chunks];
                    scan(isa, weights, None, values, &mut out, &mut states[column * row_tiles + tile]);
                }
                outs[column * CHUNKS..][..chunks].copy_from_slice(&out[..chunks]);
            }
            write_columns(isa, &outs, span, &mut o);
        }
        store_tiles(isa, &states, head.head_k, &mut last_state);
    }
}
