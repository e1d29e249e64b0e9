"""Run a PyTorch model under forward hooks and write what they see to a trace.

A tap names a module path (its output is taken) or one of the outputs that the port's `run` returns
(`logits`, `loss`). Tensors go to disk as they are computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from porting.inputs import Inputs
from porting.module_output import ModuleOutput, module_output
from porting.tap import Tap
from porting.trace import Trace, TraceWriter

Run = Callable[[torch.nn.Module, Inputs], Mapping[str, torch.Tensor]]
# Called with each tapped tensor; what it returns, if anything, goes on in the tensor's place.
Listen = Callable[[Tap, torch.Tensor], torch.Tensor | None]


def capture(
    model: torch.nn.Module,
    inputs: Inputs,
    taps: Sequence[Tap],
    run: Run,
    path: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    on_tensor: Callable[[str], None] = lambda _name: None,
) -> Trace:
    """Run the model once without gradients and trace every tap that it has.

    Args:
        model: the module; its mode (train or eval) is left as it is.
        inputs: what to run it on.
        taps: where to listen; those whose module the model lacks, or never calls, stay out of the trace.
        run: calls the model on the inputs and returns its outputs by tap name.
        path: where to write the trace; by default a temporary directory that lives as long as the trace.
        metadata: written along. Added are `deterministic`, whether a second run, under hooks that write
            nothing, gave bit-identical outputs (and if not, whether it would in eval mode), and
            `without_hooks`, how far each output is from that of a run without hooks.
        on_tensor: called with each name that was written, for progress.

    Raises:
        ValueError: a tensor does not have the axes that its tap declares.
    """
    writer = TraceWriter(path, inputs)

    def write(tap: Tap, value: torch.Tensor) -> None:
        array = to_numpy(value, copy=False)  # on disk before anything can change it
        writer.add(
            tap.name,
            array.reshape(tap.unfolded_shape(array.shape)),
            tap.dimension_names,
            hidden_below=tap.hidden_below,
        )
        on_tensor(tap.name)

    outputs = run_tapped(model, inputs, taps, run, write)
    deterministic = _repeats(model, inputs, taps, run, outputs)
    return writer.close(
        {
            **(metadata or {}),
            "implementation": type(model).__name__,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "compute_dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "deterministic": deterministic,
            **(
                {} if deterministic else {"deterministic_in_eval": _repeats_in_eval(model, inputs, taps, run)}
            ),
            "without_hooks": _without_hooks(model, inputs, run, outputs),
        }
    )


def _repeats(
    model: torch.nn.Module,
    inputs: Inputs,
    taps: Sequence[Tap],
    run: Run,
    outputs: Mapping[str, torch.Tensor],
) -> bool:
    """Whether the same run, under hooks that do nothing, gives the same outputs to the last bit."""
    again = run_tapped(model, inputs, taps, run, lambda _tap, _value: None)
    return all(torch.equal(value.nan_to_num(), again[name].nan_to_num()) for name, value in outputs.items())


def _repeats_in_eval(model: torch.nn.Module, inputs: Inputs, taps: Sequence[Tap], run: Run) -> bool:
    """Whether the model repeats itself in eval mode: if so, dropout was left on. Modes are put back."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        outputs = run_tapped(model, inputs, taps, run, lambda _tap, _value: None)
        return bool(training) and _repeats(model, inputs, taps, run, outputs)
    finally:
        for module in training:
            module.training = True


def _without_hooks(
    model: torch.nn.Module, inputs: Inputs, run: Run, outputs: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """How far each output is from that of a run that nobody listens to."""
    with torch.no_grad():
        plain = run(model, inputs)
    return {
        name: float((value.nan_to_num() - outputs[name].nan_to_num()).abs().max()) if value.numel() else 0.0
        for name, value in plain.items()
    }


def run_tapped(
    model: torch.nn.Module, inputs: Inputs, taps: Sequence[Tap], run: Run, listen: Listen
) -> dict[str, torch.Tensor]:
    """Run the model without gradients; `listen` hears every tap once, in the order of computation.

    Returns:
        Copies of the model's outputs, by tap name.
    """
    heard = set()

    def once(tap: Tap, value: torch.Tensor) -> torch.Tensor | None:
        heard.add(tap.name)
        return listen(tap, value)

    with torch.no_grad():
        with _not_compiled(), listening(model, taps, once):
            outputs = run(model, inputs)
        for tap in taps:
            if tap.name in outputs and tap.name not in heard:
                listen(tap, outputs[tap.name])
    return {name: value.detach().clone() for name, value in outputs.items()}


@contextmanager
def _not_compiled() -> Iterator[None]:
    """What `torch.compile` made runs as it was written: hooks are not part of what was compiled.

    The run without hooks (`without_hooks`) is the compiled one.
    """
    # Before it is loaded, which takes long, nothing can have been compiled. set_stance came with torch 2.6.
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def modules_by_path(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Every module by its path; what `torch.compile` wraps around a module leaves no trace in it."""
    return {plain_path(name): module for name, module in model.named_modules()}


def plain_path(name: str) -> str:
    """The path of a module or parameter without what `torch.compile` puts into it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


@contextmanager
def listening(model: torch.nn.Module, taps: Sequence[Tap], listen: Listen) -> Iterator[None]:
    """Call `listen` with the output of every tapped module (see `module_output`), while the block runs."""
    modules = modules_by_path(model)
    handles = []
    try:
        for tap in taps:
            if place := module_output(tap.name, modules):
                handles.append(modules[place.module].register_forward_hook(_Hook(tap, place, listen)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def requiring_gradients(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """All of them require gradients while the block runs; those that were frozen are frozen again."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


class _Hook:
    """Hands one output of one call of a module to a listener."""

    def __init__(self, tap: Tap, place: ModuleOutput, listen: Listen) -> None:
        self.tap, self.place, self.listen, self.calls = tap, place, listen, 0

    def __call__(self, _module: torch.nn.Module, _args: Any, output: Any) -> Any:
        value = self.place.pick(output)
        if not isinstance(value, torch.Tensor):
            return None
        self.calls += 1
        if self.calls != self.place.call + 1:
            return None
        replacement = self.listen(self.tap, value)
        return None if replacement is None else self.place.put(output, replacement)


def to_numpy(value: torch.Tensor, *, copy: bool = True) -> np.ndarray:
    """In float32 on the host; bfloat16 and float16 widen exactly, float64 stays as it is.

    Args:
        value: any floating dtype.
        copy: False may share memory with the tensor, which the model may still change in place.
    """
    value = value.detach().cpu()
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    array: np.ndarray = value.numpy()
    return array.copy() if copy else array
