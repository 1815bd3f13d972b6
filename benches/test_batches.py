"""Many records in one call, beside loops over the peers, and calls under a warm keyset."""

from __future__ import annotations

import os

import pytest
import strongroom
from strongroom.bench import peers, works
from strongroom.bench.measure import Contender

from benches.conftest import pair

COUNT, SIZE = 10_000, 256
LOOPS = (peers.AESGCM, peers.TINK)


@pytest.fixture(scope="module")
def batch():
    return works.batch(COUNT, SIZE, list(LOOPS))


@pytest.mark.parametrize(
    "contender", [works.MANY, works.PACKED, *(f"loop over {name}" for name in LOOPS)]
)
@pytest.mark.parametrize("work", ["encrypt", "decrypt"])
def test_many(measure, batch, work, contender):
    encrypt, decrypt, left_out = batch
    for found in encrypt if work == "encrypt" else decrypt:
        if found.name == contender:
            return measure(found, f"{work}_many {COUNT:,} x {works.human(SIZE)}")
    pytest.skip(f"left out: {contender}: {left_out}")


@pytest.mark.parametrize("work", ["encrypt", "decrypt"])
@pytest.mark.parametrize("size", [64, 1024], ids=works.human)
def test_keyset(measure, tmp_path, work, size):
    master = strongroom.FileMasterKey.create(tmp_path / "master.key")
    with strongroom.KeyStore.create(f"sqlite:///{tmp_path}/keys.db", master) as store:
        cipher = strongroom.VersionedEncryption(store)
        data = os.urandom(size)
        names = {
            "encrypt": cipher.encrypt,
            "decrypt": cipher.decrypt,
            "data": data,
            "message": cipher.encrypt(data),
        }
        stmt = "encrypt(data)" if work == "encrypt" else "decrypt(message)"
        measure(Contender(works.VERSIONED, stmt, names, size), f"{work} {works.human(size)}")


@pytest.mark.parametrize("work", [0, 1], ids=["encrypt", "decrypt"])
def test_record_beside_the_keyset(measure, work):
    found = pair(works.RECORD, 64)[work]
    measure(found, f"{('encrypt', 'decrypt')[work]} 64 B")
