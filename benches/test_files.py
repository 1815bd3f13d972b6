"""One file, durable, and reads at random offsets."""

from __future__ import annotations

import itertools
import os

import pytest
import strongroom
from strongroom.bench import commands
from strongroom.bench.measure import Contender
from strongroom.bench.works import human

SIZE = 64 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    size = 1 << 20 if request.config.getoption("--quick") else SIZE
    path = tmp_path_factory.mktemp("files")
    commands.write_random(path / "plain", size)
    master = strongroom.FileMasterKey.create(path / "master.key")
    with strongroom.KeyStore.create(f"sqlite:///{path}/keys.db", master) as keys:
        strongroom.encrypt_file(path / "plain", path / "sealed", keys)
        yield path, keys, size


@pytest.mark.parametrize("work", ["encrypt", "decrypt", "verify"])
def test_file(measure, folder, work):
    path, keys, size = folder
    out = path / "out"
    commands.remove(out)
    calls = {
        "encrypt": "encrypt(plain, out, keys, overwrite=True)",
        "decrypt": "decrypt(sealed, out, keys, overwrite=True)",
        "verify": "verify(sealed, keys)",
    }
    names = {
        "encrypt": strongroom.encrypt_file,
        "decrypt": strongroom.decrypt_file,
        "verify": strongroom.verify_file,
        "plain": path / "plain",
        "sealed": path / "sealed",
        "out": out,
        "keys": keys,
    }
    measure(Contender(f"{work}_file", calls[work], names, size), f"file {human(size)}")


def test_random_reads(measure, folder):
    path, keys, size = folder
    offsets = itertools.cycle(int.from_bytes(os.urandom(8)) % (size - 16_384) for _ in range(4096))
    with strongroom.open(path / "sealed", key_store=keys) as file:
        names = {"pread": file.pread, "following": offsets.__next__}
        measure(Contender("pread", "pread(4096, following())", names, 4096), "random reads")
