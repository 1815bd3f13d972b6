//! Lists of records. Their objects are made in blocks; while the helpers work on one block, the
//! calling thread makes the objects of the next. The GIL is held for a block's objects at a time.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use strongroom_core::batch::{self, Item, PIECE_RECORDS};
use strongroom_core::keys::{BoxLabel, KeyHandle, KeyId, Material};
use strongroom_core::params::{
    DETACH_MIN, KIND_ENVELOPE, PARALLEL_MIN, PIECE_LEN, RECORD_OVERHEAD,
};
use strongroom_core::{Error, parallel, record};

use crate::buf::list::UnfilledList;
use crate::buf::{Input, UnfilledBytes};
use crate::cipher::seal_envelope;
use crate::errors::OrRaise;
use crate::share::Share;
use crate::tally::{self, Operation};
use crate::tick::Ticker;
use crate::values::{Each, Values};

/// Objects made while the GIL is held, about 0.8 ms of page faults (2 ms is the promise), and the
/// bytes that end a block sooner.
const BLOCK: usize = 2048;
const BLOCK_BYTES: usize = 16 << 20;

/// The time that ends a block sooner: on a virtual machine whose host took memory back, a page fault
/// takes twenty times as long. It is looked at after so many objects, or so many bytes, since long
/// values are sealed here.
const BLOCK_TIME: Duration = Duration::from_millis(1);
const BLOCK_STEP: usize = 256;
const BLOCK_STEP_BYTES: usize = 1 << 20;

/// Objects whose first look is prepared: each is in no cache, and waiting for it took a sixth of the
/// time that this thread has the GIL.
const AHEAD: usize = 8;

/// One value on its way.
struct Entry<'py> {
    input: Input<'py>,
    associated_data: Option<Input<'py>>,
    made: Made<'py>,
    key: Option<Arc<Material>>,
}

enum Made<'py> {
    Room(UnfilledBytes<'py>),
    Whole(Bound<'py, PyBytes>),
}

/// What becomes of one value while the GIL is held.
pub enum Way<'py> {
    /// A record under this key, done without the GIL.
    Record(Arc<Material>),
    /// One that stays what it is if it opens under this key.
    Current(Arc<Material>, Bound<'py, PyBytes>),
    /// Done already.
    Done(Bound<'py, PyBytes>),
}

/// A batch under way: what is common to all its blocks.
struct Batch<'a, 'py> {
    py: Python<'py>,
    name: &'a str,
    values: Values<'py>,
    each: Each<'py>,
    count: usize,
}

impl<'a, 'py> Batch<'a, 'py> {
    fn new(
        values: &Bound<'py, PyAny>,
        name: &'a str,
        associated_data: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let py = values.py();
        let values = Values::new(values, name)?;
        let count = values.len();
        Ok(Self {
            py,
            name,
            values,
            each: Each::new(associated_data, count)?,
            count,
        })
    }

    /// The next block from `start` on: its inputs are held, its outputs allocated.
    fn prepare(
        &self,
        start: usize,
        way: &impl Fn(&Input<'py>, &[u8], usize) -> PyResult<Way<'py>>,
        out_len: fn(usize) -> usize,
    ) -> PyResult<Vec<Entry<'py>>> {
        let mut block = Vec::with_capacity(BLOCK.min(self.count - start));
        let mut bytes = 0;
        let begun = Instant::now();
        let mut look = (start + BLOCK_STEP, BLOCK_STEP_BYTES);
        for index in start..self.count.min(start + BLOCK) {
            if index >= look.0 || bytes >= look.1 {
                if bytes >= BLOCK_BYTES || begun.elapsed() >= BLOCK_TIME {
                    break;
                }
                look = (index + BLOCK_STEP, bytes + BLOCK_STEP_BYTES);
            }
            self.values.prefetch(index + AHEAD);
            let input = self.values.input(index, self.name)?;
            let associated_data = self.each.own(index)?;
            let len = input.as_slice().len();
            bytes += len;
            let ad = self.each.of(&associated_data);
            record::check_associated_data(ad).or_raise(self.py)?;
            let (made, key) = match way(&input, ad, index)? {
                Way::Done(bytes) => (Made::Whole(bytes), None),
                Way::Current(key, bytes) => (Made::Whole(bytes), Some(key)),
                Way::Record(key) => (
                    Made::Room(UnfilledBytes::new(self.py, out_len(len))?),
                    Some(key),
                ),
            };
            block.push(Entry {
                input,
                associated_data,
                made,
                key,
            });
        }
        Ok(block)
    }

    /// Runs all blocks: `way` with the GIL, `work` without it on pieces of a block.
    fn run(
        &self,
        way: impl Fn(&Input<'py>, &[u8], usize) -> PyResult<Way<'py>>,
        out_len: fn(usize) -> usize,
        work: impl Fn(Vec<Work<'_>>) -> Result<(), Error> + Sync,
    ) -> PyResult<Bound<'py, PyList>> {
        let py = self.py;
        let mut result = UnfilledList::new(py, self.count)?;
        let mut start = 0;
        let mut block = self.prepare(0, &way, out_len)?;
        let mut finished = Vec::new();
        let mut share = Share::new();
        while !block.is_empty() {
            let next_start = start + block.len();
            let each = &self.each;
            let items = block.iter_mut().enumerate().filter_map(|(number, entry)| {
                Some(Work {
                    index: start + number,
                    key: entry.key.as_ref()?,
                    item: Item {
                        input: entry.input.as_slice(),
                        associated_data: each.of(&entry.associated_data),
                        out: match &mut entry.made {
                            Made::Room(out) => out.as_mut_slice(),
                            Made::Whole(_) => &mut [],
                        },
                    },
                })
            });
            let (pieces, total) = pieces(items);
            let mut ticker = Ticker::new();
            let ran = parallel::for_each_while(
                pieces.into_iter(),
                workers(total),
                |piece| work(piece).map(|()| 1),
                |run| {
                    // What needs the GIL, while the helpers have this block to work on.
                    let appended = append(&mut result, std::mem::take(&mut finished));
                    let next = appended.and_then(|()| self.prepare(next_start, &way, out_len));
                    let mut lead = || run.lead(&mut |done| ticker.tick(done));
                    if total < DETACH_MIN && next_start - start == self.count {
                        lead();
                    } else {
                        share.release(py, lead);
                    }
                    next
                },
            );
            let (next, worked) = ran.or_raise(py)?;
            worked.map_err(|error| ticker.into_py_err(py, error))?;
            py.check_signals()?;
            start = next_start;
            finished = std::mem::replace(&mut block, next?);
        }
        append(&mut result, finished)?;
        Ok(result.finish())
    }
}

/// Puts the objects of a block, all of them whole, at the end of the result.
fn append<'py>(result: &mut UnfilledList<'py>, block: Vec<Entry<'py>>) -> PyResult<()> {
    block.into_iter().try_for_each(|entry| {
        result.push(match entry.made {
            Made::Room(bytes) => bytes.finish(),
            Made::Whole(bytes) => bytes,
        })
    })
}

/// A record to be sealed or opened, and its place in the batch.
struct Work<'a> {
    index: usize,
    key: &'a Material,
    item: Item<'a>,
}

/// Pieces of about equal work out of a block's items, and the bytes of all.
fn pieces<'a>(items: impl Iterator<Item = Work<'a>>) -> (Vec<Vec<Work<'a>>>, usize) {
    let mut pieces = Vec::with_capacity(BLOCK / PIECE_RECORDS);
    let mut piece = Vec::with_capacity(PIECE_RECORDS);
    let (mut bytes, mut total) = (0, 0);
    for work in items {
        // The fixed cost of a record is that of about a kibibyte of its data.
        let cost = work.item.input.len();
        bytes += cost;
        total += cost + RECORD_COST;
        piece.push(work);
        if piece.len() == PIECE_RECORDS || bytes >= PIECE_LEN {
            pieces.push(std::mem::replace(
                &mut piece,
                Vec::with_capacity(PIECE_RECORDS),
            ));
            bytes = 0;
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    (pieces, total)
}

/// What a record costs besides its data, in bytes of data sealed in the same time.
const RECORD_COST: usize = 1024;

fn workers(total: usize) -> Option<usize> {
    if total < PARALLEL_MIN { Some(1) } else { None }
}

/// Records under `key` for values up to `record_max` bytes, envelopes for longer ones.
pub fn encrypt_many<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    record_max: usize,
    plaintexts: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let material = key.material().or_raise(py)?;
    let id = key.id();
    let counted = Cell::new((0, 0));
    let sealed = Batch::new(plaintexts, "plaintexts", associated_data)?.run(
        |plaintext, associated_data, _| {
            let plaintext = plaintext.as_slice();
            if plaintext.len() > record_max {
                return seal_envelope(py, key, associated_data, plaintext, None).map(Way::Done);
            }
            record::check_plaintext_len(plaintext.len()).or_raise(py)?;
            let (messages, bytes) = counted.get();
            counted.set((messages + 1, bytes + plaintext.len() as u64));
            Ok(Way::Record(Arc::clone(&material)))
        },
        |len| len + RECORD_OVERHEAD,
        |piece| {
            let box_key = material.box_key(BoxLabel::Record)?;
            batch::seal_run(box_key, &id, piece.into_iter().map(|work| work.item))
        },
    );
    if tally::enabled() {
        let error = sealed.as_ref().err();
        let (messages, bytes) = if error.is_none() {
            counted.get()
        } else {
            (1, 0)
        };
        // Values that became envelopes were counted one by one.
        if messages > 0 {
            tally::note_enabled(py, Operation::Encrypt, Some(id), messages, bytes, error);
        }
    }
    sealed
}

/// Opens all messages, or none: the first bad one is a `DecryptionError` with its index.
pub fn decrypt_many<'py>(
    py: Python<'py>,
    messages: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    way: impl Fn(&[u8], &[u8]) -> PyResult<Way<'py>>,
) -> PyResult<Bound<'py, PyList>> {
    let counting = tally::enabled();
    let counted = Counted::default();
    let opened = Batch::new(messages, "messages", associated_data)?.run(
        |message, associated_data, index| {
            let message = message.as_slice();
            let way = way(message, associated_data).map_err(|error| locate(py, error, index))?;
            if counting && let Way::Record(_) = way {
                counted.add(message);
            }
            Ok(way)
        },
        |len| len - RECORD_OVERHEAD,
        |piece| {
            for Work { index, key, item } in piece {
                key.box_key(BoxLabel::Record)
                    .and_then(|key| {
                        record::open_in_batch(key, item.associated_data, item.input, item.out)
                    })
                    .map_err(|error| batch::at_index(error, index))?;
            }
            Ok(())
        },
    );
    if counting {
        counted.tell(py, messages, opened.as_ref().err());
    }
    opened
}

/// The records of a batch by key, in the order in which the keys came.
#[derive(Default)]
struct Counted(RefCell<Vec<(KeyId, u64, u64)>>);

impl Counted {
    fn add(&self, message: &[u8]) {
        let Some(key) = tally::named(message) else {
            return;
        };
        self.add_under(key, message);
    }

    fn add_under(&self, key: KeyId, message: &[u8]) {
        let len = (message.len() - RECORD_OVERHEAD) as u64;
        let mut keys = self.0.borrow_mut();
        match keys.iter_mut().rev().find(|counted| counted.0 == key) {
            Some((_, messages, bytes)) => {
                *messages += 1;
                *bytes += len;
            }
            None => keys.push((key, 1, len)),
        }
    }

    /// Counts all, or the one that failed, under the key that it names.
    fn tell(self, py: Python<'_>, messages: &Bound<'_, PyAny>, error: Option<&PyErr>) {
        if let Some(error) = error {
            let failed = error
                .value(py)
                .getattr("index")
                .and_then(|index| messages.get_item(index))
                .ok();
            let input = failed
                .as_ref()
                .and_then(|message| Input::new(message, "message").ok());
            let message = input.as_ref().map_or(&[][..], Input::as_slice);
            // An envelope was counted where it was opened.
            if record::kind(message).ok() != Some(KIND_ENVELOPE) {
                tally::refused(py, Operation::Decrypt, tally::named(message), 0, error);
            }
            return;
        }
        self.note(py, Operation::Decrypt);
    }

    fn note(self, py: Python<'_>, operation: Operation) {
        for (key, messages, bytes) in self.0.into_inner() {
            tally::note_enabled(py, operation, Some(key), messages, bytes, None);
        }
    }
}

/// Brings messages under `key`: records here, as `way` says, envelopes by `way` itself.
pub fn rotate_many<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    messages: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    way: impl Fn(&Input<'py>, &[u8]) -> PyResult<Way<'py>>,
) -> PyResult<Bound<'py, PyList>> {
    let material = key.material().or_raise(py)?;
    let id = key.id();
    let counting = tally::enabled();
    let (opened, sealed) = (Counted::default(), Counted::default());
    let rotated = Batch::new(messages, "messages", associated_data)?.run(
        |message, associated_data, index| {
            let way = way(message, associated_data).map_err(|error| locate(py, error, index))?;
            if counting {
                match &way {
                    Way::Record(_) => {
                        opened.add(message.as_slice());
                        sealed.add_under(id, message.as_slice());
                    }
                    Way::Current(..) => opened.add(message.as_slice()),
                    Way::Done(_) => {}
                }
            }
            Ok(way)
        },
        |len| len,
        |piece| {
            let items = piece
                .into_iter()
                .map(|work| (work.index, work.key, work.item));
            batch::reseal_run(material.box_key(BoxLabel::Record)?, &id, items.collect())
        },
    );
    if counting {
        let error = rotated.as_ref().err();
        opened.tell(py, messages, error);
        if error.is_none() {
            sealed.note(py, Operation::Encrypt);
        }
    }
    rotated
}

/// Says in the exception which item it was.
pub fn locate(py: Python<'_>, error: PyErr, index: usize) -> PyErr {
    let value = error.value(py);
    // An exception without room for an attribute still says it in a note.
    let _ = value.setattr("index", index);
    if !error.is_instance_of::<crate::errors::DecryptionError>(py) {
        let _ = value.call_method1("add_note", (format!("in messages[{index}]"),));
    }
    error
}
