"""References for originals that are TensorFlow 1 graphs: named tensors, run through `tf.compat.v1`.

Loaded by a port's reference.py; TensorFlow itself is loaded in the reference process only. All that a port
writes is a function that builds the original's model and lists its taps, and one line:

    from porting.references.original_tap import OriginalTap
    from porting.references.tf1_graph import BuiltGraph, reference

    def build(tf, request, inputs):
        from bert import modeling            # the original's own code, imported here and not above

        config = modeling.BertConfig.from_dict(request["config"])
        model = modeling.BertModel(config, is_training=False, input_ids=inputs["input_ids"])
        taps = [
            OriginalTap(f"encoder.layer.{i}.output",
                        f"bert/encoder/layer_{i}/output/LayerNorm/batchnorm/add_1",
                        "batch length d_model")
            for i in range(config.num_hidden_layers)
        ]
        probabilities = "bert/encoder/layer_0/attention/self/Softmax:0"
        taps.append(OriginalTap("encoder.layer.0.attention.weights", probabilities,
                                "batch heads length memory_length"))
        taps.append(OriginalTap("pooled", model.get_pooled_output().name, "batch d_model"))
        return BuiltGraph(taps, loss=loss.name)

    run = reference(build, implementation="Google's BERT", packages=["bert-tensorflow"])

and in its `Port`: `reference="my_port.reference:run"`.

`build(tf, request, inputs)` is called once for each shape of inputs, each time in an empty tf.Graph, so
that names are those that the original's own runs have:
- `tf` is `tensorflow.compat.v1` as old code needs it; see `tf1_compat` for what is given back in it. Code
  that says `import tensorflow as tf` and means TensorFlow 1 is imported in `with tensorflow_is_v1():`.
- `request["config"]` is config.json's contents, `request["checkpoint"]` the checkpoint's prefix.
- `inputs` are placeholders, int32, by the names of the input arrays, their shapes known.
- Build it as for evaluation (`is_training=False`): dropout would make two runs differ.

A tensor is called as TensorFlow calls it; `:0` may be left out. To see what there is, return
`BuiltGraph([])`: the graph's tensors are listed with their shapes. Wrong names are answered, all at once,
with the nearest ones that there are. Axes that the original merged are written in parentheses, and taken
apart: `"(batch length) d_model"`, with `BuiltGraph(..., sizes={"batch": inputs["input_ids"].shape[0]})`.
Tensors of some configs only: list their taps where the config has them, or mark them `optional`.

Done here: variables get the checkpoint's values by their own names (TensorFlow reads them; what the
checkpoint lacks is an error that lists it), a graph for each shape is kept for later requests, everything is
computed twice to see that it repeats itself, and tensors are written in the order of the graph's operations.
Asked for gradients, `tf.gradients` of `loss` are taken for every tapped tensor and every trainable variable,
and written from the loss backward. Tensors inside `tf.while_loop` and `tf.cond` cannot be tapped.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from porting.errors import Problem, ReferenceRunError
from porting.inputs import Inputs
from porting.references.original_tap import OriginalTap, known_taps
from porting.references.serve import (
    Answer,
    Reference,
    TapGradient,
    VariableGradient,
    same_values,
    versions_of,
)
from porting.references.tf1_compat import import_tf1
from porting.references.tf_session import Weights

# Each graph has variables of its own, which is what it costs to keep one.
_MOST_GRAPHS = 32
_MOST_BYTES = 2 << 30


@dataclass(frozen=True)
class BuiltGraph:
    """What a port's `build` hands over.

    Attributes:
        taps: which tensors are compared with which taps of the port.
        loss: name of the scalar whose gradients are taken; "" if there is none.
        sizes: sizes of dimensions that taps have in parentheses.
    """

    taps: Sequence[OriginalTap]
    loss: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)


Build = Callable[[Any, Mapping[str, Any], Mapping[str, Any]], BuiltGraph]


def reference(build: Build, *, implementation: str, packages: Sequence[str] = ()) -> Reference:
    """The original that `build` builds, as `Port.reference` names it; see the top of this module.

    Args:
        build: builds the model into the current tf.Graph; called with `tf`, the request and placeholders.
        implementation: what to call it in reports.
        packages: whose versions a verdict rests on, besides TensorFlow's.
    """
    return Reference(lambda request: _Original(build, request, implementation, packages))


class _Original:
    """A graph for each shape of inputs, each with the checkpoint's weights."""

    def __init__(
        self, build: Build, request: Mapping[str, Any], implementation: str, packages: Sequence[str]
    ) -> None:
        self._tf = import_tf1()
        self._build, self._request = build, request
        self._implementation, self._packages = implementation, packages
        self._graphs: OrderedDict[tuple[Any, ...], _Graph] = OrderedDict()  # the last used is last

    def facts(self) -> Mapping[str, Any]:
        """Implementation and versions."""
        versions = {"tensorflow": self._tf.__version__, **versions_of(*self._packages, "numpy", "tf-keras")}
        return {"implementation": self._implementation, "versions": versions}

    def answer(self, inputs: Inputs, *, backward: bool) -> Answer:
        """Run the graph of these shapes, which is built if it is new."""
        shapes = (backward, *((name, array.shape) for name, array in inputs.arrays().items()))
        if shapes not in self._graphs:
            self._make_room()
            self._graphs[shapes] = _Graph(self._tf, self._build, self._request, inputs, backward=backward)
        self._graphs.move_to_end(shapes)
        return self._graphs[shapes].answer(inputs)

    def _make_room(self) -> None:
        size = max((graph.nbytes for graph in self._graphs.values()), default=1)
        while len(self._graphs) >= max(1, min(_MOST_GRAPHS, _MOST_BYTES // size)):
            self._graphs.popitem(last=False)[1].session.close()


class _Graph:
    """The original's graph for one shape of inputs, tapped, with weights in its variables."""

    def __init__(
        self, tf: Any, build: Build, request: Mapping[str, Any], inputs: Inputs, *, backward: bool
    ) -> None:
        graph = tf.Graph()
        with graph.as_default():
            self._placeholders = {
                name: tf.placeholder(tf.as_dtype(array.dtype), array.shape, name=name)
                for name, array in inputs.arrays().items()
            }
            built = build(tf, request, dict(self._placeholders))
            places = {operation: number for number, operation in enumerate(graph.get_operations())}
            self._tapped, self._absent = _find(graph, built.taps)
            self._tapped.sort(key=lambda found: places[found[1].op])
            self._sizes = built.sizes
            self._sought: list[_Sought] | None = None
            if backward:
                self._sought = _add_gradients(tf, _loss(graph, built.loss), self._tapped, places)
            weights = Weights(tf, Path(request["checkpoint"]))
            weights.restore()
            variables = tf.global_variables()
        graph.finalize()
        self.session = weights.session
        self.nbytes = max(1, sum(v.shape.num_elements() * v.dtype.base_dtype.size for v in variables))

    def answer(self, inputs: Inputs) -> Answer:
        arrays = inputs.arrays()
        feeds = {tensor: arrays[name] for name, tensor in self._placeholders.items()}
        sought = [each.gradient for each in self._sought or () if each.gradient is not None]
        fetched = [tensor for _, tensor in self._tapped] + sought
        values = self.session.run(fetched, feeds)
        deterministic = same_values(values, self.session.run(fetched, feeds))
        gradients = iter(values[len(self._tapped) :])
        return Answer(
            values=[(tap, value) for (tap, _), value in zip(self._tapped, values, strict=False)],
            deterministic=deterministic,
            sizes=self._sizes,
            absent=self._absent,
            gradients=None
            if self._sought is None
            else [each.taken(None if each.gradient is None else next(gradients)) for each in self._sought],
        )


# What computes nothing that is worth a tap: variables and how they begin and are read, shapes, constants.
_PLUMBING = (
    *("Assign", "AssignVariableOp", "Identity", "ReadVariableOp", "VarHandleOp", "VariableV2"),
    *("Const", "Fill", "Pack", "Placeholder", "Shape", "StridedSlice"),
    *("RandomStandardNormal", "TruncatedNormal"),
)
_MOST_LISTED = 200


def _listing(graph: Any) -> ReferenceRunError:
    """What could be tapped. Of numbered scopes that are alike, layers, the first is listed."""
    lines: dict[str, str] = {}
    for operation in graph.get_operations():
        for tensor in operation.outputs if operation.type not in _PLUMBING else ():
            if tensor.dtype.base_dtype.is_floating and "/Initializer/" not in tensor.name:
                alike = re.sub(r"_\d+(?=/.)", "_N", tensor.name)
                lines.setdefault(alike, f"{tensor.name} {tensor.shape} ({operation.type})")
    shown = list(lines.values())[:_MOST_LISTED]
    more = [f"... and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
    return ReferenceRunError(
        "\n  ".join(
            ["No taps are listed. The graph has these tensors, layers that are alike once:", *shown, *more]
        ),
        remedy="Return BuiltGraph([OriginalTap(...), ...]) of those that are to be compared.",
    )


def _find(graph: Any, taps: Sequence[OriginalTap]) -> tuple[list[tuple[OriginalTap, Any]], list[str]]:
    """Each tap with its tensor, and the names of optional taps that have none."""
    if not taps:
        raise _listing(graph)
    known = {tensor.name: tensor for operation in graph.get_operations() for tensor in operation.outputs}
    spelled = [tap if ":" in tap.original else replace(tap, original=f"{tap.original}:0") for tap in taps]
    there, absent = known_taps(spelled, known, "tensor of the graph")
    problems = [
        Problem(tap.name, "a tensor that can be fetched", f"{tap.original}, inside a loop or a condition")
        for tap in there
        if not graph.is_fetchable(known[tap.original])
    ]
    if problems:
        raise ReferenceRunError(
            "Tensors inside tf.while_loop and tf.cond have no one value.", problems=problems
        )
    return [(tap, known[tap.original]) for tap in there], absent


def _loss(graph: Any, name: str) -> Any:
    if not name:
        raise ReferenceRunError(
            "Gradients were asked for, and the original was built without a loss.",
            remedy="Give its tensor's name in the port's reference.py: BuiltGraph(taps, loss=loss.name).",
        )
    found, _ = _find(graph, [OriginalTap("loss", name, dims="")])
    tensor = found[0][1]
    if tensor.shape.num_elements() != 1:
        problem = Problem("loss", "a scalar", f"{name} of shape {tensor.shape}")
        raise ReferenceRunError("Gradients are taken of a scalar loss.", problems=[problem])
    return tensor


@dataclass(frozen=True)
class _Sought:
    """A tensor whose gradient is taken; `gradient` is None where the loss does not depend on it."""

    of: OriginalTap | str  # a variable's name
    shape: Sequence[int]
    gradient: Any

    def taken(self, values: np.ndarray | None) -> TapGradient | VariableGradient:
        if isinstance(self.of, str):
            return VariableGradient(self.of, values, self.shape)
        return TapGradient(self.of, values, self.shape)


def _add_gradients(
    tf: Any, loss: Any, tapped: Sequence[tuple[OriginalTap, Any]], places: Mapping[Any, int]
) -> list[_Sought]:
    """The gradients of the loss, in backward order.

    A tapped tensor stands where backward has its whole gradient, which is behind everything computed from
    it. A variable stands where backward reaches the first operation that reads it, behind the tensor that
    this operation gave, for only then have all its uses been counted.
    """
    listed: list[tuple[float, OriginalTap | str, Any]] = [
        (places[tensor.op], tap, tensor) for tap, tensor in tapped
    ]
    listed += [(_first_use(v, places) - 0.5, v.op.name, v) for v in tf.trainable_variables()]
    # Of taps on one tensor, the one listed last is the nearest to the loss.
    listed.reverse()
    listed.sort(key=lambda entry: -entry[0])
    floating = [tensor for _, _, tensor in listed if tensor.dtype.base_dtype.is_floating]
    taken = iter(tf.gradients(loss, floating))
    sought = []
    for _, of, tensor in listed:
        gradient = next(taken) if tensor.dtype.base_dtype.is_floating else None
        # Of an embedding: rows, and which they are.
        gradient = None if gradient is None else tf.convert_to_tensor(gradient)
        sought.append(_Sought(of, tensor.shape.as_list(), gradient))
    return sought


_READS = ("Identity", "ReadVariableOp")


def _first_use(variable: Any, places: Mapping[Any, int]) -> int:
    """The place of the first operation that computes with the variable's value."""
    tensor = variable.handle if hasattr(variable, "handle") else variable.op.outputs[0]
    uses, waiting = [], [tensor]
    while waiting:
        for operation in waiting.pop().consumers():
            if operation.type in _READS:
                waiting += operation.outputs
            elif not operation.type.startswith(("Assign", "VarIsInitialized")) and operation in places:
                uses.append(places[operation])
    return min(uses, default=places[variable.op])
