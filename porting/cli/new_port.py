"""`new-port`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from porting.cli.common import common_options, reporting_errors
from porting.errors import EXIT_DIVERGED, EXIT_OK, InputError
from porting.output import Output, table

if TYPE_CHECKING:
    from porting.scaffold.steps import StepResult
    from porting.scaffold.write import NewPort


@click.command(
    "new-port",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  new-port gpt2                          # a package of its own, in ./gpt2
  new-port gpt2 --to ~/ports/gpt2
  new-port gpt2 --in-tree                # into porting/ports, in a clone of this project
  new-port --status gpt2                 # how far it is, and what to do next
  new-port --status gpt2 --format json


Exit codes: 0 written, or every step is done; 1 a step is still to be done; 2 something given cannot
be used.""",
)
@click.argument("name")
@click.option(
    "--to", "directory", type=click.Path(path_type=Path), help="Where to write it.  [default: NAME]"
)
@click.option("--in-tree", is_flag=True, help="Write it into this project's repository.")
@click.option("--status", "show_status", is_flag=True, help="Show how far the port NAME is.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="With --status: where traces of the original are kept.  [default: where its tests keep them]",
)
@common_options
def new_port_command(
    name: str,
    directory: Path | None,
    in_tree: bool,
    show_status: bool,
    cache: Path | None,
    style: str,
    debug: bool,
) -> None:
    """Begin a port called NAME: config, rules, model, taps, reference, tests, and a list of steps.

    Its tests run at once, and fail one after the other: the first step that is not done says what to do
    next and in which file, the others wait. With --status the same steps are looked at and listed.
    """
    output = Output(style)
    with reporting_errors(output, debug):
        if show_status:
            if directory or in_tree:
                raise InputError("--status looks at a port that is installed; leave out --to and --in-tree.")
            results, checkpoint = _look(name, cache, output)
            done = all(result.status in ("done", "not applicable") for result in results)
            content = {
                "schema_version": 1,
                "status": "complete" if done else "unfinished",
                "port": name,
                "checkpoint": checkpoint,
                "steps": [result.to_json() for result in results],
            }
            output.result(content, _status_lines(results, checkpoint))
            sys.exit(EXIT_OK if done else EXIT_DIVERGED)
        if cache:
            raise InputError("--cache is for --status.")
        from porting.scaffold.write import new_in_tree, new_package

        written = (
            new_in_tree(name, directory or Path()) if in_tree else new_package(name, directory or Path(name))
        )
        output.result(written.to_json(), _written_lines(written))


def _look(name: str, cache: Path | None, output: Output) -> tuple[Sequence[StepResult], str | None]:
    from porting.scaffold.steps import PortSteps
    from porting.testing.cache import ContentCache

    with output.progress() as progress:
        kept = ContentCache(cache) if cache else None
        steps = PortSteps(name, kept, lambda step: progress.stage(f"looking: {step.title}"))
        return steps.all(), steps.checkpoint


def _status_lines(results: Sequence[StepResult], checkpoint: str | None) -> Iterator[str]:
    rows = [(str(result.number), result.step.name, result.status, result.step.title) for result in results]
    yield from table(("", "step", "status", "done when"), rows)
    for result in results:
        if result.status == "not applicable":
            yield f"Step {result.number}, {result.step.name}, does not apply: {result.message}"
    if checkpoint:
        yield f"The original's checkpoint: {checkpoint}"
    todo = next((result for result in results if result.status == "next"), None)
    yield ""
    yield todo.message if todo else "Every step is done."


def _written_lines(written: NewPort) -> Iterator[str]:
    yield f"Wrote the port {written.name} to {written.directory} ({len(written.files)} files)."
    yield "Make it known, see its first step fail, and follow what it says:"
    yield f"  {written.install}"
    yield f"  {shlex.join(['pytest', str(written.tests)])}"
    yield f"  {shlex.join(['new-port', '--status', written.name])}"
