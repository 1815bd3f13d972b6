"""HSMKeyManager: keys that are made in a token, used in it, and never leave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from strongroom import _events, _native
from strongroom.errors import (
    DecryptionError,
    FormatError,
    HSMError,
    KeyNotFoundError,
    LimitError,
)
from strongroom.hsm import keys, wrapping
from strongroom.hsm.keys import TokenKey
from strongroom.hsm.lane import NONCE_LEN, TAG_LEN, Lane
from strongroom.hsm.opened import OpenToken, check_key_id
from strongroom.masters import wrapped

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from strongroom.hsm.selftest import Check

__all__ = ["HSMKeyManager"]

MAGIC = b"SR\x02\x03"
_ID_END = len(MAGIC) + 16
_SEALED_AT = _ID_END + NONCE_LEN
MAX_PLAINTEXT = 65_536
MAX_ASSOCIATED_DATA = 65_535
_TOO_LONG = (
    f"a token encrypts at most {MAX_PLAINTEXT} bytes: for more use EnvelopeEncryption with a "
    "master in the token; the HSM wraps keys, the CPU encrypts data"
)


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
        key_id = keys.new_id(1)

        def work(lane: Lane) -> str:
            found = [i for _, i in keys.versions(lane, label) if i.id != key_id.hex()]
            if found:
                raise HSMError(f"there is a key {found[0].id} with the label {label!r}: rotate it")
            return self._make(lane, key_id, label)

        made = self._run(work)
        _events.report("hsm.key.generated", key_id=made, label=label, algorithm="AES-256")
        return made

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
        made: list[bytes] = []

        def work(lane: Lane) -> tuple[str, str]:
            from strongroom.hsm import binding

            found = keys.versions(lane, label)
            before = [pair for pair in found if not made or pair[1].id != made[0].hex()]
            if not before:
                raise KeyNotFoundError(f"the token has no key with the label {label!r}")
            if not made:
                made.append(keys.new_id(before[0][1].version + 1))
            new = self._make(lane, made[0], label)
            for key, info in before:
                if info.active:
                    binding.allow(key, wrapping=info.mechanism == "wrap", allowed=False)
                    lane.keys.pop(info.id, None)
            return new, before[0][1].id

        new, old = self._run(work)
        _events.report("hsm.key.rotated", key_id=new, label=label, old_key_id=old)
        return new

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
            from strongroom.hsm.binding import find_keys

            return [keys.read_key(key) for key in find_keys(lane.session, label=label)]

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

            lane.keys.pop(key_id, None)
            try:
                key, _ = lane.look_up(key_id)
            except KeyNotFoundError:
                if not tried:
                    raise
                return  # It was done, and the answer was lost.
            tried.append(True)
            binding.destroy(key)

        self._run(work)
        _events.report("hsm.key.destroyed", key_id=key_id)

    def self_test(self) -> list[Check]:
        """Try what the library needs of a token, with two keys that are destroyed again.

        Raises:
            HSMError: The token is out of reach.
        """
        from strongroom.hsm.selftest import run_checks

        return self._run(run_checks)

    def _make(self, lane: Lane, key_id: bytes, label: str) -> str:
        from strongroom.hsm import binding

        way = label.startswith(keys.MASTER_PREFIX) and self._wraps_only(lane)
        key = keys.make_key(lane, key_id, label, wrapping=way)
        try:
            # Whoever makes one of the same version at the same time sees this one, or is seen.
            keys.versions(lane, label)
        except HSMError:
            binding.destroy(key)
            raise
        binding.allow(key, wrapping=way, allowed=True)
        made = lane.look_up(key_id.hex())
        if not made[1].active:
            raise HSMError(f"the token does not let the key {key_id.hex()} be used for encryption")
        return key_id.hex()

    def _wraps_only(self, lane: Lane) -> bool:
        """Whether the token has no AES-GCM, so that its masters wrap by AES-KWP or AES-KW."""
        from strongroom.hsm.binding import mechanisms

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
            plaintext = _bytes(plaintext, "plaintext")
        if type(associated_data) is not bytes:
            associated_data = _bytes(associated_data, "associated_data")
        if len(plaintext) > MAX_PLAINTEXT:
            raise LimitError(_TOO_LONG)
        _check_associated_data(associated_data)
        check_key_id(key_id)
        header = MAGIC + bytes.fromhex(key_id)
        bound = header + associated_data
        self._count(key_id, "data")

        def work(lane: Lane) -> bytes:
            key, info = lane.keys.get(key_id) or lane.key(key_id)
            keys.check_use(info, "data", writing=True)
            nonce, sealed = lane.seal(key, plaintext, bound)
            return header + nonce + sealed

        return self._used(work, key_id)

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
            message = _bytes(message, "message")
        if type(associated_data) is not bytes:
            associated_data = _bytes(associated_data, "associated_data")
        _check_associated_data(associated_data)
        check_key_id(key_id)
        length = len(message) - _SEALED_AT - TAG_LEN
        if message[:4] != MAGIC or not 0 <= length <= MAX_PLAINTEXT:
            _refuse(message)
        named = message[4:_ID_END].hex()
        nonce, sealed = message[_ID_END:_SEALED_AT], message[_SEALED_AT:]
        bound = message[:_ID_END] + associated_data

        def work(lane: Lane) -> bytes | None:
            keys.check_use(self._named(lane, key_id, named)[1], "data", writing=False)
            return lane.open(named, nonce, sealed, bound)

        plaintext = self._run(work)
        if plaintext is None:
            raise DecryptionError
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
        return wrapped.header(mechanism, key_id) + blob

    def unwrap_key(
        self, key_id: str, wrapped_key: Buffer, wrapped_key_id: str
    ) -> _native.MemoryLockedKey:
        """Unwrap what `wrap_key` gave.

        Args:
            key_id: A key of the label of the master that wrapped it, of any version.
            wrapped_key: The message of kind 04.
            wrapped_key_id: The id of the key in it.

        Returns:
            The key, in locked memory. On its way it was a `bytes` of python-pkcs11's, which can't
            be wiped.

        Raises:
            FormatError: It is no wrapped key, or no token's.
            KeyNotFoundError, KeyStateError, HSMError: As `decrypt`.
            DecryptionError: It was changed, or is another key than the one named.
        """
        check_key_id(key_id)
        check_key_id(wrapped_key_id)
        mechanism, wrapping_id, blob = wrapped.parse(_bytes(wrapped_key, "wrapped_key"))
        if mechanism not in (wrapping.GCM, wrapping.KWP, wrapping.KW):
            raise FormatError("the key was not wrapped by a token")
        return self._unwrap(key_id, wrapping_id, mechanism, blob, wrapped_key_id)

    def _wrap(self, key_id: str, key: _native.MemoryLockedKey, context: str) -> tuple[int, bytes]:
        check_key_id(key_id)
        check_key_id(context)
        self._count(key_id, "master")
        material = key.get()
        try:
            value = bytes(material)
        finally:
            material[:] = bytes(len(material))

        def work(lane: Lane) -> tuple[int, bytes]:
            master, info = lane.key(key_id)
            keys.check_use(info, "master", writing=True)
            return wrapping.wrap(lane, master, info, value, context)

        made = self._used(work, key_id)
        _events.report("hsm.key.wrapped", key_id=context, wrapping_key_id=key_id)
        return made

    def _unwrap(
        self, key_id: str, wrapping_id: str, mechanism: int, blob: bytes, context: str
    ) -> _native.MemoryLockedKey:
        def work(lane: Lane) -> bytes:
            master, info = self._named(lane, key_id, wrapping_id)
            keys.check_use(info, "master", writing=False)
            return wrapping.unwrap(lane, master, info, mechanism, blob, context)

        value = self._run(work)
        if len(value) != 32:
            raise DecryptionError
        key = _native.MemoryLockedKey(value)
        # KW and KWP bind no context: the derived id does.
        if key.key_id != context:
            key.destroy()
            raise DecryptionError
        _events.report("hsm.key.unwrapped", key_id=context, wrapping_key_id=wrapping_id)
        return key


def _check_associated_data(data: bytes) -> None:
    if len(data) > MAX_ASSOCIATED_DATA:
        raise LimitError(f"associated data is longer than {MAX_ASSOCIATED_DATA:,} bytes")


def _bytes(data: object, name: str) -> bytes:
    try:
        # python-pkcs11 takes `bytes` alone: given a bytearray, it returns a generator.
        return bytes(memoryview(data))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a bytes-like object, not {type(data).__name__}") from None


def _refuse(message: bytes) -> NoReturn:
    """Raise what FORMAT.md says of bytes that are no message of kind 03."""
    _native.parse_message(message)
    raise FormatError(
        "not a token's message (kind 03)"
        if message[:4] != MAGIC
        else f"a token's message has 48 to {MAX_PLAINTEXT + 48:,} bytes, this one {len(message):,}"
    )
