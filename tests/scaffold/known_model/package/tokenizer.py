"""How text becomes ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from porting.tokenizer import Tokenizer


def run_reference(request: Mapping[str, Any]) -> None:
    import tiny_lm

    size = json.loads((Path(request["checkpoint"]).parent / "hparams.json").read_text())["n_vocab"]
    ids = [tiny_lm.encode(text, size) for text in request["texts"]]
    Path(request["output"]).write_text(json.dumps(ids))


def encode(directory: Path, text: str) -> Sequence[int]:
    size = json.loads((directory / "hparams.json").read_text())["n_vocab"]
    return [byte % (size - 2) + 2 for byte in text.lower().encode()] + [1]


TOKENIZER = Tokenizer(reference=f"{__name__}:run_reference", encode=encode)
