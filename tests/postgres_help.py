"""A PostgreSQL server for the tests: Debian's, on loopback, in a directory of its own."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

USER = "strongroom"


def _binaries() -> Path:
    """The directory of initdb and postgres, installed first if this is root and they are not."""
    for _ in range(2):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if found:
            return found[-1].parent
        if os.getuid() == 0 and shutil.which("apt-get"):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in ("update", "install -y postgresql"):
                subprocess.run(
                    ["apt-get", "-qq", *command.split()],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    env=environment,
                )
    raise RuntimeError("the tests need PostgreSQL: install the Debian package postgresql")


class Server:
    """A running server, stopped and removed when this process ends."""

    def __init__(self) -> None:
        binaries = _binaries()
        self.password = secrets.token_hex(16)
        self.directory = Path(tempfile.mkdtemp(prefix="strongroom-pg-"))
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        # A sanitizer's library (scripts/asan.sh) is for Python alone: in the server it hangs.
        environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        # The server refuses to be root.
        self._user: dict[str, Any] = {"env": environment}
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            self._user |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in (self.directory, password_file):
                os.chown(path, account.pw_uid, account.pw_gid)
        self.data = self.directory / "data"
        self._run(
            binaries / "initdb",
            *("-D", self.data, "-U", USER, "-A", "scram-sha-256", "--pwfile", password_file),
            *("-E", "UTF8", "--locale", "C", "--no-sync"),
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # Durability is the server's own business; without it the tests are five times as fast.
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 100,
            "shared_buffers": "16MB",
        }
        self._log = (self.directory / "log").open("wb")
        self._process = subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(self.data)]
            + [a for k, v in settings.items() for a in ("-c", f"{k}={v}")],
            stdout=self._log,
            stderr=self._log,
            **self._user,
        )
        self._owner = os.getpid()
        atexit.register(self.stop)
        self._await()

    def url(self, database: str, port: int | None = None) -> str:
        password = quote(self.password)
        return f"postgresql://{USER}:{password}@127.0.0.1:{port or self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        import psycopg

        name = f"test_{secrets.token_hex(8)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def stop(self) -> None:
        if self._owner != os.getpid():
            return  # a forked child of the tests
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, *command: object) -> None:
        subprocess.run(
            [str(c) for c in command], check=True, stdout=subprocess.DEVNULL, **self._user
        )

    def _await(self) -> None:
        import psycopg

        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "log").read_text()) from None
                time.sleep(0.05)


@functools.cache
def server() -> Server:
    """The one server of this test run, started at its first use."""
    return Server()
