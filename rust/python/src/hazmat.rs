//! The bare constructions, for `strongroom.hazmat`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use strongroom_core::Error;
use strongroom_core::engine::{Aead, Engine, GcmKey};
use strongroom_core::kc_xaes::BoxKey;
use strongroom_core::params::{
    BOX_NONCE_LEN, COMMITMENT_LEN, GCM_NONCE_LEN, KEY_LEN, STREAM_PREFIX_LEN, TAG_LEN,
};
use strongroom_core::stream::{self, StreamKey};

use crate::buf::detached::detach;
use crate::buf::{Input, new_bytes};
use crate::cipher::{open_chunks, seal_chunks};
use crate::errors::OrRaise;
use crate::number::Number;

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(aes_256_gcm_encrypt, m)?)?;
    m.add_function(wrap_pyfunction!(aes_256_gcm_decrypt, m)?)?;
    m.add_function(wrap_pyfunction!(kc_xaes_256_gcm_encrypt, m)?)?;
    m.add_function(wrap_pyfunction!(kc_xaes_256_gcm_decrypt, m)?)?;
    m.add_function(wrap_pyfunction!(cobblestone_256_encrypt, m)?)?;
    m.add_function(wrap_pyfunction!(cobblestone_256_decrypt, m)?)?;
    m.add_function(wrap_pyfunction!(hkdf_expand_sha512, m)?)
}

/// The longest input of one GCM call: NIST SP 800-38D's 2^36 - 32 is never reached, since
/// one-shot AEADs of the engines end at 2^31 - 1.
const ONE_SHOT_MAX: usize = (1 << 31) - 1;

fn exact<const N: usize>(input: &Input<'_>, name: &str) -> PyResult<[u8; N]> {
    input.as_slice().try_into().map_err(|_| {
        PyValueError::new_err(format!(
            "{name} has {} bytes, it must have {N}",
            input.as_slice().len()
        ))
    })
}

fn engine(name: Option<&str>, py: Python<'_>) -> PyResult<Engine> {
    name.map_or(Ok(Engine::for_streams()), Engine::from_name)
        .or_raise(py)
}

fn check_len(len: usize, py: Python<'_>) -> PyResult<()> {
    if len > ONE_SHOT_MAX {
        return Err(Error::Limit(format!(
            "{len} bytes in one call, the limit is 2^31 - 1"
        )))
        .or_raise(py);
    }
    Ok(())
}

/// AES-256-GCM (NIST SP 800-38D): ciphertext and tag of 16 bytes. Never twice with one nonce.
#[pyfunction]
#[pyo3(signature = (key, nonce, plaintext, associated_data=None, *, engine=None), text_signature = "(key, nonce, plaintext, associated_data=b\"\", *, engine=None)")]
fn aes_256_gcm_encrypt<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyAny>,
    nonce: &Bound<'py, PyAny>,
    plaintext: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    engine: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let engine = self::engine(engine, py)?;
    let key = exact::<KEY_LEN>(&Input::new(key, "key")?, "key")?;
    let nonce = exact::<GCM_NONCE_LEN>(&Input::new(nonce, "nonce")?, "nonce")?;
    let associated_data = associated_data
        .map(|ad| Input::new(ad, "associated_data"))
        .transpose()?;
    let associated_data = associated_data.as_ref().map_or(&[][..], Input::as_slice);
    let plaintext = Input::new(plaintext, "plaintext")?;
    let plaintext = plaintext.as_slice();
    check_len(plaintext.len(), py)?;
    new_bytes(py, plaintext.len() + TAG_LEN, |out| {
        detach(py, || {
            let (ciphertext, tag) = out.split_at_mut(plaintext.len());
            let gcm = GcmKey::new(engine, &key);
            tag.copy_from_slice(&gcm.seal(&nonce, associated_data, plaintext, ciphertext));
        });
        Ok(())
    })
}

/// The plaintext of AES-256-GCM. DecryptionError where the tag does not match.
#[pyfunction]
#[pyo3(signature = (key, nonce, ciphertext, associated_data=None, *, engine=None), text_signature = "(key, nonce, ciphertext, associated_data=b\"\", *, engine=None)")]
fn aes_256_gcm_decrypt<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyAny>,
    nonce: &Bound<'py, PyAny>,
    ciphertext: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    engine: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let engine = self::engine(engine, py)?;
    let key = exact::<KEY_LEN>(&Input::new(key, "key")?, "key")?;
    let nonce = exact::<GCM_NONCE_LEN>(&Input::new(nonce, "nonce")?, "nonce")?;
    let associated_data = associated_data
        .map(|ad| Input::new(ad, "associated_data"))
        .transpose()?;
    let associated_data = associated_data.as_ref().map_or(&[][..], Input::as_slice);
    let ciphertext = Input::new(ciphertext, "ciphertext")?;
    let sealed = ciphertext.as_slice();
    check_len(sealed.len(), py)?;
    let Some((body, tag)) = sealed.split_last_chunk::<TAG_LEN>() else {
        return Err(PyValueError::new_err(format!(
            "ciphertext has {} bytes, its tag alone has {TAG_LEN}",
            sealed.len()
        )));
    };
    new_bytes(py, body.len(), |out| {
        detach(py, || {
            GcmKey::new(engine, &key).open(&nonce, associated_data, body, tag, out)
        })
        .or_raise(py)
    })
}

/// KC-XAES-256-GCM: ciphertext, tag of 16 bytes, commitment of 32.
#[pyfunction]
#[pyo3(signature = (key, nonce, plaintext, associated_data=None, *, engine=None), text_signature = "(key, nonce, plaintext, associated_data=b\"\", *, engine=None)")]
fn kc_xaes_256_gcm_encrypt<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyAny>,
    nonce: &Bound<'py, PyAny>,
    plaintext: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    engine: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let engine = self::engine(engine, py)?;
    let key = exact::<KEY_LEN>(&Input::new(key, "key")?, "key")?;
    let nonce = exact::<BOX_NONCE_LEN>(&Input::new(nonce, "nonce")?, "nonce")?;
    let associated_data = associated_data
        .map(|ad| Input::new(ad, "associated_data"))
        .transpose()?;
    let associated_data = associated_data.as_ref().map_or(&[][..], Input::as_slice);
    let plaintext = Input::new(plaintext, "plaintext")?;
    let plaintext = plaintext.as_slice();
    check_len(plaintext.len(), py)?;
    new_bytes(py, plaintext.len() + TAG_LEN + COMMITMENT_LEN, |out| {
        detach(py, || {
            BoxKey::new(&key).seal(engine, &nonce, associated_data, plaintext, out)
        });
        Ok(())
    })
}

/// The plaintext of KC-XAES-256-GCM. DecryptionError where commitment or tag do not match.
#[pyfunction]
#[pyo3(signature = (key, nonce, ciphertext, associated_data=None, *, engine=None), text_signature = "(key, nonce, ciphertext, associated_data=b\"\", *, engine=None)")]
fn kc_xaes_256_gcm_decrypt<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyAny>,
    nonce: &Bound<'py, PyAny>,
    ciphertext: &Bound<'py, PyAny>,
    associated_data: Option<&Bound<'py, PyAny>>,
    engine: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let engine = self::engine(engine, py)?;
    let key = exact::<KEY_LEN>(&Input::new(key, "key")?, "key")?;
    let nonce = exact::<BOX_NONCE_LEN>(&Input::new(nonce, "nonce")?, "nonce")?;
    let associated_data = associated_data
        .map(|ad| Input::new(ad, "associated_data"))
        .transpose()?;
    let associated_data = associated_data.as_ref().map_or(&[][..], Input::as_slice);
    let ciphertext = Input::new(ciphertext, "ciphertext")?;
    let sealed = ciphertext.as_slice();
    check_len(sealed.len(), py)?;
    let Some(len) = sealed.len().checked_sub(TAG_LEN + COMMITMENT_LEN) else {
        return Err(PyValueError::new_err(format!(
            "ciphertext has {} bytes, tag and commitment alone have {}",
            sealed.len(),
            TAG_LEN + COMMITMENT_LEN
        )));
    };
    new_bytes(py, len, |out| {
        detach(py, || {
            BoxKey::new(&key).open(engine, &nonce, associated_data, sealed, out)
        })
        .or_raise(py)
    })
}

/// Cobblestone-256 under a random salt: salt, commitment, chunks.
#[pyfunction]
#[pyo3(signature = (key, plaintext, context=None, *, engine=None), text_signature = "(key, plaintext, context=b\"\", *, engine=None)")]
fn cobblestone_256_encrypt<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyAny>,
    plaintext: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    engine: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let engine = self::engine(engine, py)?;
    let key = exact::<KEY_LEN>(&Input::new(key, "key")?, "key")?;
    let context = context
        .map(|context| Input::new(context, "context"))
        .transpose()?;
    let context = context.as_ref().map_or(&[][..], Input::as_slice);
    let plaintext = Input::new(plaintext, "plaintext")?;
    let plaintext = plaintext.as_slice();
    let (stream, prefix) = StreamKey::create(engine, &key, &[context]).or_raise(py)?;
    let sealed_len = stream::sealed_len(plaintext.len() as u64)
        .and_then(|len| usize::try_from(len).ok())
        .and_then(|len| len.checked_add(STREAM_PREFIX_LEN));
    let Some(len) = sealed_len else {
        return Err(Error::Limit(
            "the message would be longer than memory".into(),
        ))
        .or_raise(py);
    };
    // Chunks are written where the caller will read them: a copy would be made under the GIL.
    new_bytes(py, len, |out| {
        let (head, body) = out.split_at_mut(STREAM_PREFIX_LEN);
        head.copy_from_slice(&prefix.to_bytes());
        seal_chunks(py, stream, plaintext, body, None)
    })
}

/// The plaintext of Cobblestone-256. DecryptionError, or FormatError for an impossible length.
#[pyfunction]
#[pyo3(signature = (key, ciphertext, context=None, *, engine=None), text_signature = "(key, ciphertext, context=b\"\", *, engine=None)")]
fn cobblestone_256_decrypt<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyAny>,
    ciphertext: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    engine: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let engine = self::engine(engine, py)?;
    let key = exact::<KEY_LEN>(&Input::new(key, "key")?, "key")?;
    let context = context
        .map(|context| Input::new(context, "context"))
        .transpose()?;
    let context = context.as_ref().map_or(&[][..], Input::as_slice);
    let ciphertext = Input::new(ciphertext, "ciphertext")?;
    let (prefix, sealed) = stream::split(ciphertext.as_slice()).or_raise(py)?;
    let stream = StreamKey::open(engine, &key, &prefix, &[context]).or_raise(py)?;
    let len = stream::plaintext_len(sealed.len() as u64).or_raise(py)? as usize;
    new_bytes(py, len, |out| open_chunks(py, &stream, sealed, out, None))
}

/// HKDF-Expand of RFC 5869 with SHA-512; `length` is at most 16,320 bytes.
#[pyfunction]
fn hkdf_expand_sha512<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyAny>,
    info: &Bound<'py, PyAny>,
    length: Number,
) -> PyResult<Bound<'py, PyBytes>> {
    let Number(length) = length;
    let key = Input::new(key, "key")?;
    let info = Input::new(info, "info")?;
    if length > 255 * strongroom_core::kdf::MAC_LEN {
        return Err(PyValueError::new_err(
            "length is over 255 x 64 bytes, where RFC 5869 ends",
        ));
    }
    new_bytes(py, length, |out| {
        strongroom_core::kdf::hkdf_expand_sha512(key.as_slice(), &[info.as_slice()], out);
        Ok(())
    })
}
