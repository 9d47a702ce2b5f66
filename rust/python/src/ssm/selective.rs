//! Binding of `ngram_copy_core::ssm::selective`.

use ngram_copy_core::simd::Level;
use ngram_copy_core::ssm::Execution;
use ngram_copy_core::ssm::selective::{self, Gradients, Inputs, Outputs, Shape, Upstream};
use pyo3::prelude::*;

use super::arrays::{Floats, FloatsMut, Lengths, Number, Steps, optional, optional_mut, sequences, with_number};
use crate::watch::watched;

/// u, delta, A, B, C, D, z, `delta_bias`, whether delta goes through softplus.
type Arguments<'py> = (
    Floats<'py>,
    Floats<'py>,
    Floats<'py>,
    Floats<'py>,
    Floats<'py>,
    Option<Floats<'py>>,
    Option<Floats<'py>>,
    Option<Floats<'py>>,
    bool,
);

/// `d_model`, `d_state`, groups.
type Sizes = (usize, usize, usize);

fn shape((d_model, d_state, n_groups): Sizes) -> Shape {
    Shape { d_model, d_state, n_groups }
}

fn inputs<'a, T: Number>(arguments: &'a Arguments<'_>) -> PyResult<Inputs<'a, T>> {
    let (u, delta, a, b, c, d, z, delta_bias, softplus) = arguments;
    Ok(Inputs {
        u: u.slice()?,
        delta: delta.slice()?,
        a: a.slice()?,
        b: b.slice()?,
        c: c.slice()?,
        d: optional(d.as_ref())?,
        z: optional(z.as_ref())?,
        delta_bias: optional(delta_bias.as_ref())?,
        softplus: *softplus,
    })
}

/// y, the last state and, where wanted, checkpoints are written to `out`.
#[pyfunction]
pub(crate) fn selective_scan(
    py: Python<'_>,
    steps: Steps<'_>,
    sizes: Sizes,
    arguments: Arguments<'_>,
    initial_state: Option<Floats<'_>>,
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>, Option<FloatsMut<'_>>),
) -> PyResult<()> {
    let mut lengths = Lengths::default();
    let sequences = sequences(&steps, &mut lengths)?;
    with_number!(&arguments.0, T => {
        let inputs = inputs::<T>(&arguments)?;
        let initial_state = optional(initial_state.as_ref())?;
        let outputs = Outputs {
            y: out.0.slice()?,
            last_state: out.1.slice()?,
            checkpoints: optional_mut(out.2.as_mut())?,
        };
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            selective::forward(&sequences, shape(sizes), inputs, initial_state, outputs, execution)
        })
    })
}

/// Gradients of u, delta, A, B, C, D, z, `delta_bias` and the initial state, to write to.
type GradientArrays<'py> = (
    FloatsMut<'py>,
    FloatsMut<'py>,
    FloatsMut<'py>,
    FloatsMut<'py>,
    FloatsMut<'py>,
    Option<FloatsMut<'py>>,
    Option<FloatsMut<'py>>,
    Option<FloatsMut<'py>>,
    FloatsMut<'py>,
);

/// `upstream`: checkpoints, gradient of y, gradient of the last state.
#[pyfunction]
pub(crate) fn selective_scan_backward(
    py: Python<'_>,
    steps: Steps<'_>,
    sizes: Sizes,
    arguments: Arguments<'_>,
    upstream: (Floats<'_>, Floats<'_>, Option<Floats<'_>>),
    threads: usize,
    mut out: GradientArrays<'_>,
) -> PyResult<()> {
    let mut lengths = Lengths::default();
    let sequences = sequences(&steps, &mut lengths)?;
    with_number!(&arguments.0, T => {
        let inputs = inputs::<T>(&arguments)?;
        let upstream = Upstream {
            checkpoints: upstream.0.slice()?,
            y: upstream.1.slice()?,
            last_state: optional(upstream.2.as_ref())?,
        };
        let gradients = Gradients {
            u: out.0.slice()?,
            delta: out.1.slice()?,
            a: out.2.slice()?,
            b: out.3.slice()?,
            c: out.4.slice()?,
            d: optional_mut(out.5.as_mut())?,
            z: optional_mut(out.6.as_mut())?,
            delta_bias: optional_mut(out.7.as_mut())?,
            initial_state: out.8.slice()?,
        };
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            selective::backward(&sequences, shape(sizes), inputs, upstream, gradients, execution)
        })
    })
}

/// One step: y and the new state are written to `out`.
#[pyfunction]
pub(crate) fn selective_state_update(
    py: Python<'_>,
    batch: usize,
    sizes: Sizes,
    arguments: Arguments<'_>,
    state: Floats<'_>,
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>),
) -> PyResult<()> {
    with_number!(&arguments.0, T => {
        let inputs = inputs::<T>(&arguments)?;
        let (state, y, new_state) = (state.slice()?, out.0.slice()?, out.1.slice()?);
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            selective::step(batch, shape(sizes), inputs, state, y, new_state, execution)
        })
    })
}
