"""Break a port, compare it, and judge what the comparison says against what was broken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.corpus.fault import Fault, broken
from benchmarks.corpus.variants import Ported
from porting import compare_outputs
from porting.analysis.rounding import in_float64
from porting.capture import run_tapped, to_numpy
from porting.compare import MATCH
from porting.difference import distance
from porting.findings import Fault as Found
from porting.tap import Tap

# A change of a tensor by this many times what float32 and float64 are apart there is no rounding.
_BEYOND_ROUNDING = 4.0


@dataclass(frozen=True)
class Outcome:
    """What was found of one fault or of a pair.

    Attributes:
        faults: names of what was broken.
        variant: the model.
        expected: the taps at which the faults must be located.
        found: taps that were named, each with its cause's kind and words.
        located: all of them were found, a single one first, and no tap was named that none of them touches.
        cause: the verified cause of each is right.
        wrong_causes: verified causes of a kind that none of the faults is.
        elsewhere: taps that were named and are not touched.
        visible: whether any tensor changes beyond rounding.
        seconds: of the comparison.
    """

    faults: tuple[str, ...]
    variant: str
    expected: tuple[str, ...]
    found: tuple[tuple[str, str, str], ...]
    located: bool
    cause: bool
    wrong_causes: tuple[str, ...]
    elsewhere: tuple[str, ...]
    visible: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "faults": list(self.faults),
            "variant": self.variant,
            "expected": list(self.expected),
            "found": [{"name": name, "kind": kind, "text": words} for name, kind, words in self.found],
            "located": self.located,
            "cause": self.cause,
            "wrong_causes": list(self.wrong_causes),
            "elsewhere": list(self.elsewhere),
            "visible": self.visible,
            "seconds": round(self.seconds, 3),
        }


def judge(ported: Ported, faults: Sequence[Fault]) -> Outcome:
    """Break the port with these faults, all on the same inputs, and see what is said."""
    inputs = faults[0].inputs
    assert all(fault.inputs == inputs for fault in faults)
    name = ported.name
    trace = ported.trace(inputs)
    started = time.perf_counter()
    crash = ""
    found: tuple[Found, ...] = ()
    try:
        found = compare_outputs(trace, broken(ported, faults), checkpoint=ported.checkpoint).faults
    except Exception as error:  # a miss like any other
        crash = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    seconds = time.perf_counter() - started
    named = {tap for fault in found for tap in (fault.name, *fault.also)}
    elsewhere = tuple(tap for tap in sorted(named) if not any(fault.touches(name, tap) for fault in faults))
    expected = tuple(fault.where(name) for fault in faults)
    if len(faults) == 1:
        at_place = bool(found) and found[0].name == expected[0]
    else:
        at_place = named.issuperset(expected)
    kinds = {kind for fault in faults for kind in fault.kinds}
    wrong = tuple(
        f"{f.name}: {f.cause.kind}: {f.cause.words}" for f in found if f.cause and f.cause.kind not in kinds
    )
    return Outcome(
        faults=tuple(fault.name for fault in faults),
        variant=name,
        expected=expected,
        found=tuple(
            (f.name + (f" (and {len(f.also)} more)" if f.also else ""), *_cause_words(f)) for f in found
        )
        + ((("the comparison failed", "crash", crash),) if crash else ()),
        located=at_place and not elsewhere,
        cause=all(any(_is_right(fault, name, f) for f in found) for fault in faults),
        wrong_causes=wrong,
        elsewhere=elsewhere,
        visible=bool(found or crash) or _visible(ported, faults),
        seconds=seconds,
    )


def _cause_words(found: Found) -> tuple[str, str]:
    if found.cause is None:
        return (
            "none",
            f"{found.times_floor:.3g} times the floor; tried: {', '.join(found.tried) or 'nothing'}",
        )
    return found.cause.kind, found.cause.words


def _is_right(fault: Fault, variant: str, found: Found) -> bool:
    if fault.where(variant) not in (found.name, *found.also) or found.cause is None:
        return False
    return found.cause.kind in fault.kinds and fault.word in f"{found.cause.words} {found.cause.subject}"


def _visible(ported: Ported, faults: Sequence[Fault]) -> bool:
    """Whether a tensor of the broken port is another than the right one's, by more than rounding."""
    right = ported.model()
    values = _tensors(ported, right, faults[0].inputs)
    with in_float64(right):
        wide = _tensors(ported, right, faults[0].inputs)
    for tap, value in _tensors(ported, broken(ported, faults), faults[0].inputs).items():
        if values[tap].shape != value.shape:
            return True
        below = -1e8 if tap.endswith("scores") else None
        rounding = distance(values[tap], wide[tap], below).max()
        if distance(values[tap], value, below).max() > _BEYOND_ROUNDING * rounding:
            return True
    return False


def _tensors(ported: Ported, model: torch.nn.Module, inputs: str) -> dict[str, np.ndarray]:
    port, content = ported.port_and_config
    found: dict[str, np.ndarray] = {}

    def listen(tap: Tap, value: torch.Tensor) -> None:
        found[tap.name] = to_numpy(value)

    run_tapped(
        model, ported.trace(inputs).inputs, port.taps(port.config_from_json(content)), port.run, listen
    )
    return found


@dataclass(frozen=True)
class RightRun:
    """A right port, written otherwise, and what was said of it.

    Attributes:
        refactoring, variant, inputs: what was run.
        alarms: why it is a false alarm: its status, faults, exit code; empty where it is none.
        times_floor: the largest multiple of its noise floor that any tensor reaches.
        seconds: of the comparison.
    """

    refactoring: str
    variant: str
    inputs: str
    alarms: tuple[str, ...] = field(default=())
    times_floor: float = 0.0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "refactoring": self.refactoring,
            "variant": self.variant,
            "inputs": self.inputs,
            "alarms": list(self.alarms),
            "times_noise_floor": self.times_floor,
            "seconds": round(self.seconds, 3),
        }


def judge_right(ported: Ported, model: torch.nn.Module, refactoring: str, inputs: str) -> RightRun:
    """Compare a port that is right, and see whether anything is claimed."""
    started = time.perf_counter()
    try:
        comparison = compare_outputs(ported.trace(inputs), model, checkpoint=ported.checkpoint)
    except Exception as error:  # an alarm like any other
        return RightRun(refactoring, ported.name, inputs, (f"failed: {type(error).__name__}: {error}",))
    seconds = time.perf_counter() - started
    alarms = []
    if comparison.status != MATCH:
        alarms.append(
            f"status {comparison.status}, exit {comparison.exit_code} {'; '.join(comparison.reasons)}"
        )
    for fault in comparison.faults:
        kind, words = _cause_words(fault)
        alarms.append(f"{fault.name}: {fault.times_floor:.3g} times the floor, {kind}: {words}")
    findings = comparison.findings
    times = findings.figures[findings.noisiest].times_floor if findings and findings.noisiest else 0.0
    return RightRun(refactoring, ported.name, inputs, tuple(alarms), times, seconds)
