"""Look for inputs on which a port differs from the original, and cut the smallest of them down.

Nothing is run here: the search is given a function that compares the two on an input.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from porting.compare import DIVERGED, INCOMPLETE, INVALID, MATCH, Comparison
from porting.errors import ReferenceRunError
from porting.inputs import TEXT_TO_TEXT, InputField, Inputs

if TYPE_CHECKING:
    from porting.compare import TensorComparison

ALL_TRIED, BUDGET = "all tried", "budget"
DEFAULT_BUDGET = 300.0
MOST_RUNS = 400  # of the shrinking


class PortRaised(Exception):  # noqa: N818  (a finding, not an error of ours)
    """The port could not compute an input that the original did."""


def differs(comparison: Comparison) -> bool:
    """The default of what counts as failing: no match, or a tensor that rounding does not explain."""
    return comparison.status != MATCH or bool(comparison.faults)


@dataclass(frozen=True)
class Failure:
    """An input that was seen to fail.

    Attributes:
        label: what was chosen about it.
        inputs: the ids.
        comparison: of all taps; None where the port raised.
        error: what the port raised.
    """

    label: str
    inputs: Inputs
    comparison: Comparison | None
    error: str = ""

    @property
    def first_divergence(self) -> TensorComparison | None:
        """The first tensor beyond the tolerance, if there is one."""
        return self.comparison.first_divergence if self.comparison else None

    @property
    def status(self) -> str:
        """Of its comparison: "match" where only rounding is exceeded; "diverged" if the port raised."""
        return DIVERGED if self.comparison is None else self.comparison.status

    @property
    def fault(self) -> str | None:
        """Name of the first tensor that is wrong by itself, if that is known."""
        faults = self.comparison.faults if self.comparison else ()
        return faults[0].name if faults else None

    def to_json(self) -> dict[str, Any]:
        """An item of `failing`."""
        first = self.first_divergence
        return {
            "label": self.label,
            "status": self.status,
            "shapes": {name: list(array.shape) for name, array in self.inputs.arrays().items()},
            "first_divergence": first.to_json() if first else None,
            "fault": self.fault,
            **({"error": self.error} if self.error else {}),
        }


@dataclass(frozen=True)
class Shrunk:
    """The smallest input that was seen to fail.

    Attributes:
        failure: what was seen.
        runs: comparisons that the shrinking took.
        test_file: a pytest file that reproduces it; None if none was written.
    """

    failure: Failure
    runs: int
    test_file: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `shrunk` in the JSON: the ids in full, and the name of the first tensor that diverges."""
        first = self.failure.first_divergence
        return {
            "inputs": {name: array.tolist() for name, array in self.failure.inputs.arrays().items()},
            "label": self.failure.label,
            "status": self.failure.status,
            "first_divergence": first.name if first else None,
            "fault": self.failure.fault,
            **({"error": self.failure.error} if self.failure.error else {}),
            "runs": self.runs,
            "test_file": self.test_file,
        }


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        tried: number of inputs tried, shrinking apart.
        failing: those that failed, in the order in which they were tried.
        shrunk: the smallest that fails; None if none does.
        refused: labels of inputs that the original could not run, or gives NaN for, with what it said.
        ended: "all tried", or "budget": time or runs were used up before.
        budget: seconds that there were.
        seconds: how long it took.
    """

    tried: int
    failing: tuple[Failure, ...]
    shrunk: Shrunk | None
    refused: tuple[tuple[str, str], ...]
    ended: str
    budget: float
    seconds: float

    @property
    def status(self) -> str:
        """Of the worst input: "match" if none failed."""
        found = [failure.status for failure in self.failing]
        return next((status for status in (DIVERGED, INVALID, INCOMPLETE) if status in found), MATCH)

    def with_test_file(self, path: str) -> SearchResult:
        """The same, with the path of the test that was written."""
        return replace(self, shrunk=replace(self.shrunk, test_file=path)) if self.shrunk else self

    def to_json(self) -> dict[str, Any]:
        """As `search` in the JSON of `compare-outputs`."""
        return {
            "tried": self.tried,
            "failing": [failure.to_json() for failure in self.failing],
            "refused": [{"label": label, "message": message} for label, message in self.refused],
            "shrunk": self.shrunk.to_json() if self.shrunk else None,
            "ended": self.ended,
            "budget": self.budget,
            "seconds": round(self.seconds, 1),
        }


def search(
    compare: Callable[[Inputs], Comparison],
    candidates: Iterable[tuple[str, Inputs]],
    count: int,
    *,
    failing: Callable[[Comparison], bool] = differs,
    known: Failure | None = None,
    fit: Callable[[Inputs], Inputs] = lambda ids: ids,
    fields: Sequence[InputField] = TEXT_TO_TEXT,
    budget: float = DEFAULT_BUDGET,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> SearchResult:
    """Try the first `count` candidates, then shrink the smallest failing one.

    Args:
        compare: runs both sides on an input. Raises PortRaised if the port cannot, ReferenceRunError if the
            original cannot.
        candidates: inputs with labels, in the order in which to try them.
        count: how many at most.
        failing: what counts as failing.
        known: an input already seen to fail, a candidate for shrinking too.
        fit: makes of what is left of an input one that the model can read.
        fields: what the arrays of the inputs are.
        budget: seconds for all. Where something fails, trying leaves half of them to the shrinking.
        on_progress: called with what is going on, in words.
    """
    trials = _Trials(compare, failing, budget)
    found: list[Failure] = []
    ended, tried = ALL_TRIED, 0
    for label, inputs in islice(candidates, count):
        left = trials.left() - (budget / 2 if found or known else 0.0)
        if left <= 0:
            ended = BUDGET
            break
        on_progress(f"searching: {tried} of {count} inputs tried, {len(found)} failing")
        failure = trials.run(label, inputs)
        tried += 1
        if failure:
            found.append(failure)
    start = min([*found, *([known] if known else [])], key=_positions, default=None)
    shrunk = None
    if start:
        shrunk, cut_short = _shrink(trials, start, fit, fields, on_progress)
        ended = BUDGET if cut_short else ended
    return SearchResult(
        tried, tuple(found), shrunk, tuple(trials.refused), ended, budget, budget - trials.left()
    )


def _shrink(
    trials: _Trials,
    start: Failure,
    fit: Callable[[Inputs], Inputs],
    fields: Sequence[InputField],
    on_progress: Callable[[str], None],
) -> tuple[Shrunk, bool]:
    from porting.search.shrink import shrink

    seen = {_key(start.inputs): start}
    before, cut_short = trials.runs, False
    now = start.inputs.shapes()

    def fails(inputs: Inputs) -> bool:
        nonlocal cut_short, now
        key = _key(inputs)
        if key in seen:
            return True
        if not trials.knows(inputs) and (trials.left() <= 0 or trials.runs - before >= MOST_RUNS):
            cut_short = True
            return False
        on_progress(f"shrinking: {trials.runs - before} runs, now {now}")
        failure = trials.run(start.label, inputs)
        if failure:
            seen[key] = failure
            now = inputs.shapes()
        return failure is not None

    smallest = shrink(start.inputs, fails, fit, fields)
    return Shrunk(seen[_key(smallest)], trials.runs - before), cut_short


@dataclass
class _Trials:
    """Runs comparisons, each input once, and watches the time."""

    compare: Callable[[Inputs], Comparison]
    failing: Callable[[Comparison], bool]
    budget: float
    runs: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    _known: dict[object, Failure | None] = field(default_factory=dict)
    _began: float = field(default_factory=lambda: time.monotonic())

    def left(self) -> float:
        """Seconds."""
        return self.budget - (time.monotonic() - self._began)

    def knows(self, inputs: Inputs) -> bool:
        """Whether this input was run before."""
        return _key(inputs) in self._known

    def run(self, label: str, inputs: Inputs) -> Failure | None:
        """Compare on an input, unless that was done; the failure, if it fails."""
        key = _key(inputs)
        if key not in self._known:
            self.runs += 1
            self._known[key] = self._run(label, inputs)
        failure = self._known[key]
        return replace(failure, label=label) if failure else None

    def _run(self, label: str, inputs: Inputs) -> Failure | None:
        try:
            comparison = self.compare(inputs)
        except PortRaised as error:
            return Failure(label, inputs, None, str(error))
        except ReferenceRunError as error:
            self.refused.append((label, error.message))
            return None
        undefined = [row.reference_name for row in comparison.tensors if row.status == INVALID]
        if undefined and all(row.status in (MATCH, INVALID) for row in comparison.tensors):
            self.refused.append((label, f"the original itself gives NaN, in {undefined[0]}"))
            return None
        return Failure(label, inputs, comparison) if self.failing(comparison) else None


def _key(inputs: Inputs) -> object:
    return tuple((name, array.shape, array.tobytes()) for name, array in inputs.arrays().items())


def _positions(failure: Failure) -> int:
    return sum(array.size for array in failure.inputs.arrays().values())
