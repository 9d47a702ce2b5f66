//! Binding of `ngram_copy_core::ssm::delta`.

use ngram_copy_core::simd::Level;
use ngram_copy_core::ssm::Execution;
use ngram_copy_core::ssm::delta::{self, Gate, Gradients, Inputs, Outputs, Shape, Upstream};
use numpy::PyUntypedArrayMethods;
use pyo3::prelude::*;

use super::arrays::{Floats, FloatsMut, Lengths, Number, Steps, optional, optional_mut, sequences, with_number};
use crate::watch::watched;

/// q, k, v, g (for heads with three dimensions, for channels of keys with four), beta, scale.
type Arguments<'py> = (Floats<'py>, Floats<'py>, Floats<'py>, Option<Floats<'py>>, Floats<'py>, f64);

/// Heads of q and k, heads of v, channels of a key and of a value.
type Sizes = (usize, usize, usize, usize);

fn shape((n_heads_k, n_heads, head_k, head_v): Sizes) -> Shape {
    Shape { n_heads_k, n_heads, head_k, head_v }
}

fn inputs<'a, T: Number>(arguments: &'a Arguments<'_>, per_key: usize) -> PyResult<Inputs<'a, T>> {
    let (q, k, v, g, beta, scale) = arguments;
    let gate = match g {
        None => Gate::None,
        Some(g) if dimensions(g) == per_key => Gate::Key(g.slice()?),
        Some(g) => Gate::Head(g.slice()?),
    };
    let (q, k, v, beta) = (q.slice()?, k.slice()?, v.slice()?, beta.slice()?);
    Ok(Inputs { q, k, v, g: gate, beta, scale: T::from_f64(*scale) })
}

fn dimensions(array: &Floats<'_>) -> usize {
    match array {
        Floats::F32(array) => array.ndim(),
        Floats::F64(array) => array.ndim(),
    }
}

/// o, the last state and, where wanted, checkpoints are written to `out`.
#[pyfunction]
pub(crate) fn delta_rule(
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
        let inputs = inputs::<T>(&arguments, 4)?;
        let initial_state = optional(initial_state.as_ref())?;
        let outputs = Outputs {
            o: out.0.slice()?,
            last_state: out.1.slice()?,
            checkpoints: optional_mut(out.2.as_mut())?,
        };
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            delta::forward(&sequences, shape(sizes), inputs, initial_state, outputs, execution)
        })
    })
}

/// Gradients of q, k, v, g, beta and the initial state, to write to.
type GradientArrays<'py> =
    (FloatsMut<'py>, FloatsMut<'py>, FloatsMut<'py>, Option<FloatsMut<'py>>, FloatsMut<'py>, FloatsMut<'py>);

/// `upstream`: checkpoints, gradient of o, gradient of the last state.
#[pyfunction]
pub(crate) fn delta_rule_backward(
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
        let inputs = inputs::<T>(&arguments, 4)?;
        let upstream = Upstream {
            checkpoints: upstream.0.slice()?,
            o: upstream.1.slice()?,
            last_state: optional(upstream.2.as_ref())?,
        };
        let gradients = Gradients {
            q: out.0.slice()?,
            k: out.1.slice()?,
            v: out.2.slice()?,
            g: optional_mut(out.3.as_mut())?,
            beta: out.4.slice()?,
            initial_state: out.5.slice()?,
        };
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            delta::backward(&sequences, shape(sizes), inputs, upstream, gradients, execution)
        })
    })
}

/// One step, of arrays without `seq_len`: o and the new state are written to `out`.
#[pyfunction]
pub(crate) fn delta_rule_step(
    py: Python<'_>,
    batch: usize,
    sizes: Sizes,
    arguments: Arguments<'_>,
    state: Floats<'_>,
    threads: usize,
    mut out: (FloatsMut<'_>, FloatsMut<'_>),
) -> PyResult<()> {
    with_number!(&arguments.0, T => {
        let inputs = inputs::<T>(&arguments, 3)?;
        let (state, o, new_state) = (state.slice()?, out.0.slice()?, out.1.slice()?);
        watched(py, None, |poll| {
            let execution = Execution { threads, level: Level::best(), poll };
            delta::step(batch, shape(sizes), inputs, state, o, new_state, execution)
        })
    })
}
