"""Finding the checkpoint of T5X that the user means: by its directory, its index, or the model's directory.

A TensorFlow checkpoint's directory has a file `checkpoint` too, which is text; T5X's is msgpack. They are
told apart by their first bytes.
"""

from __future__ import annotations

import re
from pathlib import Path

from porting.checkpoint.files import named_os_errors
from porting.checkpoint.t5x_checkpoint import INDEX
from porting.errors import CheckpointError, Problem

_NAMED = re.compile(r"checkpoint_(?P<step>[0-9]{1,18})")
_UNFINISHED = re.compile(r"(?P<whole>checkpoint_[0-9]{1,18})\.(orbax-checkpoint-)?tmp[.-].*")
# A map of some entries, whose first key is text that can be read. Files of torch.save and of safetensors may
# begin with the first byte, never with the others.
_BEGINNING = re.compile(
    rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.|\xda..|\xdb....)[\x20-\x7e]", re.DOTALL
)
_MAX_LISTED = 10


def find_t5x(source: Path) -> Path | None:
    """The index of the checkpoint that `source` is; None if it is none of T5X.

    Args:
        source: `checkpoint_N`, its file `checkpoint`, or a file of Flax of any name that holds all arrays.

    Raises:
        CheckpointError: it is a checkpoint that was not written to its end.
    """
    with named_os_errors(source):
        if source.is_file():
            return source if _is_index(source) else None
        if not source.is_dir():
            return None
        found = source / INDEX if _is_index(source / INDEX) else None
    if _UNFINISHED.fullmatch(source.name):
        raise _unfinished(source, [source.name])
    return found


def newest_t5x(directory: Path) -> Path | None:
    """The index of the newest checkpoint of those that a model's directory holds; None if it holds none.

    Args:
        directory: with `checkpoint_1000000` and the like in it, directories or files.

    Raises:
        CheckpointError: all that it holds are checkpoints that were not written to their end.
    """
    with named_os_errors(directory):
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    steps = {name: int(match["step"]) for name in names if (match := _NAMED.fullmatch(name))}
    for name in sorted(steps, key=lambda name: (steps[name], name), reverse=True):
        if (found := find_t5x(directory / name)) is not None:
            return found
    unfinished = [name for name in names if _UNFINISHED.fullmatch(name)]
    if unfinished:
        raise _unfinished(directory, unfinished)
    return None


def _is_index(path: Path) -> bool:
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
