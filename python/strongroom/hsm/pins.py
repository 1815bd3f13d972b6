"""PINs: where they come from, the ones that were refused, and the one that opened the token."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Any, NoReturn

from strongroom import _native
from strongroom.errors import HSMError, KeyStateError

__all__ = ["HeldPin", "PinSource", "check_pin_source", "pin_bytes", "pin_from", "wipe"]

Pin = str | bytes | bytearray
PinSource = Pin | Callable[[], Pin] | None

# RFC 7512 names no length, and no token takes more than 255 bytes.
MAX_PIN = 255
_COMMAND_SECONDS = 60

# What was refused is known by its MAC under a key of this process.
_MAC_KEY = os.urandom(32)
_refused: dict[tuple[str, str], set[bytes]] = {}


def check_pin_source(pin: Any) -> None:  # noqa: ANN401 - whatever the caller gave
    """Look at the type of what was given as PIN.

    Raises:
        TypeError: It is no PIN and gives none.
        ValueError: It is empty, too long or not UTF-8.
    """
    if pin is None or callable(pin):
        return
    wipe(pin_bytes(pin))


def pin_bytes(pin: object) -> bytearray:
    """Return a copy of a PIN as a token takes it, for the caller to wipe.

    Raises:
        TypeError: It is neither str nor bytes.
        ValueError: It is empty, too long or not UTF-8.
    """
    data = None
    if isinstance(pin, (bytes, bytearray)):
        data = bytearray(pin)
        if not _is_utf_8(data):
            wipe(data)
            data = None
    elif isinstance(pin, str):
        # An error of the codec holds what it could not encode.
        with contextlib.suppress(UnicodeEncodeError):
            data = bytearray(pin, "utf-8")
    else:
        raise TypeError(f"a PIN is str or bytes, not {type(pin).__name__}")
    if data is None:
        raise ValueError("a PIN is text in UTF-8")
    if 0 < len(data) <= MAX_PIN:
        return data
    wipe(data)
    raise ValueError(f"a PIN has at most {MAX_PIN} bytes" if data else "the PIN is empty")


def _is_utf_8(data: bytearray) -> bool:
    try:
        # Most are ASCII: no copy then.
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def wipe(pin: bytearray) -> None:
    """Overwrite a PIN."""
    pin[:] = bytes(len(pin))


def pin_from(source: str) -> Callable[[], bytes]:
    """Return what reads the PIN that `pin-source` of a PKCS#11 URI names, when it is called.

    Args:
        source: `file:PATH`, a path, or `|COMMAND`, which is split as a shell would and run
            without one; the command ends within a minute. One newline at the end is no part of
            the PIN.
    """

    def read() -> bytes:
        text = _run(source[1:]) if source.startswith("|") else _read(_path(source))
        return text.removesuffix(b"\n").removesuffix(b"\r")

    return read


def _path(source: str) -> str:
    if not source.startswith("file:"):
        return source
    path = source.removeprefix("file:")
    return path.removeprefix("//localhost").removeprefix("//") if path.startswith("//") else path


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_PIN + 3)
    except OSError as error:
        raise HSMError(f"the PIN can't be read from {path}: {error.strerror}") from None


def _run(command: str) -> bytes:
    import shlex
    import subprocess

    try:
        # stderr stays, for the command's own complaints.
        done = subprocess.run(  # noqa: S603 - running the user's command is the purpose
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, ValueError, IndexError):
        raise HSMError("the command of pin-source can't be run") from None
    except subprocess.TimeoutExpired:
        raise HSMError(f"the command of pin-source took over {_COMMAND_SECONDS} seconds") from None
    if done.returncode != 0:
        raise HSMError(f"the command of pin-source failed with exit status {done.returncode}")
    return done.stdout


def _mac(pin: bytearray) -> bytes:
    return hmac.digest(_MAC_KEY, pin, hashlib.sha256)


def check_not_refused(token: tuple[str, str], pin: bytearray) -> None:
    """Raise HSMError if the token refused this PIN before: another try might lock it."""
    mac = _mac(pin)
    for refused in _refused.get(token, ()):
        if hmac.compare_digest(mac, refused):
            raise HSMError(
                "the token has refused this PIN before: it is not sent again in this process, "
                "for tokens lock after a few wrong tries"
            )


def remember_refused(token: tuple[str, str], pin: bytearray) -> None:
    """Never send this PIN to this token again."""
    _refused.setdefault(token, set()).add(_mac(pin))


class HeldPin:
    """The PIN that opened a token, in locked memory, which a forked child doesn't inherit."""

    def __init__(self, pin: bytearray) -> None:
        self._buffer = _native.SecureBuffer(len(pin))
        self._buffer.write(pin)
        self._process = _native.process_generation()

    @property
    def here(self) -> bool:
        """Whether this is the process that was given it."""
        return self._process == _native.process_generation()

    def read(self) -> bytearray:
        """Return the PIN, for the caller to wipe.

        Raises:
            HSMError: This is a forked child.
        """
        try:
            return self._buffer.read()
        except KeyStateError:
            raise HSMError(
                "the PIN was given before fork() and is not inherited: open the token again in "
                "this process, or give a function or pin-source from which each process takes it"
            ) from None

    def equals(self, pin: bytearray) -> bool:
        """Compare in constant time, in the process that was given it."""
        data = self.read()
        try:
            return hmac.compare_digest(data, pin)
        finally:
            wipe(data)

    def close(self) -> None:
        """Wipe it."""
        self._buffer.close()

    def __reduce__(self) -> NoReturn:
        """Refuse: neither pickled nor copied."""
        raise TypeError("a PIN can't be pickled or copied")
