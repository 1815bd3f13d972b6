"""What a fresh installation must be able to do; run by the interpreter of its environment.

Uses nothing but the package and the standard library.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import strongroom


def library(folder: Path) -> None:
    """Round trips through the everyday API."""
    data = bytes(range(256)) * 1024
    secure = strongroom.SecureEncryption(strongroom.generate_key())
    assert secure.decrypt(secure.encrypt(data, b"context"), b"context") == data
    large = strongroom.ParallelEncryption(strongroom.generate_key())
    assert large.decrypt_large(large.encrypt_large(data)) == data
    master = strongroom.FileMasterKey.create(folder / "library.key")
    with strongroom.KeyStore.create(f"sqlite:///{folder / 'library.db'}", master) as store:
        versioned = strongroom.VersionedEncryption(store)
        message = versioned.encrypt(data)
        store.rotate()
        assert versioned.decrypt(message) == data
        try:
            versioned.decrypt(message[:-1] + bytes([message[-1] ^ 1]))
        except strongroom.DecryptionError:
            pass
        else:
            sys.exit("smoke: a changed message decrypted")


def command_line(folder: Path) -> None:
    """The console script, end to end."""
    command = Path(sys.executable).with_name("strongroom")
    environment = {"STRONGROOM_STORE": f"sqlite:///{folder / 'cli.db'}", "PATH": "/nonexistent"}
    plain = folder / "note.txt"
    plain.write_text("a note\n")
    for arguments in (
        ["--version"],
        ["init", "--master", f"file:{folder / 'cli.key'}"],
        ["encrypt", str(plain)],
        ["keys", "rotate"],
        ["rewrap", f"{plain}.srm"],
        ["decrypt", f"{plain}.srm", "-o", str(folder / "back.txt")],
        ["doctor"],
    ):
        done = subprocess.run(
            [command, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            sys.exit(f"smoke: strongroom {' '.join(arguments)}: {done.stdout}{done.stderr}")
    assert (folder / "back.txt").read_text() == "a note\n"


def main() -> None:
    """Run all of it in a temporary directory."""
    installed = distribution("strongroom")
    assert installed.version == strongroom.__version__, installed.version
    assert "site-packages" in str(strongroom.__file__), strongroom.__file__
    with tempfile.TemporaryDirectory() as name:
        library(Path(name))
        command_line(Path(name))


if __name__ == "__main__":
    main()
