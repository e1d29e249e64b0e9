"""What an analysis finds: figures of each tensor, the faults, their causes, and what remains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TapFigures:
    """What is known of one tap; differences are the largest over its elements, NaN where not known.

    Attributes:
        local: made here, from the original's inputs.
        passed_on: came in with the inputs and went through.
        local_floor: largest rounding to be expected of `local`.
        floor: largest rounding to be expected of a free run, where it gathers from the beginning.
        times_floor: the largest ratio of the local difference to its floor, element by element.
    """

    local: float = math.nan
    passed_on: float = math.nan
    local_floor: float = math.nan
    floor: float = math.nan
    times_floor: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """Further entries of a row of `tensors`; what is not known, or infinite, is null."""
        return {
            "local_max_abs_diff": finite(self.local),
            "passed_on_max_abs_diff": finite(self.passed_on),
            "noise_floor": finite(self.floor),
            "local_noise_floor": finite(self.local_floor),
            "times_noise_floor": finite(self.times_floor),
        }


@dataclass(frozen=True)
class Cause:
    """Why a tensor is wrong, verified: with this mended, parity returns at the tensor.

    Attributes:
        kind: one word for programs, such as "weight", "mask", "activation".
        words: for people; does not name the tap.
        subject: what it is about where that is not the tap: a parameter, a field of the config.
    """

    kind: str
    words: str
    subject: str = ""


@dataclass(frozen=True)
class Fault:
    """A tensor that is wrong by itself, and why.

    Attributes:
        name, reference_name: the first tensor that it touches, in the original's order.
        local: what goes wrong there, fed with the original's inputs: the largest absolute difference.
        times_floor: the same as a multiple of what rounding explains.
        cause: verified; None where nothing that was tried brought parity back.
        also: further tensors that are wrong by themselves for the same reason.
        tried: kinds of causes that were tried.
    """

    name: str
    reference_name: str
    local: float
    times_floor: float
    cause: Cause | None = None
    also: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """An entry of `faults`."""
        cause = self.cause
        return {
            "name": self.name,
            "reference_name": self.reference_name,
            "local_max_abs_diff": finite(self.local),
            "times_noise_floor": finite(self.times_floor),
            "also": list(self.also),
            "cause": None
            if cause is None
            else {"kind": cause.kind, "subject": cause.subject, "text": cause.words, "verified": True},
            "tried": list(self.tried),
        }


@dataclass(frozen=True)
class Remainder:
    """What is left when the port goes on with the original's tensor at every fault.

    Attributes:
        name: the tap with the largest difference left, relative to its noise floor.
        max_abs_diff: how large it is.
        times_floor: as a multiple of the tap's floor in a free run.
    """

    name: str
    max_abs_diff: float
    times_floor: float


@dataclass(frozen=True)
class Findings:
    """All of it.

    Attributes:
        figures: by tap name.
        faults: independent ones, in the original's order.
        times: how many times its floor a local difference may be.
        unit: the relative rounding unit that the floors are for.
        remainder: None where there is no fault.
        notes: what could not be had, in words.
    """

    figures: Mapping[str, TapFigures]
    faults: tuple[Fault, ...]
    times: float
    unit: float
    remainder: Remainder | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def within_noise(self) -> bool:
        """The second verdict: rounding explains what every tensor makes itself."""
        return not self.faults

    @property
    def noisiest(self) -> str:
        """Name of the tap whose local difference is the largest multiple of its floor."""
        known = {name: f.times_floor for name, f in self.figures.items() if not math.isnan(f.times_floor)}
        return max(known, key=known.__getitem__, default="")

    def origin(self, name: str) -> str | None:
        """ "own" for a tensor that is wrong by itself."""
        own = any(name == fault.name or name in fault.also for fault in self.faults)
        return "own" if own else None

    def to_json(self) -> dict[str, Any]:
        """Further entries of the whole comparison."""
        noisiest, remainder = self.noisiest, self.remainder
        return {
            "noise": {
                "verdict": "within" if self.within_noise else "beyond",
                "times": self.times,
                "rounding_unit": self.unit,
                "largest": finite(self.figures[noisiest].times_floor) if noisiest else None,
                "largest_in": noisiest or None,
            },
            "faults": [fault.to_json() for fault in self.faults],
            "remaining": None
            if remainder is None
            else {
                "name": remainder.name,
                "max_abs_diff": finite(remainder.max_abs_diff),
                "times_noise_floor": finite(remainder.times_floor),
            },
            "notes": list(self.notes),
        }


def finite(value: float) -> float | None:
    """A number that JSON can say, or None."""
    return float(value) if math.isfinite(value) else None
