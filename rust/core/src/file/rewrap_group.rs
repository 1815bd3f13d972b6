//! Rewrapping a group of files: each write to all of them, then one sync.

use std::collections::BTreeMap;

use super::Count;
use super::batch::{Done, Job, Options};
use super::in_place::STAGES;
use super::rewrap::{Locked, Plan, RewrapKeys, rewrap};
use super::sys::{Sync, sync};
use crate::error::{Error, Result};
use crate::parallel::{self, Tick};
use crate::params::FILE_WORKERS_MAX;

/// A file whose lock is held, and what it needs. None: someone else has the lock, which may be
/// this group itself under another name of the file.
type Begun = Result<Option<(Locked, Plan)>>;

/// Rewraps a group; the results are in the order of the jobs.
///
/// # Errors
/// What `tick` returns, exceptions of a key store, and a sync that failed. Each file opens with the
/// old or the new key then.
pub fn rewrap_group(
    jobs: &[Job<'_>],
    keys: &dyn RewrapKeys,
    copy: bool,
    options: Options<'_>,
    tick: Tick<'_>,
) -> Result<Vec<Result<Done>>> {
    let primary = keys.primary()?.0;
    let mut begun = begin(jobs, keys, copy, options, tick)?;
    write_in_place(&mut begun, tick)?;

    let mut results: Vec<Option<Result<Done>>> =
        std::iter::repeat_with(|| None).take(jobs.len()).collect();
    let mut total = 0;
    // Those whose locks are held first, so that none of them is waited for below.
    let (held, others): (Vec<_>, Vec<_>) = begun
        .into_iter()
        .enumerate()
        .partition(|(_, begun)| !matches!(begun, Ok(None)));
    for (number, begun) in held.into_iter().chain(others) {
        let mut interrupted = None;
        let mut watch = |done| {
            tick(total + done).map_err(|error| {
                interrupted = Some(error);
                Error::Interrupted
            })
        };
        let result = begun
            .and_then(|begun| finish(&jobs[number], begun, keys, copy, options, &mut watch))
            .map(|(count, changed)| Done {
                count: Count {
                    key_id: Some(primary),
                    ..count
                },
                current: !changed,
            });
        match (interrupted, &result) {
            (Some(error), _) => return Err(error),
            (None, Err(Error::Interrupted)) => return Err(Error::Interrupted),
            (None, Ok(done)) => total += done.count.plaintext,
            (None, Err(_)) => {}
        }
        results[number] = Some(result);
    }
    Ok(results
        .into_iter()
        .map(|result| result.expect("each is held or another"))
        .collect())
}

fn begin(
    jobs: &[Job<'_>],
    keys: &dyn RewrapKeys,
    copy: bool,
    options: Options<'_>,
    tick: Tick<'_>,
) -> Result<Vec<Begun>> {
    let lock_and_plan = |job: &Job<'_>| -> Begun {
        let Some(locked) = Locked::at_once(job.source)? else {
            return Ok(None);
        };
        let plan = locked.plan(keys, copy)?;
        Ok(Some((locked, plan)))
    };
    let mut begun: Vec<Begun> = std::iter::repeat_with(|| Ok(None))
        .take(jobs.len())
        .collect();
    let one = |(slot, job): (&mut Begun, &Job<'_>)| {
        *slot = lock_and_plan(job);
        match slot {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            _ => Ok(0),
        }
    };
    let workers = options
        .workers
        .unwrap_or(FILE_WORKERS_MAX)
        .min(FILE_WORKERS_MAX);
    parallel::for_each(begun.iter_mut().zip(jobs), Some(workers), one, tick)?;
    Ok(begun)
}

/// A stage of all files, then a sync, where one file alone has a sync after each stage.
fn write_in_place(begun: &mut [Begun], tick: Tick<'_>) -> Result<()> {
    for stage in 0..STAGES {
        let mut file_systems = BTreeMap::new();
        for (number, slot) in begun.iter_mut().enumerate() {
            let Ok(Some((locked, Plan::InPlace(writes)))) = slot else {
                continue;
            };
            match writes.stage(stage, locked.file()) {
                Ok(true) => {
                    file_systems
                        .entry(locked.file().stat().st_dev)
                        .or_insert(number);
                }
                Ok(false) => {}
                Err(error) => *slot = Err(error),
            }
        }
        for number in file_systems.into_values() {
            if let Ok(Some((locked, _))) = &begun[number] {
                sync(locked.file(), Sync::FileSystem, 0, tick)?;
            }
        }
    }
    Ok(())
}

/// What could not be done in place; gives the lock up.
fn finish(
    job: &Job<'_>,
    begun: Option<(Locked, Plan)>,
    keys: &dyn RewrapKeys,
    copy: bool,
    options: Options<'_>,
    tick: Tick<'_>,
) -> Result<(Count, bool)> {
    let associated_data = options.associated_data;
    let Some((locked, plan)) = begun else {
        let changed = rewrap(job.source, keys, associated_data, copy, tick)?;
        return Ok((Count::default(), changed));
    };
    let changed = match &plan {
        Plan::Current => false,
        Plan::InPlace(writes) => writes.changes_key(),
        Plan::Anew(header) => {
            locked.write_anew(job.source, header, tick)?;
            true
        }
        Plan::Reencrypt => {
            locked.reencrypt(job.source, keys, associated_data, tick)?;
            true
        }
    };
    Ok((locked.count(), changed))
}
