"""`CryptoAuditLogger`: the log as a program writes it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from strongroom import _native
from strongroom.audit import event as events
from strongroom.audit.delivery import Anchor, Delivery
from strongroom.audit.methods import EventMethods
from strongroom.errors import AuditError, HSMError, UnsupportedVersionError

if TYPE_CHECKING:
    import logging

    from strongroom._events import Field
    from strongroom.audit.signers import Signer

__all__ = ["CryptoAuditLogger"]

# What data operations add up to is said so often.
_SECONDS: Final = 1.0
# For another process's append, of milliseconds, or of a disk that stands still.
_LOCK_SECONDS: Final = 30.0
# What keeps an event from being sealed: the log was changed, can't be written, or has been taken
# over by a newer release.
_UNSEALED: Final = (AuditError, UnsupportedVersionError)

_open_loggers: weakref.WeakSet[CryptoAuditLogger] = weakref.WeakSet()


class CryptoAuditLogger(EventMethods):
    """A log of cryptographic operations that shows tampering.

    `CryptoAuditLogger.open(path)` writes a log; `CryptoAuditLogger(logger, path)` hands each event,
    once it is sealed, to a `logging.Logger` as well, and without a path to that alone. What the
    library does comes in once `strongroom.audit.enable` has been given it. Safe to share between
    threads; a forked child opens the log anew by itself, and its queues are empty.

    Args:
        logger: A `logging.Logger`, or None.
        path: The log's file, made if it is not there; None for none.
        signer: What signs the checkpoints: a `KeysetSigner`, or an object with `public_key` and
            `sign(message)`, an HSM's say. None for the key beside the log, made with it.
        policy: What becomes of an operation on keys whose event can't be sealed: "closed" ends it
            with the AuditError, "open" lets it go on with a warning and counts what is missing.
            Operations on data go on in any case.
        data: "totals" seals a record a second for each key, operation and outcome; "each" one for
            each call, in batches of at most 5 ms, and needs a path.
        anchor: Gets each checkpoint: a callable with its bytes, or a command that reads it from
            stdin. If it fails, that is a warning: the log is whole without it.
        rotate_bytes: Begin a new file once the log has so many bytes.
        rotate_daily: Begin a new file with the first record of a day (UTC).
        lock_timeout: Seconds for which an append waits for other processes that write this log.

    Raises:
        AuditError: The log can't be made or written, or its lock is held by another process for
            too long; the text says which file, and which process where the system tells.
        AuditIntegrityError: The log was changed, or was made with another signer.
        UnsupportedVersionError: A newer version of this package made it.

    Example:
        >>> with CryptoAuditLogger.open("audit.log") as log:
        ...     log.log_key_generation("00" * 16, "AES-256-GCM", "data")
    """

    def __init__(
        self,
        logger: logging.Logger | None,
        path: str | os.PathLike[str] | None = None,
        *,
        signer: Signer | None = None,
        policy: Literal["closed", "open"] = "closed",
        data: Literal["totals", "each"] = "totals",
        anchor: Anchor | None = None,
        rotate_bytes: int | None = None,
        rotate_daily: bool = False,
        lock_timeout: float = _LOCK_SECONDS,
    ) -> None:
        if logger is None and path is None:
            raise ValueError("give a logger, a path, or both")
        if policy not in ("closed", "open"):
            raise ValueError(f'policy is "closed" or "open", not {policy!r}')
        if data not in ("totals", "each"):
            raise ValueError(f'data is "totals" or "each", not {data!r}')
        if data == "each" and path is None:
            raise ValueError('data="each" is for a log with a path: a logger alone gets totals')
        if rotate_bytes is not None and rotate_bytes < 1:
            raise ValueError("rotate_bytes is a number of bytes, 1 or more")
        if not 0 <= lock_timeout < float("inf"):
            raise ValueError("lock_timeout is a number of seconds, 0 or more")
        self._delivery = Delivery(logger, anchor)
        # What a chdir changes is not where the log is.
        self._path = None if path is None else os.path.abspath(path)
        self._signer = signer
        self._policy = policy
        self._each = data == "each"
        self._options = {
            "rotate_bytes": rotate_bytes,
            "rotate_daily": rotate_daily,
            "lock_seconds": float(lock_timeout),
        }
        self._gathering = False
        self._closed = False
        self._missing = 0
        self._native: _native.AuditLog | None
        self._thread: threading.Thread | None
        self._has_data: bool
        self._begin_process()
        if self._path is not None:
            with self._within():
                pass
        _open_loggers.add(self)
        atexit.register(_close_at_exit, weakref.ref(self))

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        signer: Signer | None = None,
        policy: Literal["closed", "open"] = "closed",
        data: Literal["totals", "each"] = "totals",
        anchor: Anchor | None = None,
        rotate_bytes: int | None = None,
        rotate_daily: bool = False,
        lock_timeout: float = _LOCK_SECONDS,
    ) -> Self:
        """Open a log's file for writing, and make it if it is not there; see the class."""
        return cls(
            None,
            path,
            signer=signer,
            policy=policy,
            data=data,
            anchor=anchor,
            rotate_bytes=rotate_bytes,
            rotate_daily=rotate_daily,
            lock_timeout=lock_timeout,
        )

    @property
    def path(self) -> str | None:
        """The log's file, or None."""
        return self._path

    @property
    def vkey(self) -> str | None:
        """The log's public key in signed-note form: keep it elsewhere, and verify with it."""
        if self._path is None:
            return None
        with self._within() as native:
            return native.vkey

    def event(self, name: str, outcome: str, fields: dict[str, Field]) -> None:
        """Seal an event: when this returns it is on disk, and a checkpoint covers it.

        Args:
            name: One of `strongroom.audit.EVENTS`.
            outcome: "success" or "failure".
            fields: What belongs to it; never a secret.

        Raises:
            AuditError: It could not be sealed, and the policy is "closed".
            ValueError: A field has the name of one of the event's own members.
        """
        self._check_open()
        made = events.build(name, outcome, fields)
        if threading.get_ident() in self._inside:
            # It is sealing another one: a signer's token has lost its session, or a signal handler
            # came. To wait for itself would be for ever.
            self._later.append(made)
            return
        missing = self._take_missing()
        try:
            self._seal([*events.gap(missing), made], "checkpoint")
        except BaseException as error:
            self._missing += missing
            if self._policy == "closed" or not isinstance(error, _UNSEALED):
                raise
            self._missing += 1
            self._delivery.warn(f"an audit event was not recorded: {error}")

    def flush(self) -> None:
        """Seal what data operations added up to so far, and cover all with a checkpoint.

        Raises:
            AuditError: The log can't be written. What was counted is kept for the next time.
        """
        self._check_open()
        self._seal_data()
        if self._path is not None:
            self._flush()

    def close(self) -> None:
        """Seal what is left, write the last checkpoint and close the log. Twice is no error.

        Raises:
            AuditError: The log can't be written.
        """
        if self._closed:
            return
        try:
            self._stop_gathering()
            if self._path is not None and (self._native is not None or self._has_data):
                self._flush()
        finally:
            self._closed = True
            self._native = None
            _open_loggers.discard(self)

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Show where it writes."""
        where = self._path or getattr(self._delivery.logger, "name", "")
        return f"<CryptoAuditLogger {where}{' (closed)' if self._closed else ''}>"

    def __reduce__(self) -> str:
        """Refuse: neither pickled nor copied."""
        raise TypeError("a CryptoAuditLogger can't be pickled or copied: open it over there")

    def _check_open(self) -> None:
        if self._closed:
            raise AuditError("this audit log is closed: open it again")

    def _begin_process(self) -> None:
        """Start with nothing that belongs to another process."""
        self._native = None
        self._opening = threading.Lock()
        self._stop = threading.Event()
        self._thread = None
        self._has_data = False
        self._missing = 0
        # Threads that are in a call of the native log, and what came from them meanwhile.
        self._inside: set[int] = set()
        self._later: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def _within(self) -> Iterator[_native.AuditLog]:
        """Give the native log, and keep this thread from coming to it again meanwhile."""
        own = threading.get_ident()
        if own in self._inside:
            raise AuditError(
                "this thread is writing the audit log already: a signal handler or a finaliser "
                "came in between"
            )
        self._inside.add(own)
        hold = getattr(self._signer, "hold", contextlib.nullcontext)
        try:
            with hold():
                yield self._log()
        except HSMError as error:
            raise AuditError(f"the log's signer can't be asked: {error}") from error
        finally:
            self._inside.discard(own)

    def _log(self) -> _native.AuditLog:
        """Return this process's log, opened when it is first needed."""
        native = self._native
        if native is not None:
            return native
        with self._opening:
            if self._native is None:
                assert self._path is not None  # noqa: S101  (only asked for with a path)
                signer = self._signer
                self._native = _native.AuditLog(
                    self._path,
                    events.own_templates(),
                    events.data_template,
                    None if signer is None else (signer.public_key, signer.sign),
                    **self._options,  # type: ignore[arg-type]
                )
            return self._native

    def _seal(
        self, made: list[dict[str, Any]], durability: Literal["checkpoint", "disk", "kernel"]
    ) -> None:
        self._delivery.deliver(*self._append(made, durability))

    def _append(
        self, made: list[dict[str, Any]], durability: Literal["checkpoint", "disk", "kernel"]
    ) -> tuple[list[dict[str, Any]], bytes | None]:
        """Seal events; if this raises, none of them is. Return what is to be delivered."""
        if self._path is None:
            return made, None
        later, self._later = self._later, []
        made = [*later, *made]
        try:
            with self._within() as native:
                _, checkpoint = native.append(list(map(events.canonical, made)), durability)
        except BaseException:
            self._later = later + self._later
            raise
        return made, checkpoint

    def _flush(self) -> None:
        if self._later:
            self._seal([], "kernel")
        with self._within() as native:
            checkpoint = native.flush()
        self._delivery.deliver((), checkpoint)

    def _take_missing(self) -> int:
        """Return how many events are missing so far; whoever can't tell it adds it again."""
        count, self._missing = self._missing, 0
        return count

    def _gather(self) -> None:
        """Count data operations from now on, and seal what they add up to in a thread."""
        self._check_open()
        self._gathering = True
        _native.tally_gather(not self._each, self._each)
        self._start_thread()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="strongroom-audit", daemon=True)
        self._thread = self._delivery.thread = thread
        thread.start()

    def _run(self) -> None:
        warned = False
        while not self._stop.is_set():
            try:
                if self._each and self._path is not None:
                    self._pump(_SECONDS)
                else:
                    self._stop.wait(_SECONDS)
                    self._seal_data()
                warned = False
            except Exception as error:
                # Data goes on, and so does this thread: what was counted is kept for later.
                if not warned:
                    self._delivery.warn(f"data operations are not recorded at present: {error}")
                warned = True
                self._stop.wait(_SECONDS)

    def _pump(self, seconds: float) -> int:
        """Seal the calls that wait, or those that come within so many seconds; return how many."""
        if seconds and not _native.tally_wait(seconds):
            self._checkpoint_if_due()
            return 0
        wanted = self._delivery.logger is not None
        with self._within() as native:
            count, texts, unrecorded, checkpoint = native.pump(wanted)
        self._missing += unrecorded
        self._delivery.deliver(map(json.loads, texts), checkpoint)
        if unrecorded:
            missing = self._take_missing()
            try:
                gap = self._append(events.gap(missing), "kernel")
            except BaseException:
                self._missing += missing
                raise
            self._delivery.deliver(*gap)
        return count

    def _seal_data(self) -> None:
        if not self._gathering:
            return
        if self._each and self._path is not None:
            # Once more, since of a part that could not be sealed nothing was raised yet.
            if self._pump(0.0):
                self._pump(0.0)
            return
        rows = _native.tally_take()
        if not rows:
            self._checkpoint_if_due()
            return
        self._has_data = True
        try:
            sealed = self._append([events.tally_event(*row) for row in rows], "kernel")
        except BaseException:
            _native.tally_give_back(rows)
            raise
        self._delivery.deliver(*sealed)

    def _checkpoint_if_due(self) -> None:
        if self._native is not None:  # It is written by the next append, of nothing too.
            self._seal([], "kernel")

    def _stop_gathering(self) -> None:
        if not self._gathering:
            return
        self._stop.set()
        try:
            self._seal_data()
        finally:
            self._gathering = False
            _native.tally_gather(False, False)
            thread, self._thread = self._thread, None
            if thread is not None and thread is not threading.current_thread():
                # A pump waits for a second at most.
                thread.join(timeout=5)

    def _after_fork(self) -> None:
        # The parent's objects are left alone: a thread that is not here may hold their locks.
        native = self._native
        _abandoned.append(native)
        if native is not None:
            # The parent's lock is held for as long as anybody has its file open: the parent may die
            # with it, and this process live on.
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            os.dup2(null, native.lock_descriptor, inheritable=False)
            os.close(null)
        self._begin_process()
        if self._gathering and not self._closed:
            self._start_thread()
            if "multiprocessing.util" in sys.modules:
                # Its children end without the exit handlers of the interpreter; what is to be done
                # at their end they take only after this.
                sys.modules["multiprocessing.util"].register_after_fork(self, _finish_worker)


_abandoned: list[_native.AuditLog | None] = []


def _close_at_exit(reference: weakref.ref[CryptoAuditLogger]) -> None:
    logger = reference()
    if logger is not None and not logger._closed:
        with contextlib.suppress(AuditError):
            logger.close()


def _finish_worker(logger: CryptoAuditLogger) -> None:
    sys.modules["multiprocessing.util"].Finalize(
        None, _close_at_exit, args=(weakref.ref(logger),), exitpriority=0
    )


def _after_fork_in_child() -> None:
    for logger in list(_open_loggers):
        logger._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
