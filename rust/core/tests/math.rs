//! Functions of vectors against the C library in double precision: their errors in units in the last place.

use std::sync::Mutex;

use ngram_copy_core::simd::{Float, Function, Level, map};

/// The function of a number, to more digits than `f32` has.
fn exact(function: Function, x: f64) -> f64 {
    match function {
        Function::Exp => x.exp(),
        Function::Exp2 => x.exp2(),
        Function::Expm1 => x.exp_m1(),
        Function::Log1p => x.ln_1p(),
        Function::Softplus | Function::SoftplusOfBoth => {
            x.max(0.0) + (-x.abs()).exp().ln_1p() + if x.is_nan() { x } else { 0.0 }
        }
        Function::Sigmoid | Function::SlopeOfBoth if x < 0.0 => x.exp() / (1.0 + x.exp()),
        Function::Sigmoid | Function::SlopeOfBoth => 1.0 / (1.0 + (-x).exp()),
    }
}

/// The largest error that the documentation of each function names, in ulp.
fn bound(function: Function) -> f64 {
    match function {
        Function::Exp => 1.06,
        Function::Exp2 => 1.23,
        Function::Expm1 => 1.74,
        Function::Log1p => 1.53,
        Function::Softplus | Function::SoftplusOfBoth => 2.05,
        Function::Sigmoid | Function::SlopeOfBoth => 2.41,
    }
}

/// |`got` − `exact`| in units of the last place that the nearest `f32` to `exact` has; infinity stands for 2^128.
fn ulps(got: f32, exact: f64) -> f64 {
    const END: f64 = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
    if exact.is_nan() || got.is_nan() {
        return if exact.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let (got, exact) = (f64::from(got).clamp(-END, END), exact.clamp(-END, END));
    let exponent = ((exact.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    (got - exact).abs() * f64::from(23 - exponent.clamp(-126, 127)).exp2()
}

/// Whether the function says anything about a pattern.
fn defined(function: Function, x: f32) -> bool {
    match function {
        Function::Exp2 => (-125.0..=126.0).contains(&x),
        Function::SoftplusOfBoth | Function::SlopeOfBoth => x >= -87.0 || x.is_nan(),
        _ => true,
    }
}

/// The largest error of each function at each level over patterns start, start + step, …, and where it is.
fn worst(patterns: std::ops::Range<u64>, step: u64) -> Vec<(Function, usize, f64, f32)> {
    const CHUNK: u64 = 4096;
    let levels = Level::available();
    let mut worst: Vec<(Function, usize, f64, f32)> =
        Function::ALL.iter().flat_map(|function| (0..levels.len()).map(|level| (*function, level, 0.0, 0.0))).collect();
    let mut start = patterns.start;
    while start < patterns.end {
        let inputs: Vec<f32> = (0..CHUNK)
            .map(|i| start + i * step)
            .take_while(|pattern| *pattern < patterns.end)
            .map(|pattern| f32::from_bits(pattern as u32))
            .collect();
        start += CHUNK * step;
        for (f, function) in Function::ALL.into_iter().enumerate() {
            let expected: Vec<f64> = inputs.iter().map(|x| exact(function, f64::from(*x))).collect();
            for (l, level) in levels.iter().enumerate() {
                let mut got = inputs.clone();
                map(*level, function, &mut got);
                let worst = &mut worst[f * levels.len() + l];
                for ((x, got), expected) in inputs.iter().zip(got).zip(&expected) {
                    let error = ulps(got, *expected);
                    if error > worst.2 && defined(function, *x) {
                        (worst.2, worst.3) = (error, *x);
                    }
                }
            }
        }
    }
    worst
}

fn check(worst: &[(Function, usize, f64, f32)]) {
    let levels = Level::available();
    for (function, level, error, x) in worst {
        println!("{function:?} {:?}: {error:.3} ulp at {x:e} ({:#010x})", levels[*level], x.to_bits());
    }
    for (function, level, error, x) in worst {
        let level = levels[*level];
        assert!(*error <= bound(*function), "{function:?} at {level:?}: {error} ulp at {x:e} ({:#010x})", x.to_bits());
    }
}

#[test]
fn errors_are_small_at_every_4099th_number() {
    check(&worst(0..1 << 32, 4099));
}

#[test]
#[ignore = "minutes: every f32"]
fn errors_are_small_at_every_number() {
    const PARTS: u64 = 1 << 10;
    let next = Mutex::new(0..PARTS);
    let all = Mutex::new(Vec::<(Function, usize, f64, f32)>::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(part) = next.lock().unwrap().next() else { return };
                    let size = (1 << 32) / PARTS;
                    let errors = worst(part * size..(part + 1) * size, 1);
                    let mut all = all.lock().unwrap();
                    if all.is_empty() {
                        *all = errors;
                    } else {
                        for (worst, new) in all.iter_mut().zip(errors) {
                            if new.2 > worst.2 {
                                *worst = new;
                            }
                        }
                    }
                }
            });
        }
    });
    check(&all.into_inner().unwrap());
}

fn at<T: Float>(level: Level, function: Function, x: T) -> T {
    // In each lane, among zeros.
    let results: Vec<T> = (0..9)
        .map(|lane| {
            let mut values = [T::ZERO; 9];
            values[lane] = x;
            map(level, function, &mut values);
            let mut zeros = [T::ZERO; 9];
            map(level, function, &mut zeros);
            assert!((0..9).all(|other| other == lane || values[other] == zeros[other]), "{function:?} spills");
            values[lane]
        })
        .collect();
    assert!(results.iter().all(|y| y.to_f64().to_bits() == results[0].to_f64().to_bits()), "lanes differ");
    results[0]
}

#[test]
fn special_values() {
    const INFINITY: f32 = f32::INFINITY;
    const TINY: f32 = 1e-45;
    let cases = [
        (Function::Exp, &[(0.0, 1.0), (-0.0, 1.0), (INFINITY, INFINITY), (-INFINITY, 0.0), (TINY, 1.0)][..]),
        (Function::Exp, &[(89.0, INFINITY), (-104.0, 0.0), (f32::MAX, INFINITY), (f32::MIN, 0.0)]),
        (Function::Exp2, &[(0.0, 1.0), (-0.0, 1.0), (TINY, 1.0), (-3.0, 0.125), (126.0, 2.0_f32.powi(126))]),
        (Function::Expm1, &[(0.0, 0.0), (-0.0, -0.0), (INFINITY, INFINITY), (-INFINITY, -1.0), (TINY, TINY)]),
        (Function::Expm1, &[(-TINY, -TINY), (1e-30, 1e-30), (89.0, INFINITY), (-30.0, -1.0), (f32::MAX, INFINITY)]),
        (Function::Log1p, &[(0.0, 0.0), (-0.0, -0.0), (INFINITY, INFINITY), (-1.0, -INFINITY), (TINY, TINY)]),
        (Function::Log1p, &[(-1.5, f32::NAN), (-INFINITY, f32::NAN), (-TINY, -TINY), (f32::MIN, f32::NAN)]),
        (Function::Softplus, &[(INFINITY, INFINITY), (-INFINITY, 0.0), (f32::MAX, f32::MAX), (f32::MIN, 0.0)]),
        (Function::Softplus, &[(0.0, std::f32::consts::LN_2), (-0.0, std::f32::consts::LN_2), (100.0, 100.0)]),
        (Function::Sigmoid, &[(0.0, 0.5), (-0.0, 0.5), (INFINITY, 1.0), (-INFINITY, 0.0), (f32::MIN, 0.0)]),
    ];
    for level in Level::available() {
        for (function, cases) in cases {
            for (x, expected) in cases {
                let got = at(level, function, *x);
                let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
                assert!(same, "{function:?} of {x:e} at {level:?}: {got:e}, not {expected:e}");
            }
        }
    }
}

#[test]
fn nan_stays_nan_whatever_its_payload() {
    for level in Level::available() {
        for function in Function::ALL.into_iter().filter(|function| *function != Function::Exp2) {
            for payload in (0..1 << 22).step_by(997).chain(1..1 << 10) {
                for bits in [0x7fc0_0000 | payload, 0xffc0_0000 | payload, 0x7f80_0001 | payload] {
                    let mut value = [f32::from_bits(bits)];
                    map(level, function, &mut value);
                    assert!(value[0].is_nan(), "{function:?} of {bits:#x} at {level:?}: {}", value[0]);
                }
            }
        }
        // What arithmetic makes has no payload.
        assert!(at(level, Function::Exp2, f32::NAN).is_nan());
        assert!(at(level, Function::Exp2, -f32::NAN).is_nan());
    }
}

#[test]
fn double_precision_agrees_with_the_c_library() {
    let inputs: Vec<f64> =
        (-4000..4000).map(|i| f64::from(i) / 50.0).chain((-300..300).map(|i| 10_f64.powi(i / 10))).collect();
    for level in Level::available() {
        for function in Function::ALL {
            let mut got = inputs.clone();
            map(level, function, &mut got);
            for (x, got) in inputs.iter().zip(got) {
                let expected = exact(function, *x);
                let close = got.to_bits() == expected.to_bits() || (got - expected).abs() <= 1e-15 * expected.abs();
                assert!(
                    close || (got.is_nan() && expected.is_nan()),
                    "{function:?} of {x:e}: {got:e}, not {expected:e}"
                );
            }
        }
    }
}
