//! The one place that releases the GIL; signals and progress of long calls.

use std::sync::{Mutex, PoisonError};

use ngram_copy_core::{Error, Poll, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::to_python;

/// Runs `work` without the GIL. Its polls answer signals and call `progress(done)`, where there is one; an exception of
/// either ends the call and is raised.
pub(crate) fn watched<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(Poll<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let (mut work, mut result) = (Some(work), None);
    watch(py, progress, &mut |poll| {
        result = work.take().map(|work| work(poll)).transpose()?;
        Ok(())
    })?;
    result.ok_or_else(|| PyRuntimeError::new_err("the call did no work"))
}

/// Runs short `work` without the GIL and maps its error.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    watched(py, None, |_| work())
}

/// [`watched`], compiled once for all kinds of work.
fn watch(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: &mut (dyn FnMut(Poll<'_>) -> Result<()> + Send),
) -> PyResult<()> {
    let raised: Mutex<Option<PyErr>> = Mutex::new(None);
    let poll = |done: u64| {
        Python::attach(|py| {
            py.check_signals()?;
            progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (done,)).map(drop))
        })
        .map_err(|error| {
            *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Error::Interrupted
        })
    };
    let result = py.detach(|| work(&poll));
    let raised = raised.into_inner().unwrap_or_else(PoisonError::into_inner);
    result.map_err(|error| raised.unwrap_or_else(|| to_python(error)))
}
