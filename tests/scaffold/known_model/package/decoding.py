"""How the port and the original generate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.errors import InputError
from porting.generation.decoding import GREEDY, Decoding, GenerationSettings, Sequences
from porting.tap import Tap
from porting.trace import read_trace

from .config import Config

if TYPE_CHECKING:
    import torch

    from porting.inputs import Inputs

END = 1


def run_reference(request: Mapping[str, Any]) -> None:
    import tiny_lm

    from porting.references.tf1_compat import import_tf1

    ids = read_trace(request["inputs"]).inputs["inputs"]
    rows = [[int(i) for i in row if i] for row in ids]
    steps = request["generation"]["max_new_tokens"]
    said = tiny_lm.greedy(import_tf1(), request["checkpoint"], rows, request["config"], steps)
    Path(request["output"]).write_text(json.dumps(said))


def check(config: Config, inputs: Inputs, settings: GenerationSettings) -> None:
    length = inputs["inputs"].shape[1] + settings.max_new_tokens
    if settings.method != GREEDY or length > config.n_ctx:
        raise InputError(f"The original decodes greedily, up to {config.n_ctx} positions.")


def generate(module: torch.nn.Module, inputs: Inputs, settings: GenerationSettings) -> Sequences:
    said = module.generate(_tensor(inputs), max_new_tokens=settings.max_new_tokens)  # type: ignore[operator]
    rows = (row.tolist() for row in said)
    return tuple(tuple(row[: row.index(END) + 1] if END in row else row) for row in rows)


def forced(module: torch.nn.Module, inputs: Inputs, sequences: Sequences) -> torch.Tensor:
    import torch

    rows = []
    steps = max(map(len, sequences))
    for ids, said in zip(_tensor(inputs), sequences, strict=True):
        given = ids[ids != 0]
        padded = [*said, *[0] * (steps - len(said))]
        logits = module(torch.cat([given, torch.tensor(padded)])[None]).logits[0]
        rows.append(logits[len(given) - 1 : -1])
    return torch.stack(rows)


def taps(config: Config) -> Sequence[Tap]:
    del config
    return ()  # no cache: every step computes all positions


def _tensor(inputs: Inputs) -> torch.Tensor:
    import torch

    return torch.from_numpy(inputs["inputs"].astype("int64"))


DECODING = Decoding(
    reference=f"{__name__}:run_reference",
    check=check,
    generate=generate,
    forced=forced,
    taps=taps,
    length_penalty=lambda _length: 1.0,
    end_id=END,
    incomparable=lambda _config: "",
)
