"""A failing input -> the smallest that still fails: fewer rows, shorter, without packing, lower ids.

Hypothesis does the shrinking (https://hypothesis.readthedocs.io). Its strategies here do not draw inputs but
what is left of the failing one, and nearly every draw leaves all of it: so it begins where the failure is,
and every smaller draw is a smaller input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from porting.inputs import Inputs

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

# Far above any length or id, so that a draw below one is rare; below 2**24, where Hypothesis draws evenly.
_ALL = 2**22
_EXAMPLES = 20  # the simplest first, then draws of which nearly all are the failing input itself
_MOST_COLUMNS = 24  # that are dropped one by one: each is another shape
_MOST_IDS = 1200  # that are lowered one by one: more than this Hypothesis does not draw


def shrink(
    inputs: Inputs, fails: Callable[[Inputs], bool], fit: Callable[[Inputs], Inputs] = lambda ids: ids
) -> Inputs:
    """The smallest input for which `fails` was seen to be true.

    Args:
        inputs: an input that fails.
        fails: runs the comparison. It may answer False to all from some time on, to end the search.
        fit: makes of what is left of an input one that the model can read.
    """
    best = _Best(inputs, fails, fit)
    while True:
        before = best.inputs
        for strategy in (_structures, _contents):
            best.improve(strategy(best.inputs))
        if best.inputs is before:
            return best.inputs


def size(inputs: Inputs) -> tuple[int, ...]:
    """What makes an input small, the most important first: rows, positions, packing, ids."""
    arrays = inputs.arrays()
    return (
        len(inputs.inputs),
        inputs.inputs.shape[1] + inputs.targets.shape[1],
        len(arrays),
        sum(int(array.sum()) for array in arrays.values()),
    )


@dataclass
class _Best:
    """The smallest failing input so far."""

    inputs: Inputs
    fails: Callable[[Inputs], bool]
    fit: Callable[[Inputs], Inputs]
    answers: dict[object, bool] = field(default_factory=dict)

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
        if size(fitted) < size(self.inputs):
            self.inputs = fitted
        return True


def _structures(inputs: Inputs) -> SearchStrategy[Inputs]:
    """Some of the rows, a window of the columns of each side, with packing or not, ids up to a limit."""
    from hypothesis import strategies as st

    numbers = st.integers(0, _ALL)

    @st.composite
    def left(draw: DrawFn) -> Inputs:
        rows = [row for row in range(len(inputs.inputs)) if draw(numbers)] or [0]
        window = {side: _window(getattr(inputs, side).shape[1], draw, numbers) for side in _SIDES}
        packed = bool(draw(numbers)) if inputs.arrays().keys() - set(_SIDES) else False
        limit = {side: draw(numbers) for side in _SIDES}
        changed: dict[str, Any] = {}
        for name, array in inputs.arrays().items():
            part = array[rows][:, window[_side(name)]]
            if name in _SIDES:
                part = np.minimum(part, limit[name])
            changed[name] = part if packed or name in _SIDES else None
        return replace(inputs, **changed)

    return left()


def _window(length: int, draw: DrawFn, numbers: SearchStrategy[int]) -> slice:
    end = min(length, 1 + draw(numbers))
    return slice(end - min(end, 1 + draw(numbers)), end)


def _contents(inputs: Inputs) -> SearchStrategy[Inputs]:
    """Some of the columns, and each id as it is or lower."""
    from hypothesis import strategies as st

    numbers = st.integers(0, _ALL)
    columns = sum(getattr(inputs, side).shape[1] for side in _SIDES)
    ids = sum(int((array > 0).sum()) for array in inputs.arrays().values())

    @st.composite
    def left(draw: DrawFn) -> Inputs:
        kept: dict[str, list[int]] = {}
        for side in _SIDES:
            every = range(getattr(inputs, side).shape[1])
            some = [c for c in every if draw(numbers)] if columns <= _MOST_COLUMNS else list(every)
            kept[side] = some or [0]
        changed: dict[str, Any] = {}
        for name, array in inputs.arrays().items():
            part = array[:, kept[_side(name)]].copy()
            if ids <= _MOST_IDS:
                for place in np.argwhere(part > 0):
                    part[tuple(place)] = min(int(part[tuple(place)]), draw(numbers))
            changed[name] = part
        return replace(inputs, **changed)

    return left()


_SIDES = ("inputs", "targets")


def _side(name: str) -> str:
    """Which of the two an array goes along with."""
    return "targets" if name in ("targets", "decoder_sequence_ids") else "inputs"
