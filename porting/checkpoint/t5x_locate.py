"""Finding the checkpoint of T5X that the user means: by its directory, its index, or the model's directory.

A TensorFlow checkpoint's directory has a file `checkpoint` too, which is text; T5X's is msgpack. They are
told apart by their first bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from porting.checkpoint.files import named_os_errors
from porting.checkpoint.orbax_metadata import METADATA
from porting.checkpoint.t5x_checkpoint import INDEX
from porting.errors import CheckpointError, Problem

# T5X's and Flax's names; Orbax by itself writes the number alone.
_NAMED = re.compile(r"(checkpoint_)?(?P<step>[0-9]{1,18})")
_UNFINISHED = re.compile(r"((checkpoint_)?[0-9]{1,18}|state|default)\.(orbax-checkpoint-)?tmp([.-].*)?")
# What Orbax calls the part of a checkpoint that holds the model: T5X, and Orbax by itself.
_ITEMS = ("state", "default")
# How names of T5X's arrays begin.
_ARRAYS = ("target.", "state.param_states.")
# A map of some entries, whose first key is text that can be read. Files of torch.save and of safetensors may
# begin with the first byte, never with the others.
_BEGINNING = re.compile(
    rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.|\xda..|\xdb....)[\x20-\x7e]", re.DOTALL
)
_MAX_LISTED = 10


@dataclass(frozen=True)
class Found:
    """A checkpoint of T5X, Flax or Orbax.

    Attributes:
        index: the file that says what is in it.
        path: what it is called: the directory `checkpoint_N`, or a file that is all of it.
    """

    index: Path
    path: Path


def find_t5x(source: Path) -> Found | None:
    """The checkpoint that `source` is; None if it is none of T5X.

    Args:
        source: `checkpoint_N`, its file `checkpoint` or `_METADATA`, a part of it that Orbax calls `state` or
            `default`, or a file of Flax of any name that holds all arrays.

    Raises:
        CheckpointError: it is a checkpoint that was not written to its end, or whose index is missing.
    """
    with named_os_errors(source):
        if source.is_file():
            if source.name in (INDEX, METADATA):
                return _in_directory(source.parent)
            return Found(source, source) if _is_msgpack(source) else None
        if not source.is_dir():
            return None
        found = _in_directory(source)
        name = source.resolve().name
        arrays = [path.name for path in source.iterdir() if path.name.startswith(_ARRAYS)]
    if _UNFINISHED.fullmatch(name):
        raise _unfinished(source, [name])
    if found is None and arrays:
        problem = Problem(str(source / INDEX), "the index of the checkpoint", f"{arrays[0]}, and no index")
        raise CheckpointError(
            f"{source} holds arrays of T5X without their index",
            problems=[problem],
            remedy="Copy the file `checkpoint` from where the directory came from.",
        )
    return found


def newest_t5x(directory: Path) -> Found | None:
    """The newest checkpoint of those that a model's directory holds; None if it holds none.

    Args:
        directory: with `checkpoint_1000000` and the like in it, directories or files.

    Raises:
        CheckpointError: the newest has no index, or none was written to its end.
    """
    with named_os_errors(directory):
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    steps = {name: int(match["step"]) for name in names if (match := _NAMED.fullmatch(name))}
    for name in sorted(steps, key=lambda name: (steps[name], name), reverse=True):
        if (found := find_t5x(directory / name)) is not None:
            return found
    if unfinished := [name for name in names if _UNFINISHED.fullmatch(name)]:
        raise _unfinished(directory, unfinished)
    return None


def _in_directory(directory: Path) -> Found | None:
    path = directory.parent if directory.name in _ITEMS else directory
    for folder in (directory, *(directory / item for item in _ITEMS)):
        if _is_msgpack(folder / INDEX):
            return Found(folder / INDEX, path)
        if (folder / METADATA).is_file():
            return Found(folder / METADATA, path)
    return None


def _is_msgpack(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _BEGINNING.match(file.read(16)) is not None


def _unfinished(where: Path, names: list[str]) -> CheckpointError:
    found = ", ".join(sorted(names)[:_MAX_LISTED])
    return CheckpointError(
        f"{where} holds no checkpoint that was written to its end",
        problems=[Problem(str(where), "a directory checkpoint_N", f"{found}: its writer was stopped")],
        remedy="Take an earlier checkpoint, or copy it again once it is written.",
    )
