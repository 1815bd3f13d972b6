"""The harness: its --quick form runs, names versions and what is left out, and judges right."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cli_runner import COMMAND
from strongroom.bench import further, measure, peers, plot, runner, tables, targets, works
from strongroom.bench.measure import Contender, Pace

# Limits, locks and times of the whole process, and of the machine.
pytestmark = pytest.mark.alone

SECONDS = 300
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """One run of the real command: its document, its table, its plot."""
    folder = tmp_path_factory.mktemp("bench")
    done = subprocess.run(
        [
            *(*COMMAND, "bench", "--quick", "--folder", str(folder)),
            *("--json", str(folder / "out.json"), "--plot", str(folder / "out.svg")),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["out.json", "out.svg"]
    document = json.loads((folder / "out.json").read_text())
    return document, done.stdout, (folder / "out.svg").read_text()


def test_the_document_has_versions_machine_and_build(quick: Any) -> None:
    document, _, _ = quick
    import cryptography
    import strongroom

    assert document["schema"] == runner.SCHEMA
    assert document["versions"]["strongroom"] == strongroom.__version__
    assert document["versions"]["cryptography"] == cryptography.__version__
    # Each peer's distribution is there, installed or not.
    assert {peer.package for peer in peers.PEERS} <= set(document["versions"])
    assert {"age", "openssl", "cp"} <= set(document["versions"])
    assert document["machine"]["cpus"] >= 1
    assert document["build"]["engine"] in ("aws-lc", "aes-gcm")
    assert document["build"]["profile"]
    assert document["failed"] == {}


def test_each_engine_ran_in_its_own_process(quick: Any) -> None:
    document, _, _ = quick
    engines = document["engines"]
    assert set(engines) == set(runner.ENGINES)
    assert not engines["default"]["build"]["forced"]
    for name in ("aes-gcm", "aws-lc"):
        assert engines[name]["build"]["engine"] == name
        assert engines[name]["build"]["forced"]


def test_every_peer_took_part_or_is_left_out_by_name(quick: Any) -> None:
    document, text, _ = quick
    group = document["engines"]["default"]["groups"]["encrypt 64 B"]
    for peer in peers.PEERS:
        assert (peer.name in group) != (peer.name in document["left_out"]), peer.name
    for name, why in document["left_out"].items():
        assert f"{name}: {why}" in text


def test_a_quick_run_measures_every_row_but_those_of_64_mib(quick: Any) -> None:
    document, text, _ = quick
    for row in targets.rows(document):
        assert row.work in text
        known = {peer.name for peer in peers.PEERS} - set(document["left_out"]) | {""}
        absent = row.against.removeprefix("loop over ") in set(document["left_out"])
        assert row.verdict != targets.NOT_MEASURED or absent or "MiB" in row.work, (row, known)


def test_the_plot_is_svg_with_every_contender(quick: Any) -> None:
    document, _, drawing = quick
    root = ET.fromstring(drawing)
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert set(plot.series_of(document, "encrypt")) <= texts
    dashes = [
        line.get("stroke-dasharray") for line in root.iter("{http://www.w3.org/2000/svg}polyline")
    ]
    assert dashes.count("none") == 2  # ours alone are drawn through


@pytest.mark.parametrize("name", ["plot.gif", "plot"])
def test_a_plot_of_another_kind_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*COMMAND, "bench", "--plot", str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert ".svg or .png" in done.stderr
    assert not (tmp_path / name).exists()


def test_a_missing_peer_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Python does it for a module that is not there.
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    result = works.buffers(64, ["Fernet", peers.AESGCM], Pace(0, 0, 1, 1))
    assert "cryptography is not installed" in result["left_out"]["Fernet"]
    assert "Fernet" not in result["groups"]["encrypt 64 B"]
    assert peers.AESGCM in result["groups"]["encrypt 64 B"]


def test_turns_rotate_and_everybody_has_each_neighbour() -> None:
    orders = [list(measure.order(4, turn)) for turn in range(8)]
    assert all(sorted(found) == [0, 1, 2, 3] for found in orders)
    assert {found[0] for found in orders} == {0, 1, 2, 3}
    # Not always behind the same one.
    assert {(0, 1), (1, 0)} <= {pair for found in orders for pair in pairwise(found)}


def test_contenders_take_turns() -> None:
    seen: list[str] = []
    contenders = [
        Contender(name, "seen.append(name)", {"seen": seen, "name": name}) for name in "ab"
    ]
    found = measure.interleave(contenders, Pace(0.0, 1e9, 4, 4))
    assert seen[:2] == ["a", "b"]  # calibration
    assert seen[2:] == [*"ab", *"ba", *"ba", *"ab"]
    assert found["a"]["rounds"] == 4
    assert len(found["a"]["samples"]) == 4


def test_what_an_operation_raises_names_the_contender() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        measure.interleave([Contender("wrong", "1 / 0")], Pace())
    assert raised.value.__notes__ == ["contender: wrong"]


def _document(groups: dict[str, dict[str, float]]) -> dict[str, Any]:
    made = {
        group: {name: {"median": value, "size": 1} for name, value in contenders.items()}
        for group, contenders in groups.items()
    }
    return {"engines": {"default": {"groups": made}}, "memory": {}, "held_up": {}}


def _row(document: dict[str, Any], work: str, against: str) -> targets.Row:
    [found] = [row for row in targets.rows(document) if row.work == work and row.against == against]
    return found


@pytest.mark.parametrize(("ours", "verdict"), [(0.44, targets.REACHED), (0.46, targets.SHORT)])
def test_a_time_row_is_judged_by_its_ratio(ours: float, verdict: str) -> None:
    document = _document({"encrypt 64 B": {works.RECORD: ours, peers.AESGCM: 1.0}})
    row = _row(document, "one record of 64 B, encrypt", peers.AESGCM)
    assert row.verdict == verdict
    assert row.value == ours


@pytest.mark.parametrize(
    ("ours", "two_threads", "verdict"),
    [
        (0.24, 1.0, targets.REACHED),
        (0.26, 1.0, targets.SHORT),
        (0.26, 1.25, targets.NO_VERDICT),  # control 1.6
        (0.24, 1.25, targets.REACHED),
    ],
)
def test_a_row_of_two_cores_is_judged_with_its_control(
    ours: float, two_threads: float, verdict: str
) -> None:
    group = {
        works.ENVELOPE: ours,
        peers.AESGCM: 1.0,
        works.ONE_THREAD: 1.0,
        works.TWO_THREADS: two_threads,
    }
    row = _row(_document({"encrypt 64 MiB": group}), "64 MiB, bytes to new bytes", peers.AESGCM)
    assert row.verdict == verdict
    assert row.control is not None
    assert math.isclose(row.control, 2 / two_threads)


def test_what_was_not_measured_says_so() -> None:
    rows = targets.rows(_document({}))
    assert len(rows) > 25
    assert {row.verdict for row in rows} == {targets.NOT_MEASURED}
    assert {row.seen for row in rows} == {"-"}


def test_a_job_that_fails_is_named_and_does_not_end_the_run(tmp_path: Path) -> None:
    document = runner.run(
        quick=True,
        folder=str(tmp_path / "absent"),
        only=lambda job: job.name in ("tree", "keysets, 64 bytes"),
    )
    assert set(document["failed"]) == {"tree (default)", "tree (aes-gcm)"}
    assert "absent" in document["failed"]["tree (default)"]
    assert "get_key" in document["engines"]["default"]["groups"]


def test_another_profile_than_release_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    build = {"profile": "fast"}
    document = {"build": build, "machine": {"cpus": 2, "load_before": 0.0}}
    [warning] = runner.warnings_of(document)
    assert "'fast'" in warning
    build["profile"] = "release"
    assert runner.warnings_of(document) == []


def test_tables_have_a_cell_for_each_heading(quick: Any) -> None:
    document, _, _ = quick
    every = [
        tables.row_table(document),
        tables.rate_table(document, "encrypt"),
        tables.memory_table(document),
        tables.held_up_table(document),
    ]
    for headings, rows in every:
        assert rows
        assert {len(row) for row in rows} == {len(headings)}


def test_what_the_host_took_is_warned_of() -> None:
    machine = {"cpus": 2, "load_before": 0.0, "stolen": 0.1}
    document = {"build": {"profile": "release"}, "machine": machine}
    assert runner.warnings_of(document) == [
        "the machine's host took 10% of the processors' time away"
    ]
    machine["load_before"] = 3.0
    assert "the load was 3.00 on 2 CPUs" in runner.warnings_of(document)[0]


def benches(name: str) -> ModuleType:
    """Import a module of benches/, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(f"benches_{name}", ROOT / f"benches/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_report_and_the_readme_show_the_same_rows(quick: Any) -> None:
    document, _, _ = quick
    report = benches("report").render(document, "the notes")
    readme = benches("readme")
    text = readme.refresh((ROOT / "README.md").read_text(), document)
    assert readme.refresh(text, document) == text
    assert report.rstrip().endswith("the notes")
    for row in targets.rows(document):
        assert f"| {row.work} | {row.against or ' '} |" in report
        assert (f"| {row.work} | {row.against or '-'} |" in text) == (row.value is not None)
    for name in document["left_out"]:
        assert name in report


@pytest.mark.parametrize("shape", ["{0}", "{1}", "{1} {0}", "{0} {0} {1}", "{0} {1} {1}"])
def test_a_readme_without_its_place_is_left_alone(shape: str) -> None:
    readme = benches("readme")
    with pytest.raises(readme.NoMarks):
        readme.refresh(shape.format(readme.BEGIN, readme.END), {})


def test_files_have_all_their_rounds_under_the_default_engine() -> None:
    scale = runner.FULL
    rounds = {
        (job.name, job.engine): job.arguments["pace"]["rounds_min"]
        for job in runner.plan(scale, "f")
        if job.name in ("files", "tree")
    }
    for name in ("files", "tree"):
        assert rounds[name, runner.DEFAULT] == scale.file_rounds_min > rounds[name, "aes-gcm"]


def test_what_there_is_no_time_for_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    def run_job(job: runner.Job) -> dict[str, Any]:
        ran.append((job.name, job.engine))
        return {"groups": {}, "left_out": {}, "build": {}}

    monkeypatch.setattr(runner, "run_job", run_job)
    runner.run(quick=True, folder="f")
    everything = set(ran)
    ran.clear()
    monkeypatch.setattr(runner, "QUICK", dataclasses.replace(runner.QUICK, seconds=-1))
    document = runner.run(quick=True, folder="f")
    names = ("files", "tree", "random reads")
    assert everything - set(ran) == {(name, "aes-gcm") for name in names}
    assert set(document["left_out"]) == {f"{name} (aes-gcm)" for name in names}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("budget", "counted"), [(1e9, 2), (1e-9, 1)])
def test_the_first_round_counts_where_there_is_no_time_for_more(
    budget: float, counted: int, warm: bool
) -> None:
    calls: list[str] = []
    contender = Contender("one", "call()", {"call": lambda: calls.append("call")})
    contender.before = lambda: calls.append("before")
    pace = Pace(slice_seconds=0, budget_seconds=budget, rounds_min=2, rounds_max=2, warm=warm)
    found = measure.interleave([contender], pace)
    assert found["one"]["rounds"] == 2
    # Besides the first, two of those that count have another before them, which isn't timed.
    untimed = 2 if warm and counted == 2 else 0
    assert calls == ["before", "call"] * (1 + counted + untimed)


def test_other_parts_add_jobs_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    part = ModuleType("part")
    job = runner.Job("part", runner.DEFAULT, "part", "work", {})
    vars(part)["jobs"] = lambda scale, folder: [job] if scale.quick and folder == "f" else []
    vars(part)["rows"] = lambda make, document: make.most("part", "one", 2.0, 1.0, "{:.0f}")
    monkeypatch.setattr(further, "modules", lambda: [part])
    assert job in runner.plan(runner.QUICK, "f")
    assert job not in runner.plan(runner.FULL, "f")
    document: dict[str, Any] = {"engines": {}}
    assert targets.rows(document)[-1].verdict == targets.SHORT
    assert targets.rows(document, "aes-gcm")[-1].work != "part"
