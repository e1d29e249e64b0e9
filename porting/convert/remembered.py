"""What the way back to the original needs and no parameter holds: kept in porting.json as `original`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porting.checkpoint import Checkpoint
from porting.convert.checksums import file_sha256
from porting.convert.manifest import MANIFEST, read_manifest, whole_number
from porting.errors import InputError
from porting.mapping import Plan, Shape
from porting.model_dir import CONFIG


@dataclass(frozen=True)
class Remembered:
    """Of the original's checkpoint.

    Attributes:
        variables: the weights: name -> shape.
        more: values of counters, such as the step.
        config: the config in the original's own language; None where there was none, or config.json is not
            what was made of it any more.
    """

    variables: Mapping[str, Shape]
    more: Mapping[str, int]
    config: str | None

    def to_json(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        variables = {name: list(shape) for name, shape in self.variables.items()}
        return {"variables": variables, "more": dict(self.more), "config": self.config}


def remember(checkpoint: Checkpoint, plan: Plan, more: Sequence[str], config: str | None) -> Remembered:
    """What to keep of the original's checkpoint.

    Args:
        checkpoint: the original's.
        plan: of its conversion.
        more: names of counters, such as the step, whose values are kept if they are there.
        config: in the original's own language.
    """
    variables = {
        name: shape
        for entry in plan.entries
        for name, shape in zip(entry.sources, entry.source_shapes, strict=True)
    }
    values = {}
    for name in more:
        tensor = checkpoint.tensors.get(name)
        there = tensor is not None and all(path.exists() for path in tensor.files)
        if tensor is not None and there and tensor.dtype.kind == "i" and not tensor.shape:
            values[name] = tensor.read().item()
    return Remembered(variables, values, config)


def remembered(directory: Path) -> Remembered | None:
    """What the manifest of a model directory keeps; None where it keeps nothing.

    Raises:
        InputError: the manifest is damaged.
    """
    if not (directory / MANIFEST).is_file():
        return None
    manifest = read_manifest(directory)
    facts = manifest.get("original")
    if facts is None:
        return None
    try:
        variables = {str(name): tuple(map(whole_number, shape)) for name, shape in facts["variables"].items()}
        more = {str(name): whole_number(value) for name, value in facts["more"].items()}
        made = {file["name"]: file.get("sha256") for file in manifest["files"]}
        unchanged = made.get(CONFIG) == file_sha256(directory / CONFIG)
        config = facts["config"] if unchanged else None
        if config is not None and not isinstance(config, str):
            raise TypeError("its config is no text")
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"{directory / MANIFEST} is damaged: {error!r}") from error
    return Remembered(variables, more, config)
