"""`convert-checkpoint`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porting.cli.common import common_options, reporting_errors
from porting.output import Output, file_size

if TYPE_CHECKING:
    from porting.convert import Checked, Conversion
    from porting.tokenizer_files import TokenizerFiles


@click.command(
    "convert-checkpoint",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  convert-checkpoint t5-small/model.ckpt-1000000 converted/t5-small
  convert-checkpoint t5-small/ converted/t5-small --dry-run
  convert-checkpoint mt5/ converted/mt5 --config mt5/operative_config.gin --dtype bfloat16
  convert-checkpoint t5-small/ converted/t5-small --format json | jq .bytes
  convert-checkpoint converted/t5-small back/t5-small --to mesh
  convert-checkpoint t5_1_1_small/checkpoint_1000000 converted/t5x-small --config t5_1_1_small/config.gin
  convert-checkpoint --check converted/t5-small

\b
Exit codes: 0 converted, or intact; 2 the checkpoint or an option cannot be used, or a checked directory is
not what it was.""",
)
@click.argument("source", type=click.Path(), required=False)
@click.argument("output_dir", type=click.Path(), required=False)
@click.option(
    "--config",
    type=click.Path(),
    help="The original's gin file or a config.json.  [default: the one beside the checkpoint, else inferred]",
)
@click.option(
    "--to",
    metavar="FORMAT",
    default="pytorch",
    show_default=True,
    help="What to write: pytorch, or a format of the original: for T5 mesh, t5x or t5x-scanned.",
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
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Read everything back and compare it with the source, through the inverse of every op.",
)
@click.option(
    "--tokenizer/--no-tokenizer",
    default=True,
    show_default=True,
    help="Bring the tokenizer that lies beside the source along.",
)
@click.option(
    "--check",
    type=click.Path(),
    metavar="DIR",
    help="Convert nothing: hold a directory that was converted against its porting.json.",
)
@common_options
def convert_checkpoint_command(
    source: str | None,
    output_dir: str | None,
    check: str | None,
    style: str,
    debug: bool,
    **options: Any,
) -> None:
    """Convert the checkpoint SOURCE into the model directory OUTPUT_DIR, or back.

    SOURCE is a checkpoint prefix (model.ckpt-1000) or the directory that holds it: then the newest one that
    its `checkpoint` file names, else the only one. It may also be a model directory of transformers
    (safetensors or pytorch_model.bin), or a checkpoint of T5X, Flax or Orbax: a directory checkpoint_N, the
    one that holds some of them, or a msgpack file. Every variable must have a home and every parameter a
    source, of the right shape; otherwise all that does not fit is listed and nothing is written.

    OUTPUT_DIR appears when it is whole. Until then it is called OUTPUT_DIR.unfinished; after a kill, the same
    command goes on from there. porting.json in it says what it was made from, and how.
    """
    if check is not None:
        if source is not None:
            raise click.UsageError("--check takes the directory, and nothing else: --check DIR")
        _check(check, Output(style), debug=debug)
        return
    if source is None or output_dir is None:
        missing = "SOURCE" if source is None else "OUTPUT_DIR"
        raise click.UsageError(f"Missing argument '{missing}'.")
    # Nothing multiplies matrices here, and the threads that NumPy starts for it spin while they wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
        output.result(conversion.to_json(), _conversion_lines(conversion, source, options.get("config")))


def _check(directory: str, output: Output, *, debug: bool) -> None:
    with reporting_errors(output, debug):
        from porting.convert import check_directory

        with output.progress() as progress:
            checked = check_directory(
                directory,
                on_start=lambda nbytes: progress.stage("checking", nbytes),
                on_file=lambda _name, nbytes: progress.advance(nbytes),
            )
        output.result(checked.to_json(), _checked_lines(checked))


def _checked_lines(checked: Checked) -> Iterator[str]:
    files, manifest = len(checked.files), checked.manifest
    yield f"{checked.directory} is as it was made: {files} files, {file_size(checked.nbytes)}"
    source = manifest.get("source", {})
    yield f"Made {manifest.get('time')} from {source.get('path')} ({source.get('format')})"
    verified = "yes" if manifest.get("verified") else "no (--no-verify)"
    yield f"Read back and compared with its source when it was made: {verified}"
    if checked.others:
        yield f"Not in its manifest: {', '.join(checked.others)}"


def _conversion_lines(conversion: Conversion, source: str, config: str | None) -> Iterator[str]:
    resolved, plan = conversion.resolved, conversion.plan
    if conversion.status == "planned":
        from porting.plan_table import plan_lines

        yield from plan_lines(
            plan,
            bytes_read=conversion.bytes_read,
            bytes_written=conversion.nbytes,
            bytes_ignored=conversion.bytes_ignored,
        )
        yield ""
    elif conversion.begun == "continued":
        yield (
            f"Went on with an unfinished conversion: {conversion.kept} of {len(plan.entries)} tensors were "
            "in their place already"
        )
    elif conversion.begun == "restarted":
        yield "Began again: what lay unfinished there was another conversion"
    done = "Would write" if conversion.status == "planned" else "Wrote"
    verified = ", read back and compared with the source" if conversion.verified else ""
    size = file_size(conversion.nbytes)
    yield f"{done} {len(plan.entries)} tensors, {size}{verified}, to {conversion.output}"
    if conversion.checkpoint != Path(source):
        yield f"Read: {conversion.checkpoint}"
    yield f"Config: {resolved.origin}"
    yield from (f"  inferred: {line}" for line in resolved.inferred)
    yield from (f"  assumed:  {line}" for line in resolved.assumed)
    if conversion.status == "converted":
        ignored = ", ".join(f"{reason} ({count})" for reason, count in plan.ignored_counts().items())
        yield f"Left out: {ignored or 'nothing'}"
        yield from (f"Note: {line}" for line in conversion.notes)
        yield from _tokenizer_lines(conversion.tokenizer)
        pair = (source, str(conversion.output))
        back = conversion.to != "pytorch"
        # What was answered once is not in the checkpoint: the original has to be told again.
        told = () if config is None or back else ("--config", config)
        yield f"Prove it: {shlex.join(['compare-outputs', *(reversed(pair) if back else pair), *told])}"


def _tokenizer_lines(tokenizer: TokenizerFiles | None) -> Iterator[str]:
    if tokenizer is None or not tokenizer.files:
        return
    alike = f"; it reads {tokenizer.texts} texts as the original's does" if tokenizer.texts else ""
    yield f"Tokenizer: {', '.join(sorted(tokenizer.files))}{alike}"
    yield from (f"  {note}" for note in tokenizer.notes)
