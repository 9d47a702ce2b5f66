//! Threads by argument: none for one, a pool that is kept for more.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{Error, Poll, Result};

/// The largest number of threads that a call takes.
pub const MAX_THREADS: usize = 1024;

/// Runs `work` over `items` on `threads` threads.
///
/// One thread is the calling thread: no pool is made or touched, so that it is safe after a fork.
pub fn for_each<T: Send>(threads: usize, items: Vec<T>, work: impl Fn(T) -> Result<()> + Sync + Send) -> Result<()> {
    check(threads)?;
    if threads == 1 || items.len() <= 1 {
        return items.into_iter().try_for_each(work);
    }
    let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    for_each_index(threads, items.len(), &|index| {
        let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        item.map_or(Ok(()), &work)
    })
}

/// Runs `work` over `0..count` in a pool: compiled once, not for each kind of work, which would be a sixth of the build.
fn for_each_index(threads: usize, count: usize, work: &(dyn Fn(usize) -> Result<()> + Sync)) -> Result<()> {
    pool(threads)?.install(|| (0..count).into_par_iter().try_for_each(work))
}

/// [`for_each`] for work that touches so many `numbers`: where they are few, it is done before another thread has woken.
pub fn for_each_short<T: Send>(
    threads: usize,
    numbers: usize,
    items: Vec<T>,
    work: impl Fn(T) -> Result<()> + Sync + Send,
) -> Result<()> {
    const FEW: usize = 1 << 16;
    check(threads)?;
    for_each(if numbers < FEW { 1 } else { threads }, items, work)
}

/// [`for_each`] that can be stopped: `poll` is called on the calling thread after some items, with their number.
pub fn for_each_polled<T: Send>(
    threads: usize,
    items: Vec<T>,
    poll: Poll<'_>,
    work: impl Fn(T) -> Result<()> + Sync + Send,
) -> Result<()> {
    const ITEMS_PER_THREAD: usize = 8;
    let mut items = items.into_iter();
    let mut done = 0;
    while items.len() > 0 {
        let some: Vec<T> = items.by_ref().take(threads.saturating_mul(ITEMS_PER_THREAD)).collect();
        done += some.len() as u64;
        for_each(threads, some, &work)?;
        poll(done)?;
    }
    check(threads)
}

/// Refuses numbers of threads that are not in 1 ..= [`MAX_THREADS`].
pub fn check(threads: usize) -> Result<()> {
    if (1..=MAX_THREADS).contains(&threads) {
        Ok(())
    } else {
        Err(Error::value(format!("threads is {threads}; it must be 1 to {MAX_THREADS}")))
    }
}

/// The pool that was used last, with the process and the number of threads that it was made for.
static KEPT: Mutex<Option<(u32, usize, Arc<ThreadPool>)>> = Mutex::new(None);

/// A pool of so many threads: the kept one where it fits. The threads of a pool do not survive a fork, so that a child
/// makes its own and leaves its parent's alone.
fn pool(threads: usize) -> Result<Arc<ThreadPool>> {
    let make = || {
        ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map(Arc::new)
            .map_err(|error| Error::memory(format!("cannot start {threads} threads: {error}")))
    };
    let mut kept = match KEPT.try_lock() {
        Ok(kept) => kept,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // Another thread is at it (or was, when this process was forked): do without.
        Err(TryLockError::WouldBlock) => return make(),
    };
    let process = std::process::id();
    match &*kept {
        Some((maker, size, pool)) if (*maker, *size) == (process, threads) => Ok(Arc::clone(pool)),
        _ => {
            let pool = make()?;
            if let Some((maker, _, old)) = kept.replace((process, threads, Arc::clone(&pool)))
                && maker != process
            {
                // Its threads are not in this process: there is nobody to stop.
                std::mem::forget(old);
            }
            Ok(pool)
        }
    }
}
