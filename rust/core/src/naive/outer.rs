//! The outer family in float64, as its equation reads, with all states kept.

use crate::ssm::Sequences;
use crate::ssm::outer::Shape;

/// The arrays that [`outer`] and [`outer_backward`] read, of the shapes of `ssm::outer`.
#[derive(Debug, Clone)]
pub struct OuterInputs {
    /// Queries.
    pub q: Vec<f64>,
    /// Keys.
    pub k: Vec<f64>,
    /// Values.
    pub v: Vec<f64>,
    /// Log-gates, (batch, `seq_len`, `n_heads`, `head_k`), whatever the gates' own shape.
    pub g: Vec<f64>,
    /// What the output is multiplied by.
    pub scale: f64,
    /// The initial state.
    pub initial_state: Vec<f64>,
}

/// Gradients of [`OuterInputs`], each of the shape of its input.
#[derive(Debug, Clone)]
pub struct OuterGradients {
    /// Of `q`.
    pub q: Vec<f64>,
    /// Of `k`.
    pub k: Vec<f64>,
    /// Of `v`.
    pub v: Vec<f64>,
    /// Of `g`.
    pub g: Vec<f64>,
    /// Of `initial_state`.
    pub initial_state: Vec<f64>,
}

/// Where the numbers of a row and head are.
struct At {
    shape: Shape,
    seq_len: usize,
    row: usize,
    head: usize,
}

impl At {
    fn q(&self, step: usize, k: usize) -> usize {
        let Shape { n_heads_k, n_heads, head_k, .. } = self.shape;
        let shared = self.head / (n_heads / n_heads_k);
        ((self.row * self.seq_len + step) * n_heads_k + shared) * head_k + k
    }

    fn g(&self, step: usize, k: usize) -> usize {
        ((self.row * self.seq_len + step) * self.shape.n_heads + self.head) * self.shape.head_k + k
    }

    fn v(&self, step: usize, v: usize) -> usize {
        ((self.row * self.seq_len + step) * self.shape.n_heads + self.head) * self.shape.head_v + v
    }

    fn state(&self, k: usize, v: usize) -> usize {
        ((self.row * self.shape.n_heads + self.head) * self.shape.head_k + k) * self.shape.head_v + v
    }

    /// A head's state at the start.
    fn initial(&self, inputs: &OuterInputs) -> Vec<Vec<f64>> {
        let columns = |k| (0..self.shape.head_v).map(|v| inputs.initial_state[self.state(k, v)]).collect();
        (0..self.shape.head_k).map(columns).collect()
    }
}

fn heads(sequences: &Sequences<'_>, shape: Shape) -> impl Iterator<Item = At> {
    let seq_len = sequences.seq_len();
    (0..sequences.batch()).flat_map(move |row| (0..shape.n_heads).map(move |head| At { shape, seq_len, row, head }))
}

/// S = Diag(e^g) S + k vᵀ; o = scale · Sᵀ q. Gives the output and the last state.
#[must_use]
pub fn outer(sequences: &Sequences<'_>, shape: Shape, inputs: &OuterInputs) -> (Vec<f64>, Vec<f64>) {
    let mut o = vec![0.0; inputs.v.len()];
    let mut last_state = vec![0.0; inputs.initial_state.len()];
    for at in heads(sequences, shape) {
        let mut state = at.initial(inputs);
        for t in sequences.steps(at.row) {
            for k in 0..shape.head_k {
                for v in 0..shape.head_v {
                    let before = if sequences.begins(at.row, t) { 0.0 } else { state[k][v] };
                    state[k][v] = inputs.g[at.g(t, k)].exp() * before + inputs.k[at.q(t, k)] * inputs.v[at.v(t, v)];
                    o[at.v(t, v)] += inputs.scale * state[k][v] * inputs.q[at.q(t, k)];
                }
            }
        }
        for k in 0..shape.head_k {
            for v in 0..shape.head_v {
                last_state[at.state(k, v)] = state[k][v];
            }
        }
    }
    (o, last_state)
}

/// Gradients, from those of the output and of the last state.
#[must_use]
pub fn outer_backward(
    sequences: &Sequences<'_>,
    shape: Shape,
    inputs: &OuterInputs,
    of_o: &[f64],
    of_last_state: &[f64],
) -> OuterGradients {
    let zeros = |like: &[f64]| vec![0.0; like.len()];
    let mut of = OuterGradients {
        q: zeros(&inputs.q),
        k: zeros(&inputs.k),
        v: zeros(&inputs.v),
        g: zeros(&inputs.g),
        initial_state: zeros(&inputs.initial_state),
    };
    for at in heads(sequences, shape) {
        // The state before each step, as that step has it, and after it.
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut state = at.initial(inputs);
        for t in sequences.steps(at.row) {
            if sequences.begins(at.row, t) {
                for row in &mut state {
                    row.fill(0.0);
                }
            }
            before.push(state.clone());
            for (k, row) in state.iter_mut().enumerate() {
                for (v, s) in row.iter_mut().enumerate() {
                    *s = inputs.g[at.g(t, k)].exp() * *s + inputs.k[at.q(t, k)] * inputs.v[at.v(t, v)];
                }
            }
            after.push(state.clone());
        }
        for k in 0..shape.head_k {
            for v in 0..shape.head_v {
                let mut d = of_last_state[at.state(k, v)];
                for (nth, t) in sequences.steps(at.row).enumerate().rev() {
                    let of_output = inputs.scale * of_o[at.v(t, v)];
                    of.q[at.q(t, k)] += of_output * after[nth][k][v];
                    d += of_output * inputs.q[at.q(t, k)];
                    of.k[at.q(t, k)] += d * inputs.v[at.v(t, v)];
                    of.v[at.v(t, v)] += d * inputs.k[at.q(t, k)];
                    let decay = inputs.g[at.g(t, k)].exp();
                    of.g[at.g(t, k)] += d * decay * before[nth][k][v];
                    d = if sequences.begins(at.row, t) { 0.0 } else { d * decay };
                }
                of.initial_state[at.state(k, v)] = d;
            }
        }
    }
    of
}
