//! Strings without a repeated n-gram, grown by looking at every earlier place for every token.

use crate::Result;
use crate::ngram::repeat_free::{BLOCK, Event};
use crate::sample::{self, Rows};

/// String `rows.start`, and its events.
pub fn repeat_free(rows: Rows, n: usize, vocab_size: u64, length: usize) -> Result<(Vec<u32>, Vec<Event>)> {
    let string = Rows { stream: rows.stream.wrapping_add(rows.start), start: 0, ..rows };
    let mut drawn = vec![0; length.next_multiple_of(BLOCK)];
    sample::uniform(string, BLOCK, vocab_size, 1, &mut drawn)?;
    let (mut tokens, mut events): (Vec<u32>, Vec<Event>) = (Vec::new(), Vec::new());
    for position in 0..length {
        let repeats = |&token: &u32| {
            let longer = [&tokens[..], &[token]].concat();
            let mut ngrams = longer.windows(n).rev();
            ngrams.next().is_some_and(|last| ngrams.any(|ngram| ngram == last))
        };
        let (forbidden, allowed): (Vec<u32>, Vec<u32>) = (0..vocab_size as u32).partition(repeats);
        if !forbidden.is_empty() {
            events.push(Event { position: position as u32, forbidden: forbidden.len() as u32 });
        }
        if allowed.is_empty() {
            break;
        }
        let mut token = drawn[position];
        if forbidden.contains(&token) {
            let mut rank = [0];
            sample::integers(Rows { start: position as u64, ..string }, 0, allowed.len() as i64, 1, &mut rank)?;
            token = allowed[rank[0] as usize];
        }
        tokens.push(token);
    }
    Ok((tokens, events))
}
