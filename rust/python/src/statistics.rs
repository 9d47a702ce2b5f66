//! Binding of the statistics of n-grams.

use ngram_copy_core::ngram::hash::Token;
use ngram_copy_core::ngram::statistics;
use ngram_copy_core::{Poll, Result};
use pyo3::prelude::*;

use crate::convert::{Tokens, with_tokens};
use crate::watch::watched;

/// A computation for tokens of any type.
trait Work: Send {
    type Output: Send;
    fn run<T: Token>(self, tokens: &[T], poll: Poll<'_>) -> Result<Self::Output>;
}

fn run<W: Work>(py: Python<'_>, text: &Tokens<'_>, progress: Option<Py<PyAny>>, work: W) -> PyResult<W::Output> {
    with_tokens!(text, |tokens| watched(py, progress, |poll| work.run(tokens, poll)))
}

struct Count {
    n: usize,
    threads: usize,
}

impl Work for Count {
    type Output = statistics::NgramStatistics;

    fn run<T: Token>(self, tokens: &[T], poll: Poll<'_>) -> Result<Self::Output> {
        statistics::ngram_statistics(tokens, self.n, self.threads, poll)
    }
}

struct RepeatWindows {
    n: usize,
    lengths: Vec<usize>,
    samples: Option<usize>,
    seed: u64,
}

impl Work for RepeatWindows {
    type Output = Vec<statistics::Windows>;

    fn run<T: Token>(self, tokens: &[T], poll: Poll<'_>) -> Result<Self::Output> {
        let Self { n, lengths, samples, seed } = self;
        match samples {
            Some(samples) => statistics::sampled_repeat_windows(tokens, n, &lengths, samples, seed, poll),
            None => statistics::repeat_windows(tokens, n, &lengths, poll),
        }
    }
}

struct FirstPair {
    n: usize,
    conflict: bool,
}

impl Work for FirstPair {
    type Output = Option<(usize, usize)>;

    fn run<T: Token>(self, tokens: &[T], poll: Poll<'_>) -> Result<Self::Output> {
        if self.conflict {
            statistics::first_conflict(tokens, self.n, poll)
        } else {
            statistics::first_repeat(tokens, self.n, poll)
        }
    }
}

/// Total, distinct, repeated, occurrences of repeated, most common.
#[pyfunction]
pub(crate) fn ngram_statistics(
    py: Python<'_>,
    text: Tokens<'_>,
    n: usize,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, u64, u64, u64, u64)> {
    let counts = run(py, &text, progress, Count { n, threads })?;
    Ok((counts.total, counts.distinct, counts.repeated, counts.occurrences_of_repeated, counts.most_common))
}

/// (repeating, total) for each length.
#[pyfunction]
pub(crate) fn repeat_windows(
    py: Python<'_>,
    text: Tokens<'_>,
    n: usize,
    lengths: Vec<usize>,
    samples: Option<usize>,
    seed: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<(u64, u64)>> {
    let windows = run(py, &text, progress, RepeatWindows { n, lengths, samples, seed })?;
    Ok(windows.iter().map(|windows| (windows.repeating, windows.total)).collect())
}

/// (earlier, later).
#[pyfunction]
pub(crate) fn first_pair(
    py: Python<'_>,
    text: Tokens<'_>,
    n: usize,
    conflict: bool,
) -> PyResult<Option<(usize, usize)>> {
    run(py, &text, None, FirstPair { n, conflict })
}
