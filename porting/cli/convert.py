"""`convert-checkpoint`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from porting.cli.common import common_options, reporting_errors
from porting.output import Output, file_size, table

if TYPE_CHECKING:
    from porting.convert import Conversion


@click.command(
    "convert-checkpoint",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  convert-checkpoint t5-small/model.ckpt-1000000 converted/t5-small
  convert-checkpoint t5-small/ converted/t5-small --dry-run
  convert-checkpoint mt5/ converted/mt5 --config mt5/operative_config.gin --dtype bfloat16
  convert-checkpoint t5-small/ converted/t5-small --format json | jq .bytes

\b
Exit codes: 0 converted, 2 the checkpoint or an option cannot be used.""",
)
@click.argument("source", type=click.Path())
@click.argument("output_dir", type=click.Path())
@click.option(
    "--config",
    type=click.Path(),
    help="An operative_config.gin or a config.json.  [default: the one beside the checkpoint, else inferred]",
)
@click.option(
    "--dtype",
    type=click.Choice(["keep", "float32", "bfloat16", "float16"]),
    default="keep",
    show_default=True,
    help="Store weights in this type.",
)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Largest size of one weights file.")
@click.option("--dry-run", is_flag=True, help="Print the plan; read no tensor and write nothing.")
@click.option("--force", is_flag=True, help="Replace the model in OUTPUT_DIR; other files there are kept.")
@common_options
def convert_checkpoint_command(source: str, output_dir: str, style: str, debug: bool, **options: Any) -> None:
    """Convert the checkpoint SOURCE into the model directory OUTPUT_DIR.

    SOURCE is a checkpoint prefix (model.ckpt-1000) or the directory that holds it: then the newest one that
    its `checkpoint` file names, else the only one. Every variable must have a home and every parameter a
    source, of the right shape; otherwise all that does not fit is listed and nothing is written.
    """
    output = Output(style)
    with reporting_errors(output, debug):
        from porting.convert import convert_checkpoint

        with output.progress() as progress:
            conversion = convert_checkpoint(
                source,
                output_dir,
                **options,
                on_start=lambda nbytes: progress.stage("converting", nbytes),
                on_tensor=lambda _name, nbytes: progress.advance(nbytes),
            )
        output.result(conversion.to_json(), _conversion_lines(conversion, source))


def _conversion_lines(conversion: Conversion, source: str) -> Iterator[str]:
    resolved, plan = conversion.resolved, conversion.plan
    if conversion.status == "planned":
        rows = [
            (
                "+".join(entry.sources),
                "x".join(map(str, entry.source_shapes[0])),
                ", ".join(map(str, entry.ops)) or "-",
                entry.target,
                "x".join(map(str, entry.target_shape)),
            )
            for entry in plan.entries
        ]
        yield from table(("variable", "shape", "ops", "parameter", "shape"), rows)
        yield ""
    done = "Would write" if conversion.status == "planned" else "Wrote"
    yield f"{done} {len(plan.entries)} tensors, {file_size(conversion.nbytes)}, to {conversion.output}"
    yield f"Config: {resolved.origin}"
    yield from (f"  inferred: {line}" for line in resolved.inferred)
    yield from (f"  assumed:  {line}" for line in resolved.assumed)
    ignored = ", ".join(f"{reason} ({count})" for reason, count in plan.ignored_counts().items())
    yield f"Left out: {ignored or 'nothing'}"
    if conversion.status == "converted":
        yield f"Prove it: {shlex.join(['compare-outputs', source, str(conversion.output)])}"
