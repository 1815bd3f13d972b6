"""Other processes at a database, as the tests start them: what they do is in database_other.py."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from database_help import Vault

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}


class Other:
    """A process of database_other.py."""

    def __init__(self, vault: Vault, what: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "database_other.py"), str(vault.directory), what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**ENVIRONMENT, "VAULT_URL": vault.url},
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> list[str]:
        out, _ = self.process.communicate("\n", timeout=60)
        return out.splitlines()


@contextlib.contextmanager
def other(vault: Vault, what: str) -> Iterator[Other]:
    process = Other(vault, what)
    try:
        assert process.line() == "ready"
        yield process
    finally:
        process.process.kill()
        process.process.communicate()
