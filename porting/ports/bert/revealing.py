"""Inputs on which ports of BERT go wrong, and what is left of an input as one that a model can read."""

from __future__ import annotations

from collections.abc import Iterator
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
    pad_front,
    pad_inside,
    pad_whole_row,
    random_fill,
    repeated,
)

from .config import Config
from .ids import OF_THE_HEADS

Labelled = tuple[str, Inputs]
_SHORT = 12
_MOST_PREDICTIONS = 20  # run_pretraining.py's max_predictions_per_seq


def revealing_ids(config: Config) -> Iterator[Labelled]:
    """Chosen inputs, from what most ports get wrong to what few do; then mixtures without end."""
    make = _Maker(config, np.random.default_rng(0))
    return chain(make.chosen(), map(make.mixture, count(1)))


@dataclass
class _Maker:
    config: Config
    random: np.random.Generator

    def chosen(self) -> Iterator[Labelled]:
        longest = self.config.max_position_embeddings
        short = min(_SHORT, longest)
        yield self._case("first and last vocabulary ids", 1, short, fill=last_and_first)
        yield self._case(f"length {longest}", 1, longest)
        yield self._case("padding inside", 2, short, padding=pad_inside)
        yield self._case("segments that change at the first and at the last position", 3, short, edges=True)
        yield self._case("all padding but one", 2, short, padding=pad_all_but_one)
        yield self._case("length 1", 1, 1)
        yield self._case("no masked positions", 2, short, weights="none")
        yield self._case(
            "masked positions in the padding, and one twice", 2, short, padding=pad_front, weights="all"
        )
        yield self._case("one id repeated", 2, short, fill=repeated)
        yield self._case("a row of padding alone", 2, short, padding=pad_whole_row)
        yield (
            "without mask and segments",
            self._case("", 2, short)[1].having(input_mask=None, segment_ids=None),
        )

    def mixture(self, number: int) -> Labelled:
        """All of it at random."""
        pick = self.random.integers
        longest = self.config.max_position_embeddings
        length = int(self.random.choice([1, 2, longest, int(pick(1, longest + 1))]))
        return self._case(
            f"mixture {number}",
            int(pick(1, 4)),
            length,
            fill=FILLS[int(pick(len(FILLS)))],
            padding=PADDINGS[int(pick(len(PADDINGS)))],
            edges=bool(pick(2)),
            weights=("some", "none", "all")[int(pick(3))],
        )

    def _case(
        self,
        label: str,
        batch: int,
        length: int,
        *,
        fill: Fill = random_fill,
        padding: Pad | None = None,
        edges: bool = False,
        weights: str = "some",
    ) -> Labelled:
        config, random = self.config, self.random
        mask = np.ones((batch, length), np.int32)
        if padding:
            padding(random, mask)
        ends = np.array([1, length - 1, 0]) if edges else random.integers(0, length + 1, batch)
        later = np.arange(length) >= ends[np.arange(batch) % len(ends)][:, None]
        arrays = {
            "input_ids": fill(random, config.vocab_size, (batch, length)) * mask,
            "input_mask": mask,
            "segment_ids": later * random.integers(0, config.type_vocab_size, (batch, 1)),
        }
        if edges:
            arrays["segment_ids"] = later * (config.type_vocab_size - 1)
        if config.heads:
            shape = (batch, min(_MOST_PREDICTIONS, max(2, length // 6)))
            chosen = {"none": np.zeros(shape), "all": np.ones(shape), "some": random.integers(0, 2, shape)}[
                weights
            ]
            arrays |= {
                "masked_lm_positions": random.integers(0, length, shape),
                "masked_lm_ids": fill(random, config.vocab_size, shape),
                "masked_lm_weights": chosen.astype(np.int32),
                "next_sentence_labels": random.integers(0, 2, batch),
            }
        return label, Inputs.from_arrays(arrays, origin=f"search: {label}")


def fit_ids(config: Config, ids: Inputs) -> Inputs:
    """The ids as this model reads them; those that it can read stay as they are.

    They are cut to the positions that there are. Heads that are given nothing guess the first position, which
    does not count; a model without heads is given nothing for them.
    """
    changed = ids.arrays()
    for name in ("input_ids", "input_mask", "segment_ids"):
        if name in changed:
            changed[name] = changed[name][:, : config.max_position_embeddings]
    if not config.heads:
        return ids.having(**{**changed, **dict.fromkeys(OF_THE_HEADS)})
    batch, length = changed["input_ids"].shape
    given = [changed[name].shape[1] for name in OF_THE_HEADS[:3] if name in changed]
    for name in OF_THE_HEADS:
        shape = (batch,) if name == "next_sentence_labels" else (batch, min(given, default=1))
        changed.setdefault(name, np.zeros(shape, np.int32))
    changed["masked_lm_positions"] = np.minimum(changed["masked_lm_positions"], length - 1)
    return ids.having(**changed)
