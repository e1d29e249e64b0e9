"""`compare-reports`."""

from __future__ import annotations

import sys

import click

from porting.cli.common import common_options, reporting_errors
from porting.output import Output


@click.command(
    "compare-reports",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  compare-reports main/t5-small.json reports/t5-small.json
  compare-reports main/reports reports
  compare-reports before.json after.json --factor 4 --format json | jq .reports[].worse

\b
Exit codes: 0 nothing got worse, 1 something did, 2 the reports cannot be compared: one cannot be read,
or they are of different checkpoints, inputs or tolerances.""",
)
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@click.option(
    "--factor",
    default=2.0,
    show_default=True,
    help="A difference counts as grown or shrunk beyond so many times, above its noise floor.",
)
@click.option("--unlike", is_flag=True, help="Compare reports of different things all the same.")
@common_options
def compare_reports_command(old: str, new: str, factor: float, unlike: bool, style: str, debug: bool) -> None:
    """Say what got better and what got worse between two reports of compare-outputs.

    OLD and NEW are two JSON reports, or two directories: then all reports of the same name are compared.
    """
    output = Output(style)
    with reporting_errors(output, debug):
        from porting.report.changes_text import change_lines
        from porting.report.reports_beside import compare_reports

        found = compare_reports(old, new, factor=factor, unlike=unlike)
        output.result(found.to_json(), change_lines(found))
        sys.exit(found.exit_code)
