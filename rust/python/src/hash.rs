//! Binding of `ngram_copy_core::ngram::hash`.

use ngram_copy_core::ngram::hash::NgramHasher;
use numpy::PyReadwriteArrayDyn;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::convert::{Tokens, with_tokens};
use crate::error::to_python;
use crate::watch::watched;

/// Every n-gram of `tokens`, a sequence or a batch, to `out`, of which the face has checked the shape.
#[pyfunction]
pub(crate) fn hash_ngrams(
    py: Python<'_>,
    tokens: Tokens<'_>,
    n: usize,
    seed: u64,
    threads: usize,
    mut out: PyReadwriteArrayDyn<'_, u64>,
) -> PyResult<()> {
    let hasher = NgramHasher::new(n, seed).map_err(to_python)?;
    let out = out.as_slice_mut().map_err(|_| PyValueError::new_err("out must be C-contiguous"))?;
    let shape = tokens.shape().to_vec();
    with_tokens!(&tokens, |slice| watched(py, None, |poll| match shape[..] {
        [_, seq_len] => hasher.hash_rows_into(slice, seq_len, out, threads, poll),
        _ => hasher.hash_polled(slice, out, threads, poll),
    }))
}
