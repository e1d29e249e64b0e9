"""Inputs chosen to hurt: lengths, padding, ids and packing that short random sentences never have.

What hurts is the architecture's business (`Port.revealing_inputs`); here is what hurts any
text-to-text model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from porting.inputs import Inputs

Labelled = tuple[str, Inputs]
LENGTHS = (1, 2, 16, 64, 128, 129, 160)
_SHORT = 12
_FIRST_ID = 2  # 0 is padding, 1 ends a sequence
Array = np.ndarray


def revealing_inputs(
    vocab_size: int,
    *,
    target_vocab_size: int | None = None,
    lengths: Sequence[int] = LENGTHS,
    seed: int = 0,
) -> Iterator[Labelled]:
    """Inputs with a label each: chosen ones first, then random mixtures of them without end.

    Args:
        vocab_size, target_vocab_size: ids go up to these, exclusive.
        lengths: those at which something in the model changes.
        seed: of the ids and the mixtures.
    """
    make = _Maker(vocab_size, target_vocab_size or vocab_size, tuple(sorted(set(lengths))), seed)
    yield from make.chosen()
    number = 0
    while True:
        number += 1
        yield make.mixture(number)


@dataclass
class _Maker:
    vocab_size: int
    target_vocab_size: int
    lengths: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def chosen(self) -> Iterator[Labelled]:
        """From what most ports get wrong to what few do."""
        longest = self.lengths[-1]
        short = min(_SHORT, longest)
        ends = (_last_and_first, _last_and_first)
        yield self._case("first and last vocabulary ids", 1, short, short, ends)
        yield self._case(f"length {longest}", 1, longest, longest)
        yield self._case("packed segments", 2, 3 * short, 3 * short, packed=True)
        yield self._case("padding inside", 2, short, short, padding=_inside)
        yield self._case("long inputs, one target", 1, longest, 1)
        yield self._case("one input, long targets", 1, 1, longest)
        yield self._case("all padding but one", 2, short, short, padding=_all_but_one)
        yield self._case("length 1", 1, 1, 1)
        yield self._case("one id repeated", 2, short, short, (_repeated, _repeated))
        yield self._case("padding in front", 2, short, short, padding=_in_front)
        yield self._case("a row of padding alone", 2, short, short, padding=_whole_row)
        for length in reversed(self.lengths[:-1]):
            if length > 1:
                yield self._case(f"length {length}", 1, length, length)

    def mixture(self, number: int) -> Labelled:
        """All of it at random."""
        pick = self.random.integers

        def length() -> int:
            return max(1, int(self.random.choice(self.lengths)) + int(pick(-1, 2)))

        batch, inputs, targets = int(pick(1, 4)), length(), length()
        kinds = (_random, _repeated, _last_and_first)
        fill = (kinds[int(pick(len(kinds)))], kinds[int(pick(len(kinds)))])
        paddings = (None, _at_the_end, _inside, _in_front, _all_but_one)
        padding = paddings[int(pick(len(paddings)))]
        packed = padding in (None, _at_the_end) and bool(pick(2))
        longest = self.lengths[-1]
        return self._case(
            f"mixture {number}",
            batch,
            min(inputs, longest),
            min(targets, longest),
            fill,
            padding=padding,
            packed=packed,
        )

    def _case(
        self,
        label: str,
        batch: int,
        inputs: int,
        targets: int,
        fill: tuple[_Fill, _Fill] | None = None,
        *,
        padding: _Pad | None = None,
        packed: bool = False,
    ) -> Labelled:
        fill_inputs, fill_targets = fill or (_random, _random)
        ids = fill_inputs(self.random, self.vocab_size, (batch, inputs))
        said = fill_targets(self.random, self.target_vocab_size, (batch, targets))
        if padding:
            padding(self.random, ids)
            padding(self.random, said)
        arrays = {"inputs": ids, "targets": said}
        if packed:
            count = int(min(3, inputs, targets))
            arrays["sequence_ids"] = _segments(self.random, ids, count)
            arrays["decoder_sequence_ids"] = _segments(self.random, said, count)
        return label, Inputs(arrays, origin=f"search: {label}")


_Fill = Callable[[np.random.Generator, int, tuple[int, int]], Array]
_Pad = Callable[[np.random.Generator, Array], None]


def _random(random: np.random.Generator, size: int, shape: tuple[int, int]) -> Array:
    return random.integers(min(_FIRST_ID, size - 1), size, shape).astype(np.int32)


def _repeated(random: np.random.Generator, size: int, shape: tuple[int, int]) -> Array:
    return np.broadcast_to(_random(random, size, (shape[0], 1)), shape).copy()


def _last_and_first(random: np.random.Generator, size: int, shape: tuple[int, int]) -> Array:
    """The last id, the first real one, the one before the last, ... in turn; rows begin elsewhere."""
    ends = np.array([size - 1, 1, size - 2, 2, size - 3, 3]).clip(min(1, size - 1), size - 1)
    offset = int(random.integers(len(ends))) if shape[1] < len(ends) else 0
    at = (np.arange(shape[1]) + np.arange(shape[0])[:, None] + offset) % len(ends)
    ids: Array = ends[at].astype(np.int32)
    return ids


def _at_the_end(random: np.random.Generator, ids: Array) -> None:
    for row in ids:
        row[int(random.integers(1, len(row) + 1)) :] = 0


def _in_front(random: np.random.Generator, ids: Array) -> None:
    for row in ids:
        row[: int(random.integers(0, len(row)))] = 0


def _inside(random: np.random.Generator, ids: Array) -> None:
    for row in ids:
        if len(row) > 2:
            begin = int(random.integers(1, len(row) - 1))
            row[begin : int(random.integers(begin + 1, len(row)))] = 0


def _all_but_one(random: np.random.Generator, ids: Array) -> None:
    """The first position stays in the first row, the last in the second, any in others."""
    for number, row in enumerate(ids):
        kept = (0, len(row) - 1)[number] if number < 2 else int(random.integers(len(row)))
        row[np.arange(len(row)) != kept] = 0


def _whole_row(_random: np.random.Generator, ids: Array) -> None:
    ids[0] = 0


def _segments(random: np.random.Generator, ids: Array, count: int) -> Array:
    """Ids 1, 2, 3 of consecutive examples of unequal lengths, 0 at padding."""
    segments = np.zeros_like(ids)
    for row in segments:
        cuts = np.sort(random.choice(np.arange(1, len(row)), count - 1, replace=False))
        row[:] = 1 + (np.arange(len(row))[:, None] >= cuts).sum(1)
    return np.where(ids == 0, 0, segments).astype(np.int32)
