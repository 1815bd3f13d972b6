"""The process that works on a database's file: `python -m strongroom.database.child`.

It is one of its own because `reset_key` holds the GIL throughout, and because any open() and
close() of the file by another thread would drop SQLite's locks. It takes a job as a line of JSON,
raw keys through a pipe, and answers in lines; after each step it waits for "go". It dies with its
parent, at whatever it is: that is a kill -9, which a rotation stands at any moment.
"""

# ruff: noqa: ANN401  (lines of JSON)

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from typing import Any

from strongroom.database import driver, work
from strongroom.database.places import locate, remove_durably, size_of, sync_directory
from strongroom.database.settings import CipherSettings
from strongroom.database.work import Busy, Figures, Proof, Secrets

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


class _Stop(Exception):
    """The parent wants no more."""


class _Child:
    def __init__(self, job: dict[str, Any]) -> None:
        self.places = locate(job["path"])
        self.settings = CipherSettings.load(job["settings"])
        if job["salt"]:
            self.settings = self.settings._replace(salt=job["salt"])
        self.timeout: float = job["timeout"]
        self.figures = Figures(*job["figures"]) if job.get("figures") else None
        self.count: int = job["candidates"]
        self.check: bool = job["check"]
        self.undo: bool = job["undo"]
        self.passphrase: int = job["passphrase"]
        self._pipe: int = job["pipe"]

    def secret(self, size: int = driver.KEY_BYTES) -> bytearray:
        """Read the next raw key, or so many bytes, that the parent gives."""
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < len(data):
            got = os.readv(self._pipe, [view[done:]])
            if not got:
                raise _Stop
            done += got
        return data

    def step(self, number: int, **values: Any) -> None:
        """Tell that a step is done, and wait to be let on."""
        self.tell(step=number, **values)
        if sys.stdin.readline() != "go\n":
            raise _Stop

    def tell(self, **values: Any) -> None:
        """Write a line to the parent."""
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()

    def find(self) -> bytearray:
        """Tell which of the candidates opens the first page, and return it."""
        found, at = None, -1
        for index in range(self.count):
            secret = self.secret()
            if found is None and self._opens(secret):
                found, at = secret, index
            else:
                driver.wipe(secret)
        if found is not None and self.check:
            self._check_main(found)
        self.step(0, found=at, plain=found is None and self._opens(None))
        if found is None:
            raise _Stop
        return found

    def _opens(self, secret: bytearray | None) -> bool:
        connection = self._try(secret)
        if connection is None:
            return False
        connection.close()
        return True

    def _try(self, secret: bytearray | None) -> Any | None:
        # The last connection that is closed brings the WAL in, and passes over what fails in that;
        # one that may not write does not. But a journal has to be rolled back to try a key, and a
        # first page that is torn (a salt that the file should have is given) to be made good.
        settings = self.settings
        torn = settings.salt and not settings.plaintext_header
        mode = "ro" if size_of(self.places.wal) and not torn else "rw"
        return driver.try_open(
            self.places.database, secret, settings, mode=mode, timeout=self.timeout
        )

    def _check_main(self, secret: bytearray) -> None:
        connection = self._try(secret)
        if connection is None:
            raise Proof("the key that opened it does not open it any more")
        try:
            work.check_pages(connection)
        finally:
            connection.close()

    def rotate(self) -> None:
        """Do the steps 3 to 5, 7 to 9 and 13 of a rotation."""
        old = self.find()
        secrets = Secrets(old, self.secret(), self.secret())
        places, settings = self.places, self.settings
        source = os.open(places.database, os.O_RDONLY | os.O_CLOEXEC)
        connection = work.exclusive(places, secrets.old, settings, self.timeout)
        since = time.monotonic()
        try:
            if connection is None:
                raise Proof("the key that opened it does not open it any more")
            mode = work.settle_journal(places, connection)
            self.step(3, journal_mode=mode)
            page_size = settings.page_size
            (pages,) = connection.execute("PRAGMA page_count").fetchone()

            def back_up() -> None:
                work.copy_main_file(places, source, pages * page_size)
                work.prove_macs(places.backup, secrets.old, settings)

            with work.beside(back_up):
                figures = work.figures_of(connection, secrets.figures)
                self.step(4, figures=figures, page_size=page_size)
            self.step(5)
            text = driver.key_text(secrets.new)
            try:
                connection.reset_key(text)
            finally:
                driver.wipe(text)
            self.step(7)
            if mode == "wal":
                work.empty_wal(connection)
                sync_directory(places.directory)
            else:
                # SQLite passes over an fsync that fails after the journal was emptied, with which
                # the rotation is committed. What has no name can't come back with its pages. (One
                # that is not empty is what the old state is rolled back from.)
                work.prove_no_journal(places)
                remove_durably(places, places.journal)
            self.step(8)
            work.prove(places.database, secrets.new, settings, secrets.figures, figures)
            work.prove_refused(places.database, secrets.old, settings)
            work.prove_no_journal(places)
            self.step(9)
        finally:
            # Whatever happened: not one more statement. A write on this connection after a
            # failed reset_key leaves a file that opens under neither key.
            if connection is not None:
                connection.close()
            os.close(source)
            secrets.wipe()
        self.tell(step=13, exclusive_seconds=time.monotonic() - since)

    def adopt(self) -> None:
        """Copy a database of another kind into one under a raw key, and put it in its place."""
        from strongroom.database import export

        secret = self.secret()
        passphrase = self.secret(self.passphrase) if self.passphrase >= 0 else None
        try:
            export.adopt(self.places, self.settings, secret, passphrase, self.timeout, self.step)
        finally:
            driver.wipe(secret)
            if passphrase is not None:
                driver.wipe(passphrase)
        self.tell(adopted=True)

    def recover(self) -> None:
        """Find out by the two keys how far a rotation got, and bring the file to one of them."""
        secrets = Secrets(self.secret(), self.secret(), self.secret())
        descriptor = os.open(self.places.database, os.O_RDWR | os.O_CLOEXEC)
        try:
            # After an fsync that failed, the page cache says what the disk does not: drop it.
            self._reread(descriptor)
            found = self._settle(secrets, descriptor)
        finally:
            os.close(descriptor)
            secrets.wipe()
        self.tell(recovered=found)

    def _reread(self, descriptor: int) -> None:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        for path in (self.places.wal, self.places.journal):
            if os.path.exists(path):
                other = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.fsync(other)
                    os.posix_fadvise(other, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(other)
        sync_directory(self.places.directory)

    def _settle(self, secrets: Secrets, descriptor: int) -> str:
        places, settings = self.places, self.settings
        for name, secret in (("new", secrets.new), ("old", secrets.old)):
            connection = work.exclusive(places, secret, settings, self.timeout)
            if connection is None:
                continue
            try:
                if work.settle_journal(places, connection) != "wal" and name == "new":
                    # Not hot any more: the exclusive lock rolled it back. As in `rotate`.
                    remove_durably(places, places.journal)
                # Under the old key others may have written since: then it need only be whole.
                figures = self.figures if name == "new" else None
                work.prove(places.database, secret, settings, secrets.figures, figures)
                if name == "new":
                    work.prove_refused(places.database, secrets.old, settings)
                    work.prove_no_journal(places)
                if name == "old" or not self.undo:
                    self.step(0, found=name)
                    return name
            finally:
                connection.close()
            # Nobody wrote under a key that never was the primary: the backup is as new as the file.
            return self._restore(secrets, descriptor, "it is under a key that was destroyed")
        for secret in (secrets.new, secrets.old):
            if work.first_page_is_authentic(descriptor, secret, settings):
                raise Proof("its first page is right, and SQLite finds it damaged")
        return self._restore(secrets, descriptor, "it opens under neither key")

    def _restore(self, secrets: Secrets, descriptor: int, why: str) -> str:
        places, settings = self.places, self.settings
        if not os.path.exists(places.backup):
            raise Proof(f"{why}, and {places.backup} is not there")
        if self.figures is None:
            raise Proof(
                f"{why}, and {places.backup} is older than what was written under the new key"
            )
        try:
            work.prove(places.backup, secrets.old, settings, secrets.figures, self.figures)
        except (Proof, driver.DatabaseError) as error:
            raise Proof(f"{why}, and {places.backup} is not this rotation's: {error}") from None
        work.restore(places, descriptor, settings.page_size)
        work.prove(places.database, secrets.old, settings, secrets.figures, self.figures)
        self.step(0, found="restored")
        return "restored"


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> int:
    """Take a job from standard input and do it."""
    # The terminal's Ctrl-C goes to the parent too, which decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.loads(sys.stdin.readline())
    _die_with_parent(job["parent"])
    child = _Child(job)
    operation = {
        "rotate": child.rotate,
        "recover": child.recover,
        "find": child.find,
        "adopt": child.adopt,
    }
    try:
        operation[job["operation"]]()
    except _Stop:
        return 0
    except Busy:
        child.tell(error="busy", text="another connection holds the database")
    except Proof as error:
        child.tell(error="proof", text=str(error))
    except driver.Error as error:
        child.tell(error="sqlite", text=str(error), code=driver.code_of(error))
    except OSError as error:
        child.tell(error="os", text=error.strerror, code=error.errno, path=error.filename)
    except MemoryError:
        child.tell(error="sqlite", text="out of memory", code=7)
    return 1


if __name__ == "__main__":
    sys.exit(main())
