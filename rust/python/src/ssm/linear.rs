//! Binding of `ngram_copy_core::ssm::linear`. Complex arrays come as floats, twice as many along the last axis.

use ngram_copy_core::simd::Level;
use ngram_copy_core::ssm::Execution;
use ngram_copy_core::ssm::linear::{self, Gradients, Inputs, Shape, Upstream};
use pyo3::prelude::*;

use super::arrays::{Floats, FloatsMut, Lengths, Steps, optional, sequences, with_number};
use crate::watch::watched;

/// Width, whether numbers are complex, whether `a` is constant.
type Sizes = (usize, bool, bool);

fn shape((width, complex, constant): Sizes) -> Shape {
    Shape { width, complex, constant }
}

/// `arguments`: a, x; h and the last state are written to `out`.
#[pyfunction]
pub(crate) fn linear_scan(
    py: Python<'_>,
    steps: Steps<'_>,
    sizes: Sizes,
    arguments: (Floats<'_>, Floats<'_>),
    initial_state: Option<Floats<'_>>,
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>),
) -> PyResult<()> {
    let mut lengths = Lengths::default();
    let sequences = sequences(&steps, &mut lengths)?;
    with_number!(&arguments.0, T => {
        let inputs = Inputs::<T> { a: arguments.0.slice()?, x: arguments.1.slice()? };
        let initial_state = optional(initial_state.as_ref())?;
        let (h, last_state) = (out.0.slice()?, out.1.slice()?);
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            linear::forward(&sequences, shape(sizes), inputs, initial_state, h, last_state, execution)
        })
    })
}

/// `upstream`: h, the gradient of h, that of the last state; those of a, x and the initial state are written to `out`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // They are those of the scan, and upstream.
pub(crate) fn linear_scan_backward(
    py: Python<'_>,
    steps: Steps<'_>,
    sizes: Sizes,
    arguments: (Floats<'_>, Floats<'_>),
    initial_state: Option<Floats<'_>>,
    upstream: (Floats<'_>, Floats<'_>, Option<Floats<'_>>),
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>, FloatsMut<'_>),
) -> PyResult<()> {
    let mut lengths = Lengths::default();
    let sequences = sequences(&steps, &mut lengths)?;
    with_number!(&arguments.0, T => {
        let inputs = Inputs::<T> { a: arguments.0.slice()?, x: arguments.1.slice()? };
        let initial_state = optional(initial_state.as_ref())?;
        let upstream = Upstream {
            states: upstream.0.slice()?,
            h: upstream.1.slice()?,
            last_state: optional(upstream.2.as_ref())?,
        };
        let gradients = Gradients { a: out.0.slice()?, x: out.1.slice()?, initial_state: out.2.slice()? };
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            linear::backward(&sequences, shape(sizes), inputs, initial_state, upstream, gradients, execution)
        })
    })
}

/// One step: the new state is written to `out`.
#[pyfunction]
pub(crate) fn linear_step(
    py: Python<'_>,
    batch: usize,
    sizes: Sizes,
    arguments: (Floats<'_>, Floats<'_>),
    state: Floats<'_>,
    threads: usize,
    mut out: FloatsMut<'_>,
) -> PyResult<()> {
    with_number!(&arguments.0, T => {
        let inputs = Inputs::<T> { a: arguments.0.slice()?, x: arguments.1.slice()? };
        let (state, new_state) = (state.slice()?, out.slice()?);
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            linear::step(batch, shape(sizes), inputs, state, new_state, execution)
        })
    })
}
