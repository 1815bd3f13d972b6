"""The process under test of the fault sweeps, a fork for each line of standard input.

A line is the JSON of a directory, what to do there, and where standard error goes; the answer is
the exit code. `rotate` and `recover` are the library. The others are controls, each a way
that loses data: `bare` rekeys with nothing but SQLCipher and tells the store afterwards; `goes-on`
rekeys and writes on after an error; `unsynced` is a bare rekey with the new key in the store, and
SQLite's syncs off.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path

from database_help import Vault
from sqlcipher3 import dbapi2
from strongroom.database import driver


def main(directory: str, what: str) -> int:
    vault = Vault(Path(directory))
    with vault.open() as store:
        if what == "rotate":
            vault.rotate(busy_timeout=5.0)
            return 0
        if what == "recover":
            vault.rotation(busy_timeout=5.0).recover()
            return 0
        (old, _), *_ = vault.key_states()
        made = store._add_rotation_key(
            "database", store._load("database").head.database_id, "ff" * 16, old, old
        )
        new = made.in_order()[-1].key_id
        secret = vault.secret(new)
        if what == "bare":
            # The key is made first and kept in memory alone.
            store._discard_rotation_key("database", "ff" * 16, new)
        connection = vault.database.connect(isolation_level=None)
        if what == "unsynced":
            connection.execute("PRAGMA synchronous = OFF")
        try:
            dbapi2.Connection.reset_key(connection, driver.key_text(secret))
        except dbapi2.DatabaseError:
            if what != "goes-on":
                raise
            with contextlib.suppress(dbapi2.DatabaseError):
                connection.execute("UPDATE rows SET data = zeroblob(200)")
            raise
        finally:
            connection.close()
        if what != "bare":
            store._promote_rotation_key("database", "ff" * 16, new, old)
    return 0


def serve() -> None:
    for line in sys.stdin:
        directory, what, errors = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                # What is killed as a group is this one and its children.
                os.setsid()
                for path, number in ((os.devnull, 0), (os.devnull, 1), (errors, 2)):
                    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
                code = main(directory, what)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
