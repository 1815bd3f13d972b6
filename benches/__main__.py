"""`make bench`: everything, into benches/REPORT.md and its plots.

    python -m benches [--quick] [--no-rust] [--no-suites] [--from FILE.json]
                      [--report FILE] [--readme FILE]

The installed package is measured, which has to be a release build. The document behind the report
is left in .benchmarks/latest.json, the criterion estimates in target/criterion. README.md gets the
main plot and table, but not from a quick run or a report that goes elsewhere.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from strongroom.bench import machine, plot, runner, tables

from benches import criterion, readme, report

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".benchmarks"
REPORT = ROOT / "benches" / "REPORT.md"
README = ROOT / "README.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, for work on the bench")
    parser.add_argument("--no-rust", action="store_true", help="leave criterion out")
    parser.add_argument("--no-suites", action="store_true", help="leave pytest-benchmark out")
    parser.add_argument("--from", dest="source", metavar="FILE", help="write the report of this")
    parser.add_argument("--report", metavar="FILE", default=str(REPORT))
    parser.add_argument("--readme", metavar="FILE", help="whose marked place is filled")
    arguments = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    if arguments.source:
        document = json.loads(Path(arguments.source).read_text())
    else:
        profile = machine.build()["profile"]
        if profile != runner.RELEASE:
            sys.exit(
                f"benches: the extension has the profile {profile!r}; only release builds count "
                "(make bench builds one)"
            )
        document = measure(arguments)
    latest = WORK / "latest.json"
    latest.write_text(json.dumps(document, indent=1) + "\n")
    target = Path(arguments.report)
    target.parent.mkdir(parents=True, exist_ok=True)
    for work in ("encrypt", "decrypt"):
        plot.write(document, target.with_name(f"{work}.svg"), work)
    notes = ROOT / "benches" / "NOTES.md"
    target.write_text(report.render(document, notes.read_text()))
    place = Path(arguments.readme) if arguments.readme else README
    if arguments.readme or (target == REPORT and not document["quick"]):
        place.write_text(readme.refresh(place.read_text(), document))
    print(tables.summary(document))
    for warning in runner.warnings_of(document):
        print(f"\nWARNING: {warning}", file=sys.stderr)
    for name, why in document["failed"].items():
        print(f"\nFAILED: {name}: {why}", file=sys.stderr)
    print(f"\n{document['seconds']:.0f} s; {target}, {latest}")
    return 1 if document["failed"] else 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    def progress(number: int, count: int, job: runner.Job) -> None:
        print(f"[{number + 1}/{count}] {job.name}, engine {job.engine}", flush=True)

    document = runner.run(quick=arguments.quick, folder=str(WORK), progress=progress)
    if not arguments.no_rust:
        print("criterion", flush=True)
        document["criterion"] = criterion.run(ROOT)
    if not arguments.no_suites:
        print("pytest-benchmark", flush=True)
        output = WORK / "pytest-benchmark.json"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "benches", "-q", "--no-header"),
                *("-p", "no:cacheprovider", "--benchmark-only", "--benchmark-group-by=group"),
                *("--benchmark-columns=median,iqr,rounds", f"--benchmark-json={output}"),
                *(["--quick"] if arguments.quick else []),
            ],
            cwd=ROOT,
            stdout=(WORK / "pytest-benchmark.txt").open("w"),
            check=False,
        )
        if done.returncode:
            document["failed"]["pytest-benchmark"] = f"ended with {done.returncode}"
    return document


if __name__ == "__main__":
    sys.exit(main())
