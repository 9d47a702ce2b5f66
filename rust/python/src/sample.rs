//! Binding of `ngram_copy_core::sample`: fills arrays of the caller in place.

use ngram_copy_core::sample::{self, Categorical, Markov, Rows};
use numpy::{Element, IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadwriteArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::watch::detached;

/// Items between two looks at the signals.
const ITEMS_PER_CALL: usize = 1 << 26;

/// Fills the rows of `out` block by block, without the GIL, and answers signals between blocks.
fn fill_rows<T: Element + Send>(
    py: Python<'_>,
    rows: (u64, u64, u64),
    mut out: PyReadwriteArray2<'_, T>,
    fill: impl Fn(Rows, usize, &mut [T]) -> ngram_copy_core::Result<()> + Sync,
) -> PyResult<()> {
    let (seed, stream, start) = rows;
    let width = out.as_array().ncols();
    let out = out.as_slice_mut().map_err(|_| PyValueError::new_err("out must be C-contiguous"))?;
    let rows_per_call = (ITEMS_PER_CALL / width.max(1)).max(1);
    let (mut first, mut rest) = (start, out);
    loop {
        let (block, later) = rest.split_at_mut(rest.len().min(rows_per_call.saturating_mul(width)));
        detached(py, || fill(Rows { seed, stream, start: first }, width, block))?;
        if later.is_empty() {
            return Ok(());
        }
        py.check_signals()?;
        first = first.saturating_add(rows_per_call as u64);
        rest = later;
    }
}

/// Uniform tokens.
#[pyfunction]
pub(crate) fn sample_uniform(
    py: Python<'_>,
    rows: (u64, u64, u64),
    vocab_size: u64,
    threads: usize,
    out: PyReadwriteArray2<'_, u32>,
) -> PyResult<()> {
    fill_rows(py, rows, out, |rows, width, out| sample::uniform(rows, width, vocab_size, threads, out))
}

/// Counts of a Zipf distribution.
#[pyfunction]
pub(crate) fn zipf_counts(py: Python<'_>, vocab_size: u64, exponent: f64) -> PyResult<Bound<'_, PyArray1<u64>>> {
    Ok(detached(py, || sample::zipf_counts(vocab_size, exponent))?.into_pyarray(py))
}

/// Independent Zipf tokens.
#[pyfunction]
pub(crate) fn sample_zipf(
    py: Python<'_>,
    rows: (u64, u64, u64),
    vocab_size: u64,
    exponent: f64,
    threads: usize,
    out: PyReadwriteArray2<'_, u32>,
) -> PyResult<()> {
    let zipf = detached(py, || Categorical::new(&sample::zipf_counts(vocab_size, exponent)?))?;
    fill_rows(py, rows, out, |rows, width, out| zipf.fill(rows, width, threads, out))
}

type Chain<'py> = (Bound<'py, PyArray2<u32>>, Bound<'py, PyArray2<u64>>);

/// Successors and counts of a random Markov chain.
#[pyfunction]
pub(crate) fn markov_chain(py: Python<'_>, chain_seed: u64, vocab_size: u64, branching: u64) -> PyResult<Chain<'_>> {
    let chain = detached(py, || Markov::new(chain_seed, vocab_size, branching))?;
    let shape = [vocab_size as usize, branching as usize];
    Ok((chain.successors.into_pyarray(py).reshape(shape)?, chain.counts.into_pyarray(py).reshape(shape)?))
}

/// Walks of a random Markov chain.
#[pyfunction]
pub(crate) fn sample_markov(
    py: Python<'_>,
    rows: (u64, u64, u64),
    chain_seed: u64,
    vocab_size: u64,
    branching: u64,
    threads: usize,
    out: PyReadwriteArray2<'_, u32>,
) -> PyResult<()> {
    let chain = detached(py, || Markov::new(chain_seed, vocab_size, branching))?;
    fill_rows(py, rows, out, |rows, width, out| chain.fill(rows, width, threads, out))
}

/// Rows of distinct values.
#[pyfunction]
pub(crate) fn sample_distinct(
    py: Python<'_>,
    rows: (u64, u64, u64),
    high: u64,
    threads: usize,
    out: PyReadwriteArray2<'_, u64>,
) -> PyResult<()> {
    fill_rows(py, rows, out, |rows, width, out| sample::distinct(rows, width, high, threads, out))
}

/// One integer a row.
#[pyfunction]
pub(crate) fn sample_integers(
    py: Python<'_>,
    rows: (u64, u64, u64),
    low: i64,
    high: i64,
    threads: usize,
    out: PyReadwriteArray2<'_, i64>,
) -> PyResult<()> {
    fill_rows(py, rows, out, |rows, _, out| sample::integers(rows, low, high, threads, out))
}
