//! Binding of `ngram_copy_core::ngram::{table, bounded}`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ngram_copy_core::ngram::bounded::{self, Shape};
use ngram_copy_core::ngram::table;
use numpy::{IntoPyArray, PyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::convert::{Tokens, with_tokens};
use crate::error::to_python;
use crate::watch::{detached, watched};

/// Table of a text.
#[pyclass(frozen)]
pub(crate) struct NgramTable(table::NgramTable);

#[pymethods]
impl NgramTable {
    #[new]
    fn new(py: Python<'_>, tokens: Tokens<'_>, n: usize, policy: &str, verify: bool, seed: u64) -> PyResult<Self> {
        let policy = policy.parse().map_err(to_python)?;
        let build = with_tokens!(&tokens, |slice| watched(py, None, |poll| table::NgramTable::new(
            slice, n, policy, verify, seed, poll
        )));
        Ok(Self(build?))
    }

    fn next_token(&self, ngram: Tokens<'_>) -> PyResult<Option<u32>> {
        with_tokens!(&ngram, |slice| self.0.next_token(slice)).map_err(to_python)
    }

    fn source(&self, ngram: Tokens<'_>) -> PyResult<Option<usize>> {
        with_tokens!(&ngram, |slice| self.0.source(slice)).map_err(to_python)
    }

    fn positions<'py>(&self, py: Python<'py>, ngram: Tokens<'py>) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let positions = with_tokens!(&ngram, |slice| detached(py, || self.0.positions(slice)))?;
        Ok(positions.into_iter().map(|position| position as i64).collect::<Vec<_>>().into_pyarray(py))
    }

    fn next_tokens(
        &self,
        py: Python<'_>,
        ngrams: Tokens<'_>,
        missing: i64,
        mut out: PyReadwriteArray1<'_, i64>,
    ) -> PyResult<()> {
        let out = out.as_slice_mut().map_err(|_| PyValueError::new_err("out must be contiguous"))?;
        with_tokens!(&ngrams, |slice| watched(py, None, |poll| self.0.next_tokens(slice, missing, out, poll)))
    }

    #[getter]
    fn distinct(&self) -> usize {
        self.0.len()
    }

    #[getter]
    fn capacity(&self) -> usize {
        self.0.capacity()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.0.nbytes()
    }
}

/// Table of a fixed number of bits.
#[pyclass(frozen)]
pub(crate) struct BoundedNgramTable(Mutex<bounded::BoundedTable>);

impl BoundedNgramTable {
    fn table(&self) -> MutexGuard<'_, bounded::BoundedTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl BoundedNgramTable {
    #[new]
    fn new(
        py: Python<'_>,
        n: usize,
        slots: usize,
        key_bits: u32,
        value_bits: u32,
        eviction: &str,
        seed: u64,
    ) -> PyResult<Self> {
        let eviction = eviction.parse().map_err(to_python)?;
        let shape = Shape { n, slots, key_bits, value_bits };
        Ok(Self(Mutex::new(detached(py, || bounded::BoundedTable::new(shape, eviction, seed))?)))
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, state: &[u8]) -> PyResult<Self> {
        Ok(Self(Mutex::new(detached(py, || bounded::BoundedTable::from_bytes(state))?)))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &detached(py, || Ok(self.table().to_bytes()))?))
    }

    fn insert(&self, py: Python<'_>, tokens: Tokens<'_>) -> PyResult<()> {
        with_tokens!(&tokens, |slice| watched(py, None, |poll| self.table().insert(slice, poll)))
    }

    fn next_token(&self, py: Python<'_>, ngram: Tokens<'_>) -> PyResult<Option<u32>> {
        with_tokens!(&ngram, |slice| detached(py, || self.table().next_token(slice)))
    }

    /// n, slots, key bits, value bits, eviction, seed.
    #[getter]
    fn options(&self, py: Python<'_>) -> PyResult<(usize, usize, u32, u32, &'static str, u64)> {
        detached(py, || {
            let table = self.table();
            let Shape { n, slots, key_bits, value_bits } = table.shape();
            Ok((n, slots, key_bits, value_bits, table.eviction().name(), table.seed()))
        })
    }

    /// Occupied slots, collisions.
    #[getter]
    fn counts(&self, py: Python<'_>) -> PyResult<(usize, u64)> {
        detached(py, || {
            let table = self.table();
            Ok((table.occupied(), table.collisions()))
        })
    }

    #[getter]
    fn state_bits(&self, py: Python<'_>) -> PyResult<u64> {
        detached(py, || Ok(self.table().shape().state_bits()))
    }
}
