//! N-grams: hashing, tables, copiers, the prefix machine and statistics.

pub mod hash;
pub mod index;
pub mod state;
