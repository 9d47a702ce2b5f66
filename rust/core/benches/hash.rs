//! Hashing every n-gram of 10M tokens beside a copy of the same number of bytes.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ngram_copy_core::ngram::hash::{NgramHasher, Token};
use ngram_copy_core::simd::Level;

const TOKENS: usize = 10_000_000;

fn letters() -> Vec<u16> {
    (0..TOKENS as u64).map(|i| (((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) * 26) >> 32) as u16).collect()
}

fn hash<T: Token>(c: &mut Criterion, name: &str, tokens: &[T]) {
    let mut out = vec![1_u64; TOKENS];
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for n in [2, 4, 8] {
        for level in Level::available() {
            let hasher = NgramHasher::new(n, 0).unwrap().with_level(level);
            let count = hasher.count(TOKENS);
            group.bench_function(BenchmarkId::new(format!("{level:?}"), n), |b| {
                b.iter(|| hasher.hash_into(black_box(tokens), &mut out[..count], 1).unwrap());
            });
        }
    }
    let bytes = TOKENS * (size_of::<T>() + size_of::<u64>());
    let source = vec![1_u8; bytes / 2];
    let mut target = vec![2_u8; bytes / 2];
    group.bench_function("copy of the same bytes", |b| {
        b.iter(|| black_box(&mut target).copy_from_slice(black_box(&source)));
    });
    group.finish();
}

fn benches(c: &mut Criterion) {
    let letters = letters();
    hash(c, "hash u16", &letters);
    let wide: Vec<u32> = letters.iter().map(|x| u32::from(*x)).collect();
    hash(c, "hash u32", &wide);
}

criterion_group!(all, benches);
criterion_main!(all);
