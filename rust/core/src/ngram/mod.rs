//! N-grams: hashing, tables, copiers, the prefix machine and statistics.

pub mod bounded;
pub mod hash;
pub mod index;
pub mod state;
pub mod table;
