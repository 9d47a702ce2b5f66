//! Binding of the growth of strings without a repeated n-gram.

use ngram_copy_core::ngram::repeat_free as core;
use ngram_copy_core::sample::Rows;
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;

use crate::watch::watched;

type Events<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u32>>);

/// Events of each sample, then position and forbidden tokens of each event.
#[pyfunction]
pub(crate) fn repeat_free(
    py: Python<'_>,
    rows: (u64, u64, u64),
    samples: usize,
    n: usize,
    vocab_size: u64,
    length: usize,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Events<'_>> {
    let (seed, stream, start) = rows;
    let rows = Rows { seed, stream, start };
    let found = watched(py, progress, |poll| core::repeat_free(rows, samples, n, vocab_size, length, threads, poll))?;
    let counts: Vec<i64> = found.iter().map(|events| events.len() as i64).collect();
    let (positions, forbidden): (Vec<_>, Vec<_>) =
        found.iter().flatten().map(|event| (event.position, event.forbidden)).unzip();
    Ok((counts.into_pyarray(py), positions.into_pyarray(py), forbidden.into_pyarray(py)))
}
