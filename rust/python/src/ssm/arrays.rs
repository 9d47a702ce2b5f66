//! `NumPy` arrays of floats, and which steps of a batch there are: what the families share.

use ngram_copy_core::simd::Float;
use ngram_copy_core::ssm::Sequences;
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArrayDyn, PyReadwriteArrayDyn};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::error::to_python;

/// An array of floats that the faces made contiguous, by its type.
#[derive(FromPyObject)]
pub(crate) enum Floats<'py> {
    F32(PyReadonlyArrayDyn<'py, f32>),
    F64(PyReadonlyArrayDyn<'py, f64>),
}

/// An array of floats to write to, by its type.
#[derive(FromPyObject)]
pub(crate) enum FloatsMut<'py> {
    F32(PyReadwriteArrayDyn<'py, f32>),
    F64(PyReadwriteArrayDyn<'py, f64>),
}

/// The two types.
pub(crate) trait Number: Float + numpy::Element {
    fn read<'a>(from: &'a Floats<'_>) -> Option<&'a [Self]>;
    fn write<'a>(to: &'a mut FloatsMut<'_>) -> Option<&'a mut [Self]>;
}

macro_rules! numbers {
    ($($type:ty: $variant:ident;)*) => {$(
        impl Number for $type {
            fn read<'a>(from: &'a Floats<'_>) -> Option<&'a [Self]> {
                if let Floats::$variant(array) = from { array.as_slice().ok() } else { None }
            }

            fn write<'a>(to: &'a mut FloatsMut<'_>) -> Option<&'a mut [Self]> {
                if let FloatsMut::$variant(array) = to { array.as_slice_mut().ok() } else { None }
            }
        }
    )*};
}

numbers! {
    f32: F32;
    f64: F64;
}

fn mixed() -> PyErr {
    PyTypeError::new_err("arrays must be C-contiguous and of one dtype, float32 or float64")
}

impl Floats<'_> {
    /// The numbers.
    pub(crate) fn slice<T: Number>(&self) -> PyResult<&[T]> {
        T::read(self).ok_or_else(mixed)
    }
}

impl FloatsMut<'_> {
    /// The numbers.
    pub(crate) fn slice<T: Number>(&mut self) -> PyResult<&mut [T]> {
        T::write(self).ok_or_else(mixed)
    }
}

/// The numbers of an array that may not be there.
pub(crate) fn optional<'a, T: Number>(array: Option<&'a Floats<'_>>) -> PyResult<Option<&'a [T]>> {
    array.map(Floats::slice).transpose()
}

/// [`optional`], to write to.
pub(crate) fn optional_mut<'a, T: Number>(array: Option<&'a mut FloatsMut<'_>>) -> PyResult<Option<&'a mut [T]>> {
    array.map(FloatsMut::slice).transpose()
}

/// `with_number!(array, T => expression)`: the expression for the type of an array.
macro_rules! with_number {
    ($array:expr, $type:ident => $work:expr) => {
        match $array {
            $crate::ssm::arrays::Floats::F32(_) => {
                type $type = f32;
                $work
            }
            $crate::ssm::arrays::Floats::F64(_) => {
                type $type = f64;
                $work
            }
        }
    };
}
pub(crate) use with_number;

/// Batch, `seq_len`, lengths, whether padding is on the left, resets.
pub(crate) type Steps<'py> =
    (usize, usize, Option<PyReadonlyArray1<'py, i64>>, bool, Option<PyReadonlyArray2<'py, bool>>);

/// What [`Sequences`] borrows from.
#[derive(Default)]
pub(crate) struct Lengths(Vec<usize>);

/// The sequences that `steps` tells, which the faces have checked to be contiguous.
pub(crate) fn sequences<'a>(steps: &'a Steps<'_>, lengths: &'a mut Lengths) -> PyResult<Sequences<'a>> {
    let (batch, seq_len, given, left, resets) = steps;
    let mut sequences = Sequences::new(*batch, *seq_len);
    if let Some(given) = given {
        lengths.0 = given.as_array().iter().map(|length| usize::try_from(*length).unwrap_or(usize::MAX)).collect();
        sequences = sequences.with_lengths(&lengths.0, *left).map_err(to_python)?;
    }
    if let Some(resets) = resets {
        sequences = sequences.with_resets(resets.as_slice().map_err(|_| mixed())?).map_err(to_python)?;
    }
    Ok(sequences)
}
