"""The process under test of the fault sweeps: `python database_target.py DIRECTORY WHAT`.

`rotate` is the library. The others are controls, each a way that loses data: `bare` rekeys with
nothing but SQLCipher and tells the store afterwards; `goes-on` rekeys and writes on after an
error; `unsynced` is a bare rekey with the new key in the store, and SQLite's syncs off.
"""

from __future__ import annotations

import contextlib
import sys
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
            connection.reset_key(driver.key_text(secret))
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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
