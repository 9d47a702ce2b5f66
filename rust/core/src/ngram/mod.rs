//! N-grams: hashing, tables, copiers, the prefix machine and statistics.

pub mod bounded;
pub mod bounded_copier;
pub mod copier;
pub mod hash;
pub mod index;
pub mod marks;
pub mod prefix_machine;
pub mod repeat_free;
pub mod state;
pub mod statistics;
pub mod table;
