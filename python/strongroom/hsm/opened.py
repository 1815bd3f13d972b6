"""What HSMKeyManager is built on: a token that is open, and the ways in which its keys are used."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

from strongroom.errors import HSMError, KeyNotFoundError, KeyStateError
from strongroom.hsm import codes, keys, pins
from strongroom.hsm.choice import Choice
from strongroom.hsm.counts import Counts
from strongroom.hsm.lane import Lane
from strongroom.hsm.module import get_module
from strongroom.hsm.token import Token, open_token
from strongroom.hsm.uri import Pkcs11Uri

if TYPE_CHECKING:
    from strongroom.hsm.pins import PinSource
    from strongroom.keys import KeyStore

__all__ = ["LOCK_SECONDS", "OpenToken", "check_key_id"]

T = TypeVar("T")

LOCK_SECONDS = 30.0
_KEY_ID = re.compile("[0-9a-f]{32}")


class OpenToken:
    """A token that is open for one user of it."""

    def __init__(
        self,
        pkcs11_lib: str | os.PathLike[str] | None = None,
        slot: int | None = None,
        pin: PinSource = None,
        *,
        token_label: str | None = None,
        uri: str | None = None,
        key_store: KeyStore | None = None,
        thread_safe: bool = False,
        timeout: float = LOCK_SECONDS,
    ) -> None:
        """Load the module, find the token and log in.

        Args:
            pkcs11_lib: Path of the module. None: the URI's module-path or module-name, else
                STRONGROOM_PKCS11_LIB.
            slot: Number of the slot. None: any, if one token fits.
            pin: The user PIN, or a function that returns it, called in each process that needs it.
                None: the URI's pin-source, or the token's pin pad.
            token_label: Label of the token.
            uri: A PKCS#11 URI (RFC 7512) that names the token.
            key_store: Where messages are counted; it stays the caller's to close.
            thread_safe: The module may be used by several threads at once.
            timeout: Seconds that a call waits for other threads. A call that blocks inside the
                module is not ended: that is the module's.

        Raises:
            HSMError: python-pkcs11 isn't installed, there is no such library or token, the token
                is not initialised, the PIN was refused, or the token is out of reach.
            TypeError, ValueError: An argument is no such thing.
        """
        parts = Pkcs11Uri() if uri is None else Pkcs11Uri.parse(uri)
        if slot is not None and (not isinstance(slot, int) or isinstance(slot, bool) or slot < 0):
            raise ValueError("slot is the number of a slot, or None")
        if token_label is not None and not isinstance(token_label, str):
            raise TypeError(f"token_label is str, not {type(token_label).__name__}")
        pins.check_pin_source(pin)
        if pin is None and parts.pin_source is not None:
            pin = pins.pin_from(parts.pin_source)
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise ValueError(f"timeout is {timeout}: a number of seconds above 0")
        self._timeout = float(timeout)
        self._pooled = bool(thread_safe)
        self._counts = Counts(key_store)
        # Keys that have written, by id.
        self._writing: dict[str, bytes] = {}
        self._module = get_module(_module_path(pkcs11_lib, parts))
        choice = Choice(
            slot_id=parts.slot_id if slot is None else slot,
            label=parts.token if token_label is None else token_label,
            serial=parts.serial,
            manufacturer=parts.manufacturer,
            model=parts.model,
        )
        self._token: Token | None = open_token(self._module, choice, pin, self._timeout)

    def _allow(self, lane: Lane, purpose: str, key_id: str, message_id: bytes) -> str:
        """Look that the key of a message is of the label of the one that the caller named.

        Otherwise a message of another tenant's key would open in this one's place.

        Returns:
            The id of the message's key.

        Raises:
            KeyNotFoundError: It isn't, or one of them is not there.
            KeyStateError: They are of another purpose.
        """
        check_key_id(key_id)
        named = message_id.hex()
        info = lane.key(key_id)[1]
        other = lane.key(named)[1]
        if other.label != info.label:
            raise KeyNotFoundError(
                f"the message is of the key {named}, which is no version of {info.label!r}",
                key_id=named,
            )
        keys.check_use(other, purpose, writing=False)
        lane.allowed[purpose, key_id, message_id] = named
        return named

    def _id_of(self, key_id: str, purpose: str) -> bytes:
        """Return the 16 bytes of the id of a key that is about to write, and count its message.

        Not under the token's lock: a store may wait.

        Raises:
            LimitError: The key has written all that it may.
        """
        try:
            found = self._writing.get(key_id)
        except TypeError:
            found = None
        if found is None:
            check_key_id(key_id)
            # No counter is made for a key that isn't there.
            self._run(lambda lane: keys.check_use(lane.key(key_id)[1], purpose, writing=True))
            found = self._writing[key_id] = bytes.fromhex(key_id)
        self._counts.take(key_id)
        return found

    def _run(
        self, work: Callable[[Lane], T], writes: str | None = None, *, reports: bool = False
    ) -> T:
        """Do something with the token.

        Args:
            work: What is done.
            writes: The key that must be one that may encrypt; if it may not any more, that is said.
            reports: It reports to the audit log while it is under way. Then it has the module's
                lock, as the log's signer must have it: with the sessions of a pool alone, eight
                such threads would wait for the log, and the one that has that for a session.
        """
        token = self._token
        if token is None:
            raise HSMError("it is closed")
        try:
            return token.run(work, self._timeout, self._pooled and not reports)
        except HSMError as error:
            if writes is None or error.code != codes.KEY_FUNCTION_NOT_PERMITTED:
                raise
        # Another process has rotated it since it was looked at.
        self._run(lambda lane: lane.drop(writes))
        raise KeyStateError(
            f"the token's key {writes} may not encrypt any more: a later version took its place",
            key_id=writes,
            state="deactivated",
        )

    def _run_aside(self, work: Callable[[Lane], T]) -> T:
        """Do something with the token as `_run` does, also while this thread is at work with it."""
        return self._open_token().run_aside(work, self._timeout)

    def _held(self) -> AbstractContextManager[None]:
        """Keep other threads out of the module: for who takes another lock before it calls in.

        Raises:
            HSMError: They kept it busy for too long.
        """
        return self._module.locked(self._timeout)

    def _open_token(self) -> Token:
        token = self._token
        if token is None:
            raise HSMError("it is closed")
        return token

    @property
    def token_label(self) -> str:
        """The label of the token."""
        return self._open_token().label

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._token is None

    def close(self) -> None:
        """Give the login back; the last one of the process closes the session. Twice is allowed.

        Raises:
            HSMError: Other threads kept the module busy; it is still open then.
        """
        if self._token is None:
            return
        with self._module.alone(self._timeout):
            # Another thread may have closed it meanwhile: a login is given back once.
            token, self._token = self._token, None
            if token is not None:
                token.leave()

    def __enter__(self) -> Self:
        """Return the manager itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Show the module and the token."""
        token = self._token
        return f"<{type(self).__name__} {self._module.path} {token.name if token else 'closed'}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError(
            f"a {type(self).__name__} can't be pickled or copied: open it again in the child"
        )


def _module_path(path: str | os.PathLike[str] | None, uri: Pkcs11Uri) -> str | os.PathLike[str]:
    """Return the path of the module that is meant."""
    if path is not None:
        return path
    if uri.module_path is not None:
        return uri.module_path
    if uri.module_name is not None:
        # The dynamic loader's to find.
        return f"lib{uri.module_name}.so"
    named = os.environ.get("STRONGROOM_PKCS11_LIB")
    if not named:
        raise HSMError(
            "no PKCS#11 library is named: give pkcs11_lib, module-path= in the URI, or set "
            "STRONGROOM_PKCS11_LIB"
        )
    return named


def check_key_id(key_id: object) -> None:
    """Look at a key id.

    Raises:
        TypeError: It is no str.
        ValueError: It is not 32 lower-case hex digits.
    """
    if not isinstance(key_id, str):
        raise TypeError(f"a key id is str, not {type(key_id).__name__}")
    if not _KEY_ID.fullmatch(key_id):
        raise ValueError("a key id is 32 lower-case hex digits")
