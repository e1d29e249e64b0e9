"""The commands: parse, call one function, render, exit.

Nothing heavy is imported before the arguments have been read: `--help` loads neither PyTorch nor TensorFlow.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from porting import __version__
from porting.errors import EXIT_DIVERGED, EXIT_OK, EXIT_UNTRUSTED, PortingError
from porting.output import FORMATS, Output, file_size, table

if TYPE_CHECKING:
    from porting.convert import Conversion

Command = TypeVar("Command", bound=Callable[..., Any])
_INTERRUPTED = 130  # as shells say SIGINT
_BROKEN_PIPE = 141  # as shells say SIGPIPE


def _common(command: Command) -> Command:
    """Options that every command takes."""
    for option in (
        click.version_option(__version__, "--version", prog_name="porting"),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        click.option(
            "--format",
            "style",
            type=click.Choice(FORMATS),
            default="human",
            show_default=True,
            help="What to print: text, one JSON object, or nothing.",
        ),
    ):
        command = option(command)
    return command


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
@_common
def convert_checkpoint_command(source: str, output_dir: str, style: str, debug: bool, **options: Any) -> None:
    """Convert the checkpoint SOURCE into the model directory OUTPUT_DIR.

    SOURCE is a checkpoint prefix (model.ckpt-1000) or the directory that holds it: then the newest one that
    its `checkpoint` file names, else the only one. Every variable must have a home and every parameter a
    source, of the right shape; otherwise all that does not fit is listed and nothing is written.
    """
    output = Output(style)
    with _reporting_errors(output, debug):
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


@click.command(
    "compare-outputs",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  compare-outputs t5-small/ converted/t5-small
  compare-outputs t5-small/ converted/t5-small --random 4x256 --seed 7 --atol 1e-4
  compare-outputs t5-small/ converted/t5-small --inputs batch.npz --save-traces traces
  compare-outputs t5-small/ converted/t5-small --reference-trace traces/reference
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
    help="Compare with a trace made before, and do not run the original.",
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
@_common
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
    with _reporting_errors(output, debug):
        from porting.errors import InputError
        from porting.inputs import parse_random, read_inputs
        from porting.model_dir import read_config
        from porting.trace import read_trace
        from porting.workbench import compare_outputs

        if inputs_file and random_shape:
            raise InputError("Give --inputs or --random, not both.")
        inputs = read_inputs(inputs_file) if inputs_file else None
        if random_shape:
            port, config = read_config(Path(model_dir))
            inputs = port.random_inputs(config, *parse_random(random_shape), seed)
        reference = read_trace(reference_trace) if reference_trace else source
        checkpoint = _checkpoint_at(source, output) if reference_trace and options["analyse"] else None
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
                on_row=lambda _row: progress.advance(),
                **options,
            )
        from porting.report.terminal import summary_lines

        output.result(comparison.to_json(), summary_lines(comparison))
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


@contextmanager
def _reporting_errors(output: Output, debug: bool) -> Iterator[None]:
    """Our own errors become one message and their exit code; anything else is a bug, and is no verdict."""
    try:
        yield
    except PortingError as error:
        if debug:
            traceback.print_exc()
        output.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        output.hint("Interrupted; nothing was left half-written.")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has read enough: `convert-checkpoint ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE)
    except Exception as error:
        if debug:
            traceback.print_exc()
        name = type(error).__name__
        output.error(
            PortingError(
                f"This is a bug in porting: {name}: {error}",
                remedy="Please report it with the output of the same command and --debug.",
            )
        )
        sys.exit(EXIT_UNTRUSTED)
