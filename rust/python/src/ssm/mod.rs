//! Binding of `ngram_copy_core::ssm`: one file a family.

pub(crate) mod arrays;
pub(crate) mod conv;
pub(crate) mod delta;
pub(crate) mod linear;
pub(crate) mod outer;
pub(crate) mod s4d;
pub(crate) mod selective;
