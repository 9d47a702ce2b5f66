//! Threads by argument: none for one, a pool of their own for more.

use rayon::prelude::*;

use crate::{Error, Result};

/// The largest number of threads that a call takes.
pub const MAX_THREADS: usize = 1024;

/// Runs `work` over `items` on `threads` threads.
///
/// One thread is the calling thread: no pool is made or touched, so that it is safe after a fork. More threads are a
/// pool that lives as long as the call.
pub fn for_each<T: Send>(threads: usize, items: Vec<T>, work: impl Fn(T) -> Result<()> + Sync + Send) -> Result<()> {
    check(threads)?;
    if threads == 1 || items.len() <= 1 {
        return items.into_iter().try_for_each(work);
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| Error::memory(format!("cannot start {threads} threads: {error}")))?;
    pool.install(|| items.into_par_iter().try_for_each(work))
}

/// Refuses numbers of threads that are not in 1 ..= [`MAX_THREADS`].
pub fn check(threads: usize) -> Result<()> {
    if (1..=MAX_THREADS).contains(&threads) {
        Ok(())
    } else {
        Err(Error::value(format!("threads is {threads}; it must be 1 to {MAX_THREADS}")))
    }
}
