//! Functions of vectors over a slice: for what is small beside a kernel, for tests and for measurements.

#![deny(unsafe_code)]
#![allow(clippy::needless_range_loop)] // Two arrays of registers are walked in step.

use super::{Float, Isa, Kernel, Level, Vector};

/// What [`map`] computes; [`Float`] has each for a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// [`Float::exp`].
    Exp,
    /// [`Float::exp2_of_products`] with 1.
    Exp2,
    /// [`Float::expm1`].
    Expm1,
    /// [`Float::log1p`].
    Log1p,
    /// [`Float::softplus`].
    Softplus,
    /// [`Float::sigmoid`].
    Sigmoid,
    /// The first of [`Float::softplus_and_slope`].
    SoftplusOfBoth,
    /// The second of [`Float::softplus_and_slope`].
    SlopeOfBoth,
}

impl Function {
    /// Every function.
    pub const ALL: [Self; 8] = [
        Self::Exp,
        Self::Exp2,
        Self::Expm1,
        Self::Log1p,
        Self::Softplus,
        Self::Sigmoid,
        Self::SoftplusOfBoth,
        Self::SlopeOfBoth,
    ];
}

/// Puts the function of each number in its place.
pub fn map<T: Float>(level: Level, function: Function, values: &mut [T]) {
    level.run(Map { function, values });
}

struct Map<'a, T> {
    function: Function,
    values: &'a mut [T],
}

impl<T: Float> Kernel for Map<'_, T> {
    type Output = ();
    const WIDE: bool = T::WIDE;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { function, values } = self;
        let lanes = T::Vector::<I>::LANES;
        // A macro: a closure would be a function of its own, without the instruction set.
        macro_rules! each {
            ($x:ident => $result:expr) => {{
                let mut blocks = values.chunks_exact_mut(4 * lanes);
                for values in &mut blocks {
                    let mut $x = [T::Vector::<I>::splat(isa, T::ZERO); 4];
                    for register in 0..4 {
                        $x[register] = T::Vector::<I>::load(isa, &values[register * lanes..(register + 1) * lanes]);
                    }
                    let result = $result;
                    for register in 0..4 {
                        result[register].store(&mut values[register * lanes..(register + 1) * lanes]);
                    }
                }
                for values in blocks.into_remainder().chunks_mut(lanes) {
                    let $x = [T::Vector::<I>::load(isa, values); 4];
                    let result = $result;
                    result[0].store(values);
                }
            }};
            ($name:ident) => {
                each!(x => [T::$name(isa, x[0]), T::$name(isa, x[1]), T::$name(isa, x[2]), T::$name(isa, x[3])])
            };
        }
        let (constants, one) = (T::exp2_constants(isa), T::Vector::<I>::splat(isa, T::ONE));
        match function {
            Function::Exp => each!(exp),
            Function::Exp2 => each!(x => T::exp2_of_products(isa, &constants, x, [one; 4])),
            Function::Expm1 => each!(expm1),
            Function::Log1p => each!(log1p),
            Function::Softplus => each!(softplus),
            Function::Sigmoid => each!(sigmoid),
            Function::SoftplusOfBoth => each!(x => [
                T::softplus_and_slope(isa, x[0]).0,
                T::softplus_and_slope(isa, x[1]).0,
                T::softplus_and_slope(isa, x[2]).0,
                T::softplus_and_slope(isa, x[3]).0,
            ]),
            Function::SlopeOfBoth => each!(x => [
                T::softplus_and_slope(isa, x[0]).1,
                T::softplus_and_slope(isa, x[1]).1,
                T::softplus_and_slope(isa, x[2]).1,
                T::softplus_and_slope(isa, x[3]).1,
            ]),
        }
    }
}
