"""Run a port with the original's tensors in place of its own, so that each tensor shows what it makes itself.

Every tapped tensor is replaced, as soon as it is computed, by the original's. What a tap is computed from is
then the original's, whatever went wrong before, and the difference that remains was made between the taps
before it and this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from porting.capture import Run, run_tapped, to_numpy
from porting.difference import align
from porting.inputs import Inputs
from porting.tap import Tap
from porting.trace import Trace

# Called with a tap, what the port computed there, and the original's values, in the tap's own dims.
OnTensor = Callable[[Tap, np.ndarray, np.ndarray], None]


class Originals:
    """The original's tensors in the layout of the port's taps."""

    def __init__(self, reference: Trace) -> None:
        self._reference = reference
        self._entries = {tensor.name: tensor for tensor in reference.tensors}
        # Layers share their masks.
        self._meaningful: dict[object, np.ndarray | None] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def unfolded(self, tap: Tap, shape: tuple[int, ...]) -> np.ndarray | None:
        """The original's values in the tap's dims, each axis on its own.

        Args:
            tap: which tensor.
            shape: of the port's tensor, groups taken apart.

        Returns:
            None where the original has no such tensor, or not of this shape.
        """
        entry = self._entries.get(tap.name)
        if entry is None:
            return None
        values, _ = align(tap.dimension_names, shape, entry.dims, self._reference.read(entry))
        return values

    def meaningful(self, tap: Tap) -> np.ndarray | None:
        """Where the original's values mean anything: bool in the tap's dims, of size 1 where that is all one.

        None: everywhere, or there is no such tensor.
        """
        entry = self._entries.get(tap.name)
        if entry is None or not entry.where:
            return None
        names = tap.dimension_names
        key = (entry.where, entry.dims, names)
        if key not in self._meaningful:
            found = self._reference.meaningful(entry)
            assert found is not None
            sizes = dict(zip(entry.dims, found.shape, strict=True))
            shape = tuple(sizes.get(name, 1) for name in names)
            self._meaningful[key] = align(names, shape, entry.dims, found)[0]
        return self._meaningful[key]

    def in_dims_of(self, tap: Tap) -> np.ndarray | None:
        """The original's values in the tap's dims; None where there are none, or they have others."""
        entry = self._entries.get(tap.name)
        if entry is None:
            return None
        values = self._reference.read(entry)
        sizes = dict(zip(entry.dims, values.shape, strict=True))
        shape = tuple(sizes.get(name, 1) for name in tap.dimension_names)
        return align(tap.dimension_names, shape, entry.dims, values)[0]

    def like(self, tap: Tap, value: torch.Tensor) -> torch.Tensor | None:
        """The same in `value`'s shape, dtype and device; where the original's mean nothing, `value`'s."""
        shape = tap.unfolded_shape(tuple(value.shape))
        unfolded = self.unfolded(tap, shape)
        if unfolded is None:
            return None
        copied = np.ascontiguousarray(unfolded).reshape(tuple(value.shape))
        original = torch.tensor(copied, dtype=value.dtype, device=value.device)
        meaningful = self.meaningful(tap)
        if meaningful is None:
            return original
        mask = np.array(np.broadcast_to(meaningful, shape)).reshape(tuple(value.shape))
        return torch.where(torch.from_numpy(mask).to(value.device), original, value.detach())


def run_isolated(
    model: torch.nn.Module,
    inputs: Inputs,
    taps: Sequence[Tap],
    run: Run,
    originals: Originals,
    on_tensor: OnTensor,
    on_misfit: Callable[[Tap], None] = lambda _tap: None,
    replaced: Callable[[Tap], bool] = lambda _tap: True,
    move: Callable[[torch.Tensor, Tap], torch.Tensor] = lambda value, _tap: value,
) -> dict[str, torch.Tensor]:
    """Run the model once, each tapped tensor replaced by the original's; returns the model's outputs.

    Args:
        model, inputs, taps, run: as in `capture`.
        originals: what to put in.
        on_tensor: hears what the port computed from the original's tensors.
        on_misfit: hears of taps where the original's tensor has another shape, and is not put in.
        replaced: which taps are replaced; others go on as the port computed them.
        move: applied to what is put in.
    """

    def listen(tap: Tap, value: torch.Tensor) -> torch.Tensor | None:
        original = originals.like(tap, value)
        if original is None:
            if tap.name in originals:
                on_misfit(tap)
            return None
        shape = tap.unfolded_shape(tuple(value.shape))
        expected = originals.unfolded(tap, shape)
        assert expected is not None
        on_tensor(tap, to_numpy(value).reshape(shape), expected)
        return move(original, tap) if replaced(tap) else None

    return run_tapped(model, inputs, taps, run, listen)


def moved(value: torch.Tensor, unit: float, hidden_below: float | None, seed: int) -> torch.Tensor:
    """Every number one rounding unit up or down, at random: value * (1 +- unit).

    Args:
        value: any floating dtype.
        unit: relative, such as `torch.finfo(dtype).eps`.
        hidden_below: numbers at or below this are masks, and stay.
        seed: of the signs.
    """
    generator = torch.Generator().manual_seed(seed)
    up = torch.randint(0, 2, value.shape, generator=generator, dtype=torch.uint8).bool().to(value.device)
    changed = torch.where(up, value * (1 + unit), value * (1 - unit))
    return changed if hidden_below is None else torch.where(value <= hidden_below, value, changed)
