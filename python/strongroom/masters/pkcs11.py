"""A master key in a hardware security module, through PKCS#11."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

from strongroom import _native
from strongroom.errors import HSMError, KeyNotFoundError, KeyStateError, MasterKeyError
from strongroom.hsm import keys, wrapping
from strongroom.hsm.manager import HSMKeyManager
from strongroom.hsm.opened import LOCK_SECONDS
from strongroom.hsm.uri import Pkcs11Uri
from strongroom.masters import wrapped

if TYPE_CHECKING:
    import os

    from strongroom.hsm.pins import PinSource
    from strongroom.keys import KeyStore

__all__ = ["Pkcs11MasterKey"]

T = TypeVar("T")


class Pkcs11MasterKey:
    """A key of a token whose label begins with "master:". Needs the extra `hsm`.

    It wraps by AES-GCM in the token, bound to the wrapped key's id; by AES-KWP or AES-KW where the
    token has no AES-GCM. After `HSMKeyManager.rotate` it wraps under the label's newest version,
    and unwraps what the older ones wrapped.

    The login is that of the process, shared with every `HSMKeyManager` of the token, and lasts
    until the last of them is closed. Without `key_store` the 2^32 messages of a key are counted in
    this process alone: a store's root is wrapped a few times in its life, and an envelope's KEK
    once for 100,000 values.

    Attributes:
        uri: The PKCS#11 URI, in one form for each meaning. It never holds a PIN.
        key_id: CKA_ID of the key that wraps, 32 hex digits.
        mechanism: The mechanism byte of kind 04: 1 (AES-GCM), 2 (AES-KWP) or 3 (AES-KW).
    """

    def __init__(
        self,
        uri: str,
        *,
        pin: PinSource = None,
        pkcs11_lib: str | os.PathLike[str] | None = None,
        key_store: KeyStore | None = None,
        thread_safe: bool = False,
        timeout: float = LOCK_SECONDS,
    ) -> None:
        """Open the token and find the key.

        Args:
            uri: A PKCS#11 URI that names the key by `object=`, `id=`, or both.
            pin: As for `HSMKeyManager`; None: the URI's pin-source.
            pkcs11_lib: As for `HSMKeyManager`.
            key_store: Where messages are counted.
            thread_safe: As for `HSMKeyManager`.
            timeout: As for `HSMKeyManager`.

        Raises:
            MasterKeyError: The token or the key is not there, refused, or is out of reach.
            KeyStateError: It is a key for data, or none of its label may wrap.
            ValueError: It is no PKCS#11 URI, or names no key.
        """
        parts = Pkcs11Uri.parse(uri)
        if parts.object is None and parts.id is None:
            raise ValueError("the PKCS#11 URI of a master names a key: object=master:NAME")
        self.uri = str(parts)
        self._manager = _as_master(
            lambda: HSMKeyManager(
                pkcs11_lib,
                pin=pin,
                uri=uri,
                key_store=key_store,
                thread_safe=thread_safe,
                timeout=timeout,
            )
        )
        try:
            self._info = self._find(parts)
            # Which of KWP and KW a token has shows when it wraps.
            self.mechanism = wrapping.GCM
            if self._info.mechanism != "gcm":
                with _native.MemoryLockedKey.generate() as probe:
                    self.mechanism = self._wrap(probe, probe.key_id)[0]
        except BaseException:
            self._manager.close()
            raise

    def _find(self, parts: Pkcs11Uri) -> keys.TokenKey:
        label = parts.object
        if parts.id is None:
            assert label is not None  # noqa: S101 - one of them is there
            key_id = _as_master(lambda: self._manager.find(label))
        else:
            key_id = parts.id.hex()
            if len(parts.id) != 16:
                raise ValueError("id of the PKCS#11 URI of a master has 16 bytes")
        info = _as_master(lambda: self._manager.get_key(key_id))
        if label is not None and info.label != label:
            raise MasterKeyError(f"the key {key_id} of the token is not {label!r}")
        _as_master(lambda: keys.check_use(info, "master", writing=True))
        return info

    @property
    def key_id(self) -> str:
        """See above."""
        return self._info.id

    def wrap(self, key: _native.MemoryLockedKey, context: str) -> bytes:
        """Wrap a key.

        Args:
            key: The key.
            context: Its id, 32 hex digits; bound by AES-GCM.

        Returns:
            The blob: 60 bytes, or 40 without AES-GCM.

        Raises:
            MasterKeyError: The token refused or is out of reach.
            LimitError: The key has written 2^32 messages.
            KeyStateError: The key was rotated: open the master again.
        """
        mechanism, blob = self._wrap(key, context)
        if mechanism != self.mechanism:
            raise MasterKeyError("the token wraps in another way than when it was opened")
        return blob

    def unwrap(self, blob: bytes, context: str) -> _native.MemoryLockedKey:
        """Unwrap what `wrap` gave, under the same context.

        Raises:
            FormatError: The blob has not the length of one.
            DecryptionError: The blob or the context was changed, or another key wrapped it.
            MasterKeyError: The token refused or is out of reach.
        """
        return self._unwrap(self.key_id, self.mechanism, blob, context)

    def version(self, mechanism: int, wrapping_id: str) -> _Version | Self | None:
        """Return the master as the key and the way that wrapped something; None for another key.

        Raises:
            MasterKeyError: The token refused or is out of reach.
        """
        if (mechanism, wrapping_id) == (self.mechanism, self.key_id):
            return self
        if mechanism not in (wrapping.GCM, wrapping.KWP, wrapping.KW):
            return None
        if wrapping_id != self.key_id:
            try:
                info = self._manager.get_key(wrapping_id)
            except KeyNotFoundError:
                return None
            except HSMError as error:
                raise _master_error(error) from error
            if info.label != self._info.label:
                return None
        return _Version(self, mechanism, wrapping_id)

    def _wrap(self, key: _native.MemoryLockedKey, context: str) -> tuple[int, bytes]:
        return _as_master(lambda: self._manager._wrap(self.key_id, key, context))

    def _unwrap(
        self, wrapping_id: str, mechanism: int, blob: bytes, context: str
    ) -> _native.MemoryLockedKey:
        message = wrapped.header(mechanism, wrapping_id) + blob
        wrapped.parse(message)
        return _as_master(lambda: self._manager._unwrap(self.key_id, message, context))

    def close(self) -> None:
        """Give the login back. Closing twice is allowed."""
        self._manager.close()

    def __enter__(self) -> Self:
        """Return the master itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<Pkcs11MasterKey {self.uri}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError("a Pkcs11MasterKey can't be pickled or copied: open it again in the child")


class _Version:
    """A master as an older key of its label, or by another mechanism: it only unwraps."""

    def __init__(self, master: Pkcs11MasterKey, mechanism: int, key_id: str) -> None:
        self.uri, self.mechanism, self.key_id = master.uri, mechanism, key_id
        self._master = master

    def wrap(self, key: _native.MemoryLockedKey, context: str) -> bytes:
        raise KeyStateError(
            "an older key of the token does not wrap", key_id=self.key_id, state="deactivated"
        )

    def unwrap(self, blob: bytes, context: str) -> _native.MemoryLockedKey:
        return self._master._unwrap(self.key_id, self.mechanism, blob, context)


def _as_master(call: Callable[[], T]) -> T:
    """Call, and turn what a token's failure is into what a master's is."""
    try:
        return call()
    except (HSMError, KeyNotFoundError) as error:
        raise _master_error(error) from error


def _master_error(error: HSMError | KeyNotFoundError) -> MasterKeyError:
    return MasterKeyError(str(error), retryable=getattr(error, "retryable", False))
