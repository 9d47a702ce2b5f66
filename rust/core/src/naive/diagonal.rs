//! The linear scan, S4D's and the causal convolution in double precision, as their equations read.

use crate::ssm::Sequences;

/// Real and imaginary part.
pub type Complex = [f64; 2];

fn multiply(x: Complex, y: Complex) -> Complex {
    [x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]]
}

fn add(x: Complex, y: Complex) -> Complex {
    [x[0] + y[0], x[1] + y[1]]
}

/// `h_t = a_t h_{t−1} + x_t` for `a` and `x` of shape (batch, `seq_len`, width): h, and the last state of shape (batch,
/// width).
#[must_use]
pub fn linear_scan(
    sequences: &Sequences<'_>,
    width: usize,
    a: &[Complex],
    x: &[Complex],
    initial_state: &[Complex],
) -> (Vec<Complex>, Vec<Complex>) {
    let mut h = vec![[0.0; 2]; x.len()];
    let mut state = initial_state.to_vec();
    for row in 0..sequences.batch() {
        for step in sequences.steps(row) {
            for channel in 0..width {
                let at = (row * sequences.seq_len() + step) * width + channel;
                let state = &mut state[row * width + channel];
                if sequences.begins(row, step) {
                    *state = [0.0; 2];
                }
                *state = add(multiply(a[at], *state), x[at]);
                h[at] = *state;
            }
        }
    }
    (h, state)
}

/// `h_t = Ā h_{t−1} + B̄ u_t`, `y_t = 2 Re(C · h_t) + D u_t`: y of shape (batch, `d_model`, `seq_len`), and the last state
/// of shape (batch, `d_model`, `n_modes`). `weights` are Ā, B̄ and C, of shape (`d_model`, `n_modes`).
#[must_use]
pub fn s4d_scan(
    sequences: &Sequences<'_>,
    d_model: usize,
    u: &[f64],
    weights: [&[Complex]; 3],
    d: &[f64],
    initial_state: &[Complex],
) -> (Vec<f64>, Vec<Complex>) {
    let [a, b, c] = weights;
    let n_modes = a.len() / d_model;
    let mut y = vec![0.0; u.len()];
    let mut state = initial_state.to_vec();
    for row in 0..sequences.batch() {
        for step in sequences.steps(row) {
            for channel in 0..d_model {
                let at = (row * d_model + channel) * sequences.seq_len() + step;
                y[at] = d[channel] * u[at];
                for mode in 0..n_modes {
                    let weight = channel * n_modes + mode;
                    let state = &mut state[row * a.len() + weight];
                    if sequences.begins(row, step) {
                        *state = [0.0; 2];
                    }
                    *state = add(multiply(a[weight], *state), multiply(b[weight], [u[at], 0.0]));
                    y[at] += 2.0 * multiply(c[weight], *state)[0];
                }
            }
        }
    }
    (y, state)
}

/// `y_t = bias + Σ_j weight_j x_{t − kernel + 1 + j}`, perhaps times its sigmoid, for `weight` of shape (channels,
/// kernel): y of shape (batch, channels, `seq_len`), and the last inputs of shape (batch, channels, kernel − 1).
#[must_use]
pub fn causal_conv1d(
    sequences: &Sequences<'_>,
    x: &[f64],
    weight: &[f64],
    bias: &[f64],
    silu: bool,
    initial_state: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let (channels, kernel) = (bias.len(), weight.len() / bias.len());
    let mut y = vec![0.0; x.len()];
    let mut last_state = Vec::with_capacity(initial_state.len());
    for row in 0..sequences.batch() {
        for channel in 0..channels {
            let of = row * channels + channel;
            let mut inputs = initial_state[of * (kernel - 1)..(of + 1) * (kernel - 1)].to_vec();
            for step in sequences.steps(row) {
                if sequences.begins(row, step) {
                    inputs.fill(0.0);
                }
                let at = of * sequences.seq_len() + step;
                inputs.push(x[at]);
                let sum = inputs.iter().zip(&weight[channel * kernel..]).fold(bias[channel], |sum, (x, w)| sum + x * w);
                y[at] = if silu { sum / (1.0 + (-sum).exp()) } else { sum };
                inputs.remove(0);
            }
            last_state.extend(inputs);
        }
    }
    (y, last_state)
}
