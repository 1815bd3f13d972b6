//! Lists of buffers, and the associated data of each.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::buf::Input;
use crate::buf::prefetch::{prefetch_list_item, prefetch_tuple_item};
use crate::cipher::AssociatedData;

/// The values of a batch.
pub enum Values<'py> {
    List(Bound<'py, PyList>),
    Tuple(Bound<'py, PyTuple>),
}

impl<'py> Values<'py> {
    /// What `object` holds, a list or a tuple or what gives its items one by one.
    pub fn new(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        if let Ok(list) = object.cast::<PyList>() {
            return Ok(Values::List(list.clone()));
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

    pub fn len(&self) -> usize {
        match self {
            Values::List(list) => list.len(),
            Values::Tuple(tuple) => tuple.len(),
        }
    }

    /// The object at `index`.
    pub fn get(&self, index: usize) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Values::List(list) => list.get_item(index),
            Values::Tuple(tuple) => tuple.get_item(index),
        }
        .map_err(|_| PyValueError::new_err("the list became shorter while it was worked on"))
    }

    /// Has the processor fetch the object at `index`, if there is one, for a later [`Values::get`].
    pub fn prefetch(&self, index: usize) {
        match self {
            Values::List(list) => prefetch_list_item(list, index),
            Values::Tuple(tuple) => prefetch_tuple_item(tuple, index),
        }
    }

    /// The value at `index`, borrowed; `name` is the argument's, for the error.
    pub fn input(&self, index: usize, name: &str) -> PyResult<Input<'py>> {
        let object = self.get(index)?;
        // The name with its index is only made for an error.
        Input::new(&object, name).or_else(|_| Input::new(&object, &format!("{name}[{index}]")))
    }
}

/// The associated data of a batch.
pub enum Each<'py> {
    Same(AssociatedData<'py>),
    Own(Values<'py>),
}

impl<'py> Each<'py> {
    /// One for all of `len` records, or a list or tuple with one for each.
    pub fn new(object: Option<&Bound<'py, PyAny>>, len: usize) -> PyResult<Self> {
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

    /// What the record at `index` has of its own.
    pub fn own(&self, index: usize) -> PyResult<Option<Input<'py>>> {
        match self {
            Each::Same(_) => Ok(None),
            Each::Own(values) => values.input(index, "associated_data").map(Some),
        }
    }

    /// The associated data of one: its own, or the one for all.
    pub fn of<'a>(&'a self, own: &'a Option<Input<'py>>) -> &'a [u8] {
        match (self, own) {
            (Each::Same(same), _) => same.as_slice(),
            (Each::Own(_), Some(own)) => own.as_slice(),
            (Each::Own(_), None) => &[],
        }
    }
}
