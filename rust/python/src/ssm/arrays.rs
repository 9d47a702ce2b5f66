//! `NumPy` arrays of floats, and which steps of a batch there are: what the families share.

use std::borrow::Cow;

use ngram_copy_core::simd::Float;
use ngram_copy_core::ssm::Sequences;
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArrayMethods};
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
    fn read_any<'a>(from: &'a Floats<'_>) -> Option<Cow<'a, [Self]>>;
    fn write<'a>(to: &'a mut FloatsMut<'_>) -> Option<&'a mut [Self]>;
}

macro_rules! numbers {
    ($($type:ty: $variant:ident;)*) => {$(
        impl Number for $type {
            fn read<'a>(from: &'a Floats<'_>) -> Option<&'a [Self]> {
                // as_slice() alone takes Fortran's order, too.
                match from {
                    Floats::$variant(array) if array.is_c_contiguous() => array.as_slice().ok(),
                    _ => None,
                }
            }

            fn read_any<'a>(from: &'a Floats<'_>) -> Option<Cow<'a, [Self]>> {
                let Floats::$variant(array) = from else { return None };
                let copy = || Cow::Owned(array.as_array().iter().copied().collect());
                Some(Self::read(from).map_or_else(copy, Cow::Borrowed))
            }

            fn write<'a>(to: &'a mut FloatsMut<'_>) -> Option<&'a mut [Self]> {
                match to {
                    FloatsMut::$variant(array) if array.is_c_contiguous() => array.as_slice_mut().ok(),
                    _ => None,
                }
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

    /// The numbers in order; a copy where they do not lie so.
    pub(crate) fn in_order<T: Number>(&self) -> PyResult<Cow<'_, [T]>> {
        T::read_any(self).ok_or_else(mixed)
    }

    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::F32(array) => array.shape(),
            Self::F64(array) => array.shape(),
        }
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

/// [`Floats::in_order`] of an array that may not be there.
pub(crate) fn optional_in_order<'a, T: Number>(array: Option<&'a Floats<'_>>) -> PyResult<Option<Cow<'a, [T]>>> {
    array.map(Floats::in_order).transpose()
}

/// Whether an array that may not be there has a shape.
pub(crate) fn has_shape(array: Option<&Floats<'_>>, shape: &[usize]) -> bool {
    array.is_none_or(|array| array.shape() == shape)
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
