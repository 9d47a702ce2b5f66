//! The obvious versions of everything: oracles of the tests, nothing else.
