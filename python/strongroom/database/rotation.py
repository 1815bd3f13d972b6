"""Rotating the key of a database, in thirteen steps of which each may be the last.

1 the lock, a dead rotation recovered; 2 the new key in the store, pre-active; 3 the exclusive lock,
journals settled; 4 the figures; 5 the backup; 6 the intent; 7 reset_key; 8 the journal gone, or the
WAL emptied; 9 the proof; 10 the new key is the primary; 11 the sidecar; 12 the intent removed; 13
closed, the backup removed. Both keys are in the store, and the backup beside the file, until the
proof is there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from strongroom import _events
from strongroom.database import places as files
from strongroom.database.before import check_before, check_room, free, needed
from strongroom.database.documents import Intent, Sidecar, Unreadable
from strongroom.database.encrypted import DEFAULT_KEYSET, EncryptedDatabase, sqlcipher
from strongroom.database.looking import state_of, verify
from strongroom.database.places import FileLock, locate
from strongroom.database.process import Failure, Worker, now, pages_done
from strongroom.database.recovery import (
    Recovery,
    busy,
    kept_backups,
    recover,
    remove_expired,
)
from strongroom.database.reports import DatabaseStatus, Progress, RotationReport, VerifyReport
from strongroom.database.sources import StoreSource
from strongroom.errors import (
    DatabaseKeyError,
    EncryptedDatabaseError,
    KeyStateError,
    RotationError,
    StrongroomError,
)
from strongroom.keys import KeyStore, policy
from strongroom.keys.states import SUSPENDED

if TYPE_CHECKING:
    import os as _os

__all__ = ["DatabaseKeyRotation"]

_LONGEST_KEPT = 3650 * 86_400
_IOERR = 10
# Steps after which the store has the new key, and after which that is the primary.
_BEGUN, _PROMOTED = 2, 10


class _Course:
    """How a rotation goes: what it knows by now, for the report and for cleaning up."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.last = self.began
        self.steps: dict[int, float] = {}
        self.number = 0
        self.recovered = "nothing"
        self.old_id = self.new_id = self.rotation = self.primary_id = ""
        self.pages = self.rows = self.page_size = self.written = 0
        self.figures = self.journal_mode = ""
        self.exclusive_seconds = 0.0


class DatabaseKeyRotation:
    """The rotation of one database's key.

    The work runs in a process of its own, which dies with this one. Any crash, of either, at any
    moment leaves a database that a key of the store opens: the next `connect`, `recover` or
    `rotate_key` settles it.

    Args:
        db_path: The database; links are followed.
        key_store: Its key store.
        keyset: Its keyset.
        busy_timeout: How long to wait for other connections, in seconds.
        progress: Called a few times a second with a `Progress`.
        force: Also on a network file system, whose locks may not hold.
    """

    def __init__(
        self,
        db_path: str | _os.PathLike[str],
        key_store: KeyStore,
        *,
        keyset: str = DEFAULT_KEYSET,
        busy_timeout: float = 30.0,
        progress: Callable[[Progress], object] | None = None,
        force: bool = False,
    ) -> None:
        if not isinstance(key_store, KeyStore):
            raise TypeError("a rotation needs a KeyStore, which keeps the old key and the new one")
        self._places = locate(db_path)
        self._source = StoreSource(key_store, keyset)
        self._database = EncryptedDatabase(db_path, key_store, keyset=keyset)
        self._timeout = busy_timeout
        self._progress = progress
        self._force = force

    def __repr__(self) -> str:
        """Show what it is, and nothing secret."""
        return f"<DatabaseKeyRotation {self._places.database}>"

    def rotate_key(
        self, *, if_due: bool = False, keep_backup: float = 0.0
    ) -> RotationReport | None:
        """Bring the database under a new key; nothing of it is under the old one afterwards.

        Args:
            if_due: Only if the keyset's policy says so, or the file is under a key that isn't the
                primary; else None is returned.
            keep_backup: For how many seconds to keep the backup, which is under the old key, 0 to
                315,360,000 (ten years). The first rotation or recovery after that removes it.

        Raises:
            FileNotFoundError: The database isn't there.
            DatabaseBusyError: Another connection held it for longer than `busy_timeout`; nothing
                was changed.
            DatabaseKeyError: No key of the keyset opens it.
            NotADatabaseError: It is no encrypted database.
            EncryptedDatabaseError: Too little room, a hard link, a file that is mounted by itself,
                a network file system, no rights.
            KeyStateError: The keyset is another database's, or the key is suspended.
            RotationError: It failed. With `journal`, what is left is for `recover`, which the next
                `connect` does too; without, nothing was changed, or the text says what.
            ValueError: `keep_backup` is out of range.
        """
        if not 0 <= keep_backup <= _LONGEST_KEPT:
            raise ValueError("keep_backup is from 0 to 315,360,000 seconds (ten years)")
        sqlcipher()
        places, course = self._places, _Course()
        check_before(places, self._source, force=self._force)
        with FileLock.take(places, exclusive=True, timeout=self._timeout) as lock:
            course.recovered = recover(places, self._source, lock, timeout=self._timeout).found
            if if_due and not self._is_due():
                return None
            check_room(places)
            self._after(course, 1)
            try:
                self._rotate(lock, course)
            except BaseException as error:
                self._fail(lock, course, error)
            with self._ended(course):
                backup = self._expire_backup(keep_backup)
            self._after(course, 13)
        # Removing a large file takes a while, for which nobody need wait.
        with self._ended(course):
            remove_expired(places)
        course.steps[13] += time.monotonic() - course.last
        report = RotationReport(
            places.database,
            self._source.keyset,
            course.old_id,
            course.new_id,
            course.pages,
            course.page_size,
            course.rows,
            course.journal_mode,
            time.monotonic() - course.began,
            course.exclusive_seconds,
            course.steps,
            course.recovered,
            backup,
        )
        _events.report(
            "database.rotated",
            database=self._source.database_id,
            keyset=report.keyset,
            old_key_id=report.old_key_id,
            new_key_id=report.new_key_id,
            seconds=round(report.seconds, 3),
        )
        return report

    def recover(self) -> Recovery:
        """Settle what a dead rotation left. Done twice, it does nothing.

        Raises:
            FileNotFoundError: The database isn't there.
            DatabaseBusyError: A rotation is under way, or another connection holds the database.
            RotationError: It can't be told what to do: nothing was written and nothing removed, and
                the text says which file holds what.
            EncryptedDatabaseError: No key opens it, it is no database, ...
        """
        sqlcipher()
        os.stat(self._places.database)
        with FileLock.take(self._places, exclusive=True, timeout=self._timeout) as lock:
            return recover(self._places, self._source, lock, timeout=self._timeout)

    # The steps

    def _rotate(self, lock: FileLock, course: _Course) -> None:
        places, source = self._places, self._source
        settings = source.settings
        with Worker(
            "rotate", places, settings, lock, timeout=self._timeout, candidates=1
        ) as worker:
            sidecar = Sidecar.load(places.sidecar, source.mac)
            course.old_id, course.primary_id = sidecar.key_id, source.primary_id
            if source.state_of(course.old_id) == SUSPENDED:
                raise KeyStateError(
                    f"{places.database} is under key {course.old_id}, which is suspended: "
                    "resume_key first",
                    key_id=course.old_id,
                    state=SUSPENDED,
                )
            worker.give([source.secret(course.old_id)])
            if worker.answer()["found"] < 0:
                raise DatabaseKeyError(f"key {course.old_id} does not open {places.database}")
            self._make_key(lock, course)
            self._after(course, 2)
            store = source.store
            wrapped = store._wrapped_rotation_key(source.keyset, course.new_id)
            secret = store._wrapped_secret(course.new_id, wrapped)
            worker.give([secret, store._figures_key(course.rotation)])
            for step in (3, 4, 5):
                worker.go()
                values = worker.answer(partial(self._tell, "backup", course))
                self._note(course, values)
                self._after(course, step)
            self._write_intent(course)
            self._after(course, 6)
            for step, stage in ((7, "rekey"), (8, "rekey"), (9, "proof")):
                worker.go()
                worker.answer(partial(self._tell, stage, course))
                self._after(course, step)
            store._promote_rotation_key(
                source.keyset, course.rotation, course.new_id, course.primary_id
            )
            self._after(course, 10)
            new = Sidecar(source.database_id, source.keyset, course.new_id, settings)
            files.write_durably(places, places.sidecar, new.dump(source.mac))
            self._after(course, 11)
            files.remove_durably(places, places.intent)
            self._after(course, 12)
            worker.go()
            course.exclusive_seconds = worker.answer()["exclusive_seconds"]
            worker.finish()

    def _make_key(self, lock: FileLock, course: _Course) -> None:
        source = self._source
        course.rotation = secrets.token_hex(16)
        lock.rotation = course.rotation
        keyset = source.store._add_rotation_key(
            source.keyset, source.database_id, course.rotation, course.old_id, course.primary_id
        )
        course.new_id = next(
            row.key_id for row in keyset.keys.values() if row.rotation == course.rotation
        )

    def _write_intent(self, course: _Course) -> None:
        source, places = self._source, self._places
        # Read anew, before the long part: a copy that was recovered may have taken it.
        wrapped = source.store._wrapped_rotation_key(source.keyset, course.new_id)
        intent = Intent(
            rotation=course.rotation,
            database_id=source.database_id,
            keyset=source.keyset,
            old_id=course.old_id,
            new_id=course.new_id,
            primary_id=course.primary_id,
            wrapped=wrapped.hex(),
            settings=source.settings,
            pages=course.pages,
            rows=course.rows,
            figures=course.figures,
            journal_mode=course.journal_mode,
            began=now(),
        )
        files.write_durably(places, places.intent, intent.dump(source.mac))

    def _note(self, course: _Course, values: dict[str, Any]) -> None:
        course.journal_mode = values.get("journal_mode", course.journal_mode)
        course.page_size = values.get("page_size", course.page_size)
        if "figures" in values:
            course.pages, course.rows, course.figures = values["figures"]

    def _after(self, course: _Course, number: int) -> None:
        """Note that a step is done; tests stop a rotation here."""
        moment = time.monotonic()
        course.steps[number] = moment - course.last
        course.last, course.number = moment, number
        _events.report(
            "database.rotation.step",
            step=number,
            steps=13,
            database=self._source.database_id,
            keyset=self._source.keyset,
        )

    def _tell(self, stage: str, course: _Course) -> None:
        if self._progress is None:
            return
        done, rate, left = 0, 0.0, None
        if stage == "rekey":
            # At its end the journal is emptied.
            written = pages_done(self._places, course.journal_mode, course.page_size)
            done = course.written = min(course.pages, max(course.written, written))
            rate = done / max(1e-3, time.monotonic() - course.last)
            left = (course.pages - done) / rate if done else None
        elif stage == "proof":
            done = course.pages
        self._progress(Progress(stage, done, course.pages, rate, left))

    # When it fails

    def _fail(self, lock: FileLock, course: _Course, error: BaseException) -> None:
        """Clean up after a failure, as far as that is certain, and raise the error for it."""
        places, source = self._places, self._source
        intent = os.path.lexists(places.intent)
        ours = isinstance(error, Exception)
        if isinstance(error, Exception):
            _report_failure(source, course, error)
        # Neither a Ctrl-C nor a failing disk is the moment to go on writing: after an fsync that
        # failed, what is read back proves nothing.
        certain = ours and not _is_io(error)
        under = course.new_id if course.number >= _PROMOTED else course.old_id
        if certain:
            try:
                under = recover(places, source, lock, timeout=self._timeout).key_id
            except (StrongroomError, OSError) as second:
                error.add_note(f"and it could not be undone: {second}")
            intent = os.path.lexists(places.intent)
        if isinstance(error, Failure) and error.kind == "busy":
            raise busy(places) from None
        begun = course.number >= _BEGUN
        if not ours or isinstance(error, EncryptedDatabaseError):
            raise error
        if isinstance(error, KeyStateError) and not begun:
            raise error
        if intent:
            left = f"both keys and {places.backup} are there; `strongroom db recover` settles it"
        elif under == course.new_id != "":
            left = "the database is under the new key all the same"
        else:
            left = "the database is as it was"
        raise RotationError(
            f"the rotation of {places.database} failed after step {course.number} of 13: {error}; "
            f"{left}",
            journal=places.intent if intent else None,
        ) from error

    @contextlib.contextmanager
    def _ended(self, course: _Course) -> Iterator[None]:
        """Say what it means that something fails when the rotation itself is done."""
        try:
            yield
        except OSError as error:
            raise RotationError(
                f"{self._places.database} is under the new key {course.new_id}, but its backup, "
                f"which is under the old one, could not be removed: {error}; the next rotation or "
                "recovery does that"
            ) from error

    def _expire_backup(self, keep: float) -> str | None:
        """Give the backup a name that says until when it is wanted; return it if it is kept."""
        until = int(time.time() + keep) if keep > 0 else 0
        name = f"{self._places.backup}.{until}"
        os.rename(self._places.backup, name)
        return name if keep > 0 else None

    # What is looked at before

    def _is_due(self) -> bool:
        sidecar = Sidecar.load(self._places.sidecar, self._source.mac)
        return sidecar.key_id != self._source.primary_id or self._policy_due()

    def _policy_due(self) -> bool:
        head = self._source.rows().head
        primary = self._source.rows().primary
        rules = policy.load(head.policy)
        return primary is not None and rules.is_due(primary, self._source.store._now())

    # Looking

    def status(self) -> DatabaseStatus:
        """Return how the database stands; it is opened for a moment, if no rotation is at work.

        Raises:
            FileNotFoundError: It isn't there.
            KeyNotFoundError: There is no such keyset.
        """
        places, source = self._places, self._source
        os.stat(places.database)
        source.refresh()
        try:
            sidecar: Sidecar | None = Sidecar.load(places.sidecar, source.mac)
        except Unreadable:
            sidecar = None
        key_id = sidecar.key_id if sidecar else ""
        state, detail = state_of(self._database)
        row = source.rows().keys.get(key_id)
        backups = [p for p, _ in kept_backups(places)]
        if os.path.exists(places.backup):
            backups.append(places.backup)
        return DatabaseStatus(
            places.database,
            source.keyset,
            source.database_id,
            state,
            key_id,
            row.state if row else "",
            row.created / 1e6 if row else 0.0,
            self._policy_due(),
            places.size(),
            needed(places),
            free(places),
            sidecar is not None,
            backups,
            detail,
        )

    def verify(self) -> VerifyReport:
        """Read the whole database: every page's HMAC, SQLite's structures, and no other key opens.

        Raises:
            RotationError: Something is wrong; the text says what.
            EncryptedDatabaseError: It can't be opened.
        """
        return verify(self._database, self._source, self._timeout)


def _is_io(error: BaseException) -> bool:
    if isinstance(error, Failure):
        import errno

        return (error.kind == "sqlite" and error.code == _IOERR) or (
            error.kind == "os" and error.code == errno.EIO
        )
    return isinstance(error, OSError)


def _report_failure(source: StoreSource, course: _Course, error: Exception) -> None:
    _events.report(
        "database.rotation.failed",
        outcome="failure",
        database=source.database_id,
        keyset=source.keyset,
        step=course.number,
        error_type=type(error).__name__,
    )
