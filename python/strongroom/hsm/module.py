"""One PKCS#11 module in this process: its lock, which a fork takes too, and its tokens.

python-pkcs11 initialises modules without locking and gives up the GIL in each call, so SoftHSM
crashes when two threads are inside: all calls into a module stand under one lock, unless the
caller says that the module is thread-safe. A fork waits until nobody is inside, since the child
would inherit a lock of the module that nobody in it gives back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from strongroom.errors import HSMError
from strongroom.hsm.codes import Fault, hsm_error

if TYPE_CHECKING:
    from strongroom.hsm.binding import Library, Slot
    from strongroom.hsm.token import Token

__all__ = ["Module", "get_module"]

# As long as a fork waits for a call that does not come back, before it takes its chance.
FORK_SECONDS = 30.0


class Module:
    """A module by its path; `get_module` makes one for each.

    Attributes:
        path: The path as it was given.
        lock: For every call into the module, but those of a pool. Re-entrant, for a fork by the
            thread that holds it.
        epoch: Counts what makes all sessions invalid: C_Finalize, a fork.
        tokens: The tokens that are in use, by serial number and label.
    """

    def __init__(self, path: str) -> None:
        """Name it; it is loaded at the first use."""
        self.path = path
        self.lock = threading.RLock()
        # Those of the pools' lanes, for which the one above does not stand.
        self.pool_locks: list[threading.Lock] = []
        self.epoch = 0
        self.tokens: dict[tuple[str, str], Token] = {}
        self._library: Library | None = None
        self._forked = False

    def library(self) -> Library:
        """Return the library, loaded and initialised in this process. The lock is held.

        Raises:
            Fault: It can't be loaded or initialised.
        """
        if self._library is None:
            from strongroom.hsm.binding import Library

            self._library = Library(self.path)
        elif self._forked:
            self._library.initialize_in_child()
        self._forked = False
        return self._library

    def slots(self) -> list[Slot]:
        """List the slots that have a token. The lock is held.

        Raises:
            Fault: The module failed.
        """
        return self.library().slots()

    def reinitialize(self) -> bool:
        """C_Finalize and C_Initialize, if the module is ours; False if it isn't. All is locked.

        Raises:
            Fault: It does not come back.
        """
        library = self.library()
        if not library.ours:
            return False
        self.epoch += 1
        library.reinitialize()
        return True

    def close_session(self, session: Any, *, log_out: bool = False) -> None:  # noqa: ANN401
        """Close a session of this process; what fails is let go. Its lock is held.

        Not by python-pkcs11, which leaves it open where it can't log out.
        """
        functions = self.library().functions
        if log_out:
            functions.logout(session.handle)
        functions.close_session(session.handle)

    @contextmanager
    def locked(self, timeout: float) -> Iterator[None]:
        """Hold the module's lock.

        Raises:
            HSMError: It was not to be had in time.
        """
        if not self.lock.acquire(timeout=timeout):
            raise busy(self.path, timeout)
        try:
            yield
        finally:
            self.lock.release()

    @contextmanager
    def alone(self, timeout: float) -> Iterator[None]:
        """Hold all locks: nobody else is inside the module.

        Raises:
            HSMError: They were not to be had in time.
        """
        with self.locked(timeout):
            held: list[threading.Lock] = []
            try:
                # Under the module's lock, so that two who want all don't each get half.
                for lock in list(self.pool_locks):
                    if not lock.acquire(timeout=timeout):
                        raise busy(self.path, timeout)
                    held.append(lock)
                yield
            finally:
                for lock in held:
                    lock.release()

    def after_fork(self) -> None:
        """Forget, in a forked child, what belongs to the parent; nothing of it is closed."""
        if self._library is not None:
            self._forked = True
        self.epoch += 1
        for token in self.tokens.values():
            token.after_fork()


def busy(path: str, timeout: float) -> HSMError:
    """Return the error of who waited for the module in vain."""
    return HSMError(
        f"{path}: other threads kept the module busy for {timeout:g} seconds", retryable=True
    )


_modules: dict[str, Module] = {}
_modules_lock = threading.Lock()


def get_module(path: str | os.PathLike[str]) -> Module:
    """Return the one `Module` of a path. What it is shows at its first use."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"the path of a PKCS#11 library is str, not {type(path).__name__}")
    path = os.fspath(path)
    if not path or "\0" in path:
        raise ValueError("the path of a PKCS#11 library is empty or has a zero byte")
    # A bare name is the dynamic loader's to find.
    key = os.path.realpath(path) if "/" in path else path
    with _modules_lock:
        return _modules.setdefault(key, Module(key))


def list_slots(path: str, timeout: float) -> list[Slot]:
    """List the slots of a module that have a token, without a login.

    Raises:
        HSMError: The module can't be loaded, or failed.
    """
    module = get_module(path)
    with module.locked(timeout):
        try:
            return module.slots()
        except Fault as error:
            fault = error
    raise hsm_error(fault, module.path)


_held: list[Any] = []


def _before_fork() -> None:
    held: list[Any] = []
    locks: list[Any] = [_modules_lock, *(module.lock for module in list(_modules.values()))]
    for lock in locks:
        if lock.acquire(timeout=FORK_SECONDS):
            held.append(lock)
    for module in list(_modules.values()):
        held.extend(lock for lock in module.pool_locks if lock.acquire(timeout=FORK_SECONDS))
    _held[:] = held


def _after_fork() -> None:
    # The child's one thread is the one that took them.
    for lock in reversed(_held):
        lock.release()
    _held.clear()


def _after_fork_in_child() -> None:
    _after_fork()
    for module in _modules.values():
        module.after_fork()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child
)
