//! Functions of vectors on one thread, in the first cache, beside those of the C library.

#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ngram_copy_core::simd::{Function, Level, map};

const NUMBERS: usize = 2048;
const COPIED: usize = 256;

fn libm(function: Function, x: f32) -> f32 {
    match function {
        Function::Exp => x.exp(),
        Function::Exp2 => x.exp2(),
        Function::Expm1 => x.exp_m1(),
        Function::Log1p => x.ln_1p(),
        Function::Softplus | Function::SoftplusOfBoth => x.exp().ln_1p(),
        Function::Sigmoid | Function::SlopeOfBoth => 1.0 / (1.0 + (-x).exp()),
    }
}

fn functions(c: &mut Criterion) {
    let inputs: Vec<f32> = (0..NUMBERS).map(|i| i as f32 / NUMBERS as f32 * 8.0 - 7.0).collect();
    let mut values = inputs.clone();
    for function in Function::ALL {
        let mut group = c.benchmark_group(format!("{function:?}"));
        group.throughput(Throughput::Elements(NUMBERS as u64));
        group.sample_size(20).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
        for level in Level::available() {
            group.bench_function(BenchmarkId::from_parameter(format!("{level:?}")), |b| {
                b.iter(|| {
                    // Short copies: long ones are by an instruction that some virtual machines run slowly.
                    for (values, inputs) in values.chunks_mut(COPIED).zip(black_box(&inputs).chunks(COPIED)) {
                        values.copy_from_slice(inputs);
                        map(level, function, values);
                    }
                    black_box(&mut values);
                });
            });
        }
        group.bench_function("libm", |b| {
            b.iter(|| {
                for (value, x) in values.iter_mut().zip(black_box(&inputs)) {
                    *value = libm(function, *x);
                }
                black_box(&mut values);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, functions);
criterion_main!(benches);
