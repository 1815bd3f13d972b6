//! Views of secrets that were given out, and taking them back.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyWeakrefMethods, PyWeakrefReference};
use strongroom_core::secret::SharedBytes;

use crate::buf::export::SecretMemory;

struct Given {
    view: Py<PyWeakrefReference>,
    memory: Py<SecretMemory>,
}

/// The views that an object has given out. Used with the GIL held alone.
#[derive(Default)]
pub struct Views(Mutex<Vec<Given>>);

impl Views {
    /// A new view of `bytes`.
    pub fn give<'py>(
        &self,
        py: Python<'py>,
        bytes: Arc<SharedBytes>,
        readonly: bool,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let memory = Bound::new(py, SecretMemory::new(bytes, readonly))?;
        let view = PyMemoryView::from(memory.as_any())?;
        let given = Given {
            view: PyWeakrefReference::new(view.as_any())?.unbind(),
            memory: memory.unbind(),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|given| given.memory.get().exports() > 0);
        all.push(given);
        Ok(view)
    }

    /// Releases all views, so that their use raises ValueError. Their bytes are wiped already.
    ///
    /// # Errors
    ///
    /// BufferError where slices or arrays made of a view are alive: these can't be released from
    /// here and go on showing the wiped memory.
    pub fn take_back(&self, py: Python<'_>) -> PyResult<()> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut kept = 0;
        for given in all {
            if let Some(view) = given.view.bind(py).upgrade() {
                // It refuses while something was made of it; that is counted next.
                let _ = view.call_method0("release");
            }
            kept += usize::from(given.memory.get().exports() > 0);
        }
        if kept == 0 {
            return Ok(());
        }
        Err(PyBufferError::new_err(format!(
            "the secret is wiped, but slices or arrays made of {kept} of its views are alive: they \
             show zeros, and its memory stays mapped until they go"
        )))
    }
}
