//! Counter-based random sampling: example `i` of a stream is a function of (seed, stream, i) alone.
//!
//! Every call has one `ChaCha8` keystream. Its key holds the seed, the kind of draw and its parameters, its nonce holds the
//! stream, so calls that differ in any of them are independent. A row of `w` draws owns the draws `i·w … i·w + w - 1`: rows
//! that follow one another are one contiguous piece of keystream, however they are cut into calls and threads. A draw that
//! rejection refuses is repeated from further keystreams (levels 1, 2, …), in which each position owns a block of 64 bytes.
//! Nothing is biased, not even by 2^-32: multiply-and-reject for uniform draws, integer counts that sum to 2^32 for others.

mod keystream;

use std::collections::HashMap;
use std::hint::select_unpredictable;

use keystream::{BATCH, Keystream, Kind};

use crate::{Error, Result, parallel};

/// The sum of the counts of a distribution: a draw is one 32-bit word.
pub const TOTAL: u64 = 1 << 32;

/// Largest vocabulary for which a table of outcomes is built.
pub const MAX_TABLE: u64 = 1 << 24;

/// Words handled at a time: keystream and results stay in the first-level cache.
const BLOCK: usize = 1024;

/// Walks of a chain that are under way at a time, as each step waits for the one before.
const LANES: usize = 6;

/// Words that a long walk uses up at a time.
const PIECE: usize = 512;

/// A row is walked in pieces if it is as many times longer than two walks need to meet: some `vocab_size` steps, as they do
/// so by chance.
const MEETINGS: u64 = 64;

/// Fewer items than this are not worth another thread.
const ITEMS_PER_THREAD: usize = 1 << 15;

/// Which rows of which stream a call is about: `start`, `start + 1`, ….
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Seed of the whole experiment.
    pub seed: u64,
    /// Names what the numbers are for (task, split, purpose).
    pub stream: u64,
    /// The first row.
    pub start: u64,
}

/// Checks the shape of an output and that its draws can be counted; gives the first draw.
fn check_rows(rows: Rows, row_len: usize, items: usize, threads: usize) -> Result<u64> {
    parallel::check(threads)?;
    if items == 0 {
        return Ok(0);
    }
    if row_len == 0 || !items.is_multiple_of(row_len) {
        return Err(Error::value(format!("{items} items are not a whole number of rows of {row_len}")));
    }
    let end = (u128::from(rows.start) + (items / row_len) as u128) * row_len as u128;
    if end > 1 << 63 {
        let start = rows.start;
        return Err(Error::value(format!(
            "(start + count) * row length must be at most 2^63, not start = {start} and rows of {row_len}"
        )));
    }
    Ok(rows.start * row_len as u64)
}

fn check_vocab_size(vocab_size: u64, most: u64) -> Result<()> {
    if vocab_size == 0 || vocab_size > most {
        let power = most.ilog2();
        return Err(Error::value(format!("vocab_size must be 1 to 2^{power}, not {vocab_size}")));
    }
    Ok(())
}

/// Calls `fill(first_row, rows)` on disjoint pieces of `out`, each a whole number of rows, on `threads` threads.
fn over_rows<T: Send>(
    out: &mut [T],
    row_len: usize,
    threads: usize,
    fill: impl Fn(usize, &mut [T]) + Sync + Send,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let rows = out.len() / row_len;
    let parts = threads.min(out.len().div_ceil(ITEMS_PER_THREAD)).clamp(1, rows);
    let rows_each = rows.div_ceil(parts);
    let pieces: Vec<_> = out.chunks_mut(rows_each * row_len).enumerate().collect();
    parallel::for_each(parts, pieces, |(part, piece)| {
        fill(part * rows_each, piece);
        Ok(())
    })
}

/// Uniform tokens in `0..vocab_size`, rows of `seq_len`.
///
/// Multiply, and reject in the rare case that would be biased (Lemire, <https://doi.org/10.1145/3230636>).
pub fn uniform(rows: Rows, seq_len: usize, vocab_size: u64, threads: usize, out: &mut [u32]) -> Result<()> {
    check_vocab_size(vocab_size, TOTAL)?;
    let first = check_rows(rows, seq_len, out.len(), threads)?;
    let keystream = Keystream::new(rows, Kind::Uniform, seq_len, vocab_size);
    let threshold = (TOTAL % vocab_size) as u32;
    over_rows(out, 1, threads, |token, piece| {
        keystream.map_words(first + token as u64, piece, |position, words, out| {
            let mut lowest = u32::MAX;
            for (token, word) in out.iter_mut().zip(words) {
                let product = u64::from(*word) * vocab_size;
                *token = (product >> 32) as u32;
                lowest = lowest.min(product as u32);
            }
            if lowest < threshold {
                for ((position, token), word) in (position..).zip(out).zip(words) {
                    let low = word.wrapping_mul(vocab_size as u32);
                    if low < threshold {
                        *token = keystream.redraw_u32(position, vocab_size, threshold);
                    }
                }
            }
        });
    })
}

/// A place of an alias table: words whose low bits are below `cut` give the place itself, the others `alias`.
#[derive(Debug, Clone, Copy)]
struct Place {
    cut: u32,
    alias: u32,
}

/// A distribution over `0..counts.len()` with P(j) = counts\[j\] / 2^32 exactly: Walker's alias method over 2^m places.
#[derive(Debug, Clone)]
pub struct Categorical {
    places: Vec<Place>,
    /// 32 - m.
    low_bits: u32,
}

impl Categorical {
    /// Builds the table; `counts` must sum to 2^32.
    pub fn new(counts: &[u64]) -> Result<Self> {
        check_vocab_size(counts.len() as u64, MAX_TABLE)?;
        let sum: u128 = counts.iter().map(|&count| u128::from(count)).sum();
        if sum != u128::from(TOTAL) {
            return Err(Error::value(format!("counts must sum to 2^32, not a sum of {sum}")));
        }
        let bits = counts.len().next_power_of_two().ilog2().max(1);
        let share = TOTAL >> bits;
        let mut left = counts.to_vec();
        left.resize(1 << bits, 0);
        let mut places: Vec<Place> = (0..1 << bits).map(|j| Place { cut: share as u32, alias: j }).collect();
        let (mut poor, mut rich): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|&j| left[j] < share);
        // The counts left over sum to (places left over) · share at all times, so a rich one exists while a poor one does.
        while let (Some(receiver), Some(&giver)) = (poor.pop(), rich.last()) {
            places[receiver] = Place { cut: left[receiver] as u32, alias: giver as u32 };
            left[giver] -= share - left[receiver];
            if left[giver] < share {
                rich.pop();
                poor.push(giver);
            }
        }
        Ok(Self { places, low_bits: 32 - bits })
    }

    /// The outcome of a uniformly random word.
    #[inline]
    #[must_use]
    pub fn outcome(&self, word: u32) -> u32 {
        let place = word >> self.low_bits;
        let Place { cut, alias } = self.places[place as usize];
        select_unpredictable(word & ((1 << self.low_bits) - 1) < cut, place, alias)
    }

    /// Independent draws, rows of `seq_len`.
    pub fn fill(&self, rows: Rows, seq_len: usize, threads: usize, out: &mut [u32]) -> Result<()> {
        let first = check_rows(rows, seq_len, out.len(), threads)?;
        let keystream = Keystream::new(rows, Kind::Categorical, seq_len, self.places.len() as u64);
        over_rows(out, 1, threads, |token, piece| {
            keystream.map_words(first + token as u64, piece, |_, words, out| {
                for (token, word) in out.iter_mut().zip(words) {
                    *token = self.outcome(*word);
                }
            });
        })
    }
}

/// Counts of a Zipf distribution, P(j) ∝ (j + 1)^-exponent, rounded so that they sum to 2^32.
///
/// Count j is the difference of the rounded cumulative weights, so it is less than one from the ideal; counts of very
/// rare tokens may be 0. The same on every machine: the power is computed in software.
pub fn zipf_counts(vocab_size: u64, exponent: f64) -> Result<Vec<u64>> {
    check_vocab_size(vocab_size, MAX_TABLE)?;
    if !(exponent.is_finite() && exponent >= 0.0) {
        return Err(Error::value(format!("exponent must be finite and at least 0, not {exponent}")));
    }
    let mut cumulative = Vec::with_capacity(vocab_size as usize);
    let mut sum = 0.0;
    for rank in 1..=vocab_size {
        sum += libm::pow(rank as f64, -exponent);
        cumulative.push(sum);
    }
    let mut below = 0;
    let counts = cumulative.iter().map(|&weight| {
        let up_to = libm::round(weight / sum * TOTAL as f64) as u64;
        up_to - std::mem::replace(&mut below, up_to)
    });
    Ok(counts.collect())
}

/// Gives an array of as many rows as there are, at most [`LANES`], to an expression.
macro_rules! by_rows {
    ($all:ident, $seq_len:expr, |$rows:ident| $walk:expr) => {
        match $all.len() / $seq_len {
            1 => by_rows!(1, $all, $seq_len, |$rows| $walk),
            2 => by_rows!(2, $all, $seq_len, |$rows| $walk),
            3 => by_rows!(3, $all, $seq_len, |$rows| $walk),
            4 => by_rows!(4, $all, $seq_len, |$rows| $walk),
            5 => by_rows!(5, $all, $seq_len, |$rows| $walk),
            _ => by_rows!(LANES, $all, $seq_len, |$rows| $walk),
        }
    };
    ($count:expr, $all:ident, $seq_len:expr, |$rows:ident| $walk:expr) => {{
        let mut each = $all.chunks_exact_mut($seq_len);
        let $rows: [&mut [u32]; $count] = std::array::from_fn(|_| each.next().unwrap_or_default());
        $walk
    }};
}

/// A place of a state's alias table: words below `cut`, which begins with the place, give `own`, others `alias`: the first
/// places of the states that come next.
#[derive(Debug, Clone, Copy)]
struct Step {
    cut: u32,
    /// `own` in the high half, `alias` in the low one: both come with one load, so that no second one waits for the cut.
    next: u64,
}

/// A Markov chain over `0..vocab_size`, drawn at random: `branching` distinct successors for each state, with counts that
/// sum to 2^32 (all such positive counts are equally likely). The first token is uniform.
#[derive(Debug, Clone)]
pub struct Markov {
    vocab_size: u64,
    /// Successors, `vocab_size` rows of `branching`.
    pub successors: Vec<u32>,
    /// Counts of the successors, P = count / 2^32.
    pub counts: Vec<u64>,
    steps: Vec<Step>,
    /// log2 of the places of a state.
    place_bits: u32,
}

impl Markov {
    /// Draws the chain that belongs to `seed`.
    pub fn new(seed: u64, vocab_size: u64, branching: u64) -> Result<Self> {
        check_vocab_size(vocab_size, MAX_TABLE)?;
        if branching == 0 || branching > vocab_size {
            return Err(Error::value(format!("branching must be 1 to vocab_size ({vocab_size}), not {branching}")));
        }
        if vocab_size * branching > MAX_TABLE {
            let product = vocab_size * branching;
            return Err(Error::value(format!("vocab_size * branching must be at most 2^24, not {product}")));
        }
        let width = branching as usize;
        let rows = Rows { seed, stream: 0, start: 0 };
        let successor_stream = Keystream::new(rows, Kind::Successors, width, vocab_size);
        let weight_stream = Keystream::new(rows, Kind::Weights, width, vocab_size);
        let place_bits = branching.next_power_of_two().ilog2().max(1);
        let mut chain = Self {
            vocab_size,
            successors: Vec::with_capacity(vocab_size as usize * width),
            counts: Vec::with_capacity(vocab_size as usize * width),
            steps: Vec::with_capacity((vocab_size as usize) << place_bits),
            place_bits,
        };
        let mut moved = HashMap::new();
        let mut drawn = vec![0; width];
        for state in 0..vocab_size {
            successor_stream.distinct(state, vocab_size, &mut moved, &mut drawn);
            let successors: Vec<u32> = drawn.iter().map(|&token| token as u32).collect();
            // Distinct cuts of 2^32 into `branching` pieces of at least 1.
            weight_stream.distinct(state, TOTAL - 1, &mut moved, &mut drawn[1..]);
            drawn[0] = 0;
            drawn[1..].iter_mut().for_each(|cut| *cut += 1);
            drawn.sort_unstable();
            let ends = drawn[1..].iter().chain([&TOTAL]);
            let counts: Vec<u64> = drawn.iter().zip(ends).map(|(from, to)| to - from).collect();
            let table = Categorical::new(&counts)?;
            let share = TOTAL >> place_bits;
            chain.steps.extend(table.places.iter().enumerate().map(|(own, place)| Step {
                // A place that is all its own is its alias, too: its last cut, 2^32, may be one less.
                cut: (own as u64 * share + u64::from(place.cut)).min(TOTAL - 1) as u32,
                // Places past the last successor have a cut of 0: never their own.
                next: u64::from(successors.get(own).unwrap_or(&0) << place_bits) << 32
                    | u64::from(successors.get(place.alias as usize).unwrap_or(&0) << place_bits),
            }));
            chain.successors.extend(successors);
            chain.counts.extend(counts);
        }
        Ok(chain)
    }

    /// Independent walks of `seq_len` tokens, one a row.
    pub fn fill(&self, rows: Rows, seq_len: usize, threads: usize, out: &mut [u32]) -> Result<()> {
        let first = check_rows(rows, seq_len, out.len(), threads)?;
        let keystream = Keystream::new(rows, Kind::Markov, seq_len, self.vocab_size);
        over_rows(out, seq_len, threads, |row, piece| {
            let first = first + row as u64 * seq_len as u64;
            let group = LANES * seq_len;
            let groups = |first: u64, rows| (first..).step_by(group).zip(<[u32]>::chunks_mut(rows, group));
            if group <= BLOCK {
                // A keystream for whole groups, and where some have whole batches of words, for so many.
                let most = BLOCK / group;
                let whole = (1..=most).rev().find(|count| (count * group).is_multiple_of(BATCH));
                let block = group * whole.unwrap_or(most);
                let mut words = keystream.words(first);
                for (first, block) in (first..).step_by(block).zip(piece.chunks_mut(block)) {
                    words.fill(block);
                    for (first, rows) in groups(first, block) {
                        by_rows!(rows, seq_len, |rows| {
                            self.start(&keystream, first, seq_len, rows);
                        });
                    }
                }
            } else {
                let long = seq_len as u64 >= MEETINGS * self.vocab_size.max(BLOCK as u64);
                for (first, rows) in groups(first, piece) {
                    if long && rows.len() < group {
                        for (first, row) in (first..).step_by(seq_len).zip(rows.chunks_exact_mut(seq_len)) {
                            self.walk_apart(&keystream, first, row);
                        }
                    } else {
                        by_rows!(rows, seq_len, |rows| {
                            self.walk_long(&keystream, first, seq_len, None, rows);
                        });
                    }
                }
            }
        })
    }

    /// A walk in pieces at the same time, each but the first from a state that is guessed, then corrected.
    ///
    /// Two walks by the same words soon come to the same state, and stay together from there: only the beginning of a piece
    /// has to be walked again.
    fn walk_apart(&self, keystream: &Keystream, first: u64, row: &mut [u32]) {
        let len = (row.len() - 1) / LANES;
        let (head, tail) = row.split_at_mut(row.len() - LANES * len);
        let mut guessed = [0; LANES];
        [guessed[0]] = self.walk_long(keystream, first, 0, None, [head]);
        let first = first + head.len() as u64;
        let mut pieces = tail.chunks_exact_mut(len);
        let pieces: [&mut [u32]; LANES] = std::array::from_fn(|_| pieces.next().unwrap_or_default());
        let ends = self.walk_long(keystream, first, len, Some(guessed), pieces);
        let mut state = ends[0];
        for ((first, piece), end) in (first..).step_by(len).zip(tail.chunks_exact_mut(len)).zip(ends).skip(1) {
            state = self.correct(keystream, first, state, piece).unwrap_or(end);
        }
    }

    /// Walks again from `state` until the walk meets the one that is there; if it never does, gives the state at its end.
    fn correct(&self, keystream: &Keystream, first: u64, mut state: u32, row: &mut [u32]) -> Option<u32> {
        let mut words = keystream.words(first);
        for there in row.chunks_mut(BLOCK) {
            let mut tokens = [0; BLOCK];
            let tokens = &mut tokens[..there.len()];
            words.fill(tokens);
            [state] = self.walk([state], [&mut *tokens]);
            let met = tokens.iter().zip(&*there).position(|(token, there)| token == there);
            let wrong = met.unwrap_or(there.len());
            there[..wrong].copy_from_slice(&tokens[..wrong]);
            if met.is_some() {
                return None;
            }
        }
        Some(state)
    }

    /// Walks of long rows that lie `stride` tokens apart: a keystream for each, and a piece of each in turn. They begin,
    /// or come from `states`.
    fn walk_long<const ROWS: usize>(
        &self,
        keystream: &Keystream,
        first: u64,
        stride: usize,
        states: Option<[u32; ROWS]>,
        mut rows: [&mut [u32]; ROWS],
    ) -> [u32; ROWS] {
        let len = rows[0].len();
        let mut words = std::array::from_fn::<_, ROWS, _>(|row| keystream.words(first + (row * stride) as u64));
        let mut begun = states.is_some();
        let mut states = states.unwrap_or([0; ROWS]);
        for begin in (0..len).step_by(PIECE) {
            let end = len.min(begin + PIECE);
            let mut pieces = rows.each_mut().map(|row| &mut row[begin..end]);
            for (words, piece) in words.iter_mut().zip(&mut pieces) {
                words.fill(piece);
            }
            states = if begun { self.walk(states, pieces) } else { self.start(keystream, first, stride, pieces) };
            begun = true;
        }
        states
    }

    /// Turns the words at the start of rows that lie `stride` tokens apart into walks; gives the states that they end in.
    #[inline]
    fn start<const ROWS: usize>(
        &self,
        keystream: &Keystream,
        first: u64,
        stride: usize,
        mut rows: [&mut [u32]; ROWS],
    ) -> [u32; ROWS] {
        let mut states = [0; ROWS];
        for (at, (state, row)) in states.iter_mut().zip(&mut rows).enumerate() {
            let product = u64::from(row[0]) * self.vocab_size;
            let threshold = (TOTAL % self.vocab_size) as u32;
            row[0] = if (product as u32) < threshold {
                keystream.redraw_u32(first + (at * stride) as u64, self.vocab_size, threshold)
            } else {
                (product >> 32) as u32
            };
            *state = row[0] << self.place_bits;
        }
        self.walk(states, rows.map(|row| &mut row[1..]))
    }

    /// Turns words into the tokens of walks that come from `states`, which are the first places of their tokens: those are
    /// written first, and become tokens in a pass of their own, several in a register.
    ///
    /// Walks take steps in turn: a step waits for the one before it in its walk alone.
    #[inline]
    fn walk<const ROWS: usize>(&self, mut states: [u32; ROWS], rows: [&mut [u32]; ROWS]) -> [u32; ROWS] {
        let (steps, low_bits) = (&self.steps[..], 32 - self.place_bits);
        // Of one length, which the compiler then knows.
        let len = rows[0].len();
        let mut rows = rows.map(|row| &mut row[..len]);
        for column in 0..len {
            for (state, row) in states.iter_mut().zip(&mut rows) {
                let word = row[column];
                let step = &steps[(*state | (word >> low_bits)) as usize];
                *state = select_unpredictable(word < step.cut, (step.next >> 32) as u32, step.next as u32);
                row[column] = *state;
            }
        }
        for row in rows {
            for token in row {
                *token >>= self.place_bits;
            }
        }
        states
    }
}

/// Rows of `k` distinct values in `0..high`, in random order: every ordered choice is equally likely.
pub fn distinct(rows: Rows, k: usize, high: u64, threads: usize, out: &mut [u64]) -> Result<()> {
    if k as u64 > high {
        return Err(Error::value(format!("k must be at most high ({high}): no more values are distinct, not {k}")));
    }
    check_rows(rows, k, out.len(), threads)?;
    let keystream = Keystream::new(rows, Kind::Distinct, k, high);
    over_rows(out, k, threads, |first, piece| {
        let mut moved = HashMap::new();
        for (row, values) in (first as u64..).zip(piece.chunks_exact_mut(k)) {
            keystream.distinct(rows.start + row, high, &mut moved, values);
        }
    })
}

/// One uniform integer in `low..high` for each row.
pub fn integers(rows: Rows, low: i64, high: i64, threads: usize, out: &mut [i64]) -> Result<()> {
    if low >= high {
        return Err(Error::value(format!("low must be less than high, not low = {low}, high = {high}")));
    }
    check_rows(rows, 1, out.len(), threads)?;
    let range = high.wrapping_sub(low) as u64;
    let keystream = Keystream::new(rows, Kind::Integers, 1, range);
    over_rows(out, 1, threads, |first, piece| {
        let first = rows.start + first as u64;
        let mut rng = keystream.at(0, 2 * u128::from(first));
        for (position, value) in (first..).zip(piece) {
            *value = low.wrapping_add(keystream.draw_u64(&mut rng, position, range) as i64);
        }
    })
}
