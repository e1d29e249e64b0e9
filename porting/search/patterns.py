"""Ids and padding as short random sentences never have them: what chosen inputs are made of.

A fill makes ids [rows, length] up to a vocabulary size; a padding sets some of them to 0, in place. Given an
array of ones, a padding makes a mask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Fill = Callable[[np.random.Generator, int, tuple[int, int]], np.ndarray]
Pad = Callable[[np.random.Generator, np.ndarray], None]
_FIRST_ID = 2  # 0 is padding, 1 ends a sequence


def random_fill(random: np.random.Generator, size: int, shape: tuple[int, int]) -> np.ndarray:
    """Any ids but the first two."""
    return random.integers(min(_FIRST_ID, size - 1), size, shape).astype(np.int32)


def repeated(random: np.random.Generator, size: int, shape: tuple[int, int]) -> np.ndarray:
    """One id in each row."""
    return np.broadcast_to(random_fill(random, size, (shape[0], 1)), shape).copy()


def last_and_first(random: np.random.Generator, size: int, shape: tuple[int, int]) -> np.ndarray:
    """The last id, the first real one, the one before the last, ... in turn; rows begin elsewhere."""
    ends = np.array([size - 1, 1, size - 2, 2, size - 3, 3]).clip(min(1, size - 1), size - 1)
    offset = int(random.integers(len(ends))) if shape[1] < len(ends) else 0
    at = (np.arange(shape[1]) + np.arange(shape[0])[:, None] + offset) % len(ends)
    ids: np.ndarray = ends[at].astype(np.int32)
    return ids


def pad_end(random: np.random.Generator, ids: np.ndarray) -> None:
    """From another position on in each row; some rows stay full."""
    for row in ids:
        row[int(random.integers(1, len(row) + 1)) :] = 0


def pad_front(random: np.random.Generator, ids: np.ndarray) -> None:
    """Up to another position in each row."""
    for row in ids:
        row[: int(random.integers(0, len(row)))] = 0


def pad_inside(random: np.random.Generator, ids: np.ndarray) -> None:
    """A hole in each row that has room for one."""
    for row in ids:
        if len(row) > 2:
            begin = int(random.integers(1, len(row) - 1))
            row[begin : int(random.integers(begin + 1, len(row)))] = 0


def pad_all_but_one(random: np.random.Generator, ids: np.ndarray) -> None:
    """The first position stays in the first row, the last in the second, any in others."""
    for number, row in enumerate(ids):
        kept = (0, len(row) - 1)[number] if number < 2 else int(random.integers(len(row)))
        row[np.arange(len(row)) != kept] = 0


def pad_whole_row(_random: np.random.Generator, ids: np.ndarray) -> None:
    """All of the first row."""
    ids[0] = 0


FILLS: tuple[Fill, ...] = (random_fill, repeated, last_and_first)
PADDINGS: tuple[Pad | None, ...] = (None, pad_end, pad_inside, pad_front, pad_all_but_one)
