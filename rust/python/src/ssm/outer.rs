//! Binding of `ngram_copy_core::ssm::outer`.

use ngram_copy_core::simd::Level;
use ngram_copy_core::ssm::Execution;
use ngram_copy_core::ssm::outer::{self as core, Gate, Gradients, Inputs, Outputs, Shape, Upstream};
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;

use super::arrays::{Floats, FloatsMut, Lengths, Number, Steps, optional, optional_mut, sequences, with_number};
use crate::watch::watched;

/// q, k, v, g (a constant of heads with one dimension, for heads with one less than q, for channels of keys with as
/// many), scale.
type Arguments<'py> = (Floats<'py>, Floats<'py>, Floats<'py>, Option<Floats<'py>>, f64);

/// Heads of q and k, heads of v, channels of a key and of a value.
type Sizes = (usize, usize, usize, usize);

fn shape((n_heads_k, n_heads, head_k, head_v): Sizes) -> Shape {
    Shape { n_heads_k, n_heads, head_k, head_v }
}

fn dimensions(array: &Floats<'_>) -> usize {
    match array {
        Floats::F32(array) => array.ndim(),
        Floats::F64(array) => array.ndim(),
    }
}

fn inputs<'a, T: Number>(arguments: &'a Arguments<'_>) -> PyResult<Inputs<'a, T>> {
    let (q, k, v, g, scale) = arguments;
    let gate = match g {
        None => Gate::None,
        Some(g) if dimensions(g) == 1 => Gate::Constant(g.slice()?),
        Some(g) if dimensions(g) == dimensions(q) => Gate::Channel(g.slice()?),
        Some(g) => Gate::Head(g.slice()?),
    };
    Ok(Inputs { q: q.slice()?, k: k.slice()?, v: v.slice()?, gate, scale: T::from_f64(*scale) })
}

/// o and the last state are written to `out`.
#[pyfunction]
pub(crate) fn outer(
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
        let outputs = Outputs { o: out.0.slice()?, last_state: out.1.slice()? };
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            core::forward(&sequences, shape(sizes), inputs, initial_state, outputs, execution)
        })
    })
}

/// Gradients of q, k, v, g and the initial state, to write to.
type GradientArrays<'py> = (FloatsMut<'py>, FloatsMut<'py>, FloatsMut<'py>, Option<FloatsMut<'py>>, FloatsMut<'py>);

/// `upstream`: gradient of o, gradient of the last state.
#[pyfunction]
pub(crate) fn outer_backward(
    py: Python<'_>,
    steps: Steps<'_>,
    sizes: Sizes,
    arguments: Arguments<'_>,
    initial_state: Option<Floats<'_>>,
    upstream: (Floats<'_>, Option<Floats<'_>>),
    threads: usize,
    mut out: GradientArrays<'_>,
) -> PyResult<()> {
    let mut lengths = Lengths::default();
    let sequences = sequences(&steps, &mut lengths)?;
    with_number!(&arguments.0, T => {
        let inputs = inputs::<T>(&arguments)?;
        let initial_state = optional(initial_state.as_ref())?;
        let upstream = Upstream { o: upstream.0.slice()?, last_state: optional(upstream.1.as_ref())? };
        let gradients = Gradients {
            q: out.0.slice()?,
            k: out.1.slice()?,
            v: out.2.slice()?,
            gate: optional_mut(out.3.as_mut())?,
            initial_state: out.4.slice()?,
        };
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            core::backward(&sequences, shape(sizes), inputs, initial_state, upstream, gradients, execution)
        })
    })
}

/// One step, of arrays without `seq_len`: o and the new state are written to `out`; `transposed` tells of the state.
#[pyfunction]
pub(crate) fn outer_step(
    py: Python<'_>,
    batch: usize,
    sizes: Sizes,
    arguments: Arguments<'_>,
    state: Floats<'_>,
    transposed: bool,
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>),
) -> PyResult<()> {
    with_number!(&arguments.0, T => {
        let inputs = inputs::<T>(&arguments)?;
        let (state, o, new_state) = (state.slice()?, out.0.slice()?, out.1.slice()?);
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            core::step(batch, shape(sizes), inputs, state, transposed, o, new_state, execution)
        })
    })
}
