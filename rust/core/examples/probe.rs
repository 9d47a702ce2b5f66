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
    let mut ck = vec![0f32; b * d * n * seq.checkpoints()];
    let shape = Shape { d_model: d, d_state: n, n_groups: 1 };
    let inputs =
        Inputs { u: &u, delta: &delta, a: &a, b: &bb, c: &c, d: None, z: None, delta_bias: None, softplus: true };
    let k: usize = std::env::args().nth(1).map_or(1, |x| x.parse().unwrap());
    let back = std::env::args().nth(2).is_some();
    let (mut gu, mut gd, mut ga, mut gb, mut gc, mut gh) =
        (y.clone(), y.clone(), a.clone(), bb.clone(), c.clone(), h.clone());
    let mut best = f64::MAX;
    forward(
        &seq,
        shape,
        inputs,
        None,
        Outputs { y: &mut y, last_state: &mut h, checkpoints: Some(&mut ck) },
        Execution::new(1),
    )
    .unwrap();
    for _ in 0..k {
        let t0 = std::time::Instant::now();
        if back {
            backward(
                &seq,
                shape,
                inputs,
                Upstream { checkpoints: &ck, y: &y, last_state: None },
                Gradients {
                    u: &mut gu,
                    delta: &mut gd,
                    a: &mut ga,
                    b: &mut gb,
                    c: &mut gc,
                    d: None,
                    z: None,
                    delta_bias: None,
                    initial_state: &mut gh,
                },
                Execution::new(1),
            )
            .unwrap();
        } else {
            forward(
                &seq,
                shape,
                inputs,
                None,
                Outputs { y: &mut y, last_state: &mut h, checkpoints: Some(&mut ck) },
                Execution::new(1),
            )
            .unwrap();
        }
        best = best.min(t0.elapsed().as_secs_f64());
    }
    println!("{} {:.3} ms", y[5], best * 1e3);
}
