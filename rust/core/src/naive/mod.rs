//! The obvious versions of everything: oracles of the tests, nothing else.

mod copier;
mod delta;
mod diagonal;
mod hash;
mod outer;
mod repeat_free;
mod statistics;
mod table;

pub use copier::NaiveCopier;
pub use delta::{DeltaStep, delta_rule, delta_rule_backward};
pub use diagonal::{Complex, causal_conv1d, linear_scan, s4d_scan};
pub use hash::hash_ngrams;
pub use outer::{OuterGradients, OuterInputs, outer, outer_backward};
pub use repeat_free::repeat_free;
pub use statistics::{first_conflict, first_repeat, ngram_statistics, repeat_windows};
pub use table::{bounded, most_frequent, positions};
