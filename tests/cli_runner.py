"""Runs the real command: in a subprocess, on a terminal of its own, and checks its JSON."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SCRIPT = Path(sys.executable).with_name("strongroom")
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "strongroom.cli"]
SECONDS = 60


class Result:
    """What one run left: `code`, `stdout` in bytes, `stderr` as text."""

    def __init__(self, code: int, stdout: bytes, stderr: bytes) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr.decode("utf-8", "surrogateescape")

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The lines of stdout, each checked against the schema."""
        objects = [json.loads(line) for line in self.stdout.splitlines()]
        for found in objects:
            check_schema(found)
        return objects

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        return [found for found in self.objects if found["type"] == type_]


class _Process(subprocess.Popen[bytes]):
    """One that a test that failed does not wait for."""

    def __exit__(self, *exception: Any) -> None:
        if exception[0] is not None:
            self.kill()
        super().__exit__(*exception)


class Cli:
    """The command line in one directory, with a store and a master key in it by default."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "keys.db"
        self.key_file = folder / "master.key"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("STRONGROOM_")}
        self.env |= {
            "STRONGROOM_STORE": f"sqlite:///{self.store}",
            "XDG_DATA_HOME": str(folder / "data"),
            "HOME": str(folder),
        }
        self.env.pop("NO_COLOR", None)

    def start(self, *arguments: object, **settings: Any) -> subprocess.Popen[bytes]:
        settings = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.env,
            "cwd": self.folder,
            # No terminal, even if the tests were started from one.
            "start_new_session": True,
            **settings,
        }
        return _Process([*COMMAND, *words(arguments)], **settings)

    def run(self, *arguments: object, input: bytes | None = None, **settings: Any) -> Result:
        if input is not None:
            settings["stdin"] = subprocess.PIPE
        with self.start(*arguments, **settings) as process:
            stdout, stderr = process.communicate(input, timeout=SECONDS)
        return Result(process.returncode, stdout or b"", stderr or b"")

    def ok(self, *arguments: object, **settings: Any) -> Result:
        result = self.run(*arguments, **settings)
        assert result.code == 0, result.stderr
        return result

    def fails(self, code: int, *arguments: object, **settings: Any) -> Result:
        """Run what must fail: with this code, a sentence, and no traceback."""
        result = self.run(*arguments, **settings)
        assert result.code == code, (result.code, result.stderr)
        assert "Traceback" not in result.stderr
        assert "strongroom: " in result.stderr
        return result

    def init(self) -> Cli:
        self.ok("init", "--master", f"file:{self.key_file}")
        return self

    def current_key(self, keyset: str = "default") -> str:
        found = self.ok("keys", "list", "--keyset", keyset, "--json").of_type("key")
        [key] = [k for k in found if k["state"] == "active"]
        return str(key["key_ids"][0])

    def leftovers(self) -> list[str]:
        """Temporary files, of anybody's making, below the directory."""
        return [
            str(p) for p in self.folder.rglob("*") if "tmp" in p.name or "strongroom-" in p.name
        ]


class Terminal:
    """The command on a pseudo-terminal that controls it, as a person sees it.

    stdin and stderr are the terminal, stdout too unless it is named.
    """

    def __init__(self, cli: Cli, *arguments: object, **settings: Any) -> None:
        self._master, slave = os.openpty()
        settings = {"stdin": slave, "stdout": slave, "stderr": slave, **settings}

        def take_terminal() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.seen = ""
        self.process = cli.start(
            *arguments, preexec_fn=take_terminal, pass_fds=(slave,), **settings
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        os.close(self._master)

    def expect(self, text: str) -> None:
        """Read until the terminal has shown `text`, after what was expected before."""
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            assert self._wait(deadline), f"{text!r} never came: {self.seen!r}"
        self.seen = self.seen.partition(text)[2]

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def end(self) -> int:
        """Read to the end; return the exit code and leave what was shown in `seen`."""
        deadline = time.monotonic() + SECONDS
        while self._wait(deadline):
            pass
        return self.process.wait(SECONDS)

    def fileno(self) -> int:
        """The tests' side of the terminal, to be waited for."""
        return self._master

    def read_some(self) -> bool:
        """Read what has come; False at the end."""
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the last process has closed its side
            return False
        self.seen += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)

    def _wait(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing came any more: {self.seen!r}"
        return self.read_some()


def imported(cli: Cli, *arguments: object) -> set[str]:
    """The modules that a command imports, which is what its start-up takes its time for.

    How long that is, the bench measures.
    """
    command = [sys.executable, "-X", "importtime", "-m", "strongroom.cli", *words(arguments)]
    done = subprocess.run(
        command, env=cli.env, cwd=cli.folder, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE))


def words(arguments: Sequence[object]) -> list[str | bytes]:
    return [a if isinstance(a, (str, bytes)) else str(a) for a in arguments]


def wait_until(event: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for something that a running process does, not for a time."""
    deadline = time.monotonic() + SECONDS
    while not event():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline, "it never happened"
        os.sched_yield()


# -- JSON Schema: as much of it as our schema uses; an unknown keyword is an error ------------

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "null": type(None),
    "boolean": bool,
}


def schema() -> dict[str, Any]:
    import strongroom

    path = Path(strongroom.__file__).with_name("cli") / "json-output.schema.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def check_schema(value: object) -> None:
    errors = schema_errors(value, schema())
    assert not errors, (errors, value)


def schema_errors(value: Any, rule: dict[str, Any], where: str = "$") -> list[str]:
    errors: list[str] = []
    if not isinstance(value, dict) and {"required", "properties"} & rule.keys():
        return [f"{where}: {value!r} is no object"]
    for word, wanted in rule.items():
        match word:
            case "type":
                names = wanted if isinstance(wanted, list) else [wanted]
                if not any(_is_type(value, name) for name in names):
                    errors.append(f"{where}: {value!r} is not {wanted}")
            case "enum":
                if value not in wanted:
                    errors.append(f"{where}: {value!r} is not one of {wanted}")
            case "const":
                if value != wanted:
                    errors.append(f"{where}: {value!r} is not {wanted!r}")
            case "pattern":
                if isinstance(value, str) and not re.search(wanted, value):
                    errors.append(f"{where}: {value!r} is not {wanted}")
            case "minimum":
                if isinstance(value, (int, float)) and value < wanted:
                    errors.append(f"{where}: {value!r} is less than {wanted}")
            case "required":
                errors += [f"{where}: no {name}" for name in wanted if name not in value]
            case "properties":
                for name in wanted.keys() & value.keys():
                    errors += schema_errors(value[name], wanted[name], f"{where}.{name}")
            case "items":
                for number, item in enumerate(value or ()):
                    errors += schema_errors(item, wanted, f"{where}[{number}]")
            case "oneOf":
                tried = [schema_errors(value, choice, where) for choice in wanted]
                if tried.count([]) != 1:
                    errors.append(f"{where}: {tried.count([])} of oneOf fit: {tried}")
            case "$ref":
                _, _, name = wanted.rpartition("/")
                errors += schema_errors(value, schema()["$defs"][name], where)
            case "$schema" | "$defs" | "title" | "description":
                pass
            case _:
                raise AssertionError(f"the checker does not know {word!r}")
    return errors


def _is_type(value: object, name: str) -> bool:
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, _TYPES[name])
