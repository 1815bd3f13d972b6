"""No copy of a PIN, or of a key that a token wraps, in the process outside of locked memory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from hsm_help import SOFTHSM, Tokens
from memory_scanner import Target, key_patterns, scan


@pytest.mark.parametrize("backend", ["memfd_secret", "mlock"])
def test_no_copy_of_a_pin_or_of_a_wrapped_key(tmp_path: Path, backend: str) -> None:
    (tmp_path / "tokens").mkdir()
    tokens = Tokens(tmp_path / "tokens")
    key, pin = os.urandom(32), secrets.token_hex(100)
    tokens.init_softhsm("memory", pin)
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "pin").write_text(pin)
    wanted = key_patterns("key", key)
    wanted |= {f"PIN at {at}": pin[at : at + 20].encode() for at in (0, 40, 100, 180)}
    environment = {"STRONGROOM_MEMORY_BACKEND": backend, "STRONGROOM_PKCS11_LIB": SOFTHSM}
    with Target("token", tmp_path, **environment, **tokens.environment) as target:
        for checkpoint in ("opened", "opened twice", "opened again", "alive"):
            target.wait_for(checkpoint)
            hits = scan(target.pid, wanted)
            assert [hit for hit in hits if not hit.region.is_arena] == [], checkpoint
            found = {hit.what for hit in hits}
            assert ({"key", "PIN at 0", "PIN at 180"} <= found) == (backend == "mlock")
        target.wait_for("gone")
        assert scan(target.pid, wanted) == []
        assert target.finish() == 0
