"""The verdict on what both sides generate: where they part, and whether the port's cache changes anything.

Values only: `flips.py` finds and judges flips, `incremental.py` runs the port step by step and at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from porting.generation.decoding import GenerationSettings, Sequences

MATCH, DIVERGED, NOT_COMPARED = "match", "diverged", "not compared"
# Cached and full matrix products are summed in another order, and every layer adds to it.
RTOL = 1e-4


@dataclass(frozen=True)
class Flip:
    """The first token of a row at which the two sides part.

    Attributes:
        row, step: which row, and which new token, both from 0.
        reference_token, port_token: what each side says there; None where its sequence has ended.
        reference_score, port_score: what the port gives each side's choice. Decoding greedily: the logits of
            the two tokens after the original's prefix. With beams: of the two whole sequences, the summed
            log-probabilities divided by the length penalty. None where they cannot be compared.
        margin: port_score - reference_score; below zero the port, fed all at once, prefers the original's.
        noise_floor: how far rounding may move the margin.
        note: what follows from it, in words.
    """

    row: int
    step: int
    reference_token: int | None
    port_token: int | None
    reference_score: float | None = None
    port_score: float | None = None
    noise_floor: float | None = None
    note: str = ""

    @property
    def margin(self) -> float | None:
        """By how much the port prefers its own choice."""
        if self.reference_score is None or self.port_score is None:
            return None
        return self.port_score - self.reference_score

    @property
    def below_noise(self) -> bool:
        """Whether rounding decides here: the flip is a tie, and no divergence."""
        return (
            self.margin is not None and self.noise_floor is not None and abs(self.margin) <= self.noise_floor
        )

    def to_json(self) -> dict[str, Any]:
        """As `generation.first_flip`."""
        return {
            "row": self.row,
            "step": self.step,
            "reference_token": self.reference_token,
            "port_token": self.port_token,
            "reference_score": self.reference_score,
            "port_score": self.port_score,
            "margin": self.margin,
            "noise_floor": self.noise_floor,
            "below_noise": self.below_noise,
            "note": self.note,
        }


@dataclass(frozen=True)
class StepDifference:
    """One tap at one step, or at the step where it is worst.

    Attributes:
        name: of the tap.
        step: number of the step, from 0.
        max_abs_diff: largest absolute difference; infinite where shapes differ or a value is no number.
        max_rel_diff: the same relative to the largest magnitude in the full run at this step.
        index: where it is, in the axes of `dims`.
        dims: names of the axes.
        full, incremental: the values there.
        note: what else there is to say, such as shapes that differ.
    """

    name: str
    step: int
    max_abs_diff: float
    max_rel_diff: float
    index: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    full: float = math.nan
    incremental: float = math.nan
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Numbers that JSON cannot say are null."""
        return {
            "name": self.name,
            "step": self.step,
            "max_abs_diff": _finite(self.max_abs_diff),
            "max_rel_diff": _finite(self.max_rel_diff),
            "dims": list(self.dims),
            "index": list(self.index),
            "full": _finite(self.full),
            "incremental": _finite(self.incremental),
            **({"note": self.note} if self.note else {}),
        }


@dataclass(frozen=True)
class IncrementalComparison:
    """Every step and tap of a cached decoding against the full run.

    Attributes:
        status: "match", "diverged" or "not compared".
        first_divergence: the first step, and the first tap in it, that differs by more than rounding.
        largest: the largest relative difference of all.
        steps, taps: how many were compared.
        rtol: largest relative difference that counts as rounding.
        note: why nothing was compared, where nothing was.
    """

    status: str
    first_divergence: StepDifference | None = None
    largest: StepDifference | None = None
    steps: int = 0
    taps: int = 0
    rtol: float = RTOL
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `generation.incremental` of the command's JSON."""
        return {
            "status": self.status,
            "first_divergence": self.first_divergence.to_json() if self.first_divergence else None,
            "largest": self.largest.to_json() if self.largest else None,
            "steps": self.steps,
            "taps": self.taps,
            "rtol": self.rtol,
            **({"note": self.note} if self.note else {}),
        }


@dataclass(frozen=True)
class GenerationComparison:
    """The verdict on generation, and what it rests on.

    Attributes:
        settings: how both sides decoded.
        reference, port: new tokens of each row, up to and with the end.
        flips: where rows part. Greedy rows are followed along the original's tokens behind a tie.
        incremental: the port's cached path against its full path.
    """

    settings: GenerationSettings
    reference: Sequences
    port: Sequences
    flips: tuple[Flip, ...]
    incremental: IncrementalComparison

    @property
    def status(self) -> str:
        """ "diverged" if a flip is no tie, or if the cached path is not the full path; else "match"."""
        real = any(not flip.below_noise for flip in self.flips)
        return DIVERGED if real or self.incremental.status == DIVERGED else MATCH

    @property
    def first_flip(self) -> Flip | None:
        """The earliest flip that is no tie; if all are ties, the earliest of them."""
        return min(self.flips, key=lambda flip: (flip.below_noise, flip.step, flip.row), default=None)

    def to_json(self) -> dict[str, Any]:
        """As `generation` in the JSON of `compare-outputs`."""
        first = self.first_flip
        return {
            "status": self.status,
            **self.settings.to_json(),
            "sequences": [
                {"row": row, "reference": list(theirs), "port": list(ours)}
                for row, (theirs, ours) in enumerate(zip(self.reference, self.port, strict=True))
            ],
            "first_flip": first.to_json() if first else None,
            "flips": [flip.to_json() for flip in self.flips],
            "incremental": self.incremental.to_json(),
        }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
