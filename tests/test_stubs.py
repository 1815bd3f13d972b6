"""The types that the package says it has are those that it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def mypy(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_stubtest():
    # Every name, signature and default of the stubs against the imported modules.
    done = mypy(
        "mypy.stubtest",
        "strongroom",
        "--mypy-config-file",
        str(ROOT / "pyproject.toml"),
        "--allowlist",
        str(ROOT / "tests" / "stubtest-allowlist.txt"),
        folder=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


GOOD = """
import strongroom
from strongroom import SecureEncryption, KeyStore, FileMasterKey, VersionedEncryption
secure = SecureEncryption(strongroom.generate_key())
message: bytes = secure.encrypt(bytearray(3), memoryview(b"a"))
rows: list[bytes] = secure.encrypt_many([b"a", bytearray(1)], [b"1", b"2"])
size: int = secure.decrypt_into(message, bytearray(100))
with KeyStore.open("sqlite:///x", FileMasterKey("y")) as store:
    plain: bytes = VersionedEncryption(store).decrypt(message, associated_data=b"x")
    name: str = store.get_current_key().id
"""
BAD = [
    "import strongroom\nstrongroom.SecureEncryption('text')\n",
    "import strongroom\nstrongroom.SecureEncryption(b'').encrypt('text')\n",
    "import strongroom\nx: str = strongroom.generate_key()\n",
    "import strongroom\nstrongroom.nonsense\n",
]


@pytest.mark.parametrize(
    ("program", "right"), [(GOOD, True), *((program, False) for program in BAD)]
)
def test_users_are_checked(tmp_path, program, right):
    (tmp_path / "user.py").write_text(program)
    done = mypy("mypy", "--strict", "--no-error-summary", "user.py", folder=tmp_path)
    assert (done.returncode == 0) == right, done.stdout + done.stderr
    if not right:
        assert "user.py" in done.stdout
