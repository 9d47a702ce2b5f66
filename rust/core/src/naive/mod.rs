//! The obvious versions of everything: oracles of the tests, nothing else.

mod copier;
mod delta;
mod hash;
mod statistics;
mod table;

pub use copier::NaiveCopier;
pub use delta::{DeltaStep, delta_rule, delta_rule_backward};
pub use hash::hash_ngrams;
pub use statistics::{first_conflict, first_repeat, ngram_statistics, repeat_windows};
pub use table::{bounded, most_frequent, positions};
