"""A port held at one tensor: what goes into it, which parameters it uses, what it is with a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porting.analysis.isolation import Originals
from porting.capture import Run, modules_by_path, plain_path, requiring_gradients, run_tapped
from porting.inputs import Inputs
from porting.tap import Tap

# The weights that a parameter should have, by its name; None where they are not known.
RightWeights = Callable[[str], Tensor | None]


@dataclass
class Recorded:
    """What one tapped tensor was computed from.

    Attributes:
        arguments: tensors among the positional arguments of the tapped module.
        parameters: names of the parameters that the tensor was computed with.
        sources: names of the taps that it was computed from, the nearest last.
        inherits: names of faulty taps among these that the original's tensor could not stand in for: outputs
            of the model, which nothing can replace, and tensors of another shape.
    """

    arguments: tuple[Tensor, ...] = ()
    parameters: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    inherits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variants:
    """Models of the same weights with another configuration.

    Attributes:
        differing: fields in which the port's configuration is not the original's, with (port's, original's).
        build: the model with these fields taken from the original, and its taps; all other fields stay.
    """

    differing: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    build: Callable[[Sequence[str]], tuple[nn.Module, Sequence[Tap]]] | None = None


class _Reached(Exception):  # noqa: N818 - it is no error
    """The tap that a replay is for was reached: the rest of the model need not run."""


@dataclass
class Lab:
    """Runs the port on the original's tensors, with changes.

    Attributes:
        model, inputs, taps, run: as in `capture`.
        originals: the original's tensors.
        right_weights: what the checkpoint holds for a parameter.
        variants: the same weights under another configuration.
        notes: what could not be recorded, in words.
    """

    model: nn.Module
    inputs: Inputs
    taps: Sequence[Tap]
    run: Run
    originals: Originals
    right_weights: RightWeights = lambda _name: None
    variants: Variants = Variants()

    def __post_init__(self) -> None:
        self.modules = modules_by_path(self.model)
        self.by_name = {tap.name: tap for tap in self.taps}
        # A shared parameter has one name here, the first.
        self.parameters = {plain_path(name): p for name, p in self.model.named_parameters()}
        self.notes: list[str] = []

    def record(self, names: Sequence[str]) -> dict[str, Recorded]:
        """Run once with gradients, which tell what each of these taps is computed from.

        Of a model that cannot be run with gradients only the arguments are recorded, and `notes` says so.
        """
        recorded = {name: Recorded() for name in names}
        leaves: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        own = [p for p in self.parameters.values() if p.is_floating_point()]

        def listen(tap: Tap, value: Tensor) -> Tensor | None:
            if tap.name in recorded:
                with torch.enable_grad():
                    self._trace_back(recorded[tap.name], value, leaves, kept)
            original = self.originals.like(tap, value)
            if tap.name in recorded and (original is None or tap.name not in self.modules):
                kept[tap.name] = value
            if original is None:
                return None
            leaves[tap.name] = original.requires_grad_()
            return leaves[tap.name].clone()  # which the model may change in place

        with self._arguments_into(recorded), requiring_gradients(own):
            try:
                run_tapped(self.model, self.inputs, self.taps, _with_gradients(self.run), listen)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                self.notes.append(
                    f"the port does not run with gradients ({reason}): causes are looked for blindly"
                )
                run_tapped(
                    self.model, self.inputs, self.taps, self.run, lambda tap, x: self.originals.like(tap, x)
                )
        return recorded

    def _trace_back(
        self, entry: Recorded, value: Tensor, leaves: Mapping[str, Tensor], kept: Mapping[str, Tensor]
    ) -> None:
        if not value.requires_grad:
            return
        differentiable = {name: tensor for name, tensor in kept.items() if tensor.requires_grad}
        names = [name for name, p in self.parameters.items() if p.is_floating_point()]
        targets = [*leaves.values(), *(self.parameters[name] for name in names), *differentiable.values()]
        grads = torch.autograd.grad(value.sum(), targets, retain_graph=True, allow_unused=True)
        found = [grad is not None for grad in grads]
        entry.sources = tuple(name for name, hit in zip(leaves, found, strict=False) if hit)
        entry.inherits = tuple(
            name
            for name, hit in zip(differentiable, found[len(found) - len(differentiable) :], strict=True)
            if hit
        )
        entry.parameters = tuple(name for name, hit in zip(names, found[len(leaves) :], strict=False) if hit)

    @contextmanager
    def _arguments_into(self, recorded: Mapping[str, Recorded]) -> Iterator[None]:
        handles = []

        def hook(entry: Recorded) -> Callable[..., None]:
            def remember(_module: nn.Module, args: tuple[Any, ...]) -> None:
                if not entry.arguments:
                    tensors = tuple(arg.detach() for arg in args if isinstance(arg, Tensor))
                    entry.arguments = tensors

            return remember

        try:
            for name, entry in recorded.items():
                if name in self.modules:
                    handles.append(self.modules[name].register_forward_pre_hook(hook(entry)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def replay(
        self,
        name: str,
        parameters: Mapping[str, Tensor] | None = None,
        instead: tuple[nn.Module, Sequence[Tap]] | None = None,
    ) -> Tensor | None:
        """What the port computes at a tap from the original's tensors, with other values in some parameters.

        Args:
            name: of the tap.
            parameters: new values by parameter name.
            instead: another model in the port's place, and its taps.

        Returns:
            float64, in the tap's dims; None where the tap was not reached.
        """
        found: list[Tensor] = []
        model, taps = instead or (self.model, self.taps)

        def listen(tap: Tap, value: Tensor) -> Tensor | None:
            if tap.name == name:
                found.append(self.unfolded(tap, value))
                raise _Reached
            return self.originals.like(tap, value)

        with self._changed(parameters or {}), suppress(_Reached):
            run_tapped(model, self.inputs, taps, self.run, listen)
        return found[0] if found else None

    @contextmanager
    def _changed(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        kept = {name: self.parameters[name].data for name in values}
        try:
            for name, value in values.items():
                self.parameters[name].data = value.to(kept[name]).reshape(kept[name].shape)
            yield
        finally:
            for name, data in kept.items():
                self.parameters[name].data = data

    def unfolded(self, tap: Tap, value: Tensor) -> Tensor:
        """float64, on the host, with every group of axes taken apart."""
        return value.detach().cpu().double().reshape(tap.unfolded_shape(tuple(value.shape)))

    def original(self, name: str) -> Tensor | None:
        """The original's tensor in the tap's dims, float64; None where there is none."""
        tap = self.by_name.get(name)
        values = None if tap is None else self.originals.in_dims_of(tap)
        return None if values is None else torch.from_numpy(values.astype("float64"))

    def meaningful(self, name: str) -> Tensor | None:
        """Where the original's tensor means anything, bool, in the tap's dims; None: everywhere."""
        tap = self.by_name[name]
        found, values = self.originals.meaningful(tap), self.originals.in_dims_of(tap)
        if found is None or values is None:
            return None
        return torch.from_numpy(np.array(np.broadcast_to(found, values.shape)))


def _with_gradients(run: Run) -> Run:
    def wrapped(model: nn.Module, inputs: Inputs) -> Mapping[str, Tensor]:
        with torch.enable_grad():
            return run(model, inputs)

    return wrapped
