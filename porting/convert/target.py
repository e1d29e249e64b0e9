"""What is written: the tensors and how they are made, the files that hold them, and what lies beside."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from porting.checkpoint import Checkpoint
from porting.convert.layout import FileLayout, TensorSpec
from porting.convert.remembered import Remembered
from porting.convert.stream import Written
from porting.mapping import Plan
from porting.tokenizer_files import TokenizerFiles


@dataclass(frozen=True)
class Target:
    """What a conversion makes, before anything is read.

    Attributes:
        to: "pytorch", or the name of the original's format.
        checkpoint: where values are read.
        plan: every tensor that is written, and its sources.
        layout: where each of them lies.
        config: the contents of config.json.
        original: gives what a way back to the original needs, for the manifest; None where that is unknown.
        notes: what was assumed, in words.
        replaced: patterns of the names of files that belong to such a model.
        tokenizer: makes the tokenizer's files; reads those beside the source.
        files: makes any other files, once the checksums of what was written are known; by name.
    """

    to: str
    checkpoint: Checkpoint
    plan: Plan
    layout: Sequence[FileLayout]
    config: Mapping[str, Any]
    original: Callable[[], Remembered | None]
    notes: tuple[str, ...]
    replaced: tuple[str, ...]
    tokenizer: Callable[[], TokenizerFiles]
    files: Callable[[Mapping[str, Written]], Mapping[str, bytes]]

    @property
    def read(self) -> set[str]:
        """Names of the tensors that are read."""
        return {name for entry in self.plan.entries for name in entry.sources} | {*self.plan.copies}


def tensor_specs(plan: Plan, checkpoint: Checkpoint, dtype: np.dtype[Any] | None) -> list[TensorSpec]:
    """What each tensor of a plan will be, in `dtype`, or, if None, in that of its source."""
    return [
        TensorSpec(entry.target, entry.target_shape, dtype or checkpoint.tensors[entry.sources[0]].dtype)
        for entry in plan.entries
    ]


def json_bytes(content: Any) -> bytes:
    """Indented JSON with a newline at the end."""
    return (json.dumps(content, indent=2) + "\n").encode("utf-8")
