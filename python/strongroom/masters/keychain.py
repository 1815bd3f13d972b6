"""A master key in the keychain of the user's session, through the package keyring."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

from strongroom import _native
from strongroom.errors import MasterKeyError
from strongroom.masters.service import load
from strongroom.masters.software import LINE_FORM, SoftwareMaster, new_line, parse_line

__all__ = ["KeyringMasterKey"]

_T = TypeVar("_T")

PROMPT_SECONDS = 60.0
_REFUSED = {
    "keyring.backends.fail": "there is no keychain that this process can reach",
    "keyring.backends.null": "the keychain is the null backend, which loses what it is given",
}


class KeyringMasterKey(SoftwareMaster):
    """A master key that the keychain keeps (Secret Service, macOS Keychain, Windows).

    The key is read at construction, into locked memory. The package keyring hands it over as text,
    of which copies stay in ordinary memory until they are overwritten by chance: a key file or a
    token leaves none.

    Attributes:
        uri: `keyring:`, the service, `/` and the name.
    """

    def __init__(self, service: str, name: str, *, timeout: float = PROMPT_SECONDS) -> None:
        """Read the key.

        Args:
            service: Name of the service, without "/".
            name: Name of the user or key.
            timeout: Seconds to wait for the keychain: it may be asking a person to unlock it.

        Raises:
            MasterKeyError: There is no such key, it is none, the keychain refuses, is out of
                reach, is locked, or is one that keeps nothing.
        """
        self.uri = _uri(service, name)
        keychain = _keychain(timeout)
        text = _call(timeout, lambda: keychain.get_password(service, name))
        if text is None:
            raise MasterKeyError(
                f"the keychain holds no {self.uri}: `strongroom init --master` or "
                "KeyringMasterKey.create makes it"
            )
        super().__init__(_parse(text, self.uri))

    @classmethod
    def create(cls, service: str, name: str, *, timeout: float = PROMPT_SECONDS) -> Self:
        """Make a new key, give it to the keychain, and read it back.

        Raises:
            FileExistsError: There is a secret of that name.
            MasterKeyError: As for opening; or the keychain did not keep the key.
        """
        uri = _uri(service, name)
        keychain = _keychain(timeout)
        if _call(timeout, lambda: keychain.get_password(service, name)) is not None:
            raise FileExistsError(17, "the keychain holds a secret of this name", uri)
        line = new_line()
        try:
            text = line.decode().strip()
            _call(timeout, lambda: keychain.set_password(service, name, text))
        finally:
            line[:] = bytes(len(line))
        return cls(service, name, timeout=timeout)

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<KeyringMasterKey {self.key_id} {self.uri}>"


def _uri(service: str, name: str) -> str:
    for value in (service, name):
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError("service and name of a keychain's key are printable text, not empty")
    if "/" in service:
        raise ValueError("the service's name has no '/': it ends there in keyring:SERVICE/NAME")
    return f"keyring:{service}/{name}"


def _keychain(timeout: float) -> Any:  # noqa: ANN401 - keyring's backend
    keyring = load("keyring", "keyring", "a master key in the keychain")
    backend = _call(timeout, keyring.get_keyring)
    refused = _REFUSED.get(type(backend).__module__)
    if refused is not None:
        raise MasterKeyError(
            f"{refused}: on a server use another master, such as file:PATH, or run under "
            "dbus-run-session with gnome-keyring-daemon --unlock"
        )
    return backend


def _parse(text: str, uri: str) -> _native.MemoryLockedKey:
    line = bytearray(text.encode("utf-8", "replace"))
    try:
        material = parse_line(line, len(line))
    finally:
        line[:] = bytes(len(line))
    if material is None:
        raise MasterKeyError(
            f"what the keychain holds as {uri} is not a master key: it must be {LINE_FORM}"
        )
    return _native.MemoryLockedKey(material)


def _call(timeout: float, work: Callable[[], _T]) -> _T:
    """Run a call to the keychain, which may be waiting for a person, and give up in time."""
    done: list[_T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    # A daemon: one that hangs must not keep the process from ending.
    thread = threading.Thread(target=run, name="strongroom-keychain", daemon=True)
    thread.start()
    thread.join(timeout)
    if done:
        return done[0]
    if not failed:
        raise MasterKeyError(
            f"the keychain gave no answer within {timeout:g} seconds: does it wait to be unlocked?",
            retryable=True,
        )
    error = failed[0]
    # The errors of keyring's backends are not chained or shown: what they say is not ours to know.
    name = type(error).__name__
    if name in ("KeyringLocked", "LockedException", "PromptDismissedException"):
        raise MasterKeyError("the keychain is locked: unlock it", retryable=True) from None
    if name in ("NoKeyringError", "PasswordSetError", "ItemNotFoundException"):
        raise MasterKeyError(f"the keychain refused: {name}") from None
    if isinstance(error, Exception):
        raise MasterKeyError(f"the keychain is out of reach: {name}", retryable=True) from None
    raise error
