"""Run a PyTorch model with gradients on and write the gradients of its loss to a trace.

The gradient of a tap counts every use of what the module returned, and no other use of a tensor that the
module only handed through: a bias that layers share has a gradient of its own in each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from porting.capture import Run, listening, requiring_gradients, to_numpy
from porting.errors import InputError
from porting.gradients.traces import parameter_dims
from porting.inputs import Inputs
from porting.tap import Tap
from porting.trace import Trace, TraceWriter


def capture_gradients(
    model: torch.nn.Module,
    inputs: Inputs,
    taps: Sequence[Tap],
    run: Run,
    path: Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    loss: str = "loss",
) -> Trace:
    """Trace the gradients of the loss, for every tap that the model has and for every parameter.

    Gradients of taps come from a run under forward hooks, those of parameters from a run without, as
    training takes them: a model may compute in another way while it is listened to. Nothing of the model
    changes: not its mode, not `requires_grad`, not `.grad`.

    Args:
        model: the module; parameters that are frozen get a gradient too.
        inputs, taps, run, path: as in `capture`. Gradients of taps have the taps' dimensions.
        metadata: written along, with the lists that `traces.py` describes.
        loss: the scalar among the outputs of `run` whose gradients are taken.

    Raises:
        InputError: the model returns no such output, or no scalar.
        ValueError: a tensor does not have the axes that its tap declares.
    """
    tapped, trained = take_gradients(model, inputs, taps, run, loss=loss)
    writer = TraceWriter(path, inputs)
    without: list[str] = []

    def write(name: str, gradient: Taken) -> np.ndarray:
        if gradient.values is None:
            without.append(name)
            return np.zeros(gradient.shape, np.float32)
        return to_numpy(gradient.values.to_dense())

    for tap, gradient in tapped:
        array = write(tap.name, gradient)
        writer.add(tap.name, array.reshape(tap.unfolded_shape(array.shape)), tap.dimension_names)
    for name, gradient in trained.items():
        array = write(name, gradient)
        writer.add(name, array, parameter_dims(array.ndim))
    return writer.close(
        {**(metadata or {}), "parameters": list(trained), "without_gradient": without},
    )


@dataclass(frozen=True)
class Taken:
    """The gradient of the loss for a tensor of this shape; None where the loss does not depend on it."""

    values: torch.Tensor | None
    shape: tuple[int, ...]


def take_gradients(
    model: torch.nn.Module, inputs: Inputs, taps: Sequence[Tap], run: Run, *, loss: str = "loss"
) -> tuple[list[tuple[Tap, Taken]], dict[str, Taken]]:
    """The gradients of taps, in the order in which these were computed, and of parameters by name.

    Args and errors are those of `capture_gradients`.
    """
    heard: list[_Heard] = []

    def listen(tap: Tap, value: torch.Tensor) -> torch.Tensor:
        own = _own(value)
        heard.append(_Heard.of(tap, own))
        return own

    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    with torch.inference_mode(False), torch.enable_grad(), requiring_gradients(parameters.values()):
        with listening(model, taps, listen):
            outputs = run(model, inputs)
        names = {each.tap.name for each in heard}
        heard += [_Heard.of(tap, outputs[tap.name]) for tap in taps if tap.name in {*outputs} - names]
        tapped = _gradients(_scalar(outputs, loss), [each.edge for each in heard])
        del outputs
        trained = _gradients(_scalar(run(model, inputs), loss), list(parameters.values()))
    return (
        [(each.tap, Taken(gradient, each.shape)) for each, gradient in zip(heard, tapped, strict=True)],
        {
            name: Taken(gradient, tuple(parameter.shape))
            for (name, parameter), gradient in zip(parameters.items(), trained, strict=True)
        },
    )


@dataclass(frozen=True)
class _Heard:
    """Where in the autograd graph a tap's gradient arrives; nowhere where the tap does not need one."""

    tap: Tap
    shape: tuple[int, ...]
    edge: GradientEdge | None

    @classmethod
    def of(cls, tap: Tap, value: torch.Tensor) -> _Heard:
        edge = get_gradient_edge(value) if value.requires_grad else None
        return cls(tap, tuple(value.shape), edge)


def _scalar(outputs: Mapping[str, torch.Tensor], loss: str) -> torch.Tensor:
    value = outputs.get(loss)
    if value is None or value.numel() != 1:
        found = "none" if value is None else f"one of shape {list(value.shape)}"
        raise InputError(f"Gradients need a scalar output '{loss}' of the model; it returned {found}.")
    return value


def _gradients(
    loss: torch.Tensor, sought: Sequence[torch.Tensor | GradientEdge | None]
) -> list[torch.Tensor | None]:
    """The gradient of the loss for each; None where the loss does not depend on it."""
    there: list[Any] = [each for each in sought if each is not None]
    if not there or not loss.requires_grad:
        return [None] * len(sought)
    found = iter(torch.autograd.grad(loss, there, torch.ones_like(loss), allow_unused=True))
    return [None if each is None else next(found) for each in sought]


def _own(value: torch.Tensor) -> torch.Tensor:
    """The same values, whose gradient counts only what is made of them from here on.

    It is asked for even where nothing upstream is, so that a cut in the graph shows behind it and not at it.
    """
    if value.is_floating_point() and not value.requires_grad:
        value = value.detach().requires_grad_()
    return value.clone()  # no view: one that is changed in place leaves the graph
