"""Traces of gradients: where they lie, and how an original's variables get a port's parameter names.

A trace may have the gradients of the loss along, in its sub-directory `gradients`, which is a trace itself,
in backward order: from the loss towards the inputs. A tapped tensor's gradient has the name and the
dimensions of the tensor, a parameter's has the parameter's name. Its metadata say which is which:

    "parameters": [...]         names of parameters
    "without_gradient": [...]   names that no gradient reaches, written as zeros

The original writes its variables' gradients under their own names, listed as "variables"; they go the same
way as the weights (`map_variables`).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from porting.errors import InputError
from porting.mapping import Plan, PlanEntry
from porting.ops import Part, Reshape, Split, Transpose
from porting.trace import GRADIENTS, Trace, TraceWriter, read_trace

# These move numbers and change none, so that what they do to a weight they do to its gradient. Another op
# would have to say what becomes of a gradient.
_MOVES = (Transpose, Reshape, Part, Split)


def gradients_of(trace: Trace) -> Trace:
    """The gradients that a trace has along, as a trace of their own.

    Raises:
        InputError: it was made without gradients, or they cannot be read.
    """
    path = trace.path / GRADIENTS
    if not (path / "trace.json").is_file():
        raise InputError(
            f"The trace {trace.path} was made without gradients.",
            remedy="Make one with them: compare-outputs SOURCE MODEL_DIR --backward --save-traces DIR,"
            " or run_reference(source, backward=True).",
        )
    gradients = read_trace(path)
    # The files must live as long as either trace is used.
    return Trace(gradients.path, gradients.tensors, gradients.inputs, gradients.metadata, trace)


def map_variables(raw: Trace, plan: Plan, path: Path) -> Trace:
    """Write gradients again, those of variables under the names and in the layout of the port's parameters.

    A variable that fills several parameters gives each its part. What the plan has no place for keeps its
    own name, and so turns up as unmatched.

    Args:
        raw: as the original wrote it.
        plan: as the weights were, or would be, converted.
        path: where to write; usually `gradients` in the original's trace.
    """
    targets: dict[str, list[PlanEntry]] = defaultdict(list)
    for entry in plan.entries:
        if all(isinstance(op, _MOVES) for op in entry.ops):
            for name in entry.sources:
                targets[name].append(entry)
    variables = set(raw.metadata["variables"])
    without = set(raw.metadata["without_gradient"])
    parameters: list[str] = []
    without_gradient: list[str] = []
    stacked: dict[str, dict[str, np.ndarray]] = defaultdict(dict)  # parameter -> gradients of its variables
    writer = TraceWriter(path, raw.inputs)
    for tensor, values in raw.items():
        if tensor.name in variables and tensor.name in targets:
            written = []
            for entry in targets[tensor.name]:
                held = stacked[entry.target]
                held[tensor.name] = values
                if len(held) == len(entry.sources):
                    array = entry.make(stacked.pop(entry.target).__getitem__)
                    written.append((entry.target, array, parameter_dims(array.ndim)))
            parameters += [name for name, _, _ in written]
        else:
            written = [(tensor.name, values, tensor.dims)]
        where = [each._replace(file=writer.mask(each.name, raw.mask(each))) for each in tensor.where]
        for name, array, dims in written:
            writer.add(name, array, dims, original_name=tensor.original_name, where=where)
            if tensor.name in without:
                without_gradient.append(name)
    metadata = {key: value for key, value in raw.metadata.items() if key != "variables"}
    return writer.close({**metadata, "parameters": parameters, "without_gradient": without_gradient})


def parameter_dims(rank: int) -> tuple[str, ...]:
    """Axes of a parameter have numbers only: axis_0, axis_1."""
    return tuple(f"axis_{i}" for i in range(rank))
