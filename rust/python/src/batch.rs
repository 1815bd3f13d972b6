//! Lists of records. Their objects are made in blocks, sealed or opened without the GIL, so that
//! it is never held for more than a block's allocation.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};
use strongroom_core::batch::{self, Item, PIECE_RECORDS};
use strongroom_core::keys::{BoxLabel, KeyHandle, Material};
use strongroom_core::params::{PARALLEL_MIN, PIECE_LEN, RECORD_OVERHEAD};
use strongroom_core::{Error, parallel, record};

use crate::buf::{Input, UnfilledBytes, new_bytes};
use crate::cipher::{AssociatedData, detached_above, seal_envelope};
use crate::errors::OrRaise;
use crate::tick::Ticker;

/// Objects made while the GIL is held.
const BLOCK: usize = 4096;

/// The values of a batch.
enum Values<'a, 'py> {
    List(&'a Bound<'py, PyList>),
    Tuple(Bound<'py, PyTuple>),
}

impl<'a, 'py> Values<'a, 'py> {
    fn new(object: &'a Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        if let Ok(list) = object.cast::<PyList>() {
            return Ok(Values::List(list));
        }
        if let Ok(tuple) = object.cast::<PyTuple>() {
            return Ok(Values::Tuple(tuple.clone()));
        }
        // Bytes are iterable too, as numbers, and never what was meant.
        if object.is_instance_of::<PyBytes>() || object.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err(format!(
                "{name} must be a list of buffers, not {}",
                object.get_type().name()?
            )));
        }
        let values = object.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        Ok(Values::Tuple(PyTuple::new(object.py(), values)?))
    }

    fn len(&self) -> usize {
        match self {
            Values::List(list) => list.len(),
            Values::Tuple(tuple) => tuple.len(),
        }
    }

    fn block(&self, start: usize, end: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let get = |index| match self {
            Values::List(list) => list.get_item(index),
            Values::Tuple(tuple) => tuple.get_item(index),
        };
        (start..end)
            .map(get)
            .collect::<PyResult<_>>()
            .map_err(|_| PyValueError::new_err("the list became shorter while it was worked on"))
    }
}

/// The associated data of a batch.
enum Each<'a, 'py> {
    Same(AssociatedData<'a, 'py>),
    Own(Values<'a, 'py>),
}

impl<'a, 'py> Each<'a, 'py> {
    fn new(object: Option<&'a Bound<'py, PyAny>>, len: usize) -> PyResult<Self> {
        if let Some(object) = object
            && (object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>())
        {
            let values = Values::new(object, "associated_data")?;
            if values.len() != len {
                return Err(PyValueError::new_err(format!(
                    "associated_data has {} items for {len} records: give one for all, or one each",
                    values.len()
                )));
            }
            return Ok(Each::Own(values));
        }
        Ok(Each::Same(AssociatedData::new(object)?))
    }

    fn block(&self, start: usize, end: usize) -> PyResult<Vec<Bound<'py, PyAny>>> {
        match self {
            Each::Same(_) => Ok(Vec::new()),
            Each::Own(values) => values.block(start, end),
        }
    }
}

fn inputs<'a, 'py>(
    objects: &'a [Bound<'py, PyAny>],
    name: &str,
    start: usize,
) -> PyResult<Vec<Input<'a, 'py>>> {
    objects
        .iter()
        .enumerate()
        .map(|(number, object)| Input::new(object, &format_name(name, start + number)))
        .collect()
}

fn format_name(name: &str, index: usize) -> String {
    format!("{name}[{index}]")
}

/// Pieces of about equal work out of a block's items.
fn pieces<T>(items: Vec<T>, len: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut pieces = Vec::with_capacity(items.len() / PIECE_RECORDS + 1);
    let mut piece = Vec::new();
    let mut bytes = 0;
    for item in items {
        bytes += len(&item);
        piece.push(item);
        if piece.len() == PIECE_RECORDS || bytes >= PIECE_LEN {
            pieces.push(std::mem::take(&mut piece));
            bytes = 0;
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

/// Records under `key` for values up to `record_max` bytes, envelopes for longer ones.
pub fn encrypt_many<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    record_max: usize,
    plaintexts: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    let values = Values::new(plaintexts, "plaintexts")?;
    let count = values.len();
    let each = Each::new(associated_data, count)?;
    let material = key.material().or_raise(py)?;
    let id = key.id();
    let result = PyList::empty(py);
    for start in (0..count).step_by(BLOCK) {
        let end = count.min(start + BLOCK);
        let objects = values.block(start, end)?;
        let plaintexts = inputs(&objects, "plaintexts", start)?;
        let ad_objects = each.block(start, end)?;
        let ads = inputs(&ad_objects, "associated_data", start)?;
        let ad_of = |number: usize| match &each {
            Each::Same(same) => same.as_slice(),
            Each::Own(_) => ads[number].as_slice(),
        };
        let mut made = Vec::with_capacity(plaintexts.len());
        let mut total = 0;
        for (number, plaintext) in plaintexts.iter().enumerate() {
            let plaintext = plaintext.as_slice();
            record::check_associated_data(ad_of(number)).or_raise(py)?;
            if plaintext.len() > record_max {
                made.push(Made::Whole(seal_envelope(
                    py,
                    key,
                    ad_of(number),
                    plaintext,
                    None,
                )?));
                continue;
            }
            record::check_plaintext_len(plaintext.len()).or_raise(py)?;
            total += plaintext.len();
            made.push(Made::Room(UnfilledBytes::new(
                py,
                plaintext.len() + RECORD_OVERHEAD,
            )?));
        }
        let items: Vec<Item<'_>> = made
            .iter_mut()
            .enumerate()
            .filter_map(|(number, made)| match made {
                Made::Whole(_) => None,
                Made::Room(out) => Some(Item {
                    input: plaintexts[number].as_slice(),
                    associated_data: ad_of(number),
                    out: out.as_mut_slice(),
                }),
            })
            .collect();
        let pieces = pieces(items, |item| item.input.len());
        let mut ticker = Ticker::new();
        let sealed = detached_above(py, total, || {
            let box_key = material.box_key(BoxLabel::Record)?;
            parallel::for_each(
                pieces.into_iter(),
                workers(total),
                |piece| batch::seal_run(box_key, &id, piece.into_iter()).map(|()| 1),
                &mut |done| ticker.tick(done),
            )
        });
        sealed.map_err(|error| ticker.into_py_err(py, error))?;
        for made in made {
            result.append(made.finish())?;
        }
        py.check_signals()?;
    }
    Ok(result)
}

enum Made<'py> {
    Room(UnfilledBytes<'py>),
    Whole(Bound<'py, PyBytes>),
}

impl<'py> Made<'py> {
    fn finish(self) -> Bound<'py, PyBytes> {
        match self {
            Made::Room(bytes) => bytes.finish(),
            Made::Whole(bytes) => bytes,
        }
    }
}

/// How one message of a batch is opened.
pub enum Way<'py> {
    /// A record, its structure checked, under this key.
    Record(Arc<Material>),
    /// Opened already.
    Done(Bound<'py, PyBytes>),
}

/// Opens all messages, or none: the first bad one is a `DecryptionError` with its index.
pub fn decrypt_many<'py>(
    py: Python<'py>,
    messages: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    way: impl Fn(&[u8]) -> PyResult<Way<'py>>,
) -> PyResult<Bound<'py, PyList>> {
    decrypt_many_with(py, messages, associated_data, |message, _| way(message))
}

/// [`decrypt_many`] where the way needs the associated data.
pub fn decrypt_many_with<'py>(
    py: Python<'py>,
    messages: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    way: impl Fn(&[u8], &[u8]) -> PyResult<Way<'py>>,
) -> PyResult<Bound<'py, PyList>> {
    let values = Values::new(messages, "messages")?;
    let count = values.len();
    let each = Each::new(associated_data, count)?;
    let result = PyList::empty(py);
    for start in (0..count).step_by(BLOCK) {
        let end = count.min(start + BLOCK);
        let objects = values.block(start, end)?;
        let messages = inputs(&objects, "messages", start)?;
        let ad_objects = each.block(start, end)?;
        let ads = inputs(&ad_objects, "associated_data", start)?;
        let ad_of = |number: usize| match &each {
            Each::Same(same) => same.as_slice(),
            Each::Own(_) => ads[number].as_slice(),
        };
        let mut made = Vec::with_capacity(messages.len());
        let mut keys = Vec::with_capacity(messages.len());
        let mut total = 0;
        for (number, message) in messages.iter().enumerate() {
            let message = message.as_slice();
            let way =
                way(message, ad_of(number)).map_err(|error| locate(py, error, start + number))?;
            match way {
                Way::Done(bytes) => {
                    made.push(Made::Whole(bytes));
                    keys.push(None);
                }
                Way::Record(key) => {
                    let len = message.len() - RECORD_OVERHEAD;
                    total += len;
                    made.push(Made::Room(UnfilledBytes::new(py, len)?));
                    keys.push(Some(key));
                }
            }
        }
        let items: Vec<_> = made
            .iter_mut()
            .zip(&keys)
            .enumerate()
            .filter_map(|(number, (made, key))| match (made, key) {
                (Made::Room(out), Some(key)) => Some((
                    number,
                    &**key,
                    Item {
                        input: messages[number].as_slice(),
                        associated_data: ad_of(number),
                        out: out.as_mut_slice(),
                    },
                )),
                _ => None,
            })
            .collect();
        let pieces = pieces(items, |(_, _, item)| item.out.len());
        let mut ticker = Ticker::new();
        let opened = detached_above(py, total, || {
            parallel::for_each(
                pieces.into_iter(),
                workers(total),
                |piece| {
                    for (number, key, item) in piece {
                        key.box_key(BoxLabel::Record)
                            .and_then(|key| {
                                record::open(key, item.associated_data, item.input, item.out)
                            })
                            .map_err(|error| batch::at_index(error, start + number))?;
                    }
                    Ok(1)
                },
                &mut |done| ticker.tick(done),
            )
        });
        opened.map_err(|error| ticker.into_py_err(py, error))?;
        for made in made {
            result.append(made.finish())?;
        }
        py.check_signals()?;
    }
    Ok(result)
}

/// Says in the exception which item it was.
fn locate(py: Python<'_>, error: PyErr, index: usize) -> PyErr {
    if error.is_instance_of::<crate::errors::DecryptionError>(py) {
        let _ = error.value(py).setattr("index", index);
    } else if let Ok(add_note) = error.value(py).getattr("add_note") {
        let _ = add_note.call1((format!("in messages[{index}]"),));
    }
    error
}

fn workers(total: usize) -> Option<usize> {
    if total < PARALLEL_MIN { Some(1) } else { None }
}

fn check_size(size: usize) -> PyResult<()> {
    if size == 0 {
        return Err(PyValueError::new_err(
            "size is 0: a packed record has 1 byte or more",
        ));
    }
    Ok(())
}

/// Equal records, back to back.
pub fn encrypt_packed<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    data: &Bound<'py, PyAny>,
    size: usize,
    associated_data: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let data = Input::new(data, "data")?;
    let data = data.as_slice();
    let associated_data = AssociatedData::new(associated_data)?;
    let associated_data = associated_data.as_slice();
    check_size(size)?;
    record::check_plaintext_len(size).or_raise(py)?;
    record::check_associated_data(associated_data).or_raise(py)?;
    if !data.len().is_multiple_of(size) {
        return Err(PyValueError::new_err(format!(
            "data has {} bytes, no multiple of size ({size})",
            data.len()
        )));
    }
    let material = key.material().or_raise(py)?;
    let len = batch::packed_len(data.len() / size, size).or_raise(py)?;
    new_bytes(py, len, |out| {
        let mut ticker = Ticker::new();
        let sealed = detached_above(py, data.len(), || {
            let box_key = material.box_key(BoxLabel::Record)?;
            let tick: parallel::Tick<'_> = &mut |done| ticker.tick(done);
            batch::seal_packed(box_key, &key.id(), size, associated_data, data, out, tick)
        });
        sealed.map_err(|error| ticker.into_py_err(py, error))
    })
}

/// The plaintexts of equal records, back to back.
pub fn decrypt_packed<'py>(
    py: Python<'py>,
    key: &KeyHandle,
    data: &Bound<'py, PyAny>,
    size: usize,
    associated_data: Option<&Bound<'py, PyAny>>,
    check: impl Fn(&[u8]) -> PyResult<()>,
) -> PyResult<Bound<'py, PyBytes>> {
    let data = Input::new(data, "data")?;
    let data = data.as_slice();
    let associated_data = AssociatedData::new(associated_data)?;
    let associated_data = associated_data.as_slice();
    check_size(size)?;
    let each = batch::packed_len(1, size).or_raise(py)?;
    if !data.len().is_multiple_of(each) {
        return Err(Error::Format(format!(
            "data has {} bytes, no multiple of a packed record's {each} (size {size} and {RECORD_OVERHEAD})",
            data.len()
        )))
        .or_raise(py);
    }
    for (index, message) in data.chunks_exact(each).enumerate() {
        check(message).map_err(|error| locate(py, error, index))?;
    }
    let material = key.material().or_raise(py)?;
    new_bytes(py, data.len() / each * size, |out| {
        let mut ticker = Ticker::new();
        let opened = detached_above(py, data.len(), || {
            let box_key = material.box_key(BoxLabel::Record)?;
            let tick: parallel::Tick<'_> = &mut |done| ticker.tick(done);
            batch::open_packed(box_key, size, associated_data, data, out, tick)
        });
        opened.map_err(|error| ticker.into_py_err(py, error))
    })
}

/// Calls `map` for each message with its associated data.
pub fn map_many<'py>(
    py: Python<'py>,
    messages: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    map: impl Fn(&Bound<'py, PyAny>, &[u8]) -> PyResult<Bound<'py, PyBytes>>,
) -> PyResult<Bound<'py, PyList>> {
    let values = Values::new(messages, "messages")?;
    let count = values.len();
    let each = Each::new(associated_data, count)?;
    let result = PyList::empty(py);
    for start in (0..count).step_by(MAP_BLOCK) {
        let end = count.min(start + MAP_BLOCK);
        let ad_objects = each.block(start, end)?;
        let ads = inputs(&ad_objects, "associated_data", start)?;
        for (number, message) in values.block(start, end)?.iter().enumerate() {
            let associated_data = match &each {
                Each::Same(same) => same.as_slice(),
                Each::Own(_) => ads[number].as_slice(),
            };
            let mapped =
                map(message, associated_data).map_err(|error| locate(py, error, start + number))?;
            result.append(mapped)?;
        }
        // Lets other threads in, and signals.
        py.detach(|| {});
        py.check_signals()?;
    }
    Ok(result)
}

/// Messages between two chances for other threads.
const MAP_BLOCK: usize = 256;
