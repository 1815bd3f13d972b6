"""No branch and no address depends on a secret: seen by valgrind, over the extension as built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("engine", ["aws-lc", "aes-gcm"])
def test_comparisons_and_keys(tmp_path, engine):
    helper = tmp_path / "helper.so"
    source = HERE / "constant_time_helper.c"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", helper, source], check=True)
    done = subprocess.run(
        [
            *("valgrind", "--quiet", "--error-limit=no", f"--log-file={tmp_path}/log"),
            *(sys.executable, HERE / "constant_time_target.py", helper),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"STRONGROOM_ENGINE": engine, "PYTHONMALLOC": "malloc"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    log = (tmp_path / "log").read_text()
    # The controls: as many branches as bytes were looked at.
    assert found.pop("naive") == [32, 1, 32]
    assert found.pop("key's marks at the tag") > 0
    assert found.pop("nothing") == 0
    # The result alone is branched on, once or in two places: wherever the difference is.
    comparisons = {name: counts for name, counts in found.items() if isinstance(counts, list)}
    assert len(comparisons) == 8
    assert all(counts in ([1, 1, 1], [2, 2, 2]) for counts in comparisons.values()), log
    # A box that opens has two results, those of its commitment and its tag; to seal has none.
    keys = {name: count for name, count in found.items() if name not in comparisons}
    assert keys.pop("key of a box that opens") in (2, 3), log
    assert keys == dict.fromkeys(keys, 0), log
    assert len(keys) == 5
