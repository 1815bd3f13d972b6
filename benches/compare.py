"""`make bench-compare REV=...`: this tree beside another revision, both built for release.

    python -m benches.compare REV [--rounds N] [--quick]

Both are built into folders of their own below .benchmarks, and the harness of this tree runs
against each in turn: processes alternate, another one first each round. In each process AESGCM is
measured too; "against AESGCM" is the change of the ratio to it, from which the machine's moods are
gone. A job that the other revision can't do is named.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from strongroom.bench import runner, tables
from strongroom.bench.measure import order
from strongroom.bench.peers import AESGCM
from strongroom.bench.runner import KIB, MIB, Job, JobFailed

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".benchmarks"
REFERENCE = "AESGCM"
# Of each side by group and contender, for each process: median and best, in seconds.
Samples = dict[str, dict[tuple[str, str], list[tuple[float, float]]]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.compare")
    parser.add_argument("rev", help="what git calls the other revision")
    parser.add_argument("--rounds", type=int, default=4, help="processes of each, a job")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller jobs")
    arguments = parser.parse_args()
    sha = _git("rev-parse", "--short=12", f"{arguments.rev}^{{commit}}")
    sides = {"rev": checkout(sha), "now": ROOT}
    sites = {name: build(name, tree) for name, tree in sides.items()}
    print(f"rev: {sha} {_git('log', '-1', '--format=%s', sha)}\nnow: this tree\n")
    samples: Samples = {"rev": {}, "now": {}}
    failed = set()
    every = jobs(arguments.quick)
    for turn in range(arguments.rounds):
        for job in every:
            for at in order(2, turn):
                name = ("rev", "now")[at]
                if sys.stdout.isatty():
                    print(f"\r[{turn + 1}/{arguments.rounds}] {job.name}, {name}\033[K", end="")
                try:
                    result = runner.run_job(job, {"PYTHONPATH": str(sites[name])})
                except JobFailed as error:
                    failed.add(f"{name}: {job.name}: {str(error).splitlines()[-1]}")
                    continue
                profile = result["build"]["profile"]
                if profile not in (runner.RELEASE, "unknown"):
                    sys.exit(f"compare: {name} was loaded with the profile {profile!r}")
                for group, contenders in result["groups"].items():
                    for contender, found in contenders.items():
                        key = (group, contender)
                        pair = (found["median"], found["best"])
                        samples[name].setdefault(key, []).append(pair)
    print("\r\033[K" if sys.stdout.isatty() else "", end="")
    print(tables.plain(table(samples)))
    for line in sorted(failed):
        print(f"failed: {line}")
    return 1 if failed else 0


def jobs(quick: bool) -> list[Job]:
    """Return what both revisions are asked to do."""
    pace = {"slice_seconds": 0.005, "budget_seconds": 0.6, "rounds_min": 5, "rounds_max": 15}
    turns = {"slice_seconds": 0.0, "budget_seconds": 4.0, "rounds_min": 3, "rounds_max": 9}
    folder = str(WORK)
    found = [
        Job(
            f"buffers of {size} bytes",
            runner.DEFAULT,
            "works",
            "buffers",
            {"size": size, "peers": [AESGCM], "pace": pace},
        )
        for size in ((64, KIB) if quick else (64, KIB, 64 * KIB, MIB, 64 * MIB))
    ]
    count = 1000 if quick else 100_000
    arguments = {"count": count, "size": 256, "peers": [AESGCM], "pace": pace}
    found.append(Job("batches", runner.DEFAULT, "works", "batches", arguments))
    arguments = {"size": 64, "pace": pace}
    found.append(Job("keysets", runner.DEFAULT, "works", "keysets", arguments))
    arguments = {"folder": folder, "pace": turns}
    found.append(Job("start-up", runner.DEFAULT, "process", "startup", arguments))
    if not quick:
        arguments = {"size": 256 * MIB, "folder": folder, "peers": False, "pace": turns}
        found.append(Job("files", runner.DEFAULT, "files", "files", arguments))
        arguments = {"count": 2000, "size": 4 * KIB, "folder": folder, "pace": turns}
        found.append(Job("tree", runner.DEFAULT, "files", "tree", arguments))
        arguments = {"size": 256 * MIB, "folder": folder, "pace": pace}
        found.append(Job("random reads", runner.DEFAULT, "files", "random_reads", arguments))
    return found


def table(samples: Samples) -> tables.Table:
    """Return medians side by side, and what this tree takes of the other's time.

    "by best" is the ratio of the best turns of all: what is left where others use the machine too.
    """
    rows = []
    for (group, contender), before in samples["rev"].items():
        after = samples["now"].get((group, contender))
        if after is None or not contender.startswith(("strongroom", "import", "open()")):
            continue
        rev, now = _median(before), _median(after)
        best = min(best for _, best in after) / min(best for _, best in before)
        row = [group, contender, tables.seconds(rev), tables.seconds(now), f"{now / rev:.3f}"]
        rows.append([*row, f"{best:.3f}", _against(samples, group, now / rev)])
    return ["group", "contender", "rev", "now", "now / rev", "by best", "against AESGCM"], rows


def _median(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(median for median, _ in pairs)


def _against(samples: Samples, group: str, change: float) -> str:
    for name in (REFERENCE, f"loop over {REFERENCE}"):
        before = samples["rev"].get((group, name))
        after = samples["now"].get((group, name))
        if before and after:
            return f"{change / (_median(after) / _median(before)):.3f}"
    return ""


def checkout(sha: str) -> Path:
    """Return a folder with the files of a revision."""
    tree = WORK / f"rev-{sha}"
    if not tree.exists():
        # An archive, not a work tree: git keeps no account of it, and it can be thrown away.
        tree.mkdir(parents=True)
        archive = subprocess.Popen(["git", "archive", sha], cwd=ROOT, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", str(tree)], stdin=archive.stdout, check=True)
        if archive.wait():
            shutil.rmtree(tree)
            sys.exit(f"compare: git archive {sha} failed")
    return tree


def build(name: str, tree: Path) -> Path:
    """Build a release wheel of a tree and unpack it into a folder for PYTHONPATH."""
    print(f"building {name}", flush=True)
    wheels, site = WORK / f"wheels-{name}", WORK / f"site-{name}"
    for folder in (wheels, site):
        shutil.rmtree(folder, ignore_errors=True)
    # One target directory: the dependencies are compiled once. What was made of the other tree lies
    # there under the same names, and cargo would take it for this one's.
    env = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / "target")}
    ours = ("-p", "strongroom-core", "-p", "strongroom-python")
    subprocess.run(["cargo", "clean", "-q", "--release", *ours], cwd=tree, env=env, check=True)
    maturin = Path(sys.executable).with_name("maturin")
    subprocess.run(
        [str(maturin), "build", "-q", "--release", "--locked", "--out", str(wheels)],
        cwd=tree,
        env=env,
        check=True,
    )
    [wheel] = wheels.glob("*.whl")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"),
            *("--target", str(site), str(wheel)),
        ],
        check=True,
    )
    # With their bytecode, or start-up would be measured with the compiler in it.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(site)], check=True)
    return site


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
