"""References for originals in PyTorch: modules by their paths, heard through forward hooks.

Loaded by a port's reference.py. All that a port writes is a function that builds the original's module with
the checkpoint's weights in it and lists its taps, and one line:

    from porting.references.original_tap import OriginalTap
    from porting.references.pytorch import BuiltModule, load_weights, reference

    def build(request):
        from original_package import Model       # the original's own code, imported here and not above

        module = Model(**request["config"])
        load_weights(module, request["checkpoint"])
        taps = [OriginalTap(f"encoder.layer.{i}", f"blocks.{i}", "batch length d_model") for i in range(4)]
        taps += [OriginalTap("logits", "logits", "batch length vocab"), OriginalTap("loss", "loss", "")]
        return BuiltModule(module, run, taps)

    def run(module, inputs):                      # inputs: int64 tensors by name
        logits = module(inputs["inputs"])
        return {"logits": logits, "loss": module.loss(logits, inputs["targets"])}

    run_original = reference(build, implementation="the original", packages=["original-package"])

and in its `Port`: `reference="my_port.reference:run_original"`.

A tap's original is a module's path or the name of one of the outputs of `run`. `blocks.0@2` is the third call
of a module, `blocks.0:1` the second of the tensors that it returns; see `porting.module_output`. What is
computed by functions inside a module's forward cannot be heard: tap the module around it, or put a module in
its place where the original allows that.

Done here: float32 (bfloat16 and float16 weights are widened), eval mode, deterministic algorithms, everything
computed twice to see that it repeats itself, tensors in the order of computation. Asked for gradients,
autograd takes those of the output `loss` for every tap (counting the uses of what the module returned) and
every parameter, written from the loss backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from porting.capture import modules_by_path, plain_path, run_tapped, to_numpy
from porting.checkpoint import open_checkpoint
from porting.checkpoint.safetensors_file import FORMAT as SAFETENSORS
from porting.errors import InputError, ReferenceRunError
from porting.gradients.capture import Taken, take_gradients
from porting.inputs import Inputs
from porting.module_output import module_output
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
from porting.tap import Tap

RunModule = Callable[[torch.nn.Module, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class BuiltModule:
    """What a port's `build` hands over.

    Attributes:
        module: the original, its weights loaded.
        run: calls it on int64 tensors by name, and returns its outputs by name, the loss among them.
        taps: which tensors are compared with which taps of the port.
        sizes: sizes of dimensions that taps have in parentheses, from the input arrays.
        loss: the scalar among the outputs whose gradients are taken.
        variable_name: from a parameter's path to the checkpoint's name of it, where they differ.
        masks: of the input arrays: bool arrays by the names that taps' `where` have.
        facts: further entries of the trace's metadata: `unheard`, `left_out`; see `OpenOriginal.facts`.
    """

    module: torch.nn.Module
    run: RunModule
    taps: Sequence[OriginalTap]
    sizes: Callable[[Mapping[str, np.ndarray]], Mapping[str, int]] = field(default=lambda _arrays: {})
    loss: str = "loss"
    variable_name: Callable[[str], str] = field(default=lambda name: name)
    masks: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = field(default=lambda _arrays: {})
    facts: Mapping[str, Any] = field(default_factory=dict)


Build = Callable[[Mapping[str, Any]], BuiltModule]


def reference(build: Build, *, implementation: str, packages: Sequence[str] = ()) -> Reference:
    """The original that `build` builds, as `Port.reference` names it; see the top of this module.

    Args:
        build: called with the request: `config`, `checkpoint`.
        implementation: what to call it in reports.
        packages: whose versions a verdict rests on, besides PyTorch's.
    """
    return Reference(lambda request: _Original(build(request), implementation, packages))


def load_weights(
    module: torch.nn.Module, checkpoint: str | Path, rename: Callable[[str], str] = lambda name: name
) -> None:
    """Fill every parameter and buffer of a module from a checkpoint; nothing may be missing or left over.

    Args:
        module: the original's.
        checkpoint: anything `open_checkpoint` opens, or a `.pt`, `.pth` or `.bin` file with a state dict,
            which is read without unpickling code (`weights_only`).
        rename: from the checkpoint's name of a tensor to the module's.

    Raises:
        ReferenceRunError: tensors are missing, left over or of other shapes, all of them; or the file is
            not a state dict.
        CheckpointError: it cannot be read.
    """
    state = {rename(name): value for name, value in read_state(Path(checkpoint)).items()}
    own = module.state_dict()
    # Names of one tensor: a checkpoint may hold any of them.
    shared: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in own.items():
        shared.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), []).append(name)
    for names in shared.values():
        held = next((name for name in names if name in state), None)
        if held is not None and own[held].numel():
            state.update({name: state[held] for name in names if name not in state})
    require_fit(
        {name: tensor.shape for name, tensor in own.items()},
        {name: tensor.shape for name, tensor in state.items()},
        all_used=True,
        remedy="The config used here does not belong to this checkpoint, or `rename` is wrong.",
    )
    module.load_state_dict(state)


def read_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name; see `load_weights`."""
    if checkpoint.suffix not in (".pt", ".pth", ".bin"):
        opened = open_checkpoint(checkpoint)
        if opened.format == SAFETENSORS:  # by their own library: a reference rests on no reader of ours
            shards = [load_file(file) for file in opened.files if file.suffix == ".safetensors"]
            return {name: tensor for shard in shards for name, tensor in shard.items()}
        return {name: _tensor(each.read()) for name, each in opened.tensors.items() if each.readable}
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling stumbles over
        raise ReferenceRunError(
            f"{checkpoint} is not a state dict that can be read safely: {error}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ReferenceRunError(f"{checkpoint} holds something else than a state dict.")
    return dict(state)


def _tensor(values: np.ndarray) -> torch.Tensor:
    if values.dtype.kind not in "biuf":  # bfloat16
        values = values.astype(np.float32)
    return torch.from_numpy(np.array(values))


class _Original:
    """A module that answers."""

    def __init__(self, built: BuiltModule, implementation: str, packages: Sequence[str]) -> None:
        self._built = built
        self._implementation, self._packages = implementation, packages
        for parameter in (*built.module.parameters(), *built.module.buffers()):
            if parameter.dtype in (torch.bfloat16, torch.float16):
                built.module.float()
                break
        built.module.eval()

    def facts(self) -> Mapping[str, Any]:
        """Implementation, versions, and the parameters' dtype."""
        dtype = next((p.dtype for p in self._built.module.parameters()), torch.float32)
        return {
            "implementation": self._implementation,
            "versions": {"torch": torch.__version__, **versions_of(*self._packages, "numpy")},
            "compute_dtype": str(dtype).removeprefix("torch."),
            **self._built.facts,
        }

    def answer(self, inputs: Inputs, *, backward: bool) -> Answer:
        """Run the module under hooks."""
        with _deterministic():
            heard, outputs = self._run(inputs)
            again, _ = self._run(inputs)
            modules = modules_by_path(self._built.module)
            there, absent = heard_taps(self._built.taps, heard, outputs, modules)
            gradients = self._gradients(inputs, there) if backward else None
        deterministic = [*heard] == [*again] and same_values([*heard.values()], [*again.values()])
        return Answer(
            values=[(tap, heard[tap.original]) for tap in there],
            deterministic=deterministic,
            sizes=self._built.sizes(inputs.arrays()),
            absent=absent,
            gradients=gradients,
            masks=self._built.masks(inputs.arrays()),
        )

    def _call(self, module: torch.nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
        tensors = {name: torch.from_numpy(a.astype(np.int64)) for name, a in inputs.arrays().items()}
        return self._built.run(module, tensors)

    def _run(self, inputs: Inputs) -> tuple[dict[str, np.ndarray], list[str]]:
        """What was heard, by the original's names, in the order of computation; and names of the outputs."""
        heard: dict[str, np.ndarray] = {}

        def listen(tap: Tap, value: torch.Tensor) -> None:
            heard[tap.name] = to_numpy(value)

        outputs = run_tapped(self._built.module, inputs, _listened(self._built.taps), self._call, listen)
        modules = modules_by_path(self._built.module)
        last = {name: place for place, name in enumerate(outputs) if module_output(name, modules) is None}
        return {name: heard[name] for name in sorted(heard, key=lambda name: last.get(name, -1))}, list(
            outputs
        )

    def _gradients(
        self, inputs: Inputs, there: Sequence[OriginalTap]
    ) -> list[TapGradient | VariableGradient]:
        """In backward order.

        A parameter stands where backward reaches the first beginning of a module that owns it, for only then
        have all its uses been counted.
        """
        module, built = self._built.module, self._built
        begun: dict[str, int] = {}
        events: dict[str, int] = {}  # when each tap was heard
        clock = iter(range(1 << 62))
        with _watching(module, lambda path: begun.setdefault(path, next(clock))):
            run_tapped(
                module,
                inputs,
                _listened(there),
                self._call,
                lambda tap, _value: events.update({tap.name: next(clock)}),
            )
        try:
            tapped, trained = take_gradients(module, inputs, _listened(there), self._call, loss=built.loss)
        except InputError as error:
            raise ReferenceRunError(str(error), remedy="Correct `run` in the port's reference.py.") from error
        owners = _owners(module)
        listed: list[tuple[float, TapGradient | VariableGradient]] = []
        for name, gradient in trained.items():
            place = min((begun[path] for path in owners[name] if path in begun), default=-1)
            variable = VariableGradient(
                built.variable_name(plain_path(name)), _values(gradient), gradient.shape
            )
            listed.append((place, variable))
        for listened, gradient in tapped:
            for tap in there:
                if tap.original == listened.name:
                    values = TapGradient(tap, _values(gradient), gradient.shape)
                    listed.append((events[listened.name], values))
        listed.sort(key=lambda entry: -entry[0])
        return [gradient for _, gradient in listed]


def _listened(taps: Sequence[OriginalTap]) -> list[Tap]:
    """Each original once, under its own name."""
    return [Tap(name, "") for name in dict.fromkeys(tap.original for tap in taps)]


def _values(gradient: Taken) -> np.ndarray | None:
    return None if gradient.values is None else to_numpy(gradient.values.to_dense())


def _owners(module: torch.nn.Module) -> dict[str, list[str]]:
    """Paths of all modules that own a parameter, by the parameter's name."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    owners: dict[str, list[str]] = {name: [] for name in names.values()}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners[names[id(parameter)]].append(name.rpartition(".")[0])
    return owners


@contextmanager
def _watching(module: torch.nn.Module, on_begin: Callable[[str], object]) -> Iterator[None]:
    """Call `on_begin` with the path of every module that begins, while the block runs."""

    def hook(path: str) -> Callable[[torch.nn.Module, Any], None]:
        def begins(_module: torch.nn.Module, _args: Any) -> None:
            on_begin(path)

        return begins

    handles = [part.register_forward_pre_hook(hook(path)) for path, part in module.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _deterministic() -> Iterator[None]:
    """Algorithms that give the same in every run, where PyTorch has them."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
