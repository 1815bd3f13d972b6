"""Jobs on files: one large file, a tree, reads at random offsets, in turn with commands."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import strongroom

from . import commands
from .measure import Contender, Pace, interleave
from .works import CONTROL_BYTES, control, human

LIBRARY: Final = "strongroom library"
COMMAND: Final = "strongroom command"
CP: Final = "cp"
CP_SYNC: Final = "cp and sync of the copy"
CP_TREE: Final = "cp -r"
AGE: Final = "age"
OPENSSL: Final = "openssl enc -aes-256-ctr"
IN_MEMORY: Final = "a file in memory"
# The system's own name; a private folder is made in it.
MEMORY_FOLDER: Final = "/dev/shm"  # noqa: S108
PREAD: Final = "os.pread of 16 KiB"
OPEN_PREAD: Final = "open().pread of 4 KiB"
OPEN_READ: Final = "open() seek and read of 4 KiB"

READ_LEN: Final = 4096
CHUNK_LEN: Final = 16_384
# A chunk as it is written: 16 bytes of tag.
WIRE_CHUNK_LEN: Final = CHUNK_LEN + 16
OFFSETS: Final = 4096


def files(
    size: int, folder: str, peers: list[str], pace: Pace, label: str = "file"
) -> dict[str, Any]:
    """Time a warm file of `size` bytes: ours durable, `cp`, `cp` and `sync`, age, openssl.

    Each writes to a name that was unlinked just before, so that all reuse pages which the machine
    has at hand, and begins with nothing left to be written. age and openssl don't sync what they
    write; it isn't done for them.

    Args:
        size: Bytes of plaintext.
        folder: Where there is room for four times that, and once more for each peer.
        peers: Of age and openssl those that take part.
        pace: Rounds and time.
        label: What the groups call the file.
    """
    if not os.path.isdir(folder) or shutil.disk_usage(folder).free < (4 + len(peers)) * size:
        return {"groups": {}, "left_out": {f"{label} of {human(size)}": f"no room in {folder}"}}
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-", dir=folder) as name:
        work = Path(name)
        store = commands.Store(work)
        plain, sealed, out = work / "plain", work / "sealed.srm", work / "out"
        commands.write_random(plain, size)
        left_out: dict[str, str] = {}
        with strongroom.KeyStore.open(store.url, strongroom.FileMasterKey(store.master)) as keys:
            strongroom.encrypt_file(plain, sealed, keys)
            ours = [*commands.ours()]
            encrypt = _turns(
                ("strongroom.encrypt_file", strongroom.encrypt_file, (plain, out, keys)),
                [*ours, "encrypt", "-q", str(plain), "-o", str(out)],
                store,
            ) + _copies(plain, out)
            decrypt = _turns(
                ("strongroom.decrypt_file", strongroom.decrypt_file, (sealed, out, keys)),
                [*ours, "decrypt", "-q", str(sealed), "-o", str(out)],
                store,
            ) + _copies(plain, out)
            if AGE in peers:
                left_out |= _add_age(encrypt, decrypt, work, plain, out)
            if OPENSSL in peers:
                left_out |= _add_openssl(encrypt, decrypt, work, plain, out)
            groups = {}
            for work_name, contenders in (("encrypt", encrypt), ("decrypt", decrypt)):
                for contender in contenders:
                    contender.size = size
                    contender.before = lambda: commands.clear(out)
                group = interleave([*contenders, *control(CONTROL_BYTES)], pace)
                groups[f"{work_name} {label} {human(size)}"] = group
    return {"groups": groups, "left_out": left_out}


def tree(count: int, size: int, folder: str, pace: Pace) -> dict[str, Any]:
    """Time `count` files of `size` bytes: our command, start-up included, and `cp -r`."""
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-", dir=folder) as name:
        work = Path(name)
        store = commands.Store(work)
        plain, sealed, out = work / "plain", work / "sealed", work / "out"
        commands.write_tree(plain, count, size)
        commands.run(
            [*commands.ours(), "encrypt", "-q", "-r", str(plain), "-o", str(sealed)], store.env
        )
        groups = {}
        for work_name, source in (("encrypt", plain), ("decrypt", sealed)):
            words = [*commands.ours(), work_name, "-q", "-r", str(source), "-o", str(out)]
            copy = ["cp", "-r", str(plain), str(out)]
            contenders = [
                Contender(COMMAND, "run(words, env)", _run_names(words, store)),
                Contender(CP_TREE, "run(words)", _run_names(copy)),
            ]
            for contender in contenders:
                contender.size = count * size
                contender.before = lambda: commands.set_aside(out)
            label = f"{work_name} tree {count:,} x {human(size)}"
            groups[label] = interleave([*contenders, *control(CONTROL_BYTES)], pace)
    return {"groups": groups, "left_out": {}}


def random_reads(size: int, folder: str, pace: Pace) -> dict[str, Any]:
    """Time reads of 4 KiB at random offsets of an encrypted file beside `os.pread` of 16 KiB.

    Returns:
        Besides `groups`: `chunks_read`, the most chunks that one read of 4 KiB took from the file,
        by the kernel's count of bytes read.
    """
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-", dir=folder) as name:
        work = Path(name)
        store = commands.Store(work)
        plain, sealed = work / "plain", work / "sealed.srm"
        commands.write_random(plain, size)
        # Not secret: which offsets, the same in each run.
        generator = random.Random(1)  # noqa: S311
        offsets = [generator.randrange(size - CHUNK_LEN) for _ in range(OFFSETS)]
        with strongroom.KeyStore.open(store.url, strongroom.FileMasterKey(store.master)) as keys:
            strongroom.encrypt_file(plain, sealed, keys)
            file: Any = strongroom.open(sealed, key_store=keys)
            fd = os.open(plain, os.O_RDONLY)
            try:
                # Warm: both files were read through once.
                for path in (plain, sealed):
                    _read_through(path)
                names = {
                    "pread": os.pread,
                    "fd": fd,
                    "ours": file.pread,
                    "seek": file.seek,
                    "read": file.read,
                    "following": itertools.cycle(offsets).__next__,
                }
                group = interleave(
                    [
                        Contender(OPEN_PREAD, f"ours({READ_LEN}, following())", names, READ_LEN),
                        Contender(
                            OPEN_READ, f"seek(following()); read({READ_LEN})", names, READ_LEN
                        ),
                        Contender(PREAD, f"pread(fd, {CHUNK_LEN}, following())", names, READ_LEN),
                    ],
                    pace,
                )
                chunks = _most_chunks(file, offsets)
            finally:
                os.close(fd)
                file.close()
    return {
        "groups": {f"random reads {human(size)}": group},
        "left_out": {},
        "chunks_read": chunks,
    }


def _turns(
    library: tuple[str, Any, tuple[Any, ...]], words: list[str], store: commands.Store
) -> list[Contender]:
    _, function, arguments = library
    return [
        Contender(LIBRARY, "f(*a)", {"f": function, "a": arguments}),
        Contender(COMMAND, "run(words, env)", _run_names(words, store)),
    ]


def _copies(plain: Path, out: Path) -> list[Contender]:
    copy, sync = ["cp", str(plain), str(out)], ["sync", str(out)]
    names = {"run": commands.run, "copy": copy, "sync": sync}
    return [
        Contender(CP, "run(copy)", names),
        Contender(CP_SYNC, "run(copy); run(sync)", names),
    ]


def _run_names(words: list[str], store: commands.Store | None = None) -> dict[str, Any]:
    env = None if store is None else store.env
    return {"run": commands.run, "words": words, "env": env}


def _add_age(
    encrypt: list[Contender], decrypt: list[Contender], work: Path, plain: Path, out: Path
) -> dict[str, str]:
    if not shutil.which("age") or not shutil.which("age-keygen"):
        return {AGE: "age is not installed (Debian: apt install age)"}
    identity, sealed = work / "identity", work / "sealed.age"
    # Words of our own, and the age that PATH has: it is that one which is measured.
    subprocess.run(["age-keygen", "-o", str(identity)], check=True, capture_output=True)  # noqa: S603, S607
    asked = ["age-keygen", "-y", str(identity)]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)  # noqa: S603
    words = ["age", "-r", done.stdout.strip(), "-o"]
    commands.run([*words, str(sealed), str(plain)])
    encrypt.append(Contender(AGE, "run(words)", _run_names([*words, str(out), str(plain)])))
    back = ["age", "-d", "-i", str(identity), "-o", str(out), str(sealed)]
    decrypt.append(Contender(AGE, "run(words)", _run_names(back)))
    return {}


def _add_openssl(
    encrypt: list[Contender], decrypt: list[Contender], work: Path, plain: Path, out: Path
) -> dict[str, str]:
    if not shutil.which("openssl"):
        return {OPENSSL: "openssl is not installed"}
    secret, sealed = work / "secret", work / "sealed.openssl"
    secret.write_text(os.urandom(16).hex())
    words = ["openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-pass", f"file:{secret}", "-in"]
    commands.run([*words, str(plain), "-out", str(sealed)])
    forward = [*words, str(plain), "-out", str(out)]
    encrypt.append(Contender(OPENSSL, "run(words)", _run_names(forward)))
    back = [*words, str(sealed), "-d", "-out", str(out)]
    decrypt.append(Contender(OPENSSL, "run(words)", _run_names(back)))
    return {}


def _read_through(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def _most_chunks(file: Any, offsets: list[int]) -> float | None:  # noqa: ANN401
    """Return bytes from the file for the greediest of many reads, in chunks; None without /proc."""
    if not os.path.exists("/proc/self/io"):
        return None
    # Reading the counter counts as well: the second reading has the first one in it.
    cost = -_bytes_read() + _bytes_read()
    most = 0
    for offset in offsets[:500]:
        before = _bytes_read()
        file.pread(READ_LEN, offset)
        most = max(most, _bytes_read() - before - cost)
    return most / WIRE_CHUNK_LEN


def _bytes_read() -> int:
    with open("/proc/self/io", "rb", buffering=0) as file:
        for line in file.read().splitlines():
            if line.startswith(b"rchar:"):
                return int(line.split()[1])
    raise OSError("/proc/self/io has no rchar")
