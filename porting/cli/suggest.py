"""`suggest-rules`."""

from __future__ import annotations

from pathlib import Path

import click

from porting.cli.common import common_options, reporting_errors
from porting.output import Output


@click.command(
    "suggest-rules",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  suggest-rules bert/bert_model.ckpt my_bert.py:build
  suggest-rules bert/bert_model.ckpt my_bert.py:build --output rules.py
  suggest-rules bert/ my_bert.py:build --weights known-good/model.safetensors
  suggest-rules t5-small/ t5 --format json | jq '.rules[] | select(.confidence < 0.9)'

\b
Exit codes: 0 proposed, whether complete or not; 2 something given cannot be used.""",
)
@click.argument("source", type=click.Path())
@click.argument("factory", metavar="MODULE:FACTORY")
@click.option(
    "--weights",
    type=click.Path(),
    help="Safetensors (a file, or a directory of them) with the module's weights, made from the same"
    " checkpoint: tensors are then matched by their values too.",
)
@click.option("--config", type=click.Path(), help="Of an installed port, as in convert-checkpoint.")
@click.option("--output", "-o", type=click.Path(), help="Write the file there.  [default: print it]")
@click.option("--force", is_flag=True, help="Replace the file that --output names.")
@common_options
def suggest_rules_command(
    source: str,
    factory: str,
    weights: str | None,
    config: str | None,
    output: str | None,
    force: bool,
    style: str,
    debug: bool,
) -> None:
    """Propose the rule table that would map the checkpoint SOURCE to a PyTorch module.

    MODULE:FACTORY is package.module:callable or file.py:callable, called without arguments and returning a
    torch.nn.Module; or the name of an installed port. Each rule has a confidence and what it rests on: names,
    shapes and, with --weights, values. The result is a Python file to edit. Nothing is ever converted by it.
    """
    sink = Output(style)
    with reporting_errors(sink, debug):
        from porting.suggest.files import check_writable, write_text
        from porting.suggest.render import python_file, summary_lines
        from porting.suggest.suggest import suggest_rules

        if output is not None:
            check_writable(Path(output), force=force)
        with sink.progress() as progress:
            suggestion = suggest_rules(
                source, factory, weights=weights, config=config, on_stage=progress.stage
            )
        content = python_file(suggestion, Path(source).name or source, factory.rpartition("/")[2])
        if output is not None:
            write_text(Path(output), content, force=force)
        summary = summary_lines(suggestion, output)
        sink.result({**suggestion.to_json(), "output": output}, summary if output else [content.rstrip("\n")])
        if output is None:
            for line in summary:
                sink.hint(line)
