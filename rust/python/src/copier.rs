//! Binding of the copiers: one class for each, all with the same methods.

use ngram_copy_core::ngram::bounded::{Eviction, Shape};
use ngram_copy_core::ngram::bounded_copier;
use ngram_copy_core::ngram::copier::{self, OnMiss, Policy};
use ngram_copy_core::ngram::marks::{Answers, Batch, Copier, Marks};
use ngram_copy_core::ngram::prefix_machine;
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::to_python;
use crate::watch::{detached, watched};

/// Tokens between two looks at the signals.
const TOKENS_PER_CALL: usize = 1 << 24;

/// An argument that the faces make contiguous.
fn slice<'a, T: numpy::Element>(array: &'a PyReadonlyArray1<'_, T>) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|_| PyValueError::new_err("tokens must be contiguous"))
}

/// Where predictions are written: tokens and sources, shape (batch, `seq_len` - start).
type Out<'py> = (PyReadwriteArray2<'py, i64>, PyReadwriteArray2<'py, i64>);

fn predict<'py>(
    py: Python<'py>,
    copier: &impl Copier,
    tokens: &PyReadonlyArray2<'py, u32>,
    lengths: Option<&PyReadonlyArray1<'py, i64>>,
    start: usize,
    threads: usize,
    (mut predicted, mut sources): Out<'py>,
) -> PyResult<()> {
    let (rows, seq_len) = (tokens.shape()[0], tokens.shape()[1]);
    let tokens = tokens.as_slice().map_err(|_| PyValueError::new_err("arrays must be contiguous"))?;
    let lengths = lengths.map(slice).transpose()?;
    let predicted = predicted.as_slice_mut().map_err(|_| PyValueError::new_err("arrays must be contiguous"))?;
    let sources = sources.as_slice_mut().map_err(|_| PyValueError::new_err("arrays must be contiguous"))?;
    let width = seq_len.saturating_sub(start);
    if predicted.len() != rows * width || sources.len() != rows * width {
        return Err(PyValueError::new_err(format!("answers must have the shape ({rows}, {width})")));
    }
    let rows_per_call = (TOKENS_PER_CALL / seq_len.max(1)).max(1);
    // At least once, so that arguments are checked for no rows, too.
    for first_row in (0..rows.max(1)).step_by(rows_per_call) {
        let until = rows.min(first_row + rows_per_call);
        let batch = Batch {
            tokens: &tokens[first_row * seq_len..until * seq_len],
            seq_len,
            lengths: match lengths {
                Some(lengths) if lengths.len() == rows => Some(&lengths[first_row..until]),
                other => other,
            },
            start,
            first_row,
        };
        let part = first_row * width..until * width;
        let answers = Answers { predicted: &mut predicted[part.clone()], sources: &mut sources[part] };
        detached(py, || copier.predict(batch, threads, answers))?;
        py.check_signals()?;
    }
    Ok(())
}

/// A class of Python over a copier of the core.
macro_rules! class {
    ($class:ident, $core:ty, { $($methods:tt)* }) => {
        #[pyclass(frozen, module = "ngram_copy._rust")]
        pub(crate) struct $class($core);

        #[pymethods]
        impl $class {
            $($methods)*

            fn predict<'py>(
                &self,
                py: Python<'py>,
                tokens: PyReadonlyArray2<'py, u32>,
                lengths: Option<PyReadonlyArray1<'py, i64>>,
                start: usize,
                threads: usize,
                out: Out<'py>,
            ) -> PyResult<()> {
                predict(py, &self.0, &tokens, lengths.as_ref(), start, threads, out)
            }

            fn complete<'py>(
                &self,
                py: Python<'py>,
                prompt: PyReadonlyArray1<'py, u32>,
                max_new_tokens: usize,
            ) -> PyResult<Bound<'py, PyArray1<i64>>> {
                let prompt = slice(&prompt)?;
                Ok(watched(py, None, |poll| self.0.complete(prompt, max_new_tokens, poll))?.into_pyarray(py))
            }

            fn cut<'py>(&self, py: Python<'py>, prompt: PyReadonlyArray1<'py, u32>) -> PyResult<Bound<'py, PyBytes>> {
                let prompt = slice(&prompt)?;
                Ok(PyBytes::new(py, &detached(py, || self.0.cut(prompt))?))
            }

            fn resume<'py>(
                &self,
                py: Python<'py>,
                state: &[u8],
                max_new_tokens: usize,
                query: PyReadonlyArray1<'py, u32>,
            ) -> PyResult<Bound<'py, PyArray1<i64>>> {
                let query = slice(&query)?;
                Ok(watched(py, None, |poll| self.0.resume(state, query, max_new_tokens, poll))?.into_pyarray(py))
            }
        }
    };
}

/// "stop", "repeat" or a token.
#[derive(FromPyObject)]
enum Miss {
    Token(u32),
    Name(String),
}

impl TryFrom<Miss> for OnMiss {
    type Error = PyErr;

    fn try_from(miss: Miss) -> PyResult<Self> {
        match miss {
            Miss::Token(token) => Ok(Self::Token(token)),
            Miss::Name(name) if name == "stop" => Ok(Self::Stop),
            Miss::Name(name) if name == "repeat" => Ok(Self::Repeat),
            Miss::Name(name) => {
                Err(PyValueError::new_err(format!("on_miss must be \"stop\", \"repeat\" or a token, not {name:?}")))
            }
        }
    }
}

type MarksArgument = (Vec<u32>, Option<u32>);

fn marks((boundaries, end): MarksArgument) -> PyResult<Marks> {
    Marks::new(boundaries, end).map_err(to_python)
}

class!(NgramCopier, copier::NgramCopier, {
    #[new]
    fn new(
        n: usize,
        policy: &str,
        on_miss: Miss,
        include_generated: bool,
        marks: MarksArgument,
        seed: u64,
    ) -> PyResult<Self> {
        let policy = match policy {
            "first" => Policy::First,
            "last" => Policy::Last,
            "most_frequent" => Policy::MostFrequent,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "policy must be \"first\", \"last\" or \"most_frequent\", not {policy:?}"
                )));
            }
        };
        let marks = self::marks(marks)?;
        copier::NgramCopier::new(n, policy, on_miss.try_into()?, include_generated, marks, seed)
            .map(Self)
            .map_err(to_python)
    }
});

class!(BoundedNgramCopier, bounded_copier::BoundedNgramCopier, {
    #[new]
    fn new(
        shape: (usize, usize, u32, u32),
        eviction: &str,
        on_miss: Miss,
        marks: MarksArgument,
        seed: u64,
    ) -> PyResult<Self> {
        let (n, slots, key_bits, value_bits) = shape;
        let shape = Shape { n, slots, key_bits, value_bits };
        let eviction: Eviction = eviction.parse().map_err(to_python)?;
        let marks = self::marks(marks)?;
        bounded_copier::BoundedNgramCopier::new(shape, eviction, on_miss.try_into()?, marks, seed)
            .map(Self)
            .map_err(to_python)
    }

    #[getter]
    fn state_bits(&self) -> u64 {
        self.0.state_bits()
    }

    /// Slots, occupied, insertions, collisions.
    fn load(&self, py: Python<'_>, prompt: PyReadonlyArray1<'_, u32>) -> PyResult<(u64, u64, u64, u64)> {
        let prompt = slice(&prompt)?;
        let load = detached(py, || self.0.load(prompt))?;
        Ok((load.slots, load.occupied, load.insertions, load.collisions))
    }
});

class!(PrefixMachine, prefix_machine::PrefixMachine, {
    #[new]
    fn new(kept: usize, groups: u64, vocab_size: u64, marks: MarksArgument) -> PyResult<Self> {
        let marks = self::marks(marks)?;
        prefix_machine::PrefixMachine::new(kept, groups, vocab_size, marks).map(Self).map_err(to_python)
    }

    #[staticmethod]
    fn from_state_bits(state_bits: f64, vocab_size: u64, marks: MarksArgument) -> PyResult<Self> {
        let marks = self::marks(marks)?;
        prefix_machine::PrefixMachine::from_state_bits(state_bits, vocab_size, marks).map(Self).map_err(to_python)
    }

    #[getter]
    fn kept(&self) -> usize {
        self.0.kept()
    }

    #[getter]
    fn groups(&self) -> u64 {
        self.0.groups()
    }

    #[getter]
    fn state_bits(&self) -> f64 {
        self.0.state_bits()
    }
});
