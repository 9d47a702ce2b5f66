//! The one table from core errors to Python exceptions.

use ngram_copy_core::Error;
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;

pyo3::create_exception!(
    ngram_copy._rust,
    StateError,
    PyValueError,
    "A serialised state is of another version or kind, truncated or damaged."
);

/// Maps a core error to its Python exception.
pub(crate) fn to_python(error: Error) -> PyErr {
    match error {
        Error::State(message) => StateError::new_err(message),
        Error::Memory(message) => PyMemoryError::new_err(message),
        Error::Interrupted => Python::attach(|py| {
            py.check_signals().err().unwrap_or_else(|| pyo3::exceptions::PyKeyboardInterrupt::new_err(()))
        }),
        other => PyValueError::new_err(other.to_string()),
    }
}
