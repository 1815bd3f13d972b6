"""Which jobs a run has, and running them: each in a process, one after another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import files, further, machine
from .peers import AESGCM, COBBLESTONE

SCHEMA: Final = 1
DEFAULT: Final = "default"
ENGINES: Final = (DEFAULT, "aes-gcm", "aws-lc")
RELEASE: Final = "release"
# From this share on, a virtual machine's host has had a part in the figures.
STOLEN_MAX: Final = 0.02
LOAD_MAX: Final = 0.7

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

SIZES: Final = (
    64,
    256,
    *(n * KIB for n in (1, 4, 16, 64, 256)),
    *(n * MIB for n in (1, 4, 16, 64)),
)
QUICK_SIZES: Final = (64, KIB, 64 * KIB, MIB, 8 * MIB)
# Up to this many bytes the forced aws-lc engine may differ from the default, which may seal small
# records with aes-gcm (params.rs, SMALL_RECORD_MAX); above they are the same.
SMALL_MAX: Final = 256


@dataclass
class Job:
    """One process: a function of one module of this package, with its arguments.

    Attributes:
        spare: It shows the work of another job, of the same name and the default engine, with an
            engine that is forced: it is left out where the run would take too long with it.
    """

    name: str
    engine: str
    module: str
    work: str
    arguments: dict[str, Any]
    spare: bool = False


@dataclass
class Scale:
    """How large a run is.

    Attributes:
        seconds: No job that is spare begins where it would likely end later.
    """

    sizes: tuple[int, ...]
    batch: int
    file: int
    tree: int
    whole: int
    memory: tuple[int, ...]
    slice_seconds: float
    budget_seconds: float
    file_budget_seconds: float
    file_rounds_min: int
    rounds_min: int
    rounds_max: int
    starts: int
    seconds: float

    @property
    def quick(self) -> bool:
        """Whether this is for work on the bench itself."""
        return self.file < MIB << 7


FULL: Final = Scale(
    sizes=SIZES,
    batch=100_000,
    file=GIB,
    tree=10_000,
    whole=GIB,
    memory=(GIB, 8 * GIB),
    slice_seconds=0.01,
    budget_seconds=3.0,
    file_budget_seconds=20.0,
    file_rounds_min=3,
    rounds_min=7,
    rounds_max=41,
    starts=25,
    # Of a quarter of an hour, with a minute for what comes before and after.
    seconds=780.0,
)
QUICK: Final = Scale(
    sizes=QUICK_SIZES,
    batch=10_000,
    file=32 * MIB,
    tree=200,
    whole=64 * MIB,
    memory=(64 * MIB,),
    slice_seconds=0.002,
    budget_seconds=0.4,
    file_budget_seconds=0.8,
    file_rounds_min=2,
    rounds_min=3,
    rounds_max=7,
    starts=5,
    seconds=780.0,
)


def plan(scale: Scale, folder: str) -> list[Job]:
    """Return the jobs of a run in their order.

    The default engine meets all peers. The other engines meet the two that ratios are taken
    against, in their own process, so that each ratio is still one of the same run.
    """
    files_pace = {
        "slice_seconds": 0.0,
        "budget_seconds": scale.file_budget_seconds,
        "rounds_min": scale.file_rounds_min,
        "rounds_max": 15,
        "warm": True,
    }
    starts = {**files_pace, "warm": False, "rounds_min": scale.starts, "rounds_max": scale.starts}
    jobs: list[Job] = []
    spare: list[Job] = []
    arguments: dict[str, Any]
    for engine in ENGINES:
        first = engine == DEFAULT
        peers = None if first else [AESGCM, COBBLESTONE]
        pace = {
            "slice_seconds": scale.slice_seconds,
            "budget_seconds": scale.budget_seconds * (1 if first else 0.5),
            "rounds_min": scale.rounds_min,
            "rounds_max": scale.rounds_max,
        }
        if not first:
            # A new one: the jobs before keep theirs.
            files_pace = {
                **files_pace,
                "budget_seconds": scale.file_budget_seconds / 3,
                "rounds_min": 2,
            }
        for size in scale.sizes:
            if engine == "aws-lc" and size > SMALL_MAX:
                continue
            arguments = {"size": size, "peers": peers, "pace": pace}
            jobs.append(Job(f"buffers of {size} bytes", engine, "works", "buffers", arguments))
        arguments = {"count": scale.batch, "size": 256, "peers": peers, "pace": pace}
        jobs.append(Job("batches", engine, "works", "batches", arguments))
        if engine == "aws-lc":
            continue
        for size in (64, KIB):
            arguments = {"size": size, "pace": pace}
            jobs.append(Job(f"keysets, {size} bytes", engine, "works", "keysets", arguments))
        on_disk = jobs if first else spare
        besides = [files.AGE, files.OPENSSL] if first else []
        arguments = {"size": scale.file, "folder": folder, "peers": besides, "pace": files_pace}
        on_disk.append(Job("files", engine, "files", "files", arguments, not first))
        if first:
            # What the disk hides: age doesn't wait for it.
            arguments = {**arguments, "folder": files.MEMORY_FOLDER, "peers": [files.AGE]}
            arguments |= {"label": files.IN_MEMORY, "size": scale.file // 4}
            arguments["pace"] = {**files_pace, "budget_seconds": scale.file_budget_seconds / 4}
            jobs.append(Job("files in memory", engine, "files", "files", arguments))
        # Their memory is little, but each round leaves as many files as that.
        tree_pace = {**files_pace, "warm": False, "rounds_max": 7}
        arguments = {"count": scale.tree, "size": 4 * KIB, "folder": folder, "pace": tree_pace}
        on_disk.append(Job("tree", engine, "files", "tree", arguments, not first))
        arguments = {"size": scale.file, "folder": folder, "pace": pace}
        on_disk.append(Job("random reads", engine, "files", "random_reads", arguments, not first))
    arguments = {"folder": folder, "pace": starts}
    jobs.append(Job("start-up", DEFAULT, "process", "startup", arguments))
    for size in scale.memory:
        arguments = {"size": size, "folder": folder}
        jobs.append(Job(f"memory, {size} bytes", DEFAULT, "process", "memory", arguments))
    arguments = {"total": scale.whole, "folder": folder}
    jobs.append(Job("held up", DEFAULT, "process", "held_up", arguments))
    for module in further.modules():
        jobs += module.jobs(scale, folder)
    return jobs + spare


def run(
    *,
    quick: bool,
    folder: str,
    only: Callable[[Job], bool] | None = None,
    progress: Callable[[int, int, Job], None] | None = None,
) -> dict[str, Any]:
    """Run all jobs and return one document.

    Args:
        quick: Small sizes and few rounds: half a minute instead of ten.
        folder: Where files are written and removed again.
        only: Says which jobs are run, or None for all.
        progress: Called with number done, number of all, and the job that begins.

    Returns:
        What `strongroom bench --json` writes: `schema`, `quick`, `machine`, `versions`, `build`,
        `engines` (for each its `build` and `groups`, times in seconds), `left_out` (what could
        not take part, by name, and why), `failed` (jobs that raised), `memory`, `held_up`,
        `chunks_read`, `jobs` (seconds that each took), `seconds`.
    """
    started = time.monotonic()
    ticks = machine.processor_times()
    document: dict[str, Any] = {"schema": SCHEMA, "quick": quick, **machine.describe(folder)}
    document |= {"engines": {}, "left_out": {}, "failed": {}, "memory": {}, "held_up": {}}
    document |= {"chunks_read": {}, "jobs": {}}
    scale = QUICK if quick else FULL
    jobs = [job for job in plan(scale, folder) if only is None or only(job)]
    for number, job in enumerate(jobs):
        if progress is not None:
            progress(number, len(jobs), job)
        begun = time.monotonic()
        usual = document["jobs"].get(f"{job.name} ({DEFAULT})", 0)
        if job.spare and begun - started + usual > scale.seconds:
            document["left_out"][f"{job.name} ({job.engine})"] = "the run took too long already"
            continue
        try:
            result = run_job(job)
        except JobFailed as error:
            document["failed"][f"{job.name} ({job.engine})"] = str(error)
            continue
        document["jobs"][f"{job.name} ({job.engine})"] = round(time.monotonic() - begun, 1)
        _merge(document, job, result)
    document["machine"]["load_after"] = os.getloadavg()[0]
    document["machine"]["stolen"] = _stolen(ticks, machine.processor_times())
    document["seconds"] = round(time.monotonic() - started, 1)
    return document


class JobFailed(RuntimeError):
    """A job's process did not end well; the text is the end of what it said."""


def run_job(job: Job, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run one job in a process of its own and return its result.

    Args:
        job: What to run. Its engine is forced unless it is the default one.
        env: Variables beside those of this process.

    Raises:
        JobFailed: The process failed or said nothing.
    """
    variables = {k: v for k, v in os.environ.items() if k != "STRONGROOM_ENGINE"}
    if job.engine != DEFAULT:
        variables["STRONGROOM_ENGINE"] = job.engine
    variables |= dict(env or {})
    asked = {"module": job.module, "work": job.work, "arguments": job.arguments}
    child = Path(__file__).with_name("child.py")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-P", str(child)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=variables,
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-6:])
        raise JobFailed(last or f"ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _stolen(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Return the share of the processors' time that the machine's host took away."""
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def _merge(document: dict[str, Any], job: Job, result: dict[str, Any]) -> None:
    engine = document["engines"].setdefault(job.engine, {"build": result["build"], "groups": {}})
    engine["groups"] |= result["groups"]
    if job.engine == DEFAULT:
        document["left_out"] |= result["left_out"]
    for name in ("memory", "held_up"):
        document[name] |= result.get(name, {})
    if result.get("chunks_read") is not None:
        document["chunks_read"][job.engine] = result["chunks_read"]


def warnings_of(document: Mapping[str, Any]) -> list[str]:
    """Return what makes the figures of a document not count, in sentences."""
    found = []
    profile = document["build"]["profile"]
    if profile != RELEASE:
        found.append(
            f"the extension was built with the profile {profile!r}, not {RELEASE!r}: without fat "
            "link-time optimisation records take up to three times as long. No figure counts"
        )
    cpus = document["machine"]["cpus"] or 1
    if document["machine"]["load_before"] > LOAD_MAX:
        found.append(
            f"the load was {document['machine']['load_before']:.2f} on {cpus} CPUs when the run "
            "began: somebody else was working"
        )
    stolen = document["machine"].get("stolen")
    if stolen is not None and stolen > STOLEN_MAX:
        found.append(f"the machine's host took {stolen:.0%} of the processors' time away")
    return found
