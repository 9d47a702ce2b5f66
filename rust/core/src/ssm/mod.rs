//! Reference recurrences of state space models, in three families: diagonal, outer and delta; and the causal short
//! convolution.
//!
//! Each family has a whole sequence ("scan"), its backward pass, and a decode step. Sequences are cut into blocks
//! ([`sequence`]); the backward pass keeps a state for each block and recomputes the others. Work is shared out in parts
//! that do not depend on the number of threads, and sums over parts are taken in one order: the same bytes for any
//! number of threads on one instruction set.

mod complex;
pub mod conv;
pub mod delta;
pub mod linear;
pub mod outer;
mod parts;
pub mod s4d;
pub mod selective;
pub mod sequence;

pub use sequence::{BLOCK, Block, Sequences};

use crate::simd::{Float, Level};
use crate::{Error, Poll, Result};

/// How a call runs: nothing of it changes what is computed but `level`, by rounding.
#[derive(Clone, Copy)]
pub struct Execution<'a> {
    /// Threads, at least 1.
    pub threads: usize,
    /// Instruction set.
    pub level: Level,
    /// Called from time to time; an error of it ends the call.
    pub poll: Poll<'a>,
}

impl Execution<'static> {
    /// So many threads on the best instruction set.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads, level: Level::best(), poll: &|_| Ok(()) }
    }
}

/// Refuses an array of another size.
pub(crate) fn check_len<T>(name: &str, values: &[T], expected: usize) -> Result<()> {
    if values.len() == expected {
        Ok(())
    } else {
        Err(Error::value(format!("{name} has {} elements; its shape has {expected}", values.len())))
    }
}

/// So many zeros; [`Error::Memory`] where there is no room for them.
pub(crate) fn zeros<T: Float>(len: usize) -> Result<Vec<T>> {
    let mut zeros = Vec::new();
    zeros
        .try_reserve_exact(len)
        .map_err(|_| Error::memory(format!("cannot allocate {len} numbers of {} bytes", size_of::<T>())))?;
    zeros.resize(len, T::ZERO);
    Ok(zeros)
}
