"""What the tests of HSMs share: two tokens, SoftHSM and kryoptic, and the shim in front of one."""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from strongroom import HSMKeyManager

ROOT = Path(__file__).resolve().parent.parent
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
KRYOPTIC = ROOT / "target/tokens/libkryoptic_pkcs11.so"
SHIM = ROOT / "target/tokens/shim.so"
PIN = "1234-äöü"
SO_PIN = "87654321"
LABEL = "strongroom-tests"


@functools.cache
def build() -> None:
    """Build kryoptic and the shim, unless they are there."""
    subprocess.run([ROOT / "scripts/tokens.sh"], check=True)


def run(*command: object, **environment: str) -> str:
    return subprocess.run(
        [str(part) for part in command],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    ).stdout


class Tokens:
    """A directory with one token of each kind, and what tells the modules of it."""

    def __init__(self, directory: Path) -> None:
        build()
        self.directory = directory
        (directory / "softhsm").mkdir()
        config = directory / "softhsm.conf"
        config.write_text(
            f"directories.tokendir = {directory}/softhsm\n"
            "objectstore.backend = file\nlog.level = ERROR\n"
        )
        kryoptic = directory / "kryoptic.conf"
        kryoptic.write_text(
            "".join(
                f'[[slots]]\nslot = {slot}\ndbtype = "sqlite"\ndbargs = "{directory}/{slot}.sql"\n'
                for slot in (1, 2)
            )
        )
        self.environment = {"SOFTHSM2_CONF": str(config), "KRYOPTIC_CONF": str(kryoptic)}
        self.init_softhsm(LABEL)
        self.init_kryoptic(1, LABEL)

    def init_softhsm(self, label: str, pin: str = PIN) -> None:
        run(
            "softhsm2-util", "--init-token", "--free", "--label", label,
            "--so-pin", SO_PIN, "--pin", pin, **self.environment,
        )  # fmt: skip

    def init_kryoptic(self, slot: int, label: str) -> None:
        tool = ("pkcs11-tool", "--module", KRYOPTIC, "--slot", slot, "--so-pin", SO_PIN)
        run(*tool, "--init-token", "--label", label, **self.environment)
        run(*tool, "--login", "--login-type", "so", "--init-pin", "--pin", PIN, **self.environment)


@functools.cache
def tokens() -> Tokens:
    """The tokens of this test process, whose modules look at its environment."""
    directory = Path(tempfile.mkdtemp(prefix="strongroom-hsm-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    made = Tokens(directory)
    os.environ.update(made.environment)
    return made


class Backend:
    """One of the two tokens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = SOFTHSM if name == "softhsm" else str(KRYOPTIC)
        self.tokens = tokens()
        self.environment = self.tokens.environment

    def open(self, **options: Any) -> HSMKeyManager:
        return HSMKeyManager(self.path, **{"token_label": LABEL, "pin": PIN, **options})

    def uri(self, label: str, pin_file: Path) -> str:
        pin_file.write_text(PIN + "\n")
        where = f"module-path={self.path}&pin-source=file:{pin_file}"
        return f"pkcs11:token={LABEL};object={label}?{where}"

    def python(self, program: str, *arguments: object, **environment: str) -> str:
        """Run a program in a process of its own, where no module is loaded yet."""
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + program, self.path, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment, **environment},
            timeout=120,
            cwd=ROOT / "tests",
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not done.stderr, done.stderr
        return done.stdout


PRELUDE = f"""
import os, sys, threading, time
from strongroom import *
path, arguments = sys.argv[1], sys.argv[2:]
PIN, LABEL = {PIN!r}, {LABEL!r}
def open_manager(**options):
    return HSMKeyManager(path, **{{"token_label": LABEL, "pin": PIN, **options}})
"""


@pytest.fixture(params=["softhsm", "kryoptic"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return Backend(request.param)


@pytest.fixture
def softhsm() -> Backend:
    return Backend("softhsm")


@pytest.fixture
def hsm(backend: Backend) -> Iterator[HSMKeyManager]:
    with backend.open() as manager:
        yield manager


def label(prefix: str = "key") -> str:
    """A label that no other test has."""
    return f"{prefix}-{secrets.token_hex(6)}"


class Bare:
    """The token through python-pkcs11 alone, to do what the library would not."""

    def __init__(self, path: str) -> None:
        import pkcs11

        self.p = pkcs11
        self.library = pkcs11.lib(os.path.realpath(path))
        # Not get_token(): kryoptic has no list of mechanisms for a blank token.
        found = [slot.get_token() for slot in self.library.get_slots()]
        self.session = next(token for token in found if token.label == LABEL).open(rw=True)

    def make(self, label: str, key_id: bytes | None = None, **attributes: Any) -> Any:
        """Make a key with attributes of ours, in a session that the library has logged in."""
        a = self.p.Attribute
        template = {
            a.ENCRYPT: True, a.DECRYPT: True, a.WRAP: False, a.UNWRAP: False,
            a.SENSITIVE: True, a.EXTRACTABLE: False,
        }  # fmt: skip
        template.update({a[name]: value for name, value in attributes.items() if name.isupper()})
        return self.session.generate_key(
            attributes.get("key_type", self.p.KeyType.AES),
            attributes.get("bits", 256),
            id=(1).to_bytes(4) + secrets.token_bytes(12) if key_id is None else key_id,
            label=label,
            store=True,
            capabilities=self.p.MechanismFlag(0),
            template=template,
        )

    def create(self, label: str, key_id: bytes, value: bytes, *, wraps: bool = False) -> Any:
        """Bring a key into the token, extractable, for comparison alone."""
        a = self.p.Attribute
        return self.session.create_object(
            {
                a.CLASS: self.p.ObjectClass.SECRET_KEY, a.KEY_TYPE: self.p.KeyType.AES,
                a.TOKEN: True, a.PRIVATE: True, a.SENSITIVE: True, a.EXTRACTABLE: False,
                a.ENCRYPT: not wraps, a.DECRYPT: not wraps, a.WRAP: wraps, a.UNWRAP: wraps,
                a.ID: key_id, a.LABEL: label, a.VALUE: value,
            }
        )  # fmt: skip

    def close(self) -> None:
        self.session.close()


@pytest.fixture
def bare(backend: Backend, hsm: HSMKeyManager) -> Iterator[Bare]:
    opened = Bare(backend.path)
    yield opened
    opened.close()


class Shim:
    """The shim, in a process of its own: `steer` is what the program there uses."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(SHIM))
        self.library.shim_calls.restype = ctypes.c_char_p
        self.library.shim_last_nonce.restype = ctypes.POINTER(ctypes.c_ubyte)
        self.library.shim_fault.argtypes = [
            ctypes.c_char_p, ctypes.c_long, ctypes.c_ulong, ctypes.c_int, ctypes.c_int,
        ]  # fmt: skip

    def fault(
        self, code: int, at: int = 1, function: str = "", *, forever: bool = False,
        after: bool = False,
    ) -> None:  # fmt: skip
        self.library.shim_fault(function.encode(), at, code, forever, after)

    def set(self, name: str, value: int = 1) -> None:
        self.library.shim_set(name.encode(), value)

    def reset(self) -> None:
        self.library.shim_reset()

    @property
    def calls(self) -> list[str]:
        return self.library.shim_calls().decode().split()

    @property
    def last_nonce(self) -> bytes:
        return bytes(self.library.shim_last_nonce()[:12])


def shimmed(program: str, *arguments: object) -> str:
    """Run a program whose `path` is the shim's, in front of this process's SoftHSM."""
    backend = Backend("softhsm")
    backend.path = str(SHIM)
    return backend.python(
        "from hsm_help import Shim\nshim = Shim()\n" + program, *arguments, SHIM_MODULE=SOFTHSM
    )


def loads(output: str) -> Any:
    return json.loads(output)


def open_in_worker(job: tuple[str, str, bytes]) -> bytes:
    """What a worker process does: it opens the token itself."""
    path, key_id, message = job
    with HSMKeyManager(path, token_label=LABEL, pin=PIN) as manager:
        return manager.decrypt(key_id, message)
