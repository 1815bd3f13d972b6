"""Kind 04, a wrapped key: `53 52 02 04 | mechanism [1] | id of the wrapping key [16] | blob`.

A master makes and reads the blob alone; the 21 bytes before it are made and checked here, and so
is that what comes out is the key that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from strongroom import _events, _native
from strongroom.errors import (
    DecryptionError,
    FormatError,
    KeyStoreError,
    MasterKeyError,
    StrongroomError,
    UnsupportedVersionError,
)

__all__ = [
    "PASSPHRASE",
    "SERVICE",
    "SOFTWARE",
    "MasterKeyProvider",
    "WrappedKey",
    "header",
    "open_software",
    "parse",
    "rewrap_with",
    "say",
    "seal_software",
    "unwrap_with",
    "wrap_with",
    "wrapped_by",
]

MAGIC = b"SR\x02\x04"
KEY_ID_LENGTH = 16
HEADER_LENGTH = len(MAGIC) + 1 + KEY_ID_LENGTH

SOFTWARE = 0
TOKEN_GCM = 1
TOKEN_KWP = 2
TOKEN_KW = 3
SERVICE = 4
PASSPHRASE = 5

# nonce [24] | key [32] | tag [16] | commitment [32]
BOX_LENGTH = 24 + 32 + 16 + 32
# memory [4] | passes [4] | lanes [1] | salt [16]
CLEAR_LENGTH = 4 + 4 + 1 + 16
SERVICE_MAX = 2048
_BLOB_LENGTHS = {
    SOFTWARE: (BOX_LENGTH, BOX_LENGTH),
    TOKEN_GCM: (12 + 32 + 16, 12 + 32 + 16),
    TOKEN_KWP: (40, 40),
    TOKEN_KW: (40, 40),
    SERVICE: (1, SERVICE_MAX),
    PASSPHRASE: (CLEAR_LENGTH + BOX_LENGTH, CLEAR_LENGTH + BOX_LENGTH),
}

# Calls to masters by this process, for statistics: two threads may count one for two.
COUNTS = {"calls": 0, "failures": 0}


@runtime_checkable
class MasterKeyProvider(Protocol):
    """A master key: something that wraps keys and is kept outside the store.

    Duck-typed: any object with these four names is one. Four more are optional. `mechanism`, the
    mechanism byte of kind 04, is 4 (a service) where there is none. `identify(blob)` returns the
    id of the key that this master would unwrap a blob with, for masters whose key depends on the
    blob, as a passphrase's does on the salt. `version(mechanism, wrapping_id)` returns the master
    as the key that wrapped something, or None if that is no key of its own, for masters whose key
    has versions with an id each. `rewrap(blob, context)` returns a blob of the same
    key under the newest version of the master key, for services that do that inside.

    Attributes:
        key_id: The wrapping key's public name, 32 lower-case hex digits.
        uri: Where the master is, for a store to remember. It never holds a secret.
    """

    @property
    def key_id(self) -> str:
        """See above."""

    @property
    def uri(self) -> str:
        """See above."""

    def wrap(self, key: _native.MemoryLockedKey, context: str) -> bytes:
        """Wrap a key.

        Args:
            key: The key to wrap. `key.get()` gives its bytes, in a bytearray to be wiped.
            context: The id of that key, 32 hex digits, to be bound to the result where the
                service has a way to.

        Returns:
            The blob, 1 to 2,048 bytes.

        Raises:
            MasterKeyError: The master refused or is out of reach.
        """

    def unwrap(self, blob: bytes, context: str) -> _native.MemoryLockedKey | bytes | bytearray:
        """Unwrap what `wrap` returned, with the same context.

        Returns:
            The key, 32 bytes: a buffer (a bytearray is wiped by the caller) or a handle.

        Raises:
            DecryptionError: The blob or the context was changed.
            MasterKeyError: The master refused or is out of reach.
        """


class WrappedKey(NamedTuple):
    """The parts of kind 04: mechanism, id of the wrapping key in hex, blob."""

    mechanism: int
    wrapping_id: str
    blob: bytes


def header(mechanism: int, wrapping_id: str) -> bytes:
    """Return the 21 bytes before the blob.

    Raises:
        ValueError: The id is not 32 lower-case hex digits.
    """
    if len(wrapping_id) != 2 * KEY_ID_LENGTH or wrapping_id != wrapping_id.lower():
        raise ValueError("a master's key_id must be 32 lower-case hex digits")
    return MAGIC + bytes([mechanism]) + bytes.fromhex(wrapping_id)


def parse(data: bytes) -> WrappedKey:
    """Take a wrapped key apart.

    Raises:
        FormatError: It is too short, or the blob's length is not the mechanism's.
        UnsupportedVersionError: It is of another version, kind or mechanism.
    """
    if len(data) <= HEADER_LENGTH:
        raise FormatError(f"a wrapped key has more than {HEADER_LENGTH} bytes, not {len(data)}")
    if data[:2] != MAGIC[:2]:
        raise FormatError("not a wrapped key: bytes 0 and 1 are not 53 52")
    if data[2:4] != MAGIC[2:]:
        raise UnsupportedVersionError("bytes 2 and 3 are not 02 04, a wrapped key of version 2")
    mechanism, blob = data[4], bytes(data[HEADER_LENGTH:])
    if mechanism not in _BLOB_LENGTHS:
        raise UnsupportedVersionError(f"byte 4 names an unknown way to wrap: {mechanism}")
    least, most = _BLOB_LENGTHS[mechanism]
    if not least <= len(blob) <= most:
        raise FormatError(f"the blob of a key wrapped by mechanism {mechanism} has another length")
    return WrappedKey(mechanism, data[5:HEADER_LENGTH].hex(), blob)


def seal_software(wrapping: _native.MemoryLockedKey, key: _native.MemoryLockedKey) -> bytes:
    """Wrap a key by a software master (mechanism 00) and return kind 04 whole."""
    head = header(SOFTWARE, wrapping.key_id)
    return head + _native.seal_key(wrapping, "master", key, head + bytes.fromhex(key.key_id))


def open_software(
    wrapping: _native.MemoryLockedKey, data: bytes, key_id: str
) -> _native.MemoryLockedKey:
    """Unwrap kind 04, mechanism 00.

    Raises:
        FormatError: It is not kind 04.
        DecryptionError: It is not the key `key_id` wrapped by `wrapping`.
    """
    mechanism, wrapping_id, blob = parse(data)
    if mechanism != SOFTWARE or wrapping_id != wrapping.key_id:
        raise DecryptionError
    associated_data = data[:HEADER_LENGTH] + bytes.fromhex(key_id)
    return _checked(_native.open_key(wrapping, "master", blob, associated_data), key_id)


def wrap_with(master: MasterKeyProvider, key: _native.MemoryLockedKey) -> bytes:
    """Wrap a key by any master and return kind 04 whole.

    Raises:
        MasterKeyError: The master refused, or gave something that is no blob.
    """
    return _wrapped(master, lambda: master.wrap(key, key.key_id))


def _wrapped(master: MasterKeyProvider, call: Callable[[], bytes]) -> bytes:
    COUNTS["calls"] += 1
    try:
        blob = bytes(call())
        data = header(getattr(master, "mechanism", SERVICE), master.key_id) + blob
        parse(data)
    except (StrongroomError, OSError) as error:
        _failed(master, error)
        if isinstance(error, FormatError):
            raise MasterKeyError(f"the master {_uri(master)} made no valid blob: {error}") from None
        raise
    except Exception as error:
        _failed(master, error)
        raise MasterKeyError(f"the master {_uri(master)} failed: {type(error).__name__}") from error
    return data


def wrapped_by(
    master: MasterKeyProvider, mechanism: int, wrapping_id: str
) -> MasterKeyProvider | None:
    """Return the master, as the key that wrapped something; None if another master did.

    Raises:
        MasterKeyError: The master had to look, and could not.
    """
    version = getattr(master, "version", None)
    if version is not None:
        found: MasterKeyProvider | None = version(mechanism, wrapping_id)
        return found
    same = mechanism == getattr(master, "mechanism", SERVICE) and wrapping_id == master.key_id
    return master if same else None


def rewrap_with(master: MasterKeyProvider, data: bytes, key: _native.MemoryLockedKey) -> bytes:
    """Wrap a key anew by the master that `data` says wraps it, inside the service where it can.

    Args:
        master: The master.
        data: The key as the master wraps it now, kind 04.
        key: The key.

    Raises:
        MasterKeyError: The master refused, or what it gave does not open again.
        DecryptionError: `data` was changed.
    """
    rewrap = getattr(master, "rewrap", None)
    if rewrap is None:
        return wrap_with(master, key)
    mechanism, wrapping_id, blob = parse(data)

    if mechanism != getattr(master, "mechanism", SERVICE) or wrapping_id != master.key_id:
        raise MasterKeyError(f"the key was not wrapped by {_uri(master)}")
    new = _wrapped(master, lambda: rewrap(blob, key.key_id))
    # Before it takes the old one's place: what the service did inside was not seen here.
    unwrap_with(master, new, key.key_id).destroy()
    return new


def unwrap_with(master: MasterKeyProvider, data: bytes, key_id: str) -> _native.MemoryLockedKey:
    """Unwrap kind 04 by any master, and look that the key is the one asked for.

    Raises:
        MasterKeyError: The master is not the one that wrapped it, refused, or gave another key.
        LimitError: Unwrapping would cost more than the format allows.
        FormatError: It is not kind 04.
        DecryptionError: The master is the right one, so the bytes were changed.
    """
    mechanism, wrapping_id, blob = parse(data)
    if hasattr(master, "version"):
        master = wrapped_by(master, mechanism, wrapping_id) or master
    if mechanism != getattr(master, "mechanism", SERVICE):
        raise MasterKeyError(f"the key was not wrapped by a master like {_uri(master)}")
    COUNTS["calls"] += 1
    try:
        identify = getattr(master, "identify", None)
        own_id = master.key_id if identify is None else identify(blob)
        if own_id != wrapping_id:
            # Of a passphrase no id is shown: it would be a hash of what was mistyped.
            if mechanism == PASSPHRASE:
                raise MasterKeyError("wrong passphrase")
            raise MasterKeyError(
                f"wrong master: the key was wrapped by master key {wrapping_id}, "
                f"and {_uri(master)} has {own_id}"
            )
        key = master.unwrap(blob, key_id)
    except (StrongroomError, OSError) as error:
        _failed(master, error)
        if isinstance(error, KeyStoreError):
            raise MasterKeyError(f"the master {_uri(master)} failed: {error}") from error
        raise
    except Exception as error:
        _failed(master, error)
        raise MasterKeyError(f"the master {_uri(master)} failed: {type(error).__name__}") from error
    if not isinstance(key, _native.MemoryLockedKey):
        try:
            key = _native.MemoryLockedKey(key)
        except (TypeError, ValueError, BufferError):
            raise MasterKeyError(f"the master {_uri(master)} gave no key of 32 bytes") from None
    try:
        return _checked(key, key_id)
    except DecryptionError:
        raise MasterKeyError(
            f"the master {_uri(master)} gave another key than the one it was asked for"
        ) from None


def say(name: str, master: MasterKeyProvider, data: bytes, key_id: str) -> None:
    """Report that a master wrapped or unwrapped a key that no store holds; a token does so itself.

    Raises:
        AuditError: The event could not be sealed; then the key must not be used.
    """
    mechanism, wrapping_id, _ = parse(data)
    if mechanism not in (TOKEN_GCM, TOKEN_KWP, TOKEN_KW):
        _events.report(name, key_id=key_id, wrapping_key_id=wrapping_id, master=_uri(master))


def _checked(key: _native.MemoryLockedKey, key_id: str) -> _native.MemoryLockedKey:
    # AES-KW, AES-KWP and some services bind no context: the id is what tells keys apart.
    if key.key_id != key_id:
        key.destroy()
        raise DecryptionError
    return key


def _failed(master: MasterKeyProvider, error: BaseException) -> None:
    COUNTS["failures"] += 1
    # That a store's masters all refused is its own event: a passphrase is tried on each of them.
    if getattr(error, "retryable", False):
        _events.report_failure(
            "master.unreachable", master=_uri(master), error_type=type(error).__name__
        )


def _uri(master: object) -> str:
    return str(getattr(master, "uri", None) or type(master).__name__)
