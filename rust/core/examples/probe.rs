//! Probe.
use ngram_copy_core::ssm::{selective::*, *};
fn main() {
    let (b, d, n, l) = (1usize, 512, 16, 1024);
    let r = |k: usize, s: f32| {
        (0..k).map(|i| ((i * 2654435761usize % 1000) as f32 / 1000.0 - 0.5) * s).collect::<Vec<f32>>()
    };
    let (u, delta, a, bb, c) = (
        r(b * d * l, 1.),
        r(b * d * l, 1.),
        r(d * n, 1.).iter().map(|x| -x.abs()).collect::<Vec<_>>(),
        r(b * n * l, 1.),
        r(b * n * l, 1.),
    );
    let mut y = vec![0f32; b * d * l];
    let mut h = vec![0f32; b * d * n];
    let seq = Sequences::new(b, l);
    let shape = Shape { d_model: d, d_state: n, n_groups: 1 };
    let inputs =
        Inputs { u: &u, delta: &delta, a: &a, b: &bb, c: &c, d: None, z: None, delta_bias: None, softplus: true };
    for _ in 0..std::env::args().nth(1).map_or(1, |x| x.parse().unwrap()) {
        forward(
            &seq,
            shape,
            inputs,
            None,
            Outputs { y: &mut y, last_state: &mut h, checkpoints: None },
            Execution::new(1),
        )
        .unwrap();
    }
    println!("{}", y[5]);
}
