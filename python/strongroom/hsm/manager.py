"""HSMKeyManager: keys that are made in a token, used in it, and never leave it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from strongroom import _events, _native
from strongroom.errors import (
    DecryptionError,
    FormatError,
    HSMError,
    KeyNotFoundError,
    KeyStateError,
    LimitError,
)
from strongroom.hsm import keys, wrapping
from strongroom.hsm.direct import NONCE_LEN, TAG_LEN
from strongroom.hsm.keys import TokenKey
from strongroom.hsm.lane import Lane
from strongroom.hsm.message import (
    MAGIC,
    MAX_ASSOCIATED_DATA,
    MAX_PLAINTEXT,
    as_bytes,
    key_of,
    refuse,
)
from strongroom.hsm.opened import OpenToken, check_key_id
from strongroom.hsm.said import Said
from strongroom.masters import wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from strongroom.hsm.selftest import Check

__all__ = ["HSMKeyManager"]

_ID_END = len(MAGIC) + 16
# Looks at a label's keys that are in the middle of something, and what lies between.
_LOOKS = 4
_LOOK_SECONDS = 0.02
_WIPED = bytes(32)
_GCM_WRAPPED_LEN = wrapped.HEADER_LENGTH + wrapping.GCM_BLOB_LEN
_WRAPPED_NONCE = slice(wrapped.HEADER_LENGTH, wrapped.HEADER_LENGTH + NONCE_LEN)
_WRAPPED_SEALED = slice(wrapped.HEADER_LENGTH + NONCE_LEN, None)
_SEALED_AT = _ID_END + NONCE_LEN
_TOO_LONG = (
    f"a token encrypts at most {MAX_PLAINTEXT} bytes: for more use EnvelopeEncryption with a "
    "master in the token; the HSM wraps keys, the CPU encrypts data"
)
_TOO_MUCH_BOUND = f"associated data is longer than {MAX_ASSOCIATED_DATA:,} bytes"


class HSMKeyManager(OpenToken):
    """Makes, uses, rotates and destroys AES-256 keys in a token, through PKCS#11.

    A label is a line of keys, versions 1, 2, ...; its primary is the highest version that may
    encrypt. A label that begins with "master:" names masters, whose keys wrap keys; any other one
    names keys for data. Used as the other it is a KeyStateError.

    All managers and masters of a process share one login for each token, and one lock and one
    session for each module. With `thread_safe=True` threads have sessions of their own, up to
    eight; it is for modules whose maker says that they may be used so without locking callbacks
    (SoftHSM may not).

    Each key writes at most 2^32 messages. With `key_store=` they are counted there, by leases of
    2^20, for all processes that use this store; without one they are counted in this process
    alone, from 0 at each start: then it is for you to rotate in time.

    A forked child starts anew at the first use. It needs the PIN again, which is not inherited:
    give `pin` as a function, or name a pin-source.

    Safe to share between threads. Not picklable. A context manager, which closes it.

    Example:
        >>> with HSMKeyManager("/usr/lib/softhsm/libsofthsm2.so", token_label="app",
        ...                    pin=read_pin) as hsm:
        ...     key_id = hsm.generate_key("cards")
        ...     message = hsm.encrypt(key_id, b"4000 0012 3456 7899", b"customer/42")
        ...     hsm.decrypt(key_id, message, b"customer/42")
        b'4000 0012 3456 7899'
    """

    # --- Keys -----------------------------------------------------------------------------------

    def generate_key(self, label: str) -> str:
        """Make the first key of a label.

        Args:
            label: 1 to 255 bytes. One that begins with "master:" makes a master.

        Returns:
            The key's id, 32 hex digits.

        Raises:
            HSMError: The label has a key already (rotate it), the token made another key than it
                was asked for (destroyed again), or failed.
        """
        keys.check_label(label)
        making = keys.Making(keys.new_id(1), label)

        def work(lane: Lane) -> str:
            own = making.key_id.hex()
            found = [info for _, info in keys.versions(lane, label) if info.id != own]
            if found:
                raise HSMError(f"there is a key {found[0].id} with the label {label!r}: rotate it")
            making.wrapping = self._wraps_only(lane, label)
            return making.make(lane, said)

        with Said("hsm.key.generated", **self._about(label), key_id=making.key_id.hex()) as said:
            return self._making(making, work)

    def rotate(self, label: str) -> str:
        """Make the next version of a label; the older ones only decrypt from then on.

        Whatever interrupts it, the label has one primary: the old one or the new one.

        Returns:
            The new key's id.

        Raises:
            KeyNotFoundError: There is no key of that label.
            HSMError: As `generate_key`; or another process rotates at the same time.
        """
        keys.check_label(label)
        making = keys.Making(b"", label)

        def work(lane: Lane) -> str:
            from strongroom.hsm import binding

            own = making.key_id.hex()
            before = [pair for pair in keys.versions(lane, label) if pair[1].id != own]
            if not before:
                raise KeyNotFoundError(f"the token has no key with the label {label!r}")
            if not making.key_id:
                making.key_id = keys.new_id(before[0][1].version + 1)
                making.wrapping = self._wraps_only(lane, label)
                active = [info.id for _, info in before if info.active]
                said.fields["old_key_id"] = active[0] if active else None
                said.fields["new_key_id"] = making.key_id.hex()
            new = making.make(lane, said)
            for key, info in before:
                if info.active:
                    binding.allow(key, wrapping=info.mechanism == "wrap", allowed=False)
                    lane.drop(info.id)
            return new

        with Said("hsm.key.rotated", **self._about(label)) as said:
            return self._making(making, work)

    def _making(self, making: keys.Making, work: Callable[[Lane], str]) -> str:
        try:
            return self._run(work, reports=True)
        except BaseException:
            # A key that never encrypted is in nobody's way, but it would be listed for ever.
            if making.key_id and not making.enabled:
                with contextlib.suppress(HSMError):
                    self._run(making.undo)
            raise

    def find(self, label: str) -> str:
        """Return the id of a label's primary, as the token has it now.

        Raises:
            KeyNotFoundError: There is no key of that label.
            KeyStateError: None of its keys may encrypt.
            HSMError: A key of the label must not be used, or two have one version.
        """
        keys.check_label(label)

        def work(lane: Lane) -> str:
            return keys.primary_of(keys.versions(lane, label), label)[1].id

        for _ in range(_LOOKS - 1):
            try:
                return self._run(work)
            except (HSMError, KeyStateError) as error:
                if getattr(error, "code", None) is not None:
                    raise
                # Attributes are read one key after another: another process that rotates in between
                # makes it look as if none of them, or two, could encrypt.
                time.sleep(_LOOK_SECONDS)
        return self._run(work)

    def get_key(self, key_id: str) -> TokenKey:
        """Return what the token says of a key.

        Raises:
            KeyNotFoundError: The token has no such key.
            HSMError: It has two.
        """
        check_key_id(key_id)

        def work(lane: Lane) -> TokenKey:
            found = lane.keys[key_id] = lane.look_up(key_id)
            return found[1]

        return self._run(work)

    def list_keys(self, label: str | None = None) -> list[TokenKey]:
        """List the secret keys in the token, or those of a label, by label and version.

        Keys that must not be used are listed too, with their `problem`.
        """
        if label is not None:
            keys.check_label(label)

        def work(lane: Lane) -> list[TokenKey]:
            return [keys.read_key(key) for key in lane.find(label=label)]

        return sorted(self._run(work), key=lambda info: (info.label, info.version, info.id))

    def destroy_key(self, key_id: str) -> None:
        """Destroy a key in the token. What it wrote or wrapped is lost with it.

        Raises:
            KeyNotFoundError: The token has no such key.
        """
        check_key_id(key_id)
        tried: list[bool] = []

        def work(lane: Lane) -> None:
            from strongroom.hsm import binding

            lane.drop(key_id)
            try:
                key = lane.look_up(key_id)[0]
            except KeyNotFoundError:
                if not tried:
                    raise
                return  # It was done, and the answer was lost.
            said()
            tried.append(True)
            binding.destroy(key)

        with Said("hsm.key.destroyed", token=self.token_label, key_id=key_id) as said:
            self._run(work, reports=True)

    def self_test(self) -> list[Check]:
        """Try what the library needs of a token, with two keys that are destroyed again.

        Raises:
            HSMError: The token is out of reach.
        """
        from strongroom.hsm.selftest import run_checks

        return self._run(run_checks)

    def _about(self, label: str) -> dict[str, Any]:
        purpose = "master" if label.startswith(keys.MASTER_PREFIX) else "data"
        return {"token": self.token_label, "purpose": purpose, "algorithm": "AES-256"}

    def _wraps_only(self, lane: Lane, label: str) -> bool:
        """Whether it is for a master of a token without AES-GCM, which wraps by KWP or KW."""
        from strongroom.hsm.binding import mechanisms

        if not label.startswith(keys.MASTER_PREFIX):
            return False
        return "AES_GCM" not in mechanisms(self._open_token().slot)

    # --- Data -----------------------------------------------------------------------------------

    def encrypt(self, key_id: str, plaintext: Buffer, associated_data: Buffer = b"") -> bytes:
        """Encrypt a value in the token: a message of kind 03, 48 bytes longer.

        Args:
            key_id: A key for data that may encrypt, as `find(label)` returns it.
            plaintext: 0 to 65,536 bytes.
            associated_data: Bound to the message, 0 to 65,535 bytes.

        Raises:
            LimitError: The plaintext is longer (use EnvelopeEncryption), the associated data is,
                or the key has written 2^32 messages.
            KeyNotFoundError: The token has no such key.
            KeyStateError: It is a master, or a later version took its place.
            HSMError: The token refused or is out of reach.
        """
        if type(plaintext) is not bytes:
            plaintext = as_bytes(plaintext, "plaintext")
        if type(associated_data) is not bytes:
            associated_data = as_bytes(associated_data, "associated_data")
        if len(plaintext) > MAX_PLAINTEXT:
            raise LimitError(_TOO_LONG)
        if len(associated_data) > MAX_ASSOCIATED_DATA:
            raise LimitError(_TOO_MUCH_BOUND)
        header = MAGIC + self._id_of(key_id, "data")
        bound = header + associated_data

        def work(lane: Lane) -> bytes:
            _, info, handle = lane.keys.get(key_id) or lane.key(key_id)
            keys.check_use(info, "data", writing=True)
            return header + lane.seal(handle, plaintext, bound)

        made = self._run(work, key_id)
        _events.count("encrypt", key_id, len(plaintext))
        return made

    def decrypt(self, key_id: str, message: Buffer, associated_data: Buffer = b"") -> bytes:
        """Decrypt what `encrypt` gave.

        Args:
            key_id: A key of the label that the message is of: it may be of any version of it.
            message: The message.
            associated_data: As it was.

        Raises:
            FormatError: It is no message of kind 03.
            KeyNotFoundError: It is of a key that the token does not have under this label.
            KeyStateError: `key_id` is a master.
            DecryptionError: Wrong associated data or a damaged message.
            HSMError: The token refused or is out of reach.
        """
        if type(message) is not bytes:
            message = as_bytes(message, "message")
        if type(associated_data) is not bytes:
            associated_data = as_bytes(associated_data, "associated_data")
        if len(associated_data) > MAX_ASSOCIATED_DATA:
            raise LimitError(_TOO_MUCH_BOUND)
        length = len(message) - _SEALED_AT - TAG_LEN
        if message[:4] != MAGIC or not 0 <= length <= MAX_PLAINTEXT:
            refuse(message)
        own = message[4:_ID_END]
        nonce, sealed = message[_ID_END:_SEALED_AT], message[_SEALED_AT:]
        bound = message[:_ID_END] + associated_data

        def work(lane: Lane) -> tuple[str, bytes | None]:
            named = lane.allowed.get(("data", key_id, own)) or self._allow(
                lane, "data", key_id, own
            )
            return named, lane.open(named, nonce, sealed, bound, bytes)

        named, plaintext = self._run(work)
        if plaintext is None:
            _events.count("decrypt", named, length, outcome="DecryptionError")
            raise DecryptionError
        _events.count("decrypt", named, length)
        return plaintext

    # --- Keys of ours ---------------------------------------------------------------------------

    def wrap_key(self, key_id: str, key: _native.MemoryLockedKey | Buffer) -> bytes:
        """Wrap a key in the token: a message of kind 04, bound to the wrapped key's id.

        The key's bytes are encrypted by AES-GCM, in one call and without an object in the token;
        by AES-KWP or AES-KW where the token has no AES-GCM.

        Args:
            key_id: A master that may wrap, as `find("master:...")` returns it.
            key: The key, a handle or 32 bytes.

        Returns:
            81 bytes, or 61 without AES-GCM.

        Raises:
            LimitError: The master has written 2^32 messages.
            KeyNotFoundError, KeyStateError, HSMError: As `encrypt`.
        """
        if not isinstance(key, _native.MemoryLockedKey):
            with memoryview(key) as view, _native.MemoryLockedKey(view.toreadonly()) as handle:
                return self.wrap_key(key_id, handle)
        mechanism, blob = self._wrap(key_id, key, key.key_id)
        return wrapped.MAGIC + bytes((mechanism,)) + self._writing[key_id] + blob

    def unwrap_key(
        self, key_id: str, wrapped_key: Buffer, wrapped_key_id: str
    ) -> _native.MemoryLockedKey:
        """Unwrap what `wrap_key` gave.

        Args:
            key_id: A key of the label of the master that wrapped it, of any version.
            wrapped_key: The message of kind 04.
            wrapped_key_id: The id of the key in it.

        Returns:
            The key, in locked memory. Where the token has no AES-GCM it was a `bytes` of
            python-pkcs11's on its way, which can't be wiped; and so when it was wrapped.

        Raises:
            FormatError: It is no wrapped key, or no token's.
            KeyNotFoundError, KeyStateError, HSMError: As `decrypt`.
            DecryptionError: It was changed, or is another key than the one named.
        """
        if type(wrapped_key) is not bytes:
            wrapped_key = as_bytes(wrapped_key, "wrapped_key")
        if len(wrapped_key) != _GCM_WRAPPED_LEN or not wrapped_key.startswith(wrapping.GCM_HEAD):
            # Another way, or none: this tells.
            mechanism, _, _ = wrapped.parse(wrapped_key)
            if mechanism not in (wrapping.KWP, wrapping.KW):
                raise FormatError("the key was not wrapped by a token")
        return self._unwrap(key_id, wrapped_key, wrapped_key_id)

    def _wrap(self, key_id: str, key: _native.MemoryLockedKey, context: str) -> tuple[int, bytes]:
        own, inner = self._id_of(key_id, "master"), bytes.fromhex(context)
        value = key.get()

        def work(lane: Lane) -> tuple[int, bytes]:
            master = lane.keys.get(key_id) or lane.key(key_id)
            keys.check_use(master[1], "master", writing=True)
            return wrapping.wrap(lane, master, value, own + inner)

        try:
            made = self._run(work, key_id)
        finally:
            value[:] = _WIPED
        _events.report("hsm.key.wrapped", key_id=context, wrapping_key_id=key_id, mechanism=made[0])
        return made

    def _unwrap(self, key_id: str, message: bytes, context: str) -> _native.MemoryLockedKey:
        """Unwrap kind 04, mechanisms 01 to 03, whose form was looked at."""
        try:
            inner = bytes.fromhex(context)
        except (TypeError, ValueError):
            check_key_id(context)
            raise
        header = message[: wrapped.HEADER_LENGTH]
        own = header[5:]

        def work(lane: Lane) -> tuple[str, _native.MemoryLockedKey | None]:
            named = lane.allowed.get(("master", key_id, own)) or self._allow(
                lane, "master", key_id, own
            )
            if message[4] != wrapping.GCM:
                blob = message[wrapped.HEADER_LENGTH :]
                return named, key_of(wrapping.unwrap(lane.key(named)[0], message[4], blob))
            nonce, sealed = message[_WRAPPED_NONCE], message[_WRAPPED_SEALED]
            return named, lane.open(named, nonce, sealed, header + inner, _native.MemoryLockedKey)

        named, key = self._run(work)
        # KW and KWP bind no context: the derived id does.
        if key is None or key.key_id != context:
            if key is not None:
                key.destroy()
            # Nothing has the id of a text that is none.
            check_key_id(context)
            raise DecryptionError
        _events.report("hsm.key.unwrapped", key_id=context, wrapping_key_id=named)
        return key
