//! Binding of `ngram_copy_core::ssm::conv`.

use ngram_copy_core::simd::Level;
use ngram_copy_core::ssm::Execution;
use ngram_copy_core::ssm::conv::{self, Gradients, Inputs, Shape, Upstream};
use pyo3::prelude::*;

use super::arrays::{
    Floats, FloatsMut, Lengths, Number, Steps, has_shape, optional, optional_in_order, optional_mut, sequences,
    with_number,
};
use crate::watch::watched;

/// x, weight, bias, whether the sum goes through `SiLU`.
type Arguments<'py> = (Floats<'py>, Floats<'py>, Option<Floats<'py>>, bool);

/// Channels, taps.
type Sizes = (usize, usize);

fn shape((channels, kernel): Sizes) -> Shape {
    Shape { channels, kernel }
}

fn inputs<'a, T: Number>(arguments: &'a Arguments<'_>) -> PyResult<Inputs<'a, T>> {
    let (x, weight, bias, silu) = arguments;
    Ok(Inputs { x: x.slice()?, weight: weight.slice()?, bias: optional(bias.as_ref())?, silu: *silu })
}

/// y and the last state are written to `out`.
#[pyfunction]
pub(crate) fn causal_conv1d(
    py: Python<'_>,
    steps: Steps<'_>,
    sizes: Sizes,
    arguments: Arguments<'_>,
    initial_state: Option<Floats<'_>>,
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>),
) -> PyResult<()> {
    let mut lengths = Lengths::default();
    let sequences = sequences(&steps, &mut lengths)?;
    with_number!(&arguments.0, T => {
        let inputs = inputs::<T>(&arguments)?;
        let initial_state = optional(initial_state.as_ref())?;
        let (y, last_state) = (out.0.slice()?, out.1.slice()?);
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            conv::forward(&sequences, shape(sizes), inputs, initial_state, y, last_state, execution)
        })
    })
}

/// `upstream`: gradients of y and of the last state; those of x, weight, bias and the initial state are written to `out`.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // They are those of the convolution, and upstream.
pub(crate) fn causal_conv1d_backward(
    py: Python<'_>,
    steps: Steps<'_>,
    sizes: Sizes,
    arguments: Arguments<'_>,
    initial_state: Option<Floats<'_>>,
    upstream: (Floats<'_>, Option<Floats<'_>>),
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>, Option<FloatsMut<'_>>, FloatsMut<'_>),
) -> PyResult<()> {
    let mut lengths = Lengths::default();
    let sequences = sequences(&steps, &mut lengths)?;
    with_number!(&arguments.0, T => {
        let inputs = inputs::<T>(&arguments)?;
        let initial_state = optional(initial_state.as_ref())?;
        let upstream = Upstream { y: upstream.0.slice()?, last_state: optional(upstream.1.as_ref())? };
        let gradients = Gradients {
            x: out.0.slice()?,
            weight: out.1.slice()?,
            bias: optional_mut(out.2.as_mut())?,
            initial_state: out.3.slice()?,
        };
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            conv::backward(&sequences, shape(sizes), inputs, initial_state, upstream, gradients, execution)
        })
    })
}

/// state, x, weight, bias.
type StepArrays<'py> = (Floats<'py>, Floats<'py>, Floats<'py>, Option<Floats<'py>>);

/// The batch and the sizes; none where shapes do not fit.
fn step_sizes((state, x, weight, bias): &StepArrays<'_>) -> Option<(usize, Shape)> {
    let &[batch, channels, held] = state.shape() else { return None };
    let kernel = held + 1;
    let fits =
        x.shape() == [batch, channels] && weight.shape() == [channels, kernel] && has_shape(bias.as_ref(), &[channels]);
    fits.then_some((batch, Shape { channels, kernel }))
}

/// One step on arrays of any strides: whether their shapes fit. If so, y and the new state are written to `out`.
#[pyfunction]
pub(crate) fn causal_conv1d_update(
    py: Python<'_>,
    arrays: StepArrays<'_>,
    silu: bool,
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>),
) -> PyResult<bool> {
    let Some((batch, shape)) = step_sizes(&arrays) else { return Ok(false) };
    with_number!(&arrays.0, T => {
        let (state, x, weight, bias) = &arrays;
        let (state, x, weight) = (state.in_order::<T>()?, x.in_order()?, weight.in_order()?);
        let bias = optional_in_order(bias.as_ref())?;
        let inputs = Inputs { x: &x, weight: &weight, bias: bias.as_deref(), silu };
        let (y, new_state) = (out.0.slice()?, out.1.slice()?);
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            conv::step(batch, shape, inputs, &state, y, new_state, execution)
        })
    })?;
    Ok(true)
}
