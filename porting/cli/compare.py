"""`compare-outputs`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from porting.cli.common import common_options, reporting_errors
from porting.errors import EXIT_DIVERGED, EXIT_OK, PortingError
from porting.output import Output


@click.command(
    "compare-outputs",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  compare-outputs t5-small/ converted/t5-small
  compare-outputs t5-small/ converted/t5-small --random 4x256 --seed 7 --atol 1e-4
  compare-outputs t5-small/ converted/t5-small --inputs batch.npz --save-traces traces
  compare-outputs t5-small/ converted/t5-small --reference-trace traces/reference
  compare-outputs t5x/checkpoint_0 converted/t5x --reference-trace t5x/recorded.npz
  compare-outputs t5-small/ converted/t5-small --strict --format json | jq '.faults[].cause'
  compare-outputs t5-small/ converted/t5-small --backward
  compare-outputs t5-small/ converted/t5-small --generate beam --num-beams 4 --max-new-tokens 24
  compare-outputs t5-small/ converted/t5-small --search 20


Exit codes: 0 every tensor within the tolerance, 1 a tensor (or a gradient, or what was generated)
diverged, 2 something given cannot be used, 3 the comparison cannot be trusted (a tap on one side
only, a run that does not repeat itself or changes when it is listened to, NaN in the original).""",
)
@click.argument("source", type=click.Path())
@click.argument("model_dir", type=click.Path())
@click.option(
    "--inputs",
    "inputs_file",
    type=click.Path(),
    help="An .npz or .json with `inputs` and `targets`, ints [batch, length]; 0 is padding.",
)
@click.option("--random", "random_shape", metavar="BATCHxLENGTH", help="Random ids.  [default: 3x160]")
@click.option("--seed", default=0, show_default=True, help="Of the random ids.")
@click.option("--atol", default=1e-3, show_default=True, help="Largest absolute difference that is a match.")
@click.option("--backward", is_flag=True, help="Compare the gradients of the loss too.")
@click.option(
    "--gradient-tolerance",
    default=1e-3,
    show_default=True,
    help="Largest difference of a gradient that is a match, relative to the original's largest.",
)
@click.option("--config", type=click.Path(), help="The original's config, as in convert-checkpoint.")
@click.option(
    "--report-dir", type=click.Path(), default="reports", show_default=True, help="Where reports are written."
)
@click.option(
    "--search",
    type=click.IntRange(min=1),
    metavar="N",
    help="Try N further inputs chosen to hurt; shrink one that fails, and write a test of it.",
)
@click.option(
    "--search-budget",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds for the search.",
)
@click.option("--save-traces", type=click.Path(), help="Keep both traces, in DIR/reference and DIR/port.")
@click.option(
    "--reference-trace",
    type=click.Path(),
    help="Compare with a trace made before, or a recorded run (recorded.npz, or its directory), and do"
    " not run the original.",
)
@click.option(
    "--reference-python",
    type=click.Path(),
    envvar="PORTING_REFERENCE_PYTHON",
    help="The Python of an environment in which the original is installed.  [default: this one]",
)
@click.option(
    "--analyse/--no-analyse",
    default=True,
    show_default=True,
    help="Find what is wrong by itself, what rounding explains, and why; and whether listening"
    " changes anything.",
)
@click.option(
    "--noise-times",
    type=float,
    help="How many times what rounding explains a tensor's own difference may be."
    "  [default: 32; 4 for bfloat16 and float16]",
)
@click.option(
    "--strict", is_flag=True, help="Exit with 1, too, where rounding does not explain a difference."
)
@click.option(
    "--generate",
    type=click.Choice(["greedy", "beam"]),
    help="Compare what both generate too, token by token.",
)
@click.option("--max-new-tokens", type=int, help="With --generate: how many at most.  [default: 32]")
@click.option("--num-beams", type=int, help="With --generate beam.  [default: 4]")
@common_options
def compare_outputs_command(
    source: str,
    model_dir: str,
    inputs_file: str | None,
    random_shape: str | None,
    seed: int,
    reference_trace: str | None,
    search: int | None,
    style: str,
    debug: bool,
    strict: bool,
    **options: Any,
) -> None:
    """Run the original on SOURCE and the port on MODEL_DIR, and compare every tensor in between.

    Both get the same input IDs and run in float32. The first tensor that differs by more than the tolerance
    is named, in the order in which the original computes them. Then each tensor is computed from the
    original's inputs, which tells the tensors that are wrong by themselves from those that inherit it; their
    causes are looked for, and named when mending them brings parity back.
    """
    output = Output(style)
    with reporting_errors(output, debug):
        from porting.errors import InputError
        from porting.given_reference import open_given
        from porting.inputs import parse_random, read_inputs
        from porting.model_dir import read_config
        from porting.trace import Trace
        from porting.workbench import compare_outputs

        if inputs_file and random_shape:
            raise InputError("Give --inputs or --random, not both.")
        inputs = read_inputs(inputs_file) if inputs_file else None
        if random_shape:
            port, config = read_config(Path(model_dir))
            inputs = port.random_inputs(config, *parse_random(random_shape), seed)
        reference = open_given(reference_trace) if reference_trace else source
        kept = isinstance(reference, Trace)
        # Of a recorded run it says the config, and that the weights are those that were recorded.
        wanted = reference_trace and (options["analyse"] or not kept)
        checkpoint = _checkpoint_at(source, output) if wanted else None
        with output.progress() as progress:
            comparison = compare_outputs(
                reference,
                model_dir,
                inputs,
                seed=seed,
                checkpoint=checkpoint,
                search=search or 0,
                command=shlex.join(["compare-outputs", *sys.argv[1:]]),
                on_stage=progress.stage,
                on_row=progress.row,
                on_tensor=progress.tensor,
                **options,
            )
        recorded = comparison.provenance.get("reference", {}).get("recorded")
        if recorded and not reference_trace:
            said = f"its recorded run beside the checkpoint ({recorded['file']}) stands for it"
            output.hint(f"The original did not run: {said}.")
        from porting.report.terminal import screen_lines

        output.result(comparison.to_json(), screen_lines(comparison))
        searched = comparison.search.failing if comparison.search else ()
        beyond_rounding = comparison.faults or searched
        sys.exit(comparison.exit_code or (EXIT_DIVERGED if strict and beyond_rounding else EXIT_OK))


def _checkpoint_at(source: str, output: Output) -> str | None:
    """SOURCE, if it can be read: beside a trace it is not needed, and tells more about wrong weights."""
    from porting.checkpoint import open_checkpoint

    try:
        open_checkpoint(source)
    except PortingError as error:
        output.hint(f"Weights are not checked against the checkpoint: {error.message}")
        return None
    return source
