"""Inputs chosen to hurt: lengths, padding, ids and packing that short random sentences never have.

What hurts is the architecture's business (`Port.revealing_inputs`); here is what hurts any
text-to-text model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

from porting.inputs import Inputs
from porting.search.patterns import (
    FILLS,
    PADDINGS,
    Fill,
    Pad,
    last_and_first,
    pad_all_but_one,
    pad_end,
    pad_front,
    pad_inside,
    pad_whole_row,
    random_fill,
    repeated,
)

Labelled = tuple[str, Inputs]
LENGTHS = (1, 2, 16, 64, 128, 129, 160)
_SHORT = 12
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
    return chain(make.chosen(), map(make.mixture, count(1)))


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
        ends = (last_and_first, last_and_first)
        yield self._case("first and last vocabulary ids", 1, short, short, ends)
        yield self._case(f"length {longest}", 1, longest, longest)
        yield self._case("packed segments", 2, 3 * short, 3 * short, packed=True)
        yield self._case("padding inside", 2, short, short, padding=pad_inside)
        yield self._case("long inputs, one target", 1, longest, 1)
        yield self._case("one input, long targets", 1, 1, longest)
        yield self._case("all padding but one", 2, short, short, padding=pad_all_but_one)
        yield self._case("length 1", 1, 1, 1)
        yield self._case("one id repeated", 2, short, short, (repeated, repeated))
        yield self._case("padding in front", 2, short, short, padding=pad_front)
        yield self._case("a row of padding alone", 2, short, short, padding=pad_whole_row)
        for length in reversed(self.lengths[:-1]):
            if length > 1:
                yield self._case(f"length {length}", 1, length, length)

    def mixture(self, number: int) -> Labelled:
        """All of it at random."""
        pick = self.random.integers

        def length() -> int:
            return max(1, int(self.random.choice(self.lengths)) + int(pick(-1, 2)))

        batch, inputs, targets = int(pick(1, 4)), length(), length()
        fill = (FILLS[int(pick(len(FILLS)))], FILLS[int(pick(len(FILLS)))])
        padding = PADDINGS[int(pick(len(PADDINGS)))]
        packed = padding in (None, pad_end) and bool(pick(2))
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
        fill: tuple[Fill, Fill] | None = None,
        *,
        padding: Pad | None = None,
        packed: bool = False,
    ) -> Labelled:
        fill_inputs, fill_targets = fill or (random_fill, random_fill)
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


def _segments(random: np.random.Generator, ids: Array, count: int) -> Array:
    """Ids 1, 2, 3 of consecutive examples of unequal lengths, 0 at padding."""
    segments = np.zeros_like(ids)
    for row in segments:
        cuts = np.sort(random.choice(np.arange(1, len(row)), count - 1, replace=False))
        row[:] = 1 + (np.arange(len(row))[:, None] >= cuts).sum(1)
    return np.where(ids == 0, 0, segments).astype(np.int32)
