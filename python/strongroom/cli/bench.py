"""`strongroom bench`: this machine's figures, beside whatever peers are installed."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import click

from strongroom.cli import exitcodes, options
from strongroom.cli.exitcodes import CliError
from strongroom.cli.output import Output

if TYPE_CHECKING:
    from strongroom.bench.runner import Job


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes and few rounds: a minute, not ten.")
# Elsewhere --json is a flag for objects on stdout; here the document is large and goes to a file.
@click.option("json_file", "--json", metavar="FILE", type=options.PATH, help="Write all here.")
@click.option("--plot", metavar="FILE", type=options.PATH, help="Write a plot, .svg or .png.")
@click.option(
    "--folder",
    metavar="DIR",
    type=options.PATH,
    help="Where files are written and removed again: 4 GiB, quick 300 MiB [default: the "
    "system's temporary directory].",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_obj
def bench(
    out: Output,
    /,
    quick: bool,
    json_file: str | None,
    plot: str | None,
    folder: str | None,
    quiet: bool,
    debug: bool,
) -> int:
    """Measure records, buffers, batches, files and start-up, in turns with the peers.

    A peer that is not installed is named as left out. `pip install strongroom[bench]` brings
    them. Exit code 3 if a part of the bench failed.
    """
    # The name with a value says nothing about what goes to stdout.
    out.json, out.quiet, out.debug = False, quiet, debug
    from strongroom.bench import plot as plotting
    from strongroom.bench import runner, tables

    if plot is not None:
        try:
            plotting.check(plot)
        except plotting.PlotError as error:
            raise CliError(str(error), exitcodes.USAGE) from None

    def progress(number: int, count: int, job: Job) -> None:
        out.note(f"[{number + 1}/{count}] {job.name}, engine {job.engine}")

    document = runner.run(quick=quick, folder=folder or tempfile.gettempdir(), progress=progress)
    if json_file is not None:
        import json

        with open(json_file, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
    if plot is not None:
        plotting.write(document, plot)
    out.line(tables.summary(document))
    for warning in runner.warnings_of(document):
        out.warn(f"warning: {warning}")
    for name, why in document["failed"].items():
        out.warn(f"failed: {name}: {why}")
    return exitcodes.SOME_FAILED if document["failed"] else exitcodes.OK
