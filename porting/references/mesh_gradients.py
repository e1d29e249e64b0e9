"""Mesh TensorFlow's own gradients of the loss: for every variable, and for every tensor that was tapped.

Imported only inside the reference process. `mtf.gradients` walks the graph's operations backward; the
gradients are listed in that order, so that the first one that a port has wrong is the one nearest to what
is wrong in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porting.inputs import Inputs
from porting.references.gradient_trace import OriginalGradient, write_gradient_trace
from porting.references.mesh_tf import Mesh, Record, dimension_names

Clean = Callable[[tuple[str, ...], np.ndarray], tuple[tuple[str, ...], np.ndarray]]


@dataclass(frozen=True)
class Gradient:
    """The gradient of the loss for one tensor of the graph.

    Attributes:
        name: the port's name of a tapped tensor; of a variable its own.
        original_name: the original's name.
        tensor: the tensor (mtf.Tensor).
        gradient: an mtf.Tensor of the same dimensions; None where the loss does not depend on the tensor,
            or only through operations that have no gradient.
        is_variable: whether the tensor is a variable.
    """

    name: str
    original_name: str
    tensor: Any
    gradient: Any
    is_variable: bool


def add_gradients(mesh: Mesh, graph: Any, loss: Any, records: Sequence[Record]) -> list[Gradient]:
    """Add the gradients of `loss` to the graph, and list them in backward order.

    A tapped tensor stands where backward has its whole gradient, which is behind everything computed from
    it. A variable stands where backward reaches the first operation that reads it, behind the tensor that
    this operation gave, for only then have all its uses been counted.

    Args:
        mesh: the original.
        graph: a finished mtf.Graph that is not lowered yet.
        loss: a scalar mtf.Tensor.
        records: the tapped tensors.

    Source of the gradients: `gradients` in Mesh's ops.py.
    """
    places = {operation: number for number, operation in enumerate(graph.operations)}
    first_reader: dict[Any, int] = {}
    for operation, number in places.items():
        for tensor in operation.inputs:
            first_reader.setdefault(tensor, number)
    listed: list[tuple[float, str, str, Any, bool]] = [
        (places[record.tensor.operation], record.name, record.original_name, record.tensor, False)
        for record in records
    ]
    for variable in graph.all_variables:
        tensor = variable.outputs[0]
        place = first_reader.get(tensor, places[variable]) - 0.5
        listed.append((place, variable.name, variable.name, tensor, True))
    # Of taps on one tensor, the one recorded last is the nearest to the loss.
    listed.reverse()
    listed.sort(key=lambda entry: -entry[0])
    gradients = mesh.mtf.gradients([loss], [tensor for _, _, _, tensor, _ in listed])
    return [
        Gradient(name, original_name, tensor, gradient, is_variable)
        for (_, name, original_name, tensor, is_variable), gradient in zip(listed, gradients, strict=True)
    ]


def write_gradients(
    run: Callable[[Sequence[Any]], list[np.ndarray]],
    gradients: Sequence[Gradient],
    path: Path,
    inputs: Inputs,
    metadata: Mapping[str, Any],
    clean: Clean = lambda names, array: (names, array),
) -> None:
    """Compute gradients, float32, and write them as a trace; see `gradients/traces.py`.

    Args:
        run: computes mtf tensors of the graph that the gradients were added to.
        gradients: in backward order.
        path: where to write.
        inputs: what the model was run on.
        metadata: written along.
        clean: takes from a tapped tensor's dimensions and values what the port has no counterpart for.
    """
    there = [gradient for gradient in gradients if gradient.gradient is not None]
    fetched = [gradient.gradient for gradient in there]
    values = dict(zip((gradient.name for gradient in there), run(fetched), strict=True))
    again = run(fetched)
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(values.values(), again, strict=True))
    written = []
    for gradient in gradients:
        names = dimension_names(gradient.tensor)
        if gradient.gradient is None:
            array = np.zeros([dim.size for dim in gradient.tensor.shape.dims], np.float32)
        else:
            order = dimension_names(gradient.gradient)
            array = np.asarray(values[gradient.name], np.float32)
            array = array.transpose([order.index(name) for name in names])
        if not gradient.is_variable:
            names, array = clean(names, array)
        written.append(
            OriginalGradient(
                gradient.name,
                gradient.original_name,
                names,
                array,
                is_variable=gradient.is_variable,
                reached=gradient.gradient is not None,
            )
        )
    write_gradient_trace(path, inputs, written, metadata, deterministic=same)
