//! The words that all draws come from, and the draws that take rejected words again.

use std::collections::HashMap;

use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use chacha20::rand_core::{Rng, SeedableRng};
use chacha20::{ChaCha8, ChaCha8Rng};

use super::{BLOCK, Rows};

#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Kind {
    Uniform = 1,
    Categorical = 2,
    Markov = 3,
    Distinct = 4,
    Integers = 5,
    Successors = 6,
    Weights = 7,
}

/// The keystreams of one call.
#[derive(Clone, Copy)]
pub(super) struct Keystream {
    key: [u8; 32],
    stream: u64,
}

impl Keystream {
    pub(super) fn new(rows: Rows, kind: Kind, row_len: usize, range: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&rows.seed.to_le_bytes());
        key[8..12].copy_from_slice(&(kind as u32).to_le_bytes());
        key[16..24].copy_from_slice(&(row_len as u64).to_le_bytes());
        key[24..].copy_from_slice(&range.to_le_bytes());
        Self { key, stream: rows.stream }
    }

    /// The words of level 0, from one on.
    pub(super) fn words(&self, first: u64) -> Words {
        let position = first / BATCH as u64 * BATCH as u64;
        let mut words = Words { keystream: *self, position, cipher: None, batch: [0; BATCH], used: BATCH };
        if position < first {
            words.next_batch();
            words.used = (first - position) as usize;
        }
        words
    }

    /// The keystream of a level, from a word on.
    pub(super) fn at(&self, level: u32, word: u128) -> ChaCha8Rng {
        let mut key = self.key;
        key[12..16].copy_from_slice(&level.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(self.stream);
        rng.set_word_pos(word);
        rng
    }

    /// The keystream of level 0 from a word on that begins a block, to the end of what a cipher counts.
    fn cipher(&self, word: u64) -> ChaCha8 {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&((word / COUNTED) as u32).to_le_bytes());
        nonce[4..].copy_from_slice(&self.stream.to_le_bytes());
        let mut cipher = ChaCha8::new(&self.key.into(), &nonce.into());
        cipher.seek(word % COUNTED * 4);
        cipher
    }

    /// Calls `map(position, words, out)` on blocks of `out` with as many words of the keystream.
    pub(super) fn map_words(&self, first: u64, out: &mut [u32], mut map: impl FnMut(u64, &[u32], &mut [u32])) {
        let mut keystream = self.words(first);
        let mut words = [0; BLOCK];
        for (position, block) in (first..).step_by(BLOCK).zip(out.chunks_mut(BLOCK)) {
            let words = &mut words[..block.len()];
            keystream.fill(words);
            map(position, words, block);
        }
    }

    /// Repeats the 32-bit draw at `position` until one is accepted.
    #[cold]
    pub(super) fn redraw_u32(&self, position: u64, range: u64, threshold: u32) -> u32 {
        for level in 1.. {
            let mut rng = self.at(level, 16 * u128::from(position));
            for _ in 0..16 {
                let product = u64::from(rng.next_u32()) * range;
                if product as u32 >= threshold {
                    return (product >> 32) as u32;
                }
            }
        }
        unreachable!("levels do not end")
    }

    /// Repeats the 64-bit draw at `position` until one is accepted.
    #[cold]
    fn redraw_u64(&self, position: u64, range: u64) -> u64 {
        let threshold = range.wrapping_neg() % range;
        for level in 1.. {
            let mut rng = self.at(level, 16 * u128::from(position));
            for _ in 0..8 {
                let product = u128::from(rng.next_u64()) * u128::from(range);
                if product as u64 >= threshold {
                    return (product >> 64) as u64;
                }
            }
        }
        unreachable!("levels do not end")
    }

    /// Maps a 64-bit word to `0..range` without bias.
    pub(super) fn draw_u64(&self, rng: &mut ChaCha8Rng, position: u64, range: u64) -> u64 {
        let product = u128::from(rng.next_u64()) * u128::from(range);
        let low = product as u64;
        if low < range && low < range.wrapping_neg() % range {
            return self.redraw_u64(position, range);
        }
        (product >> 64) as u64
    }

    /// Writes distinct values below `high` in random order: the front of a Fisher–Yates shuffle of `0..high`, of which only
    /// the moved places are kept (in `moved`).
    pub(super) fn distinct(&self, row: u64, high: u64, moved: &mut HashMap<u64, u64>, out: &mut [u64]) {
        let first = row.wrapping_mul(out.len() as u64);
        let mut rng = self.at(0, 2 * u128::from(first));
        moved.clear();
        for (step, value) in (0..).zip(out) {
            let place = step + self.draw_u64(&mut rng, first.wrapping_add(step), high - step);
            let displaced = moved.remove(&step).unwrap_or(step);
            *value = if place == step { displaced } else { moved.insert(place, displaced).unwrap_or(place) };
        }
    }
}

/// Words that the crate's kernels make at once: four blocks of 64 bytes.
pub(super) const BATCH: usize = 64;

/// Words of a keystream that a cipher counts; the bits above are the first word of its nonce.
const COUNTED: u64 = 1 << 36;

/// The words of a keystream, one after another: those of `Keystream::at`, by the crate's cipher, which writes many batches
/// where they belong, while its generator copies each.
pub(super) struct Words {
    keystream: Keystream,
    /// Of the next batch.
    position: u64,
    /// Stands there, where it has begun.
    cipher: Option<ChaCha8>,
    batch: [u32; BATCH],
    /// Words of the batch that were taken.
    used: usize,
}

impl Words {
    /// Writes the next words.
    pub(super) fn fill(&mut self, words: &mut [u32]) {
        let (kept, words) = words.split_at_mut(words.len().min(BATCH - self.used));
        kept.copy_from_slice(&self.batch[self.used..][..kept.len()]);
        self.used += kept.len();
        let (whole, rest) = words.split_at_mut(words.len() / BATCH * BATCH);
        self.batches(whole);
        if !rest.is_empty() {
            self.next_batch();
            rest.copy_from_slice(&self.batch[..rest.len()]);
            self.used = rest.len();
        }
    }

    fn next_batch(&mut self) {
        let mut batch = [0; BATCH];
        self.batches(&mut batch);
        self.batch = batch;
    }

    /// Writes the next batches.
    fn batches(&mut self, mut words: &mut [u32]) {
        while !words.is_empty() {
            // A cipher refuses the last block that it could count.
            let before_last = COUNTED - BATCH as u64 - self.position % COUNTED;
            let by_cipher = before_last > 0;
            let count = if by_cipher { before_last.min(words.len() as u64) as usize } else { BATCH };
            let (now, later) = words.split_at_mut(count);
            let bytes = bytemuck::cast_slice_mut(now);
            if by_cipher {
                self.cipher.get_or_insert_with(|| self.keystream.cipher(self.position)).write_keystream(bytes);
            } else {
                self.keystream.at(0, u128::from(self.position)).fill_bytes(bytes);
                self.cipher = None;
            }
            for word in now {
                *word = u32::from_le(*word);
            }
            self.position += count as u64;
            words = later;
        }
    }
}
