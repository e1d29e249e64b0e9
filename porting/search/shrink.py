"""A failing input -> the smallest that still fails: fewer rows, shorter, without packing, lower ids.

Hypothesis does the shrinking (https://hypothesis.readthedocs.io). Its strategies here do not draw inputs but
what is left of the failing one, and nearly every draw leaves all of it: so it begins where the failure is,
and every smaller draw is a smaller input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from porting.inputs import TEXT_TO_TEXT, InputField, Inputs

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

# Far above any length or id, so that a draw below one is rare; below 2**24, where Hypothesis draws evenly.
_ALL = 2**22
_EXAMPLES = 20  # the simplest first, then draws of which nearly all are the failing input itself
_MOST_COLUMNS = 24  # that are dropped one by one: each is another shape
_MOST_IDS = 1200  # that are lowered one by one: more than this Hypothesis does not draw


def shrink(
    inputs: Inputs,
    fails: Callable[[Inputs], bool],
    fit: Callable[[Inputs], Inputs] = lambda ids: ids,
    fields: Sequence[InputField] = TEXT_TO_TEXT,
) -> Inputs:
    """The smallest input for which `fails` was seen to be true.

    Args:
        inputs: an input that fails.
        fails: runs the comparison. It may answer False to all from some time on, to end the search.
        fit: makes of what is left of an input one that the model can read.
        fields: what the arrays of `inputs` are; axes of one name are cut together.
    """
    there = {field.name: field for field in fields if inputs.get(field.name) is not None}
    best = _Best(inputs, there, fails, fit)
    while True:
        before = best.inputs
        for strategy in (_structures, _contents):
            best.improve(strategy(best.inputs, best.fields()))
        if best.inputs is before:
            return best.inputs


def size(inputs: Inputs, fields: Mapping[str, InputField]) -> tuple[int, ...]:
    """What makes an input small, the most important first: rows, positions, packing, ids."""
    arrays = inputs.arrays()
    return (
        inputs.batch,
        sum(_sizes(inputs, fields).values()),
        len(arrays),
        sum(int(array.sum()) for array in arrays.values()),
    )


def _sizes(inputs: Inputs, fields: Mapping[str, InputField]) -> dict[str, int]:
    """How long each axis but the batch is, by its name."""
    return {
        dim: size
        for name, array in inputs.arrays().items()
        for dim, size in zip(fields[name].dims[1:], array.shape[1:], strict=True)
    }


@dataclass
class _Best:
    """The smallest failing input so far."""

    inputs: Inputs
    declared: Mapping[str, InputField]
    fails: Callable[[Inputs], bool]
    fit: Callable[[Inputs], Inputs]
    answers: dict[object, bool] = field(default_factory=dict)

    def fields(self) -> dict[str, InputField]:
        """Of the arrays that are still there."""
        return {name: self.declared[name] for name in self.inputs.arrays()}

    def improve(self, strategy: SearchStrategy[Inputs]) -> None:
        from hypothesis import HealthCheck, Phase, find, settings
        from hypothesis.errors import NoSuchExample

        quiet = settings(
            database=None,
            deadline=None,
            derandomize=False,  # `random` is what makes it repeat
            max_examples=_EXAMPLES,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        # A budget that ends meanwhile leaves nothing to find: what was seen to fail is kept here.
        try:
            find(strategy, self._fails, settings=quiet, random=Random(0))
        except NoSuchExample:
            return

    def _fails(self, candidate: Inputs) -> bool:
        fitted = self.fit(candidate)
        key = tuple((name, array.shape, array.tobytes()) for name, array in fitted.arrays().items())
        # Hypothesis asks again for what it found, and must get the same answer.
        if key not in self.answers:
            self.answers[key] = self.fails(fitted)
        if not self.answers[key]:
            return False
        if size(fitted, self.declared) < size(self.inputs, self.declared):
            self.inputs = fitted
        return True


def _structures(inputs: Inputs, fields: Mapping[str, InputField]) -> SearchStrategy[Inputs]:
    """Some of the rows, a window of each axis, with packing or not, ids up to a limit."""
    from hypothesis import strategies as st

    numbers = st.integers(0, _ALL)
    required = [name for name, field in fields.items() if field.required]

    @st.composite
    def left(draw: DrawFn) -> Inputs:
        rows = [row for row in range(inputs.batch) if draw(numbers)] or [0]
        window = {dim: _window(length, draw, numbers) for dim, length in _sizes(inputs, fields).items()}
        packed = bool(draw(numbers)) if len(required) < len(fields) else False
        limit = {name: draw(numbers) for name in required}
        changed: dict[str, np.ndarray | None] = {}
        for name, declared in fields.items():
            part = inputs[name][rows][(slice(None), *(window[dim] for dim in declared.dims[1:]))]
            if declared.required:
                part = np.minimum(part, limit[name])
            changed[name] = part if packed or declared.required else None
        return inputs.having(**changed)

    return left()


def _window(length: int, draw: DrawFn, numbers: SearchStrategy[int]) -> slice:
    end = min(length, 1 + draw(numbers))
    return slice(end - min(end, 1 + draw(numbers)), end)


def _contents(inputs: Inputs, fields: Mapping[str, InputField]) -> SearchStrategy[Inputs]:
    """Some of the columns, and each id as it is or lower."""
    from hypothesis import strategies as st

    numbers = st.integers(0, _ALL)
    lengths = _sizes(inputs, fields)
    columns = sum(lengths.values())
    ids = sum(int((array > 0).sum()) for array in inputs.arrays().values())

    @st.composite
    def left(draw: DrawFn) -> Inputs:
        kept: dict[str, list[int]] = {}
        for dim, length in lengths.items():
            every = range(length)
            some = [c for c in every if draw(numbers)] if columns <= _MOST_COLUMNS else list(every)
            kept[dim] = some or [0]
        changed: dict[str, np.ndarray | None] = {}
        for name, array in inputs.arrays().items():
            part = array.copy()
            for axis, dim in enumerate(fields[name].dims[1:], start=1):
                part = part.take(kept[dim], axis)
            if ids <= _MOST_IDS:
                for place in np.argwhere(part > 0):
                    part[tuple(place)] = min(int(part[tuple(place)]), draw(numbers))
            changed[name] = part
        return inputs.having(**changed)

    return left()
