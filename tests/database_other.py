"""Another process at a database: `python database_other.py DIRECTORY WHAT`.

It says "ready" on stdout, and waits on stdin before it goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from database_help import Vault
from sqlcipher3 import dbapi2
from strongroom import KeyRotatedError, StrongroomError


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


def main(directory: str, what: str) -> None:
    vault = Vault(Path(directory))
    with vault.open():
        if what == "writing":
            writing(vault)
            return
        if what == "connect":
            try:
                connection = vault.database.connect(timeout=0.3)
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
