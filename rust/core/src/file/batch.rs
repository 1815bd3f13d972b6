//! A group of files in one go: temporary names first, then one sync of the file system, then the
//! names, then one more sync. A group costs what two files do.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{self, FileType, Mode, Stat};
use rustix::io::Errno;

use super::copy::{Crew, Ring, open_all, seal_all};
use super::place::Place;
use super::rewrap::RewrapKeys;
use super::rewrap_group::rewrap_group;
use super::source::{Source, open_message};
use super::sys::{On, Side, Sync, Trouble, sync};
use super::target::{PRIVATE, Target, look, mtime_of};
use super::{Count, create};
use crate::engine::Engine;
use crate::envelope::{self, Header, KeySource, NewSlot};
use crate::error::{Error, Result};
use crate::parallel::{self, Tick};
use crate::params::{FILE_GROUP_BYTES, FILE_SHARED_MIN, FILE_WORKERS_MAX, SLOT_EMPTY};
use crate::stream;

/// One file of a group.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// What is read, or rewrapped.
    pub source: Place<'a>,
    /// What is written; not looked at where nothing is.
    pub target: Place<'a>,
}

/// What is done to each file.
pub enum Work<'a> {
    /// Encrypt.
    Encrypt {
        /// The slots of each.
        slots: &'a [NewSlot<'a>],
        /// What a target that is there already may be opened with, to see whether it is current.
        keys: &'a (dyn KeySource + std::marker::Sync),
    },
    /// Decrypt.
    Decrypt(&'a (dyn KeySource + std::marker::Sync)),
    /// Authenticate.
    Verify(&'a (dyn KeySource + std::marker::Sync)),
    /// Rewrap.
    Rewrap {
        /// The keyset.
        keys: &'a dyn RewrapKeys,
        /// Write anew in any case.
        copy: bool,
    },
}

/// What came of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its bytes.
    pub count: Count,
    /// Nothing was to be done.
    pub current: bool,
}

/// A directory that is complete with this group: it gets the mode and mtime of `like`.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a> {
    /// The directory that was written.
    pub dir: BorrowedFd<'a>,
    /// The one that it was made after.
    pub like: BorrowedFd<'a>,
}

/// How a group is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Of each message.
    pub associated_data: &'a [u8],
    /// Replace targets.
    pub overwrite: bool,
    /// At most so many threads.
    pub workers: Option<usize>,
}

type Staged<'a> = Option<Result<(Done, Option<Target<BorrowedFd<'a>>>)>>;

/// Does a group; the results are in the order of the jobs. A file that fails does not stop the
/// others.
///
/// # Errors
/// What `tick` returns, and exceptions of a key store; what has no name by then gets none.
pub fn run<'a>(
    jobs: &[Job<'a>],
    folders: &[Folder<'a>],
    work: &Work<'_>,
    options: Options<'_>,
    tick: Tick<'_>,
) -> Result<Vec<Result<Done>>> {
    if let Work::Rewrap { keys, copy } = work {
        return rewrap_group(jobs, *keys, *copy, options, tick);
    }
    let mut results: Vec<Option<Result<Done>>> =
        std::iter::repeat_with(|| None).take(jobs.len()).collect();
    let mut base = 0;
    loop {
        let mut fresh = vec![false; jobs.len()];
        let mut round = Round {
            jobs,
            work,
            options,
            base: &mut base,
            tick: &mut *tick,
        };
        let staged = round.stage(&results)?;
        let last = staged
            .iter()
            .zip(&results)
            .all(|(now, before)| now.is_some() || before.is_some());
        let folders = if last { folders } else { &[] };
        if let Err(error) = round.publish(staged, folders, &mut results, &mut fresh) {
            // The disk refuses: what was not safe by then has failed, and the rest with it.
            let Some(Trouble::Os(side, errno)) = Trouble::of(&error) else {
                return Err(error);
            };
            for (result, fresh) in results.iter_mut().zip(&fresh) {
                if result.is_none() || *fresh {
                    *result = Some(Err(*errno).on(*side));
                }
            }
        }
        if results.iter().all(Option::is_some) {
            return Ok(results
                .into_iter()
                .map(|result| result.expect("the last round"))
                .collect());
        }
    }
}

/// What is synced together: so many bytes at most, and one file more.
struct Round<'a, 'r> {
    jobs: &'r [Job<'a>],
    work: &'r Work<'r>,
    options: Options<'r>,
    base: &'r mut u64,
    tick: Tick<'r>,
}

impl<'a> Round<'a, '_> {
    /// Files up to their temporary names. None: done before, or for another round.
    fn stage(&mut self, before: &[Option<Result<Done>>]) -> Result<Vec<Staged<'a>>> {
        let mut staged: Vec<Staged<'a>> = std::iter::repeat_with(|| None)
            .take(self.jobs.len())
            .collect();
        let (work, options, ring) = (self.work, self.options, Ring::new());
        let (full, base) = (AtomicU64::new(0), *self.base);
        let left = staged.iter_mut().zip(self.jobs).zip(before).enumerate();
        let left = left.filter(|(_, (_, before))| before.is_none());
        let long = Mutex::new(Vec::new());
        {
            // Short files first, each by one worker.
            let one = |(number, ((slot, job), _)): (usize, ((&mut Staged<'a>, &Job<'a>), _))| {
                if full.load(Ordering::Relaxed) >= FILE_GROUP_BYTES {
                    return Ok(0);
                }
                let result = stage(job, work, options, &ring, None, &mut |_| Ok(()));
                if matches!(result, Err(Error::Interrupted)) {
                    return Err(Error::Interrupted);
                }
                *slot = result.transpose();
                match slot {
                    Some(Ok((done, target))) => {
                        let written = if target.is_some() {
                            done.count.message
                        } else {
                            0
                        };
                        full.fetch_add(written, Ordering::Relaxed);
                        Ok(done.count.plaintext)
                    }
                    Some(Err(_)) => Ok(0),
                    None => {
                        long.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(number);
                        Ok(0)
                    }
                }
            };
            let workers = options
                .workers
                .unwrap_or(FILE_WORKERS_MAX)
                .min(FILE_WORKERS_MAX);
            let (total, tick) = (&mut *self.base, &mut *self.tick);
            parallel::for_each(left, Some(workers), one, &mut |done| {
                *total = base + done;
                tick(*total)
            })?;
        }
        let short = staged
            .iter()
            .flatten()
            .flatten()
            .map(|(done, _)| done.count.plaintext);
        *self.base = base + short.sum::<u64>();
        // Long ones one after the other, each by all workers.
        let mut long = long.into_inner().unwrap_or_else(PoisonError::into_inner);
        long.sort_unstable();
        let ring = match work {
            Work::Encrypt { .. } => Ring::for_sealing(u64::MAX),
            _ => ring,
        };
        for number in long {
            if full.load(Ordering::Relaxed) >= FILE_GROUP_BYTES {
                break;
            }
            let crew = Some(Crew::Pool(options.workers));
            let (mut interrupted, base) = (None, *self.base);
            let result = stage(
                &self.jobs[number],
                work,
                options,
                &ring,
                crew,
                &mut |done| {
                    (self.tick)(base + done).map_err(|error| {
                        interrupted = Some(error);
                        Error::Interrupted
                    })
                },
            );
            match (interrupted, &result) {
                (Some(error), _) => return Err(error),
                (None, Err(Error::Interrupted)) => return Err(Error::Interrupted),
                _ => {}
            }
            staged[number] = result.transpose();
            if let Some(Ok((done, target))) = &staged[number] {
                *self.base += done.count.plaintext;
                full.fetch_add(
                    if target.is_some() {
                        done.count.message
                    } else {
                        0
                    },
                    Ordering::Relaxed,
                );
            }
        }
        Ok(staged)
    }

    /// One sync for the bytes of all, the names, and one for those.
    fn publish(
        &mut self,
        staged: Vec<Staged<'a>>,
        folders: &[Folder<'a>],
        results: &mut [Option<Result<Done>>],
        fresh: &mut [bool],
    ) -> Result<()> {
        let written = |slot: &Staged<'a>| matches!(slot, Some(Ok((_, Some(_)))));
        let anything = staged.iter().any(written);
        let dirs = staged
            .iter()
            .zip(self.jobs)
            .filter(|(slot, _)| written(slot));
        let file_systems = file_systems(
            dirs.map(|(_, job)| job.target.dir)
                .chain(folders.iter().map(|folder| folder.dir)),
        )?;
        if anything {
            for dir in file_systems.values() {
                sync(dir, Sync::FileSystem, *self.base, self.tick)?;
            }
        }
        for ((slot, result), fresh) in staged.into_iter().zip(results).zip(fresh) {
            *fresh = written(&slot);
            *result = match slot {
                None => continue,
                Some(Err(error)) => Some(Err(error)),
                Some(Ok((done, None))) => Some(Ok(done)),
                Some(Ok((done, Some(mut target)))) => {
                    Some(target.publish(self.options.overwrite).map(|()| done))
                }
            };
        }
        for folder in folders {
            let like = fs::fstat(folder.like).on(Side::Source)?;
            match finish_folder(folder.dir, &like) {
                // A directory of another owner, that was there before: it is as it was.
                Err(Errno::PERM) => {}
                other => other.on(Side::Target)?,
            }
        }
        for dir in file_systems.values() {
            sync(dir, Sync::FileSystem, *self.base, self.tick)?;
        }
        Ok(())
    }
}

/// One file up to its temporary name. None: it is long, and no crew was given for that.
fn stage<'a>(
    job: &Job<'a>,
    work: &Work<'_>,
    options: Options<'_>,
    ring: &Ring,
    crew: Option<Crew>,
    tick: Tick<'_>,
) -> Result<Option<(Done, Option<Target<BorrowedFd<'a>>>)>> {
    let source = Source::open(job.source)?;
    if crew.is_none() && source.len() > FILE_SHARED_MIN {
        return Ok(None);
    }
    let crew = crew.unwrap_or(Crew::Alone);
    let ad = options.associated_data;
    let done = |count, current| Done { count, current };
    if let Work::Verify(keys) = work {
        let message = open_message(&source, *keys, ad)?;
        open_all(&source, &message, ring, crew, |_, _| Ok(()), tick)?;
        return Ok(Some((
            done(super::copy::count(&source, &message), false),
            None,
        )));
    }
    if let Some(there) = look(job.target, &source)?
        && !options.overwrite
    {
        return match current(job, work, ad, &source, &there) {
            Some(count) => Ok(Some((done(count, true), None))),
            None => Err(Errno::EXIST).on(Side::Target),
        };
    }
    let Place { dir, name } = job.target;
    let (count, mut target) = match work {
        Work::Encrypt { slots, .. } => {
            let target = Target::create(dir, name, PRIVATE)?.expecting(source.len());
            let (header, key) = create(slots, ad)?;
            let bytes = header.to_bytes();
            seal_all(&source, &target, &bytes, &key, ring, crew, tick)?;
            (written(&source, &header, bytes.len()), target)
        }
        Work::Decrypt(keys) => {
            let message = open_message(&source, *keys, ad)?;
            let target = Target::create(dir, name, PRIVATE)?.expecting(message.plaintext);
            let write = |plain: &[u8], at| target.write_at(plain, at);
            open_all(&source, &message, ring, crew, write, tick)?;
            (super::copy::count(&source, &message), target)
        }
        Work::Verify(_) | Work::Rewrap { .. } => unreachable!("write no target"),
    };
    target.keep(source.stat(), true)?;
    target.set_aside(tick)?;
    Ok(Some((done(count, false), Some(target))))
}

fn written(source: &Source, header: &Header, header_len: usize) -> Count {
    Count {
        plaintext: source.len(),
        message: header_len as u64 + stream::sealed_len(source.len()).expect("it was written"),
        key_id: header.first_key_id(),
    }
}

/// Whether an earlier run has made the target out of this source: it has its mtime and the length
/// that goes with it, and the message opens in each of the ways that are asked for.
fn current(
    job: &Job<'_>,
    work: &Work<'_>,
    associated_data: &[u8],
    source: &Source,
    there: &Stat,
) -> Option<Count> {
    let like = source.stat();
    if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile
        || (there.st_mtime, there.st_mtime_nsec) != (like.st_mtime, like.st_mtime_nsec)
    {
        return None;
    }
    match work {
        Work::Encrypt { slots, keys } => {
            let target = Source::open(job.target).ok()?;
            let (header, start) = target.header().ok()?;
            let len = stream::sealed_len(source.len())?.checked_add(start)?;
            if target.len() != len {
                return None;
            }
            // Each way in that is asked for must be there: a passphrase beside a key, say.
            let mut key_id = None;
            for kind in slots.iter().map(NewSlot::kind) {
                if kind == SLOT_EMPTY {
                    continue;
                }
                let mut only = header.clone();
                only.slots.retain(|slot| slot.kind == kind);
                let engine = Engine::for_streams();
                let opened = envelope::open_header(&only, *keys, associated_data, engine).ok()?;
                key_id = key_id.or(opened.key_id);
            }
            Some(Count {
                plaintext: source.len(),
                message: len,
                key_id,
            })
        }
        Work::Decrypt(keys) => {
            let message = open_message(source, *keys, associated_data).ok()?;
            (there.st_size.unsigned_abs() == message.plaintext)
                .then(|| super::copy::count(source, &message))
        }
        Work::Verify(_) | Work::Rewrap { .. } => None,
    }
}

fn finish_folder(dir: BorrowedFd<'_>, like: &Stat) -> rustix::io::Result<()> {
    let own = fs::fstat(dir)?;
    let same_owner = (own.st_uid, own.st_gid) == (like.st_uid, like.st_gid);
    let bits = like.st_mode & if same_owner { 0o7777 } else { 0o777 };
    if own.st_mode & 0o7777 != bits {
        fs::fchmod(dir, Mode::from_raw_mode(bits))?;
    }
    fs::futimens(dir, &mtime_of(like))
}

/// One directory of each file system.
fn file_systems<'a>(
    dirs: impl Iterator<Item = BorrowedFd<'a>>,
) -> Result<BTreeMap<u64, BorrowedFd<'a>>> {
    let mut found = BTreeMap::new();
    let mut last = None;
    for dir in dirs {
        use std::os::fd::AsRawFd;
        if last.replace(dir.as_raw_fd()) != Some(dir.as_raw_fd()) {
            found
                .entry(fs::fstat(dir).on(Side::Target)?.st_dev)
                .or_insert(dir);
        }
    }
    Ok(found)
}
