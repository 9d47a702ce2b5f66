//! Counter-based random sampling: example `i` of a stream is a function of (seed, stream, i) alone.
