"""Writes benches/REPORT.md from a document of the bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strongroom.bench import runner, tables, targets

_HOW = """\
Written by `make bench`; the notes at the end are kept by hand in `benches/NOTES.md`.

Ratios are ratios of medians of the same turns: within one process the contenders take turns, a
turn is 10 ms of one of them (one operation where that takes longer, after one that is not timed),
another one begins each round, and nothing sleeps between turns. Files have a round before that
isn't counted; where three rounds would take twice their time it counts, and nothing goes untimed
before the turns that follow. Each engine has processes of its own, with the peers in them. Files
are written to names that were unlinked just before, after a sync of the file system that isn't
timed: whoever syncs next would pay for blocks given back and for what others left unwritten.
Nothing is measured against a figure of another run. Records carry a random nonce, their key id and
a key commitment; `AESGCM` is given a random nonce (`os.urandom(12)`), and neither stores nor binds
anything else.

"Control" is what two Python threads of `AESGCM.encrypt_into` gave over one, in the same turns: what
the machine had to give to a row that uses two cores. Such rows hold where it is 1.7 or more; below
that the ratio is shown all the same, and a row that falls short says "control too low"."""


def render(document: Mapping[str, Any], notes: str) -> str:
    """Return the whole report.

    Args:
        document: What `runner.run` returned, perhaps with `criterion`.
        notes: Markdown that is put at the end.
    """
    parts = ["# What was measured", _HOW]
    warnings = runner.warnings_of(document)
    if document["quick"]:
        warnings.append("a quick run: small sizes, few rounds")
    warnings += [f"failed: {name}: `{why}`" for name, why in document["failed"].items()]
    if warnings:
        parts.append("\n".join(f"> **Beware:** {warning}." for warning in warnings))
    parts += ["## Rows", _verdicts(document), tables.markdown(tables.row_table(document))]
    parts += ["## Machine and versions", _machine(document)]
    parts += ["## Throughput against size"]
    for work in ("encrypt", "decrypt"):
        parts += [f"![{work}]({work}.svg)", tables.markdown(tables.rate_table(document, work))]
    parts += ["## Groups, default engine"]
    groups = document["engines"].get("default", {}).get("groups", {})
    for name, group in groups.items():
        words = name.split(" ")
        if len(words) == 3 and words[0] in ("encrypt", "decrypt"):
            continue  # in the tables above
        control = targets.control_of(groups, name)
        beside = "" if control is None else f"Control: {control:.2f}.\n\n"
        parts.append(f"### {name}\n\n{beside}" + tables.markdown(tables.group_table(group)))
    if document["memory"]:
        parts += [
            "## Peak memory",
            "By the kernel's high-water mark, over the idle interpreter with the package imported.",
            tables.markdown(tables.memory_table(document)),
        ]
    if document["held_up"]:
        parts += [
            "## How long another Python thread is held up",
            "A thread that does nothing but look at the clock, while the call runs. It waits for "
            "the GIL, which the call holds, and for a core, which the kernel gives: with a worker "
            "on each core, and on a virtual machine, that is the larger part. The kernel counts "
            "the wait for a core (schedstat); what is left of each pause is the first column, but "
            "for pauses in which the thread gave up no core: the machine's host made those, and "
            "the second column has them. The control drops the GIL for its whole call. A call "
            "that was above 10 ms is run again, up to five times, and its best is shown: a pause "
            "of the call's own would be in each.",
            tables.markdown(tables.held_up_table(document)),
        ]
    if document.get("criterion"):
        parts += ["## The core without Python", _criterion(document["criterion"])]
    elif "criterion" in document:
        parts += ["## The core without Python", "Left out: there is no cargo here."]
    parts += ["## Left out", _left_out(document)]
    parts.append(notes.strip())
    return "\n\n".join(parts) + "\n"


def _verdicts(document: Mapping[str, Any]) -> str:
    rows = targets.rows(document)
    counts = {
        verdict: sum(row.verdict == verdict for row in rows)
        for verdict in (
            targets.REACHED,
            targets.SHORT,
            targets.NO_VERDICT,
            targets.NOT_MEASURED,
        )
    }
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return (
        f"{len(rows)} rows: {words}. The last columns show the same with an engine forced by "
        "`STRONGROOM_ENGINE`; the default one counts."
    )


def _machine(document: Mapping[str, Any]) -> str:
    machine, build = document["machine"], document["build"]
    features = " ".join(build["cpu_features"])
    rows = [
        ["processor", f"{machine['cpu']}, {machine['cpus']} CPUs"],
        ["memory", f"{machine['memory_bytes'] / (1 << 30):.1f} GiB"],
        ["transparent huge pages", machine["transparent_huge_pages"] or "unknown"],
        ["system", machine["system"]],
        ["file system", machine["file_system"]],
        ["load before and after", f"{machine['load_before']:.2f}, {machine['load_after']:.2f}"],
        ["taken by the host", _share(machine.get("stolen"))],
        ["engine", f"{build['engine']}; CPU has {features}"],
        ["threads", str(build["threads"])],
        ["build profile", build["profile"]],
        ["time taken", f"{document['seconds']:.0f} s"],
    ]
    rows += [[name, version or "not installed"] for name, version in document["versions"].items()]
    return tables.markdown((["", ""], rows))


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%} of the processors' time"


def _criterion(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, value in found.items():
        rate = tables.rate_words(value["size"] / value["seconds"]) if value["size"] else ""
        rows.append([name, tables.seconds(value["seconds"]), rate])
    return tables.markdown((["criterion", "median", "rate"], rows))


def _left_out(document: Mapping[str, Any]) -> str:
    if not document["left_out"]:
        return "Nothing: all peers were there."
    return "\n".join(f"- {name}: {why}" for name, why in document["left_out"].items())
