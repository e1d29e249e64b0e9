"""A faulty tensor as a candidate sees it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from porting.analysis.noise import floor_of
from porting.diagnose.lab import Lab, Recorded
from porting.inputs import Inputs
from porting.tap import Tap

Form = TypeVar("Form", bound=Hashable)


@dataclass(frozen=True)
class Site:
    """One tap, fed with the original's tensors, and still wrong.

    All tensors are float64, on the host, in the tap's dims with each axis on its own.

    Attributes:
        tap: which one.
        original, port: what the original has there, and what the port makes of the original's inputs.
        floor: the rounding to be expected, element by element.
        times: how many times the floor counts as agreement.
        recorded: what it was computed from.
        lab: runs the port with changes.
        meaningful: where the original's values mean anything, bool, of the original's shape; elsewhere
            `original` has the port's values, where both have one shape. None: everywhere.
    """

    tap: Tap
    original: Tensor
    port: Tensor
    floor: Tensor
    times: float
    recorded: Recorded
    lab: Lab
    meaningful: Tensor | None = None

    @property
    def name(self) -> str:
        """Of the tap."""
        return self.tap.name

    @property
    def parent(self) -> str:
        """Path of the module that the tapped one belongs to."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """The last part of the tap's name: `scores`, `wo`, or a layer's number."""
        return self.name.rpartition(".")[2]

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes."""
        return self.tap.dimension_names

    @property
    def module(self) -> nn.Module | None:
        """The tapped module; None for an output of the model."""
        return self.lab.modules.get(self.name)

    @property
    def inputs(self) -> Inputs:
        """The ids that went in."""
        return self.lab.inputs

    @property
    def fits(self) -> bool:
        """Whether both sides have one shape, so that elements stand beside each other."""
        return self.port.shape == self.original.shape

    @cached_property
    def shown(self) -> Tensor:
        """Where both sides have a number that means something, rather than a mask, bool."""
        shown = torch.isfinite(self.original) & torch.isfinite(self.port)
        if self.meaningful is not None:
            shown &= self.meaningful
        below = self.tap.hidden_below
        return shown if below is None else shown & (self.original > below) & (self.port > below)

    def sibling(self, leaf: str) -> Tensor | None:
        """The original's tensor beside this one: `site.sibling("q")`."""
        return self.lab.original(f"{self.parent}.{leaf}")

    def others(self) -> Iterator[tuple[str, Tensor]]:
        """The original's other tensors of the same shape, the nearest in the original's order first."""
        names = list(self.lab.by_name)
        here = names.index(self.name)
        for name in sorted(names, key=lambda name: abs(names.index(name) - here)):
            if name != self.name:
                tensor = self.lab.original(name)
                if tensor is not None and tensor.shape == self.original.shape:
                    yield name, tensor

    def parameters(self) -> dict[str, Tensor]:
        """The parameters that this tensor was computed with, in the port's own dtype."""
        return {name: self.lab.parameters[name].detach() for name in self.recorded.parameters}

    def with_parameters(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """This tensor, computed with other values in some parameters."""
        return self.lab.replay(self.name, values)

    def agrees(self, value: Tensor | None) -> bool:
        """Whether a value is the original's, as far as rounding tells: parity."""
        floor = self._floor_of_original
        if self.fits:  # what is mended was the port's number, whose rounding stays
            floor = floor.maximum(self.port.abs().nan_to_num() * (torch.finfo(torch.float32).eps / 2))
        return self._close(value, self.original, floor) and self._better(value)

    def is_port(self, value: Tensor | None) -> bool:
        """Whether a value is what the port computes, as far as rounding tells."""
        floor = self.floor
        if not self.fits:  # measured on the original's shape
            floor = self.port.abs().amax() * torch.finfo(torch.float32).eps
        return self._close(value, self.port, floor)

    def told_apart(self, forms: Mapping[Form, Tensor | Callable[[], Tensor]]) -> Iterator[tuple[Form, Form]]:
        """Pairs of forms: the first is what the port computes, the second what the original does."""

        def value(form: Form) -> Tensor:
            found = forms[form]
            return found() if callable(found) else found

        ports = [form for form in forms if self.is_port(value(form))]
        originals = [form for form in forms if ports and self.agrees(value(form))]
        return itertools.product(ports, originals)

    def _close(self, value: Tensor | None, expected: Tensor, floor: Tensor) -> bool:
        if value is None or value.shape != expected.shape:
            return False
        below = self.tap.hidden_below
        apart = (value - expected).abs()
        apart = torch.where(value == expected, torch.zeros_like(apart), apart)
        if below is not None:
            hidden, expected_hidden = value <= below, expected <= below
            if bool(((hidden != expected_hidden) & self._counted(apart)).any()):
                return False
            apart = apart.masked_fill(hidden, 0.0)
        apart = apart.masked_fill(~self._counted(apart), 0.0)
        return bool((apart <= self.times * floor).all())

    def _counted(self, like: Tensor) -> Tensor:
        """Which elements count, bool."""
        if self.meaningful is None or self.meaningful.shape != like.shape:
            return torch.ones_like(like, dtype=torch.bool)
        return self.meaningful

    def _better(self, value: Tensor | None) -> bool:
        """A fault not far above the noise must be gone, not only within the tolerance."""
        if value is None or self.port.shape != self.original.shape:
            return value is not None
        below = self.tap.hidden_below
        # `original` has the port's values where its own mean nothing: neither of these is seen there.
        if below is not None and bool(((self.port <= below) != (self.original <= below)).any()):
            return True  # the mask is the fault, or part of it: numbers that both show may be right already
        if bool((torch.isfinite(self.original) & ~torch.isfinite(self.port)).any()):
            return True  # what was no number is one: numbers beside it may have been right already
        before = (self.port - self.original)[self.shown].square().mean()
        after = (value - self.original)[self.shown].square().mean()
        hidden = bool((~self.shown & self._counted(value)).any())
        return bool(after <= before * _LEFT**2) or bool(hidden and not before)

    @cached_property
    def _floor_of_original(self) -> Tensor:
        """The floor was measured on the port's faulty values: scaled to the size that the original's have."""
        if self.port.shape != self.original.shape:
            return self.floor
        # Rows may have grown more than the whole: none is held to less than its own rounding.
        where = None if self.meaningful is None else self.meaningful.numpy()
        own = torch.from_numpy(floor_of([], self.original.numpy(), _OWN, self.tap.hidden_below, where))
        ports, originals = (x[self.shown].square().mean().sqrt() for x in (self.port, self.original))
        if not (originals > 0 and torch.isfinite(ports) and torch.isfinite(originals)):
            return self.floor
        if not ports > 0:  # whose rounding tells nothing
            return self.floor.maximum(own)
        return (self.floor * (originals / ports)).maximum(own)


# The relative rounding of a sum of a few terms of its own size.
_OWN = 4 * torch.finfo(torch.float32).eps
# How much of the difference a mended fault may leave, root mean square.
_LEFT = 0.25
