"""Checkpoints in several files that an index joins, such as `model.safetensors.index.json`.

The index is a JSON object whose `weight_map` says for each tensor which file of its directory holds it. Names
that lead out of the directory are refused. A file may be a symbolic link: that is how caches keep them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from porting.checkpoint.files import named_os_errors, read_file
from porting.checkpoint.lazy import Checkpoint, LazyTensor
from porting.config_file import parse_json
from porting.errors import CheckpointError, Problem

_MAX_INDEX_BYTES = 64 << 20
_MAX_LISTED = 100
# File systems have no longer ones.
_MAX_NAME = 255


def open_joined(index: Path, form: str, tensors_of: Callable[[Path], dict[str, LazyTensor]]) -> Checkpoint:
    """List the tensors of all files that an index joins.

    Args:
        index: its path.
        form: name of the format.
        tensors_of: lists those of one file.

    Raises:
        CheckpointError: the index cannot be read or leads out of its directory, a file is missing or damaged,
            or does not hold what the index says.
    """
    places = _weight_map(index)
    files = [index.parent / name for name in sorted(set(places.values()))]
    with named_os_errors(index):
        missing = [file for file in files if not file.exists()]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} data file(s) of the checkpoint are missing",
            problems=[
                Problem(str(file), "a file that the index lists", "no such file")
                for file in missing[:_MAX_LISTED]
            ],
            remedy=f"Copy them into {index.parent} from where the checkpoint came from.",
        )
    held = {file.name: tensors_of(file) for file in files}
    problems = [
        Problem(name, f"to lie in {file}", "not there")
        for name, file in places.items()
        if name not in held[file]
    ] + [
        Problem(name, f"one entry of {index.name}", f"none for what {file} holds")
        for file, tensors in held.items()
        for name in tensors
        if places.get(name) != file
    ]
    if problems:
        raise CheckpointError(
            f"{index} does not list what its files hold ({len(problems)} tensors)",
            problems=problems[:_MAX_LISTED],
        )
    tensors = {name: held[places[name]][name] for name in sorted(places)}
    return Checkpoint(index, form, tensors, (index, *files), contents=(index, *files))


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    try:
        content = parse_json(read_file(index, _MAX_INDEX_BYTES))
    except ValueError as error:
        raise _unreadable(index, "JSON", str(error)) from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise _unreadable(index, "an object with a weight_map", "none")
    outside = [file for file in places.values() if not isinstance(file, str) or not is_plain_name(file)]
    if outside:
        found = ", ".join(sorted({repr(file) for file in outside[:_MAX_LISTED]}))
        raise _unreadable(index, "names of files in its directory", f"{found}, outside its directory")
    return dict(places)


def is_plain_name(file: str) -> bool:
    """Whether a name, on any system, can be that of a file in its directory."""
    return (
        len(file) <= _MAX_NAME and file not in ("", ".", "..") and not any(mark in file for mark in "/\\\0")
    )


def _unreadable(index: Path, expected: str, found: str) -> CheckpointError:
    problem = Problem(str(index), expected, found, "copy the file again from where the checkpoint came from")
    return CheckpointError(f"{index} is not an index that can be read", problems=[problem])
