//! What a message shows without a key.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use strongroom_core::envelope::Header;
use strongroom_core::error::hex;
use strongroom_core::params::{
    BOX_NONCE_LEN, GCM_NONCE_LEN, KIND_ENVELOPE, KIND_RECORD, KIND_TOKEN, KIND_WRAPPED_KEY,
    PREAMBLE_LEN, RECORD_HEADER_LEN, RECORD_OVERHEAD, TAG_LEN, TOKEN_PLAINTEXT_MAX,
    WRAPPED_HEADER_LEN,
};
use strongroom_core::record::{kind, wrong_kind};
use strongroom_core::slot::Content;
use strongroom_core::wrapped::WrappedKey;
use strongroom_core::{Error, record, stream};

use crate::buf::Input;
use crate::errors::OrRaise;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(parse_message, m)?)
}

/// Takes a message apart: the whole of it, or for an envelope its first bytes (at most 65,645 are
/// needed) with the length of the whole.
#[pyfunction]
#[pyo3(signature = (data, length=None))]
fn parse_message<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    length: Option<u64>,
) -> PyResult<Bound<'py, PyDict>> {
    let input = Input::new(data, "data")?;
    let bytes = input.as_slice();
    let length = length.unwrap_or(bytes.len() as u64);
    let parsed = PyDict::new(py);
    let kind = kind(bytes).or_raise(py)?;
    parsed.set_item("version", bytes[2])?;
    parsed.set_item("length", length)?;
    match kind {
        KIND_RECORD => {
            // Only the head of a long record may be here: its length is checked as given.
            record::check_len(length).or_raise(py)?;
            if bytes.len() < RECORD_HEADER_LEN + BOX_NONCE_LEN {
                return short(py, "record", bytes.len());
            }
            let id = &bytes[PREAMBLE_LEN..RECORD_HEADER_LEN];
            parsed.set_item("kind", "record")?;
            parsed.set_item("key_ids", [hex(id)])?;
            let nonce = &bytes[RECORD_HEADER_LEN..RECORD_HEADER_LEN + BOX_NONCE_LEN];
            parsed.set_item("salt", PyBytes::new(py, nonce))?;
            parsed.set_item("header_length", RECORD_HEADER_LEN)?;
            parsed.set_item(
                "plaintext_length",
                length.saturating_sub(RECORD_OVERHEAD as u64),
            )?;
        }
        KIND_ENVELOPE => {
            let (header, end) = Header::parse(bytes).or_raise(py)?;
            let sealed = length.saturating_sub(end as u64);
            let plaintext = stream::plaintext_len(sealed).or_raise(py)?;
            let ids: Vec<_> = header.key_ids().iter().map(|id| hex(id)).collect();
            parsed.set_item("kind", "envelope")?;
            parsed.set_item("key_ids", ids)?;
            parsed.set_item("salt", PyBytes::new(py, &header.prefix.salt))?;
            parsed.set_item("header_length", end)?;
            parsed.set_item("plaintext_length", plaintext)?;
            parsed.set_item("slots", slots(py, &header)?)?;
        }
        KIND_TOKEN => {
            let head = RECORD_HEADER_LEN + GCM_NONCE_LEN;
            if length < (head + TAG_LEN) as u64 || bytes.len() < head {
                return short(py, "message of a token", bytes.len());
            }
            let longest = (head + TOKEN_PLAINTEXT_MAX + TAG_LEN) as u64;
            if length > longest {
                return Err(Error::Format(format!(
                    "the message of a token has {length} bytes, the longest has {longest}"
                )))
                .or_raise(py);
            }
            parsed.set_item("kind", "token")?;
            parsed.set_item("key_ids", [hex(&bytes[PREAMBLE_LEN..RECORD_HEADER_LEN])])?;
            parsed.set_item("salt", PyBytes::new(py, &bytes[RECORD_HEADER_LEN..head]))?;
            parsed.set_item("header_length", RECORD_HEADER_LEN)?;
            parsed.set_item("plaintext_length", length - (head + TAG_LEN) as u64)?;
        }
        KIND_WRAPPED_KEY => {
            if length != bytes.len() as u64 {
                return short(py, "wrapped key", bytes.len());
            }
            let wrapped = WrappedKey::parse(bytes).or_raise(py)?;
            parsed.set_item("kind", "wrapped key")?;
            parsed.set_item("mechanism", wrapped.mechanism)?;
            parsed.set_item("key_ids", [hex(&wrapped.wrapping_id)])?;
            parsed.set_item("header_length", WRAPPED_HEADER_LEN)?;
        }
        other => return Err(wrong_kind(other, "a message")).or_raise(py),
    }
    Ok(parsed)
}

fn short<'py>(py: Python<'py>, what: &str, len: usize) -> PyResult<Bound<'py, PyDict>> {
    Err(Error::Format(format!(
        "the {what} ends after {len} bytes: it is cut short"
    )))
    .or_raise(py)
}

fn slots<'py>(py: Python<'py>, header: &Header) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for slot in &header.slots {
        let item = PyDict::new(py);
        item.set_item("offset", slot.offset)?;
        item.set_item("length", slot.body.len())?;
        match slot.content() {
            Content::Empty => item.set_item("kind", "empty")?,
            Content::Keyset { key_id } => {
                item.set_item("kind", "keyset")?;
                item.set_item("key_id", hex(&key_id))?;
            }
            Content::Passphrase(params) => {
                item.set_item("kind", "passphrase")?;
                item.set_item("memory_kib", params.memory_kib)?;
                item.set_item("passes", params.passes)?;
                item.set_item("lanes", params.lanes)?;
                item.set_item("salt", PyBytes::new(py, &params.salt))?;
            }
            Content::Master { kek_id, wrapped } => {
                item.set_item("kind", "master")?;
                item.set_item("key_id", hex(&kek_id))?;
                item.set_item("wrapped_length", wrapped.len())?;
            }
            Content::Other => item.set_item("kind", format!("unknown {:02x}", slot.kind))?,
        }
        list.append(item)?;
    }
    Ok(list)
}
