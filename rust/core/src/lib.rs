//! The core of ngram-copy: n-gram hashing, tables, copiers, statistics, counter-based sampling and reference recurrences.
//!
//! Pure Rust without Python; `naive` holds the obvious versions that the tests compare with.

pub mod error;
pub mod naive;
pub mod ngram;
pub mod parallel;
pub mod sample;
pub mod simd;
pub mod ssm;

pub use error::{Error, Poll, Result};
