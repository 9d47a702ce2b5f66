//! `NumPy` arrays to token slices: the one place where dtypes are matched.

use numpy::{PyArrayDescrMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// An array of tokens that the faces made contiguous, by its type.
pub(crate) enum Tokens<'py> {
    U8(PyReadonlyArrayDyn<'py, u8>),
    U16(PyReadonlyArrayDyn<'py, u16>),
    U32(PyReadonlyArrayDyn<'py, u32>),
    I32(PyReadonlyArrayDyn<'py, i32>),
    I64(PyReadonlyArrayDyn<'py, i64>),
}

// Not derived: that tries one type after another, and what refuses an array writes its dtype's name, which is slow.
impl<'a, 'py> FromPyObject<'a, 'py> for Tokens<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let dtype = object.cast::<PyUntypedArray>()?.dtype();
        Ok(match (dtype.kind(), dtype.itemsize()) {
            (b'u', 1) => Self::U8(object.extract()?),
            (b'u', 2) => Self::U16(object.extract()?),
            (b'u', 4) => Self::U32(object.extract()?),
            (b'i', 4) => Self::I32(object.extract()?),
            (b'i', 8) => Self::I64(object.extract()?),
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "tokens must be uint8, uint16, uint32, int32 or int64, not {dtype}"
                )));
            }
        })
    }
}

/// `with_tokens!(tokens, |slice| expression)`: the expression for the slice of whichever type the tokens have.
macro_rules! with_tokens {
    ($tokens:expr, |$slice:ident| $work:expr) => {
        with_tokens!(@ $tokens, $slice, $work, U8 U16 U32 I32 I64)
    };
    (@ $tokens:expr, $slice:ident, $work:expr, $($variant:ident)*) => {
        match $tokens {
            $($crate::convert::Tokens::$variant(array) => {
                let $slice = array.as_slice().map_err(|_| {
                    pyo3::exceptions::PyValueError::new_err("tokens must be C-contiguous")
                })?;
                $work
            })*
        }
    };
}
pub(crate) use with_tokens;

impl Tokens<'_> {
    /// The shape.
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::U8(array) => array.shape(),
            Self::U16(array) => array.shape(),
            Self::U32(array) => array.shape(),
            Self::I32(array) => array.shape(),
            Self::I64(array) => array.shape(),
        }
    }
}
