"""How text becomes ids. Delete this file where the model reads none, and say so in port.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from porting.scaffold import UnfinishedError
from porting.tokenizer import Tokenizer


def run_reference(request: Mapping[str, Any]) -> None:
    """Let the original's tokenizer read texts, in the reference process; see `porting.tokenizer`."""
    raise UnfinishedError(
        "Let the original's own tokenizer read request['texts'], and write a JSON list of lists of ids to"
        " request['output']. Its vocabulary lies beside request['checkpoint']."
    )


def encode(directory: Path, text: str) -> Sequence[int]:
    """The port's ids of a text; `directory` holds the checkpoint and its vocabulary."""
    raise UnfinishedError("Use the tokenizer that users of the port will use, such as transformers'.")


TOKENIZER = Tokenizer(reference=f"{__name__}:run_reference", encode=encode)
