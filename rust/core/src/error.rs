//! The one error type of the crate.

use std::fmt;

/// What can go wrong in the core; the Python binding maps each variant to one exception class.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An argument has a value that is not allowed; the text names the argument, its value and what is allowed.
    /// Python: `ValueError`.
    Value(String),
    /// A serialised state is of another version, of another kind, truncated or damaged.
    /// Python: `ngram_copy.StateError` (a `ValueError`).
    State(String),
    /// Something does not fit: more tokens, slots or bytes than can be addressed or allocated.
    /// Python: `MemoryError`.
    Memory(String),
    /// A long call was asked to stop (a signal arrived). Python: the exception of the signal handler.
    Interrupted,
}

/// `Result` with the crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::Value`] from anything that can be displayed.
    pub fn value(message: impl fmt::Display) -> Self {
        Self::Value(message.to_string())
    }

    /// A [`Error::State`] from anything that can be displayed.
    pub fn state(message: impl fmt::Display) -> Self {
        Self::State(message.to_string())
    }

    /// A [`Error::Memory`] from anything that can be displayed.
    pub fn memory(message: impl fmt::Display) -> Self {
        Self::Memory(message.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(message) | Self::State(message) | Self::Memory(message) => f.write_str(message),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

/// Called from time to time by long calls with the number of tokens done; an error of it ends the call.
pub type Poll<'a> = &'a (dyn Fn(u64) -> Result<()> + Sync);
