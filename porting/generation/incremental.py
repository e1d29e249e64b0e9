"""The port's step-by-step path against its full path, at every step and tap.

A module decodes under hooks: each tap is called once a step, on the newest position. Then the module runs on
all positions at once, fed what it said, and every call is compared with its positions of that run. Nothing of
the original is needed: the full path is what the other comparison proves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from porting.capture import to_numpy
from porting.generation.comparison import (
    DIVERGED,
    MATCH,
    NOT_COMPARED,
    RTOL,
    IncrementalComparison,
    StepDifference,
)
from porting.generation.decoding import Sequences
from porting.tap import Tap

_RTOL_EPSILONS = 8  # of the type that the module computes in, where that is coarser


def compare_incremental(
    module: nn.Module,
    taps: Sequence[Tap],
    generate: Callable[[nn.Module], Sequences],
    forced: Callable[[nn.Module, Sequences], object],
) -> IncrementalComparison:
    """Decode under hooks, run everything at once under the same hooks, compare.

    Args:
        module: in eval mode.
        taps: where to listen; see `Decoding.taps` for what the names of their dims mean.
        generate: lets the module decode greedily and returns what it said.
        forced: runs the module on all steps of these sequences at once.
    """
    rtol = max(RTOL, _RTOL_EPSILONS * torch.finfo(next(module.parameters()).dtype).eps)
    with torch.no_grad():
        with _every_call(module, taps) as steps:
            sequences = generate(module)
        with _every_call(module, taps) as whole:
            forced(module, sequences)
    by_name = {tap.name: tap for tap in taps}
    compared = [by_name[name] for name in steps if name in whole]
    if not compared:
        return IncrementalComparison(NOT_COMPARED, note="no tap is called while the port decodes")
    if any(_recomputes(tap, steps[tap.name]) for tap in compared):
        note = "the port computes every position again at each step: it keeps no cache"
        return IncrementalComparison(NOT_COMPARED, note=note)
    alive = [np.array([len(row) > step for row in sequences]) for step in range(max(map(len, sequences)))]
    rows = [
        replace(_compare_step(tap, whole[tap.name][0], steps[tap.name][step], step, alive[step]), step=step)
        for step in range(len(alive))
        for tap in compared
        if step < len(steps[tap.name])
    ]
    return IncrementalComparison(
        status=DIVERGED if any(row.max_rel_diff > rtol for row in rows) else MATCH,
        first_divergence=next((row for row in rows if row.max_rel_diff > rtol), None),
        largest=max(rows, key=lambda row: row.max_rel_diff, default=None),
        steps=len(alive),
        taps=len(compared),
        rtol=rtol,
    )


@contextmanager
def _every_call(module: nn.Module, taps: Sequence[Tap]) -> Iterator[dict[str, list[np.ndarray]]]:
    """What every tapped module gives while the block runs, call by call, names as first called."""
    heard: dict[str, list[np.ndarray]] = {}

    def hook(tap: Tap) -> Callable[..., None]:
        def listen(_module: nn.Module, _args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, torch.Tensor):
                array = to_numpy(value)
                heard.setdefault(tap.name, []).append(array.reshape(tap.unfolded_shape(array.shape)))

        return listen

    modules = dict(module.named_modules())
    with ExitStack() as hooks:
        for tap in taps:
            if tap.name in modules:
                hooks.callback(modules[tap.name].register_forward_hook(hook(tap)).remove)
        yield heard


def _recomputes(tap: Tap, calls: Sequence[np.ndarray]) -> bool:
    """Whether a later call is about more than the newest position."""
    dims = tap.dimension_names
    return "length" in dims and any(call.shape[dims.index("length")] > 1 for call in calls[1:])


def _compare_step(
    tap: Tap, whole: np.ndarray, value: np.ndarray, step: int, alive: np.ndarray
) -> StepDifference:
    dims = tap.dimension_names
    expected = whole[_positions(dims, step)]
    if expected.shape != value.shape:
        note = f"shape {list(value.shape)} ({' '.join(dims)}) step by step, {list(expected.shape)} at once"
        return StepDifference(tap.name, step, math.inf, math.inf, note=note)
    wide, found = expected.astype(np.float64), value.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.abs(wide - found)
    distance[wide == found] = 0.0
    distance[np.isnan(distance)] = np.inf
    counted = np.ones(distance.shape, bool)
    if "batch" in dims:  # what a row does after its end means nothing
        counted &= alive.reshape([-1 if name == "batch" else 1 for name in dims])
    if tap.hidden_below is not None:
        hidden, found_hidden = wide <= tap.hidden_below, found <= tap.hidden_below
        distance[hidden != found_hidden] = np.inf
        counted &= ~(hidden & found_hidden)
    if not counted.any():
        return StepDifference(tap.name, step, 0.0, 0.0)
    distance[~counted] = 0.0
    index = tuple(int(i) for i in np.unravel_index(int(distance.argmax()), distance.shape))
    largest, scale = float(distance[index]), float(np.abs(wide[counted]).max())
    relative = largest / scale if scale > 0 else (0.0 if largest == 0 else math.inf)
    return StepDifference(
        tap.name, step, largest, relative, index, dims, float(wide[index]), float(found[index])
    )


def _positions(dims: tuple[str, ...], step: int) -> tuple[slice, ...]:
    """Which part of the full run a step computes: its own position, against all positions so far."""
    own, so_far = slice(step, step + 1), slice(step + 1)
    memory = so_far if "length" in dims else own  # keys and values are computed for the new position only
    parts = {"length": own, "memory_length": memory}
    return tuple(parts.get(name, slice(None)) for name in dims)
