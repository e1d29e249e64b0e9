"""References for originals in Keras, on TensorFlow: layers by their names, heard as they are called.

Loaded by a port's reference.py; TensorFlow itself is loaded in the reference process only. All that a port
writes is a function that builds the original's model with the checkpoint's weights in it and lists its taps,
and one line:

    from porting.references.keras import BuiltModel, load_weights, reference
    from porting.references.original_tap import OriginalTap

    def build(tf, request):
        from original_package import make_model     # the original's own code, imported here and not above

        model = make_model(request["config"])
        model.load_weights(request["checkpoint"])   # or load_weights(tf, model, request["checkpoint"], ...)
        taps = [OriginalTap(f"layer.{i}", f"encoder/layer_{i}", "batch length d_model") for i in range(4)]
        taps += [OriginalTap("logits", "logits", "batch length vocab"), OriginalTap("loss", "loss", "")]
        return BuiltModel(model, run, taps)

    def run(model, inputs):                          # inputs: int32 tensors by name
        logits = model(inputs["inputs"], training=False)
        return {"logits": logits, "loss": loss_of(logits, inputs["targets"])}

    run_original = reference(build, implementation="the original", packages=["original-package"])

and in its `Port`: `reference="my_port.reference:run_original"`.

A tap's original is a layer, by the names of the layers around it and its own (`encoder/dense_1`) or by the
attributes that hold it (`encoder.blocks.0.dense`), or the name of one of the outputs of `run`. `dense@2` is a
layer's third call, `dense:1` the second of the tensors that it returns; see `porting.module_output`. Names
that Keras numbers count from a fresh session. What is computed inside a layer's `call` by functions cannot be
heard; nor can layers inside a `tf.function`: the model is run eagerly.

`reference(..., legacy=True)` makes `tf.keras` Keras 2, from the package tf-keras, for code written before
Keras 3.

Done here: everything is computed twice to see that it repeats itself, tensors are written in the order of
computation. Asked for gradients, a GradientTape takes those of the output `loss` for every tap (counting the
uses of what the layer returned) and every trainable variable, written from the loss backward.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from porting.errors import ReferenceRunError
from porting.inputs import Inputs
from porting.module_output import ModuleOutput, module_output
from porting.references.fit import require_fit
from porting.references.original_tap import OriginalTap, heard_taps
from porting.references.serve import (
    Answer,
    Reference,
    TapGradient,
    VariableGradient,
    same_values,
    versions_of,
)
from porting.references.tf_session import import_tensorflow

RunModel = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]


def own_name(variable: Any) -> str:
    """A variable's own name: `dense/kernel`."""
    return str(getattr(variable, "path", variable.name)).removesuffix(":0")


@dataclass(frozen=True)
class BuiltModel:
    """What a port's `build` hands over.

    Attributes:
        model: the original, a Keras layer or model, its weights loaded.
        run: calls it on int32 tensors by name, and returns its outputs by name, the loss among them.
        taps: which tensors are compared with which taps of the port.
        sizes: sizes of dimensions that taps have in parentheses, from the input arrays.
        loss: the scalar among the outputs whose gradients are taken.
        variable_name: the checkpoint's name of a variable, where it is not the variable's own.
    """

    model: Any
    run: RunModel
    taps: Sequence[OriginalTap]
    sizes: Callable[[Mapping[str, np.ndarray]], Mapping[str, int]] = field(default=lambda _arrays: {})
    loss: str = "loss"
    variable_name: Callable[[Any], str] = own_name


Build = Callable[[Any, Mapping[str, Any]], BuiltModel]


def reference(
    build: Build, *, implementation: str, packages: Sequence[str] = (), legacy: bool = False
) -> Reference:
    """The original that `build` builds, as `Port.reference` names it; see the top of this module.

    Args:
        build: called with `tensorflow` and the request: `config`, `checkpoint`.
        implementation: what to call it in reports.
        packages: whose versions a verdict rests on, besides TensorFlow's and Keras's.
        legacy: whether `tf.keras` is to be Keras 2.
    """

    def open_original(request: Mapping[str, Any]) -> _Original:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        if legacy:
            os.environ["TF_USE_LEGACY_KERAS"] = "1"
        tf = import_tensorflow("keras")
        tf.keras.backend.clear_session()  # names are numbered from 1
        return _Original(tf, build(tf, request), implementation, packages, legacy=legacy)

    return Reference(open_original)


def load_weights(
    tf: Any, model: Any, checkpoint: str | Path, variable_name: Callable[[Any], str] = own_name
) -> None:
    """Give every variable of a model its value from a TensorFlow checkpoint, by name, read by TensorFlow.

    Args:
        tf: tensorflow.
        model: built, so that it has its variables.
        checkpoint: a prefix.
        variable_name: the checkpoint's name of a variable.

    Raises:
        ReferenceRunError: variables that the checkpoint lacks, or holds in another shape, all of them.
    """
    reader = tf.train.load_checkpoint(str(checkpoint))
    stored = reader.get_variable_to_shape_map()
    # Keras 3 keeps the state of its random numbers (dropout's) in variables, too.
    variables = [v for v in model.variables if not own_name(v).endswith("seed_generator_state")]
    require_fit(
        {variable_name(variable): list(variable.shape) for variable in variables},
        stored,
        remedy="The config used here does not belong to this checkpoint, or `variable_name` is wrong.",
    )
    for variable in variables:
        variable.assign(reader.get_tensor(variable_name(variable)))


class _Original:
    """A model that answers."""

    def __init__(
        self, tf: Any, built: BuiltModel, implementation: str, packages: Sequence[str], *, legacy: bool
    ) -> None:
        self._tf, self._built, self._legacy = tf, built, legacy
        self._implementation, self._packages = implementation, packages

    def facts(self) -> Mapping[str, Any]:
        """Implementation and versions."""
        versions = {
            "tensorflow": self._tf.__version__,
            **versions_of("tf-keras" if self._legacy else "keras", *self._packages, "numpy"),
        }
        return {"implementation": self._implementation, "versions": versions}

    def answer(self, inputs: Inputs, *, backward: bool) -> Answer:
        """Run the model under hooks."""
        layers = layers_by_path(self._built.model)
        first, outputs = self._run(inputs, layers)
        again, _ = self._run(inputs, layers)
        there, absent = heard_taps(self._built.taps, first, outputs, layers)
        same = [*first] == [*again] and same_values(
            [value.numpy() for value in first.values()], [value.numpy() for value in again.values()]
        )
        return Answer(
            values=[(tap, first[tap.original].numpy()) for tap in there],
            deterministic=same,
            sizes=self._built.sizes(inputs.arrays()),
            absent=absent,
            gradients=self._gradients(inputs, there, layers) if backward else None,
        )

    def _run(
        self,
        inputs: Inputs,
        layers: Mapping[str, Any],
        watch: Callable[[Any], None] = lambda _tensor: None,
        on_event: Callable[[str], object] = lambda _name: None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What was heard, by the original's names in the order of computation; and the outputs."""
        heard: dict[str, Any] = {}

        def listen(name: str, value: Any) -> Any:
            own = self._tf.identity(value)  # whose gradient counts only what is made of it from here on
            watch(own)
            heard[name] = own
            on_event(name)
            return own

        tensors = {name: self._tf.convert_to_tensor(array) for name, array in inputs.arrays().items()}
        names = dict.fromkeys(tap.original for tap in self._built.taps)
        with _listening(layers, names, listen, on_event):
            outputs = dict(self._built.run(self._built.model, tensors))
        for name, value in outputs.items():
            if name in names and name not in heard:
                heard[name] = value
                on_event(name)
        return heard, outputs

    def _gradients(
        self, inputs: Inputs, there: Sequence[OriginalTap], layers: Mapping[str, Any]
    ) -> list[TapGradient | VariableGradient]:
        """In backward order.

        A variable stands where backward reaches the first beginning of a layer that owns it, for only then
        have all its uses been counted.
        """
        events: dict[str, int] = {}
        clock = itertools.count()

        def on_event(name: str) -> None:
            events.setdefault(name, next(clock))

        with self._tf.GradientTape() as tape:
            heard, outputs = self._run(inputs, layers, tape.watch, on_event)
        loss = outputs.get(self._built.loss)
        if loss is None or int(self._tf.size(loss)) != 1:
            found = "none" if loss is None else f"one of shape {loss.shape}"
            raise ReferenceRunError(
                f"Gradients need a scalar output '{self._built.loss}'; `run` returned {found}.",
                remedy="Correct `run` in the port's reference.py.",
            )
        variables = [getattr(v, "_value", v) for v in self._built.model.trainable_variables]
        taken = tape.gradient(loss, [heard[tap.original] for tap in there] + variables)
        values = [None if each is None else self._tf.convert_to_tensor(each).numpy() for each in taken]
        listed: list[tuple[float, TapGradient | VariableGradient]] = []
        for tap, value in zip(there, values, strict=False):
            shape = heard[tap.original].shape
            listed.append((events[tap.original], TapGradient(tap, value, tuple(shape))))
        owners = _owners(layers)
        for variable, value in zip(self._built.model.trainable_variables, values[len(there) :], strict=True):
            begun = (events.get(_begins(path)) for path in owners.get(id(variable), ()))
            place = min((event for event in begun if event is not None), default=-1)
            name = self._built.variable_name(variable)
            listed.append((place, VariableGradient(name, value, tuple(variable.shape))))
        listed.reverse()  # of what stands at one place, the last is the nearest to the loss
        listed.sort(key=lambda entry: -entry[0])
        return [gradient for _, gradient in listed]


def layers_by_path(model: Any) -> dict[str, Any]:
    """Every layer of a Keras model, under its path of names and under its path of attributes."""
    found: dict[str, Any] = {"": model}

    def walk(layer: Any, path: str) -> None:
        for child in layer._flatten_layers(include_self=False, recursive=False):
            name = f"{path}/{child.name}" if path else str(child.name)
            if name not in found:
                found[name] = child
                walk(child, name)

    def walk_attributes(layer: Any, path: str, around: tuple[int, ...]) -> None:
        for attribute, value in vars(layer).items():
            if attribute.startswith("_"):
                continue
            for name, child in _held(attribute, value):
                if id(child) not in around:
                    place = f"{path}.{name}" if path else name
                    found.setdefault(place, child)
                    walk_attributes(child, place, (*around, id(child)))

    walk(model, "")
    walk_attributes(model, "", (id(model),))
    return found


def _held(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The layers that an attribute holds, itself, in a list or in a dictionary."""
    if hasattr(value, "_flatten_layers"):
        yield name, value
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _held(f"{name}.{number}", each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _held(f"{name}.{key}", each)


def _owners(layers: Mapping[str, Any]) -> dict[int, list[str]]:
    """Paths of the innermost layers that own a variable, by the variable's id."""
    owners: dict[int, list[str]] = {}
    for path, layer in layers.items():
        children = layer._flatten_layers(include_self=False, recursive=False)
        inside = {id(variable) for child in children for variable in child.trainable_variables}
        for variable in layer.trainable_variables:
            if id(variable) not in inside:
                owners.setdefault(id(variable), []).append(path)
    return owners


def _begins(path: str) -> str:
    """The event that a layer begins; no tap has such a name."""
    return f"\0{path}"


@contextmanager
def _listening(
    layers: Mapping[str, Any],
    names: Mapping[str, None],
    listen: Callable[[str, Any], Any],
    on_event: Callable[[str], object],
) -> Iterator[None]:
    """Call `listen` with what tapped layers return; what it returns goes on in the tensor's place."""
    wanted: dict[int, list[tuple[str, ModuleOutput]]] = {}
    paths: dict[int, list[str]] = {}
    for path, layer in layers.items():
        paths.setdefault(id(layer), []).append(path)
    for name in names:
        place = module_output(name, layers)
        if place is not None:
            wanted.setdefault(id(layers[place.module]), []).append((name, place))
    distinct = {id(layer): layer for layer in layers.values()}
    try:
        for key, layer in distinct.items():
            hook = _Hook(layer.call, wanted.get(key, ()), paths[key], listen, on_event)
            # Past Keras's own bookkeeping of what is set on a layer.
            layer.__dict__["call"] = functools.wraps(layer.call)(hook)
        yield
    finally:
        for layer in distinct.values():
            layer.__dict__.pop("call", None)


class _Hook:
    """In place of a layer's `call`: hands outputs of some of its calls to a listener."""

    def __init__(
        self,
        call: Callable[..., Any],
        wanted: Sequence[tuple[str, ModuleOutput]],
        paths: Sequence[str],
        listen: Callable[[str, Any], Any],
        on_event: Callable[[str], object],
    ) -> None:
        self.function, self.wanted, self.paths = call, wanted, paths
        self.listen, self.on_event, self.calls = listen, on_event, 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        for path in self.paths:
            self.on_event(_begins(path))
        returned = self.function(*args, **named)
        for name, place in self.wanted:
            value = place.pick(returned)
            if place.call == self.calls and hasattr(value, "numpy"):
                returned = place.put(returned, self.listen(name, value))
        self.calls += 1
        return returned
