//! The delta rule of one head, as its equation says.

/// What one step reads, or the gradients of that.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeltaStep {
    /// Query, (`head_k`).
    pub q: Vec<f64>,
    /// Key, (`head_k`).
    pub k: Vec<f64>,
    /// Value, (`head_v`).
    pub v: Vec<f64>,
    /// Gate of each channel of a key, (`head_k`).
    pub g: Vec<f64>,
    /// How much is written.
    pub beta: f64,
    /// Whether the state is zero before this step.
    pub begins: bool,
}

/// A matrix of shape (`head_k`, `head_v`).
type Matrix = Vec<Vec<f64>>;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Sᵀ x
fn read(s: &Matrix, x: &[f64]) -> Vec<f64> {
    (0..s[0].len()).map(|v| s.iter().zip(x).map(|(row, x)| row[v] * x).sum()).collect()
}

/// S + x yᵀ
fn write(s: &Matrix, x: &[f64], y: &[f64]) -> Matrix {
    s.iter().zip(x).map(|(row, x)| row.iter().zip(y).map(|(s, y)| s + x * y).collect()).collect()
}

/// S, or 0 where an example begins.
fn carry(s: Matrix, step: &DeltaStep) -> Matrix {
    if step.begins { s.into_iter().map(|row| vec![0.0; row.len()]).collect() } else { s }
}

/// S' = Diag(e^g) S
fn decay(s: &Matrix, step: &DeltaStep) -> Matrix {
    s.iter().zip(&step.g).map(|(row, g)| times(g.exp(), row)).collect()
}

/// v − S'ᵀ k
fn error(decayed: &Matrix, step: &DeltaStep) -> Vec<f64> {
    step.v.iter().zip(read(decayed, &step.k)).map(|(v, there)| v - there).collect()
}

fn times(factor: f64, x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| factor * x).collect()
}

fn add(to: &mut [f64], x: &[f64]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += x;
    }
}

/// S' = Diag(e^g) S; u = β (v − S'ᵀ k); S = S' + k uᵀ; o = scale · Sᵀ q: the outputs and the last state.
#[must_use]
pub fn delta_rule(steps: &[DeltaStep], scale: f64, initial_state: Matrix) -> (Matrix, Matrix) {
    let mut s = initial_state;
    let mut outputs = Vec::new();
    for step in steps {
        let decayed = decay(&carry(s, step), step);
        let u = times(step.beta, &error(&decayed, step));
        s = write(&decayed, &step.k, &u);
        outputs.push(times(scale, &read(&s, &step.q)));
    }
    (outputs, s)
}

/// Gradients of the steps and of the initial state, from those of the outputs and of the last state.
#[must_use]
pub fn delta_rule_backward(
    steps: &[DeltaStep],
    scale: f64,
    initial_state: Matrix,
    of_outputs: &[Vec<f64>],
    of_last_state: Matrix,
) -> (Vec<DeltaStep>, Matrix) {
    let mut states = vec![initial_state];
    for step in steps {
        let before = states[states.len() - 1].clone();
        states.push(delta_rule(std::slice::from_ref(step), scale, before).1);
    }
    let mut of_s = of_last_state;
    let mut gradients = Vec::new();
    for ((t, step), of_o) in steps.iter().enumerate().zip(of_outputs).rev() {
        let after = &states[t + 1];
        let decayed = decay(&carry(states[t].clone(), step), step);
        let e = error(&decayed, step);
        let u = times(step.beta, &e);
        // o = scale · Sᵀ q
        let of_q = after.iter().map(|row| scale * dot(row, of_o)).collect();
        of_s = write(&of_s, &times(scale, &step.q), of_o);
        // S = S' + k uᵀ
        let of_u = read(&of_s, &step.k);
        let mut of_k: Vec<f64> = of_s.iter().map(|row| dot(row, &u)).collect();
        // u = β (v − S'ᵀ k)
        let of_v = times(step.beta, &of_u);
        add(&mut of_k, &decayed.iter().map(|row| -dot(row, &of_v)).collect::<Vec<_>>());
        let of_decayed = write(&of_s, &times(-1.0, &step.k), &of_v);
        // S' = Diag(e^g) S
        let of_g = of_decayed.iter().zip(&decayed).map(|(of, s)| dot(of, s)).collect();
        of_s = carry(decay(&of_decayed, step), step);
        gradients.push(DeltaStep { q: of_q, k: of_k, v: of_v, g: of_g, beta: dot(&of_u, &e), begins: step.begins });
    }
    gradients.reverse();
    (gradients, of_s)
}
