//! Functions of vectors over a slice: for what is small beside a kernel, for tests and for measurements.

#![deny(unsafe_code)]

use super::{Float, Isa, Kernel, Level, Vector};

/// What [`map`] computes; [`Float`] has each for a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// [`Float::exp`].
    Exp,
    /// [`Float::exp2_bounded`].
    Exp2Bounded,
    /// [`Float::expm1`].
    Expm1,
    /// [`Float::log1p`].
    Log1p,
    /// [`Float::softplus`].
    Softplus,
    /// [`Float::sigmoid`].
    Sigmoid,
}

impl Function {
    /// Every function.
    pub const ALL: [Self; 6] = [Self::Exp, Self::Exp2Bounded, Self::Expm1, Self::Log1p, Self::Softplus, Self::Sigmoid];
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

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { function, values } = self;
        match function {
            Function::Exp => each(isa, values, |x| T::exp(isa, x)),
            Function::Exp2Bounded => each(isa, values, |x| T::exp2_bounded(isa, x)),
            Function::Expm1 => each(isa, values, |x| T::expm1(isa, x)),
            Function::Log1p => each(isa, values, |x| T::log1p(isa, x)),
            Function::Softplus => each(isa, values, |x| T::softplus(isa, x)),
            Function::Sigmoid => each(isa, values, |x| T::sigmoid(isa, x)),
        }
    }
}

#[inline(always)]
fn each<T: Float, I: Isa>(isa: I, values: &mut [T], function: impl Fn(T::Vector<I>) -> T::Vector<I>) {
    for values in values.chunks_mut(T::Vector::<I>::LANES) {
        function(T::Vector::<I>::load(isa, values)).store(values);
    }
}
