//! Work on many pieces at once: the library's own pool, with the caller as one of its workers.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::error::{Error, Result};
use crate::params::{CHUNK_LEN, PARALLEL_MIN, PIECE_CHUNKS, WIRE_CHUNK_LEN};
use crate::pieces::pieces;
use crate::secret::{ForkLocal, scrubbed};
use crate::stream::StreamKey;

/// The most threads that may be asked for.
pub const THREADS_MAX: usize = 1024;

struct Pool {
    threads: usize,
    // None where the caller works alone.
    helpers: Option<rayon::ThreadPool>,
}

/// Each process has its own pool, made at first use: after a fork the parent's has no threads.
static POOL: ForkLocal<RwLock<Option<Arc<Pool>>>> = ForkLocal::new(|| RwLock::new(None));

/// Survives a fork, unlike the pool. Zero means the default.
static WANTED: AtomicU64 = AtomicU64::new(0);

/// Reads `STRONGROOM_THREADS`; to be called at load so that a wrong value is an error there.
///
/// # Errors
/// [`Error::Invalid`] for what is no number of threads.
pub fn init() -> Result<()> {
    match std::env::var("STRONGROOM_THREADS") {
        Ok(text) if !text.is_empty() => {
            let wrong = || {
                Error::Invalid(format!(
                    "STRONGROOM_THREADS is {text:?}: give a number from 1 to {THREADS_MAX}"
                ))
            };
            let threads = text.parse().map_err(|_| wrong())?;
            set_num_threads(Some(threads)).map_err(|_| wrong())
        }
        _ => Ok(()),
    }
}

/// Sets how many threads a large call uses, the caller included; None is the default: as many
/// CPUs as the process may use, quotas included.
///
/// # Errors
/// [`Error::Invalid`] for 0 and for more than [`THREADS_MAX`].
pub fn set_num_threads(threads: Option<usize>) -> Result<()> {
    if let Some(threads) = threads
        && !(1..=THREADS_MAX).contains(&threads)
    {
        return Err(Error::Invalid(format!(
            "the number of threads is {threads}: give 1 to {THREADS_MAX}"
        )));
    }
    WANTED.store(threads.unwrap_or(0) as u64, Ordering::Relaxed);
    POOL.get()
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    Ok(())
}

/// How many threads a large call uses, the caller included.
pub fn num_threads() -> usize {
    match WANTED.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads as usize,
    }
}

fn pool() -> Result<Arc<Pool>> {
    let cell = POOL.get();
    if let Some(pool) = &*cell.read().unwrap_or_else(PoisonError::into_inner) {
        return Ok(Arc::clone(pool));
    }
    let mut cell = cell.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = &*cell {
        return Ok(Arc::clone(pool));
    }
    let threads = num_threads();
    let helpers = (threads > 1)
        .then(|| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads - 1)
                .thread_name(|number| format!("strongroom-{number}"))
                .build()
                .map_err(|error| Error::Os(std::io::Error::other(error)))
        })
        .transpose()?;
    let pool = Arc::new(Pool { threads, helpers });
    *cell = Some(Arc::clone(&pool));
    Ok(pool)
}

/// Called by the caller's own thread between pieces with what is done so far; an error stops all.
pub type Tick<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

/// Runs `work` over all `items` on at most `workers` threads (None: all), the caller among them
/// from the first moment. `work` returns how much it did, for `tick`.
///
/// # Errors
/// The first error by position of its item among those that were begun; no further item is
/// begun after one.
pub fn for_each<I, F>(items: I, workers: Option<usize>, work: F, tick: Tick<'_>) -> Result<()>
where
    I: Iterator + Send,
    I::Item: Send,
    F: Fn(I::Item) -> Result<u64> + Sync,
{
    let ((), done) = for_each_while(items, workers, work, |run| run.lead(tick))?;
    done
}

/// [`for_each`] where the helpers begin at once and the caller does something else first:
/// `meanwhile` runs on the calling thread and then calls [`Run::lead`] to take part.
///
/// # Errors
/// That the pool could not be made; the inner result is the work's own.
pub fn for_each_while<I, F, R>(
    items: I,
    workers: Option<usize>,
    work: F,
    meanwhile: impl FnOnce(&Run<I, F>) -> R,
) -> Result<(R, Result<()>)>
where
    I: Iterator + Send,
    I::Item: Send,
    F: Fn(I::Item) -> Result<u64> + Sync,
{
    let pool = pool()?;
    let workers = workers.unwrap_or(pool.threads).min(pool.threads);
    let run = Run {
        items: Mutex::new(items.enumerate()),
        stop: AtomicBool::new(false),
        done: AtomicU64::new(0),
        failed: Mutex::new(None),
        work,
    };
    let result = match &pool.helpers {
        Some(helpers) if workers > 1 => helpers.in_place_scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|_| run.help());
            }
            meanwhile(&run)
        }),
        _ => meanwhile(&run),
    };
    // Whatever `meanwhile` left undone, with helpers or without.
    run.help();
    let failed = run
        .failed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok((result, failed.map_or(Ok(()), |(_, error)| Err(error))))
}

/// Work under way.
pub struct Run<I: Iterator, F> {
    items: Mutex<std::iter::Enumerate<I>>,
    stop: AtomicBool,
    done: AtomicU64,
    failed: Mutex<Option<(usize, Error)>>,
    work: F,
}

impl<I, F> Run<I, F>
where
    I: Iterator + Send,
    I::Item: Send,
    F: Fn(I::Item) -> Result<u64> + Sync,
{
    fn step(&self) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        let next = self
            .items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next();
        let Some((number, item)) = next else {
            return false;
        };
        match (self.work)(item) {
            Ok(done) => {
                self.done.fetch_add(done, Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.fail(number, error);
                false
            }
        }
    }

    fn fail(&self, number: usize, error: Error) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.as_ref().is_none_or(|(first, _)| number < *first) {
            *failed = Some((number, error));
        }
    }

    fn help(&self) {
        scrubbed(|| while self.step() {});
    }

    /// Takes part until nothing is left.
    pub fn lead(&self, tick: Tick<'_>) {
        scrubbed(|| {
            while self.step() {
                if let Err(error) = tick(self.done.load(Ordering::Relaxed)) {
                    // Before any error of a piece: the caller asked first.
                    self.fail(0, error);
                }
            }
        });
    }
}

/// Seals a whole message's chunks into `out`; consumes the key, which serves one message.
///
/// # Errors
/// [`Error::Limit`]; what `tick` returns.
pub fn seal_message(
    key: StreamKey,
    plaintext: &[u8],
    out: &mut [u8],
    workers: Option<usize>,
    tick: Tick<'_>,
) -> Result<()> {
    debug_assert_eq!(
        Some(out.len() as u64),
        crate::stream::sealed_len(plaintext.len() as u64)
    );
    let workers = workers_for(plaintext.len(), workers)?;
    let chunks = out.len().div_ceil(WIRE_CHUNK_LEN);
    let mut room = out;
    let pieces = pieces(chunks, WIRE_CHUNK_LEN, PIECE_CHUNKS, workers).map(|piece| {
        let plaintext = of_units(plaintext, &piece, CHUNK_LEN);
        let out = next_units(&mut room, piece.len(), WIRE_CHUNK_LEN);
        (piece.start as u64, plaintext, out)
    });
    for_each(
        pieces,
        Some(workers),
        |(first, plaintext, out)| {
            key.seal_run(first, plaintext, out)?;
            Ok(plaintext.len() as u64)
        },
        tick,
    )
}

/// Opens a whole message's chunks into `out`.
///
/// # Errors
/// [`Error::Decryption`], what `tick` returns; `out` is zeros then.
pub fn open_message(
    key: &StreamKey,
    sealed: &[u8],
    out: &mut [u8],
    workers: Option<usize>,
    tick: Tick<'_>,
) -> Result<()> {
    debug_assert_eq!(
        out.len() as u64,
        crate::stream::plaintext_len(sealed.len() as u64)?
    );
    let workers = workers_for(sealed.len(), workers)?;
    // The last chunk may be empty: pieces are counted in sealed bytes.
    let chunks = sealed.len().div_ceil(WIRE_CHUNK_LEN);
    let mut room = &mut out[..];
    let pieces = pieces(chunks, CHUNK_LEN, PIECE_CHUNKS, workers).map(|piece| {
        let sealed = of_units(sealed, &piece, WIRE_CHUNK_LEN);
        let out = next_units(&mut room, piece.len(), CHUNK_LEN);
        (piece.start as u64, sealed, out)
    });
    let opened = for_each(
        pieces,
        Some(workers),
        |(first, sealed, out)| {
            key.open_run(first, sealed, out)?;
            Ok(out.len() as u64)
        },
        tick,
    );
    if opened.is_err() {
        out.fill(0);
    }
    opened
}

/// How many threads share work on `len` bytes, of which at most `wanted` (None: all) may.
///
/// # Errors
/// That the pool could not be made.
pub fn workers_for(len: usize, wanted: Option<usize>) -> Result<usize> {
    if len < PARALLEL_MIN {
        return Ok(1);
    }
    let threads = pool()?.threads;
    Ok(wanted.map_or(threads, |wanted| wanted.clamp(1, threads)))
}

/// The bytes of some units of `data`, of which the last one may be shorter than the others.
pub(crate) fn of_units<'a>(data: &'a [u8], units: &Range<usize>, unit_len: usize) -> &'a [u8] {
    let at = |unit: usize| data.len().min(unit * unit_len);
    &data[at(units.start)..at(units.end)]
}

/// The next `units` units, taken away from `room`.
pub(crate) fn next_units<'a>(
    room: &mut &'a mut [u8],
    units: usize,
    unit_len: usize,
) -> &'a mut [u8] {
    let len = room.len().min(units * unit_len);
    let (taken, rest) = std::mem::take(room).split_at_mut(len);
    *room = rest;
    taken
}
