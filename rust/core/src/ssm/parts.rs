//! How the work of the diagonal family is shared out: some channels of one row of the batch, two registers at a time.

use crate::simd::Float;

/// Goes over the registers of a channel's states: two at a time, or the last one.
macro_rules! by_twos {
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
pub(super) use by_twos;

/// Consecutive channels of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) row: usize,
    pub(super) first: usize,
    pub(super) channels: usize,
}

/// All parts, row by row, of at most `tile` channels.
pub(super) fn parts(rows: usize, channels: usize, tile: usize) -> Vec<Part> {
    (0..rows)
        .flat_map(|row| {
            (0..channels).step_by(tile).map(move |first| Part { row, first, channels: tile.min(channels - first) })
        })
        .collect()
}

/// Cuts an array of shape (batch, channels, `width`) into what belongs to each part, in their order.
pub(super) fn split<'a, T>(parts: &[Part], mut values: &'a mut [T], width: usize) -> Vec<&'a mut [T]> {
    parts
        .iter()
        .map(|part| {
            let (head, tail) = std::mem::take(&mut values).split_at_mut(part.channels * width);
            values = tail;
            head
        })
        .collect()
}

/// Splits an array that may not be there.
pub(super) fn split_option<'a, T>(
    parts: &[Part],
    values: Option<&'a mut [T]>,
    width: usize,
) -> Vec<Option<&'a mut [T]>> {
    match values {
        Some(values) => split(parts, values, width).into_iter().map(Some).collect(),
        None => parts.iter().map(|_| None).collect(),
    }
}

/// The sum of the rows of an array of shape (rows, `out.len()`), first to last.
pub(super) fn sum_rows<T: Float>(values: &[T], out: &mut [T]) {
    out.fill(T::ZERO);
    for row in values.chunks(out.len().max(1)) {
        for (sum, value) in out.iter_mut().zip(row) {
            *sum += *value;
        }
    }
}
