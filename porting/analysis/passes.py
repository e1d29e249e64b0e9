"""Where differences are made: what each tensor makes itself, what it passes on, what rounding explains.

Four quantities for each tap, all in the port's own layout:

- seen: |port - original|, both running freely (this is what compare.py judges);
- local: |port fed with the original's tensors - original|: what goes wrong between the taps before and here;
- passed on: |port - port fed with the original's tensors|: what came in with its inputs and went through;
- noise floors of the first two, see noise.py.

A tap is a fault of its own where the local difference is beyond `times` its floor. Arrays wait on disk
between the passes, so that memory does not grow with the model's depth.
"""

from __future__ import annotations

import math
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from porting.analysis.isolation import OnTensor, Originals, moved, run_isolated
from porting.analysis.noise import floor_of, times_for, times_the_floor
from porting.analysis.rounding import in_float64
from porting.capture import Run, run_tapped, to_numpy
from porting.difference import distance
from porting.findings import Remainder, TapFigures
from porting.inputs import Inputs
from porting.tap import Tap
from porting.trace import Trace

# A float64 run may differ by more than rounding: where float32 loses a number altogether (a score beside the
# mask's -1e9), the loss is what the original computes, and a port must lose it too.
_LOST = 64.0
_WITHIN = 8.0


@dataclass(frozen=True)
class Analysis:
    """All of it.

    Attributes:
        figures: by tap name.
        faults: names of the taps that are wrong by themselves, in the original's order.
        times: how many times its floor a local difference may be.
        unit: the relative rounding unit that the floors are for.
        remainder: None where there is no fault.
        reasons: why the run cannot be trusted, in words.
        notes: what could not be had, in words.
        arrays: what each tap computed from the original's tensors, and its floors; on disk.
    """

    figures: Mapping[str, TapFigures]
    faults: tuple[str, ...]
    times: float
    unit: float
    remainder: Remainder | None = None
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    arrays: Arrays | None = field(default=None, repr=False, compare=False)

    @property
    def explained(self) -> bool:
        """Whether rounding explains every local difference."""
        return not self.faults


class Arrays:
    """Arrays by name and kind in a temporary directory that lives as long as this object."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="porting-analysis-")
        self._files: dict[tuple[str, str], Path] = {}

    def put(self, kind: str, name: str, values: np.ndarray) -> None:
        """Write an array, in float32 unless it is float64."""
        key = (kind, name)
        path = self._files.setdefault(key, Path(self._folder.name) / f"{len(self._files):06d}.npy")
        np.save(path, values, allow_pickle=False)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._files

    def get(self, kind: str, name: str) -> np.ndarray:
        """The array, memory-mapped. Raises KeyError where there is none."""
        array: np.ndarray = np.load(self._files[kind, name], mmap_mode="r", allow_pickle=False)
        return array


@dataclass
class Analyser:
    """Runs a port in all the ways that the figures need.

    Attributes:
        model, inputs, taps, run: as in `capture`.
        reference: the original's trace.
        free: the port's own trace.
        unit: relative rounding unit; by default that of the dtype the port computes in.
        times: how many times its floor a local difference may be; by default as `times_for` says.
        on_stage: called as stages begin, for progress.
        on_tensor: called with each tap that a stage reaches, and how many it reaches, for progress.
    """

    model: torch.nn.Module
    inputs: Inputs
    taps: Sequence[Tap]
    run: Run
    reference: Trace
    free: Trace
    unit: float | None = None
    times: float | None = None
    on_stage: Callable[[str], None] = lambda _stage: None
    on_tensor: Callable[[str, int], None] = lambda _name, _total: None

    def __post_init__(self) -> None:
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        own = torch.finfo(torch.float32 if parameter is None else parameter.dtype).eps
        self._unit = max(own, self.unit or 0.0)
        self._times = times_for(self._unit) if self.times is None else self.times
        self._originals = Originals(self.reference)
        self._arrays = Arrays()
        self._figures: dict[str, TapFigures] = {}
        self._notes: list[str] = []
        self._magnitude = 0.0  # the largest number seen in a pass
        self._reached = 0  # how many taps the present stage reaches
        self._free = {tensor.name: tensor for tensor in self.free.tensors}

    def analyse(self) -> Analysis:
        """All passes, and what they say."""
        self._begin("isolating each tensor", passes=1)
        self._isolate()
        # Isolated and free, each with moved inputs and in float64.
        self._begin("measuring the noise floor", passes=4)
        self._local_floors()
        outputs = self._free_floors()
        reasons = self._outputs_without_hooks(outputs)
        order = {name: i for i, name in enumerate(self.reference.names())}
        faults = sorted(
            (name for name, f in self._figures.items() if f.times_floor > self._times), key=order.__getitem__
        )
        if faults:
            self._begin("looking at what is left without the faults", passes=1)
        return Analysis(
            figures=self._figures,
            faults=tuple(faults),
            times=self._times,
            unit=self._unit,
            remainder=self._remainder(faults) if faults else None,
            reasons=reasons,
            notes=tuple(self._notes),
            arrays=self._arrays,
        )

    def _begin(self, stage: str, passes: int) -> None:
        self._reached = passes * len(self.taps)
        self.on_stage(stage)

    def _isolated(self, on_tensor: OnTensor, **how: Any) -> None:
        def hear(tap: Tap, value: np.ndarray, original: np.ndarray) -> None:
            self.on_tensor(tap.name, self._reached)
            on_tensor(tap, value, original)

        run_isolated(self.model, self.inputs, self.taps, self.run, self._originals, hear, **how)

    def _moved(self, value: torch.Tensor, tap: Tap) -> torch.Tensor:
        return moved(value, self._unit, tap.hidden_below, seed=_seed(tap))

    def _isolate(self) -> None:
        def on_tensor(tap: Tap, value: np.ndarray, original: np.ndarray) -> None:
            figures = self._figures.setdefault(tap.name, TapFigures())
            where = self._originals.meaningful(tap)
            figures.local = _largest(distance(original, value, tap.hidden_below, where))
            if tap.name in self._free:
                seen = self.free.read(self._free[tap.name])
                figures.passed_on = _largest(distance(value, seen, tap.hidden_below, where))
            self._arrays.put("isolated", tap.name, value)

        def on_misfit(tap: Tap) -> None:
            figures = self._figures.setdefault(tap.name, TapFigures())
            figures.local = figures.times_floor = math.inf

        self._isolated(on_tensor, on_misfit=on_misfit)

    def _local_floors(self) -> None:
        def on_moved(tap: Tap, value: np.ndarray, original: np.ndarray) -> None:
            self._first_floor("floor", tap, self._arrays.get("isolated", tap.name), value, original)

        def on_wide(tap: Tap, value: np.ndarray, original: np.ndarray) -> None:
            self._second_floor("floor", tap, self._arrays.get("isolated", tap.name), value, original)

        self._magnitude = 0.0
        self._isolated(on_moved, move=self._moved)
        self._in_float64(lambda: self._isolated(on_wide))
        for tap in self.taps:
            if ("isolated", tap.name) in self._arrays:
                figures = self._figures[tap.name]
                isolated = self._arrays.get("isolated", tap.name)
                floor = self._arrays.get("floor", tap.name)
                original = self._originals.unfolded(tap, isolated.shape)
                assert original is not None
                figures.local_floor = _largest(floor)
                where = self._originals.meaningful(tap)
                figures.times_floor = times_the_floor(original, isolated, floor, tap.hidden_below, where)

    def _free_floors(self) -> dict[str, float]:
        """Floors of the free run, into the figures; those of the model's outputs are returned."""

        def free(tap: Tap, value: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
            self.on_tensor(tap.name, self._reached)
            ours = self.free.read(self._free[tap.name])
            return ours, to_numpy(value).reshape(ours.shape)

        def hear_and_move(tap: Tap, value: torch.Tensor) -> torch.Tensor:
            ours, array = free(tap, value)
            self._first_floor("free floor", tap, ours, array, ours)
            return self._moved(value, tap)

        def hear(tap: Tap, value: torch.Tensor) -> None:
            ours, array = free(tap, value)
            self._second_floor("free floor", tap, ours, array, ours)

        self._magnitude = 0.0
        run_tapped(self.model, self.inputs, self.taps, self.run, hear_and_move)
        self._in_float64(lambda: run_tapped(self.model, self.inputs, self.taps, self.run, hear))
        for name in self._free:
            figures = self._figures.setdefault(name, TapFigures())
            figures.floor = _largest(self._arrays.get("free floor", name))
        return {name: figures.floor for name, figures in self._figures.items()}

    def _first_floor(
        self, kind: str, tap: Tap, value: np.ndarray, moved_value: np.ndarray, like: np.ndarray
    ) -> None:
        """From inputs moved by one rounding unit."""
        where = self._originals.meaningful(tap)
        change = distance(value, moved_value, tap.hidden_below, where)
        floor = floor_of([change], like, self._unit, tap.hidden_below, where)
        self._arrays.put(kind, tap.name, floor.astype(np.float32, copy=False))

    def _second_floor(
        self, kind: str, tap: Tap, value: np.ndarray, wide_value: np.ndarray, like: np.ndarray
    ) -> None:
        """And from a float64 run, wherever that computes the same."""
        where = self._originals.meaningful(tap)
        change = distance(value, wide_value, tap.hidden_below, where)
        before = self._arrays.get(kind, tap.name)
        # A loss near zero is made of large logits: within a tap, numbers as large as any so far are rounded.
        shown = np.asarray(like if where is None else like[np.broadcast_to(where, like.shape)])
        shown = shown if tap.hidden_below is None else shown[shown > tap.hidden_below]
        self._magnitude = max(self._magnitude, _largest(np.abs(shown[np.isfinite(shown)])))
        change[change > np.maximum(before * _LOST, self._unit * self._magnitude * _WITHIN)] = 0.0
        floor = floor_of([before, change], like, self._unit, tap.hidden_below, where)
        self._arrays.put(kind, tap.name, floor.astype(np.float32, copy=False))

    def _in_float64(self, passes: Callable[[], object]) -> None:
        """A module that has float32 written into its code cannot run in float64: said, not hidden."""
        try:
            with in_float64(self.model):
                passes()
        except (RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            note = f"the port does not run in float64 ({reason}): noise floors rest on moved inputs alone"
            if note not in self._notes:
                self._notes.append(note)

    def _outputs_without_hooks(self, floors: Mapping[str, float]) -> tuple[str, ...]:
        """Listening must not change what is heard, by more than rounding."""
        reasons = []
        for name, apart in self.free.metadata.get("without_hooks", {}).items():
            floor = floors.get(name, math.nan)
            if apart > self._times * floor:
                reasons.append(
                    f"the port computes another {name} when nothing listens: {apart:.3g} apart,"
                    f" where rounding explains {floor:.3g}"
                )
        return tuple(reasons)

    def _remainder(self, faults: Iterable[str]) -> Remainder:
        mended = set(faults)
        worst = Remainder("", 0.0, 0.0)

        def on_tensor(tap: Tap, value: np.ndarray, original: np.ndarray) -> None:
            nonlocal worst
            if tap.name in mended:
                return
            where = self._originals.meaningful(tap)
            apart = _largest(distance(original, value, tap.hidden_below, where))
            floor = self._figures[tap.name].floor
            times = apart / floor if floor > 0 else (math.inf if apart else 0.0)
            if times > worst.times_floor:
                worst = Remainder(tap.name, apart, times)

        self._isolated(on_tensor, replaced=lambda tap: tap.name in mended)
        return worst


def _largest(values: np.ndarray) -> float:
    return float(values.max()) if values.size else 0.0


def _seed(tap: Tap) -> int:
    """The same tap is moved alike in every run, and no two taps alike."""
    return zlib.crc32(tap.name.encode())
