//! Signals and progress of long calls.

use std::sync::{Mutex, PoisonError};

use ngram_copy_core::{Error, Poll, Result};
use pyo3::prelude::*;

use crate::error::to_python;

/// Runs `work` without the GIL. Its polls answer signals and call `progress(done)`, where there is one; an exception of
/// either ends the call and is raised.
pub(crate) fn watched<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    work: impl FnOnce(Poll<'_>) -> Result<T> + Send,
) -> PyResult<T> {
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
