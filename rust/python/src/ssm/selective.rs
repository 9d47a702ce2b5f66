//! Binding of `ngram_copy_core::ssm::selective`.

use ngram_copy_core::simd::Level;
use ngram_copy_core::ssm::Execution;
use ngram_copy_core::ssm::selective::{self, Gradients, Inputs, Outputs, Shape, Upstream};
use pyo3::prelude::*;

use super::arrays::{
    Floats, FloatsMut, Lengths, Number, Steps, has_shape, optional, optional_in_order, optional_mut, sequences,
    with_number,
};
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

/// state, x, dt, A, B, C, D, z, `dt_bias`.
type StepArrays<'py> = (
    Floats<'py>,
    Floats<'py>,
    Floats<'py>,
    Floats<'py>,
    Floats<'py>,
    Floats<'py>,
    Option<Floats<'py>>,
    Option<Floats<'py>>,
    Option<Floats<'py>>,
);

/// The batch and the sizes; none where shapes do not fit.
fn step_sizes((state, x, dt, a, b, c, d, z, dt_bias): &StepArrays<'_>) -> Option<(usize, Shape)> {
    let &[batch, d_model, d_state] = state.shape() else { return None };
    let n_groups = match *b.shape() {
        [_, _] => 1,
        [_, n_groups, _] if n_groups > 0 && d_model % n_groups == 0 => n_groups,
        _ => return None,
    };
    let (rows, weights) = ([batch, d_model], b.shape());
    let fits = x.shape() == rows
        && dt.shape() == rows
        && a.shape() == [d_model, d_state]
        && weights[0] == batch
        && weights[weights.len() - 1] == d_state
        && c.shape() == weights
        && has_shape(d.as_ref(), &[d_model])
        && has_shape(z.as_ref(), &rows)
        && has_shape(dt_bias.as_ref(), &[d_model]);
    fits.then_some((batch, Shape { d_model, d_state, n_groups }))
}

/// One step on arrays of any strides: whether their shapes fit. If so, y and the new state are written to `out`.
#[pyfunction]
pub(crate) fn selective_state_update(
    py: Python<'_>,
    arrays: StepArrays<'_>,
    softplus: bool,
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>),
) -> PyResult<bool> {
    let Some((batch, shape)) = step_sizes(&arrays) else { return Ok(false) };
    with_number!(&arrays.0, T => {
        let (state, x, dt, a, b, c, d, z, dt_bias) = &arrays;
        let (state, u, delta) = (state.in_order::<T>()?, x.in_order()?, dt.in_order()?);
        let (a, b, c) = (a.in_order()?, b.in_order()?, c.in_order()?);
        let (d, z) = (optional_in_order(d.as_ref())?, optional_in_order(z.as_ref())?);
        let delta_bias = optional_in_order(dt_bias.as_ref())?;
        let (u, delta, delta_bias) = (&*u, &*delta, delta_bias.as_deref());
        let inputs = Inputs { u, delta, a: &a, b: &b, c: &c, d: d.as_deref(), z: z.as_deref(), delta_bias, softplus };
        let (y, new_state) = (out.0.slice()?, out.1.slice()?);
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            selective::step(batch, shape, inputs, &state, y, new_state, execution)
        })
    })?;
    Ok(true)
}
