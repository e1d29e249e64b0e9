"""Traces made of a few arrays, for the tests of what reads traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from porting.compare import Comparison, compare_traces
from porting.inputs import Inputs
from porting.trace import Trace, TraceWriter

INPUTS = Inputs.from_arrays({"inputs": [[5, 1]], "targets": [[6, 1]]})


@dataclass(frozen=True)
class T:
    """A tensor to be: its name, values, dims (default: batch, length, d_model as far as they go)."""

    name: str
    values: npt.ArrayLike
    dims: str | None = None
    hidden_below: float | None = None

    @property
    def array(self) -> np.ndarray:
        array = np.asarray(self.values)
        return array.astype(np.float32) if array.dtype.kind != "f" else array


@dataclass
class TraceMaker:
    """Makes traces in folders of their own."""

    folder: Path
    made: int = field(default=0)

    def __call__(
        self, tensors: Sequence[T], metadata: Mapping[str, Any] | None = None, prefix: str = ""
    ) -> Trace:
        self.made += 1
        writer = TraceWriter(self.folder / f"trace-{self.made}", INPUTS)
        for tensor in tensors:
            dims = ("batch", "length", "d_model")[: tensor.array.ndim]
            dims = dims if tensor.dims is None else tuple(tensor.dims.split())
            writer.add(
                tensor.name,
                tensor.array,
                dims,
                original_name=prefix + tensor.name,
                hidden_below=tensor.hidden_below,
            )
        return writer.close(metadata or {})

    def compare(
        self,
        reference: Sequence[T],
        port: Sequence[T],
        atol: float = 1e-3,
        reference_metadata: Mapping[str, Any] | None = None,
        port_metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Comparison:
        return compare_traces(
            self(reference, reference_metadata, prefix="tf/"), self(port, port_metadata), atol, **options
        )
