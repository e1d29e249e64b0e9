"""Runs a reference as the workbench does, in a process of its own, and opens what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from porting.inputs import Inputs
from porting.references.process import ReferenceProcess
from porting.trace import GRADIENTS, Trace, TraceWriter, read_trace


class Runner:
    """One reference process, and the folder its traces are written to."""

    def __init__(self, process: ReferenceProcess, checkpoint: Path, folder: Path) -> None:
        self.process, self.checkpoint, self.folder = process, checkpoint, folder
        self.runs = 0

    def run(
        self, ids: np.ndarray, config: Mapping[str, Any] | None = None, *, backward: bool = False
    ) -> Trace:
        self.runs += 1
        place = self.folder / str(self.runs)
        inputs = Inputs.from_arrays({"inputs": ids, "targets": ids})
        TraceWriter(place / "inputs", inputs).close({})
        self.process.call(
            {
                "checkpoint": str(self.checkpoint),
                "config": dict(config or {}),
                "original_config": "",
                "inputs": str(place / "inputs"),
                "trace": str(place / "trace"),
                "metadata": {"port": "small"},
                **({"gradients": str(place / "trace" / GRADIENTS)} if backward else {}),
            }
        )
        return read_trace(place / "trace")


IDS = np.array([[3, 1, 7, 0], [2, 10, 3, 9]], np.int32)


def numerical_gradient(loss: Any, array: np.ndarray) -> np.ndarray:
    """The gradient of `loss(array)` by central differences; `array` is float64."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        at, step = array[index], 1e-6
        array[index] = at + step
        above = loss(array)
        array[index] = at - step
        gradient[index] = (above - loss(array)) / (2 * step)
        array[index] = at
    return gradient
