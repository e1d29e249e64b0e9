"""What an axis stands for, told from the name of its dimension."""

from __future__ import annotations

from collections.abc import Sequence

BATCH, POSITION, HEAD, FEATURE = "batch", "position", "head", "feature"
_POSITIONS = ("length", "position", "seq", "token", "time")
_HEADS = ("head",)
_BATCHES = ("batch", "example")


def role(dim: str) -> str:
    """`batch`, `position`, `head` or `feature`: `memory_length` is a position, `d_kv` a feature."""
    name = dim.lower()
    for words, meaning in ((_POSITIONS, POSITION), (_HEADS, HEAD), (_BATCHES, BATCH)):
        if any(word in name for word in words):
            return meaning
    return FEATURE


def with_role(dims: Sequence[str], wanted: str) -> list[int]:
    """The axes that have a role, in their order."""
    return [axis for axis, dim in enumerate(dims) if role(dim) == wanted]


def queries_and_memory(dims: Sequence[str]) -> tuple[int, int] | None:
    """Of attention: the axis of the positions that look, and of those that are looked at.

    The memory's axis is called so (`memory_length`, `key_length`, `to_position`); where no name says it, the
    second of the two is taken. None unless there are two axes of positions.
    """
    positions = with_role(dims, POSITION)
    if len(positions) != 2:
        return None
    first, second = positions
    named = any(dims[first].lower().startswith(word) for word in ("memory", "key", "to_"))
    return (second, first) if named else (first, second)
