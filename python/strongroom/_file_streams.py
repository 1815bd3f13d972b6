"""Messages as they pass through a pipe: the streams of `strongroom.files`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Protocol, cast

from strongroom import _native
from strongroom._file_keys import ByteCount, file_keys
from strongroom.errors import KeyNotFoundError, LimitError

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom._file_keys import Progress
    from strongroom.keys import KeyStore

__all__ = ["decrypt_stream", "encrypt_stream"]

_STREAM_READ = 1 << 20
_PROGRESS_INTERVAL = 0.05
_RECORD_PREAMBLE = b"SR\x02\x01"
# The longest record that a keyset key writes: what `VersionedEncryption` makes no envelope of.
_RECORD_MAX = 65_536 + 92


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class _Writable(Protocol):
    def write(self, data: Buffer, /) -> int | None: ...


def encrypt_stream(
    src: _Readable,
    dst: _Writable,
    key_store: KeyStore | None = None,
    *,
    keyset: str = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    progress: Progress | None = None,
) -> ByteCount:
    """Encrypts from one binary file object to another, for pipes.

    Args:
        src: Read until it returns nothing.
        dst: Gets the message; what it got is no message before this returns.
        key_store: As for `encrypt_file`.
        keyset: As for `encrypt_file`.
        associated_data: As for `encrypt_file`.
        passphrase: As for `encrypt_file`.
        progress: Called with the bytes done and None, at most every 50 ms.

    Returns:
        Bytes of plaintext.

    Raises:
        KeyNotFoundError, KeyStateError, ValueError: As for `encrypt_file`.
        Exception: Whatever the file objects raise.
    """
    with file_keys(key_store, keyset, passphrase, writes=True) as keys:
        encryptor = _native.StreamEncryptor(keys.native, associated_data)
        count = 0
        for data in _read_all(src, progress):
            count += len(data)
            _write_all(dst, encryptor.update(data))
        _write_all(dst, encryptor.finalize())
        return keys.count(count, encryptor.key_id)


def decrypt_stream(
    src: _Readable,
    dst: _Writable,
    key_store: KeyStore | None = None,
    *,
    keyset: str | None = "default",
    associated_data: Buffer = b"",
    passphrase: str | Buffer | None = None,
    allow_compromised: bool = False,
    progress: Progress | None = None,
) -> ByteCount:
    """Decrypts from one binary file object to another, for pipes.

    Each chunk is passed on once it is authenticated. That it is all of the message is known only
    when this returns: after an exception, `dst` has a true beginning of it and no more. A record,
    as `VersionedEncryption` makes of values of up to 65,536 bytes, is read whole first.

    Args:
        src: Read until it returns nothing.
        dst: Gets the plaintext.
        key_store: As for `decrypt_file`.
        keyset: As for `decrypt_file`.
        associated_data: As for `decrypt_file`.
        passphrase: As for `decrypt_file`.
        allow_compromised: As for `decrypt_file`.
        progress: Called with the bytes done and None, at most every 50 ms.

    Returns:
        Bytes of plaintext, with keyset and key id.

    Raises:
        FormatError, KeyNotFoundError, DecryptionError, KeyStateError, LimitError: As for
            `decrypt_file`.
        Exception: Whatever the file objects raise.
    """
    with file_keys(key_store, keyset, passphrase, allow_compromised=allow_compromised) as keys:
        pieces = _read_all(src, progress)
        head = b""
        for data in pieces:
            head += data
            if len(head) >= len(_RECORD_PREAMBLE):
                break
        if head.startswith(_RECORD_PREAMBLE):
            record = _whole_record(head, pieces)
            plaintext = _open_record(record, key_store, keyset, associated_data, allow_compromised)
            _write_all(dst, plaintext)
            return keys.count(len(plaintext), _native.parse_message(record)["key_ids"][0])
        decryptor = _native.StreamDecryptor(keys.native, associated_data)
        count = 0
        for data in chain((head,), pieces):
            plaintext = decryptor.update(data)
            count += len(plaintext)
            _write_all(dst, plaintext)
            if decryptor.failed:
                break
        plaintext = decryptor.finalize()
        _write_all(dst, plaintext)
        return keys.count(count + len(plaintext), decryptor.key_id)


def _whole_record(head: bytes, pieces: Iterator[bytes]) -> bytes:
    record = bytearray(head)
    for data in pieces:
        record += data
        if len(record) > _RECORD_MAX:
            break
    if len(record) > _RECORD_MAX:
        raise LimitError(
            f"a record of more than {_RECORD_MAX:,} bytes is none that a keyset key wrote: open "
            "it with SecureEncryption and its key"
        )
    return bytes(record)


def _open_record(
    record: bytes,
    key_store: KeyStore | None,
    keyset: str | None,
    associated_data: Buffer,
    allow_compromised: bool,
) -> bytes:
    if key_store is None:
        key_id = _native.parse_message(record)["key_ids"][0]
        raise KeyNotFoundError(
            f"this message is a record under key {key_id}, which no passphrase opens: give the "
            "key store",
            key_id=key_id,
        )
    cipher = _native.KeysetCipher(key_store._keyring(keyset))
    return cipher.decrypt(record, associated_data, allow_compromised=allow_compromised)


def _read_all(src: _Readable, progress: Progress | None) -> Iterator[bytes]:
    # A BufferedReader's read would wait for all of it.
    read = cast("Callable[[int], bytes | None]", getattr(src, "read1", src.read))
    done = 0
    told = time.monotonic()
    while True:
        data = read(_STREAM_READ)
        if data is None:
            raise BlockingIOError("the source is non-blocking and has nothing to read now")
        if not data:
            return
        yield data
        done += len(data)
        if progress is not None and time.monotonic() - told >= _PROGRESS_INTERVAL:
            told = time.monotonic()
            progress(done, None)


def _write_all(dst: _Writable, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = dst.write(view)
        if written is None:
            raise BlockingIOError("the target is non-blocking and takes nothing now")
        view = view[written:]
