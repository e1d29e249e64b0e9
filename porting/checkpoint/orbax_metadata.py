"""Orbax's `_METADATA`: the tree of a checkpoint without a msgpack file, as newer releases write it.

Source: `orbax/checkpoint/_src/metadata/tree.py` (`InternalTreeMetadata`).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from porting.checkpoint.files import named_os_errors, read_file
from porting.checkpoint.flax_msgpack import bad_entry
from porting.checkpoint.stored import COPY_AGAIN
from porting.checkpoint.t5x_specs import PLACEHOLDER
from porting.config_file import parse_json
from porting.errors import CheckpointError, Problem

METADATA = "_METADATA"
"""Its name."""
TEXTS = "_strings.json"

_MAX_BYTES = 64 << 20
_TEXT = "some text"
# Leaves that hold nothing.
_NOTHING = ("None", "Dict", "List", "Tuple", "NamedTuple")


def orbax_leaves(path: Path) -> Iterator[tuple[str, Any]]:
    """Each leaf by its way through the tree; of an array what Orbax's msgpack files have in its place.

    Raises:
        CheckpointError: the file cannot be read, or is not Orbax's.
    """
    try:
        content = parse_json(read_file(path, _MAX_BYTES))
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    tree = content.get("tree_metadata") if isinstance(content, dict) else None
    if not isinstance(tree, dict):
        raise _unreadable(path, "no tree_metadata")
    for where, leaf in tree.items():
        try:
            keys = [entry["key"] for entry in leaf["key_metadata"]]
            kind = leaf["value_metadata"]["value_type"]
        except (KeyError, TypeError) as error:
            raise bad_entry(f"{where}"[:200], "keys and a kind", repr(error)[:100]) from error
        if not keys or any(type(key) not in (str, int) for key in keys):
            raise bad_entry(f"{where}"[:200], "keys that are names or numbers", f"{keys!r}"[:200])
        if kind not in _NOTHING:
            names = [str(key) for key in keys]
            # Text lies in a file of its own, and is nothing that a model is made of.
            yield "/".join(names), _TEXT if kind == "string" else PLACEHOLDER + ".".join(names)


def orbax_texts(folder: Path) -> Set[str]:
    """Names of the leaves that are text: they lie together in a file, and nothing is made of them."""
    path = folder / TEXTS
    with named_os_errors(path):
        if not path.is_file():
            return frozenset()
    try:
        content = parse_json(read_file(path, _MAX_BYTES))
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    return frozenset(content) if isinstance(content, dict) else frozenset()


def _unreadable(path: Path, found: str) -> CheckpointError:
    problem = Problem(str(path), "a file of Orbax's checkpoints", found, COPY_AGAIN)
    return CheckpointError(f"{path} cannot be read", problems=[problem])
