"""References for originals in Flax (linen) on JAX: modules by their paths, captured as they are called.

Loaded by a port's reference.py; JAX is loaded in the reference process only. All that a port writes is a
function that builds the original's module, reads its variables and lists its taps, and one line:

    from porting.references.flax import BuiltModule, load_variables, reference
    from porting.references.original_tap import OriginalTap

    def build(request):
        from original_package import Model       # the original's own code, imported here and not above

        module = Model(**request["config"])
        shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
        variables = load_variables(request["checkpoint"], like=shapes)

        def run(variables, inputs):               # inputs: int32 arrays by name
            logits = module.apply(variables, inputs["inputs"])
            return {"logits": logits, "loss": loss_of(logits, inputs["targets"])}

        taps = [OriginalTap(f"layer.{i}", f"encoder/layers_{i}", "batch length d_model") for i in range(4)]
        taps += [OriginalTap("logits", "logits", "batch length vocab"), OriginalTap("loss", "loss", "")]
        return BuiltModule(variables, run, taps)

    run_original = reference(build, implementation="the original", packages=["original-package"])

and in its `Port`: `reference="my_port.reference:run_original"`.

A tap's original is a module's path (`encoder/layers_0/attention`), for what its `__call__` returns; a path
and a method (`embedder.attend`), for another method; or the name of one of the outputs of `run`.
`layers_0@2` is a module's third call, `layers_0:1` the second of the arrays that it returns; see
`porting.module_output`. What is computed inside a method by functions cannot be heard, nor can modules of
Flax's NNX.

Done here: JAX on the CPU, products of matrices in full float32, nothing compiled as a whole (so that modules
under `jit` and `scan` are heard, the iterations of a scan as calls), everything computed twice to see that it
repeats itself, arrays in the order of computation. Asked for gradients, `jax.grad` takes those of the output
`loss` for all of the collection `params`, and for every tap through a perturbation of zeros that is added to
what the module returned; they are written from the loss backward.
"""

from __future__ import annotations

import importlib
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
from porting.module_output import module_output
from porting.references.fit import require_fit
from porting.references.original_tap import OriginalTap, heard_taps
from porting.references.serve import (
    Answer,
    Reference,
    TapGradient,
    VariableGradient,
    not_installed,
    same_values,
    versions_of,
)

RunModule = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class BuiltModule:
    """What a port's `build` hands over.

    Attributes:
        variables: as `module.apply` takes them: a dictionary of collections, `params` among them.
        run: calls the module on variables and on int32 arrays by name, and returns its outputs by name, the
            loss among them.
        taps: which arrays are compared with which taps of the port.
        sizes: sizes of dimensions that taps have in parentheses, from the input arrays.
        loss: the scalar among the outputs whose gradients are taken.
        masks: of the input arrays: bool arrays by the names that taps' `where` have.
        facts: further entries of the trace's metadata: `unheard`, `left_out`; see `OpenOriginal.facts`.
        variable_name: from a parameter's path (`encoder/layers_0/kernel`) to the checkpoint's name of it.
    """

    variables: Mapping[str, Any]
    run: RunModule
    taps: Sequence[OriginalTap]
    sizes: Callable[[Mapping[str, np.ndarray]], Mapping[str, int]] = field(default=lambda _arrays: {})
    loss: str = "loss"
    variable_name: Callable[[str], str] = field(default=lambda name: name)
    masks: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = field(default=lambda _arrays: {})
    facts: Mapping[str, Any] = field(default_factory=dict)


Build = Callable[[Mapping[str, Any]], BuiltModule]


def reference(
    build: Build, *, implementation: str, packages: Sequence[str] = (), remedy: str = ""
) -> Reference:
    """The original that `build` builds, as `Port.reference` names it; see the top of this module.

    Args:
        build: called with the request: `config`, `checkpoint`.
        implementation: what to call it in reports.
        packages: whose versions a verdict rests on, besides JAX's and Flax's.
        remedy: what to do where JAX or Flax is not installed; by default: to install them.
    """

    def open_original(request: Mapping[str, Any]) -> _Original:
        _import_jax(remedy)
        return _Original(build(request), implementation, packages)

    return Reference(open_original)


def load_variables(checkpoint: str | Path, like: Any) -> dict[str, Any]:
    """Read variables from Flax's msgpack file (or safetensors, `/` or `.` in names); nothing may be missing.

    Args:
        checkpoint: the file.
        like: variables, or their shapes as `jax.eval_shape(module.init, ...)` gives them. A file may hold all
            collections, or only what is in `params`.

    Returns:
        Collections of float32 arrays (bfloat16 and float16 are widened), nested as in `like`.

    Raises:
        ReferenceRunError: variables are missing, left over or of other shapes, all of them; or it cannot be
            read.
    """
    from flax.traverse_util import flatten_dict, unflatten_dict

    wanted = {name: tuple(leaf.shape) for name, leaf in flatten_dict(dict(like), sep="/").items()}
    found = _read(Path(checkpoint))
    if set(wanted) != set(found) and {f"params/{name}" for name in found} & set(wanted):
        found = {f"params/{name}": value for name, value in found.items()}
    require_fit(wanted, {name: value.shape for name, value in found.items()}, all_used=True)
    return dict(unflatten_dict({tuple(name.split("/")): value for name, value in found.items()}))


def _read(path: Path) -> dict[str, np.ndarray]:
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    try:
        if path.suffix == ".safetensors":
            from safetensors.flax import load_file

            held = {name.replace(".", "/"): value for name, value in load_file(path).items()}
        else:
            held = flatten_dict(msgpack_restore(path.read_bytes()), sep="/")
    except Exception as error:  # each library has its own
        raise ReferenceRunError(f"{path} cannot be read as Flax's variables: {error}") from error
    return {name: _widened(np.asarray(value)) for name, value in held.items()}


def _widened(values: np.ndarray) -> np.ndarray:
    narrow = values.dtype.itemsize < 4 and values.dtype.kind not in "biu"  # bfloat16 is of kind V
    return values.astype(np.float32) if narrow else values


def _import_jax(remedy: str) -> None:
    """Before anything else imports it, for JAX reads these when it is imported."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    try:
        importlib.import_module("jax")
        importlib.import_module("flax.linen")
    except ImportError as error:
        raise not_installed(error, "flax", remedy) from error


@dataclass
class _Heard:
    """What one run gave: arrays by the original's names in the order of computation, and what began when."""

    arrays: dict[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    modules: dict[str, int] = field(default_factory=dict)  # when each began first
    events: dict[str, int] = field(default_factory=dict)  # when each array was there


class _Original:
    """A module that answers."""

    def __init__(self, built: BuiltModule, implementation: str, packages: Sequence[str]) -> None:
        self._built = built
        self._implementation, self._packages = implementation, packages

    def facts(self) -> Mapping[str, Any]:
        """Implementation and versions."""
        versions = versions_of("jax", "jaxlib", "flax", *self._packages, "numpy")
        return {"implementation": self._implementation, "versions": versions, **self._built.facts}

    def answer(self, inputs: Inputs, *, backward: bool) -> Answer:
        """Run the module under an interceptor."""
        import jax

        with jax.disable_jit():
            heard = self._run(inputs, self._built.variables, {})
            again = self._run(inputs, self._built.variables, {})
            there, absent = heard_taps(self._built.taps, heard.arrays, heard.outputs, heard.modules)
            gradients = self._gradients(inputs, heard, there) if backward else None
        arrays = {name: np.asarray(array) for name, array in heard.arrays.items()}
        same = [*heard.arrays] == [*again.arrays] and same_values(
            [*arrays.values()], [np.asarray(array) for array in again.arrays.values()]
        )
        return Answer(
            values=[(tap, arrays[tap.original]) for tap in there],
            deterministic=same,
            sizes=self._built.sizes(inputs.arrays()),
            absent=absent,
            gradients=gradients,
            masks=self._built.masks(inputs.arrays()),
        )

    def _run(self, inputs: Inputs, variables: Any, perturbations: Mapping[str, Any]) -> _Heard:
        """Run once; a perturbation is added to the array of its name where that is returned."""
        import jax.numpy as jnp

        heard, clock = _Heard(), itertools.count()
        names = dict.fromkeys(tap.original for tap in self._built.taps)

        def listen(name: str, array: Any) -> Any:
            array = array + perturbations[name] if name in perturbations else array
            heard.arrays[name] = array
            heard.events[name] = next(clock)
            return array

        def on_begin(path: str) -> None:
            heard.modules.setdefault(path, next(clock))

        arrays = {name: jnp.asarray(array) for name, array in inputs.arrays().items()}
        with _listening(names, listen, on_begin):
            heard.outputs = dict(self._built.run(variables, arrays))
        for name, array in heard.outputs.items():
            if name in names and name not in heard.arrays:
                heard.outputs = {**heard.outputs, name: listen(name, array)}
        return heard

    def _gradients(
        self, inputs: Inputs, heard: _Heard, there: Sequence[OriginalTap]
    ) -> list[TapGradient | VariableGradient]:
        """In backward order.

        A parameter stands where backward reaches the first beginning of the module that owns it, for only
        then have all its uses been counted.
        """
        import jax
        import jax.numpy as jnp
        from flax.traverse_util import flatten_dict

        name = self._built.loss
        if name not in heard.outputs or jnp.size(heard.outputs[name]) != 1:
            found = f"one of shape {jnp.shape(heard.outputs[name])}" if name in heard.outputs else "none"
            raise ReferenceRunError(
                f"Gradients need a scalar output '{name}'; `run` returned {found}.",
                remedy="Correct `run` in the port's reference.py.",
            )
        zeros = {
            tap.original: jnp.zeros_like(heard.arrays[tap.original])
            for tap in there
            if tap.has_gradient and jnp.issubdtype(heard.arrays[tap.original].dtype, jnp.floating)
        }
        rest = {key: value for key, value in self._built.variables.items() if key != "params"}

        def loss(params: Any, perturbations: Any) -> Any:
            run = self._run(inputs, {**rest, "params": params}, perturbations)
            return jnp.reshape(run.outputs[name], ())

        params = jax.tree_util.tree_map(jnp.asarray, self._built.variables["params"])
        trained, tapped = jax.grad(loss, argnums=(0, 1))(params, zeros)
        listed: list[tuple[float, TapGradient | VariableGradient]] = []
        for path, gradient in flatten_dict(dict(trained)).items():
            place = max((heard.modules.get("/".join(path[:end]), -1) for end in range(len(path))), default=-1)
            values = np.asarray(gradient)
            variable = VariableGradient(self._built.variable_name("/".join(path)), values, values.shape)
            listed.append((place, variable))
        for tap in (tap for tap in there if tap.has_gradient):
            values_or_none = np.asarray(tapped[tap.original]) if tap.original in tapped else None
            gradient_of = TapGradient(tap, values_or_none, heard.arrays[tap.original].shape)
            listed.append((heard.events[tap.original], gradient_of))
        listed.sort(key=lambda entry: -entry[0])
        return [gradient for _, gradient in listed]


@contextmanager
def _listening(
    names: Mapping[str, None], listen: Callable[[str, Any], Any], on_begin: Callable[[str], None]
) -> Iterator[None]:
    """Call `listen` with what tapped methods return; what it returns goes on in the array's place."""
    import flax.linen as nn
    import jax

    calls: dict[str, int] = {}

    def intercept(next_function: Any, args: Any, named: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if context.method_name != "__call__":
            path = f"{path}.{context.method_name}"
        on_begin(path)
        returned = next_function(*args, **named)
        # Lifted transformations call their body once more, for shapes alone.
        leaves = jax.tree_util.tree_leaves(returned)
        if not all(jax.core.is_concrete(leaf) for leaf in leaves if isinstance(leaf, jax.Array)):
            return returned
        call = calls[path] = calls.get(path, -1) + 1
        for name in names:
            place = module_output(name, (path,))
            if place is not None and place.call == call:
                array = place.pick(returned)
                if isinstance(array, jax.Array):
                    returned = place.put(returned, listen(name, array))
        return returned

    with nn.intercept_methods(intercept):
        yield
