"""Another process at a database: `python database_other.py DIRECTORY WHAT`.

It says "ready" on stdout, and waits on stdin before it goes on. With " patiently" after WHAT it
waits for others for a minute. With " without the lock" after
WHAT it takes none beside the database, and with "rekey" it does what the library does in a process
of its own: both are controls.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from database_help import Vault
from sqlcipher3 import dbapi2
from strongroom import KeyRotatedError, StrongroomError

WITHOUT, PATIENTLY = " without the lock", " patiently"


def say(text: object) -> None:
    print(text, flush=True)


def writing(vault: Vault) -> None:
    """Insert until told to stop; each number is said once it is committed."""
    import select

    connection = None
    number = 0
    say("ready")
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            if connection is None:
                connection = vault.database.connect(isolation_level=None, timeout=30.0)
            connection.execute("INSERT INTO rows (data) VALUES (?)", (b"other %d" % number,))
        except KeyRotatedError:
            connection = None
            continue
        say(f"row {number}")
        number += 1
    say("end")


def rekey(vault: Vault) -> None:
    """Rekey under the exclusive lock, and let another thread's part come between."""
    connection = vault.database.connect(isolation_level=None)
    for statement in ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "COMMIT"):
        connection.execute(statement).fetchall()
    connection.execute("SELECT * FROM rows").fetchall()
    say("ready")
    assert sys.stdin.readline() == "open and close\n"
    vault.path.open("rb").close()
    say("closed")
    assert sys.stdin.readline() == "rekey\n"
    dbapi2.Connection.reset_key(connection, b"x'" + b"11" * 32 + b"'")
    connection.close()
    say("ok")


def main(directory: str, what: str) -> None:
    vault = Vault(Path(directory), url=os.environ.get("VAULT_URL"))
    patiently = what.endswith(PATIENTLY)
    what = what.removesuffix(PATIENTLY)
    if what.endswith(WITHOUT):
        fcntl.flock = lambda *_: None
        what = what.removesuffix(WITHOUT)
    with vault.open():
        if what == "rekey":
            rekey(vault)
            return
        if what == "rotate":
            try:
                report = vault.rotate(busy_timeout=60 if patiently else 0.3)
                say(f"rotated from {report.old_key_id}")
            except StrongroomError as error:
                say(f"{type(error).__name__}: {error}")
            return
        if what == "writing":
            writing(vault)
            return
        if what == "connect":
            if patiently:
                say("connecting")
            try:
                connection = vault.database.connect(timeout=60 if patiently else 0.3)
                say(f"rows {connection.execute('SELECT count(*) FROM rows').fetchone()[0]}")
                connection.close()
            except (StrongroomError, dbapi2.Error) as error:
                say(f"{type(error).__name__}: {error}")
            return
        connection = vault.database.connect(isolation_level=None)
        connection.execute("SELECT count(*) FROM rows").fetchone()
        if what == "reading":
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM rows").fetchone()
        elif what == "in a write":
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO rows (data) VALUES (1)")
        say("ready")
        sys.stdin.readline()
        try:
            if what == "in a write":
                connection.execute("COMMIT")
            say(f"rows {connection.execute('SELECT count(*) FROM rows').fetchone()[0]}")
        except (StrongroomError, dbapi2.Error) as error:
            say(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
