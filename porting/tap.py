"""Where a model is listened to, and how the tensor found there is labelled."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_ONE = ("1",)
_TOKEN = re.compile(r"\(([^()]*)\)|(\S+)")


@dataclass(frozen=True)
class Tap:
    """One tensor of a model: the output of the module at path `name`, or a named output of the model.

    Attributes:
        name: module path (`encoder.block.0.layer.0.SelfAttention.q`), also the tensor's name in reports.
        dims: names of the tensor's dimensions in order; a group in parentheses is one axis that holds
            several, the first one slowest: `batch length (heads d_kv)`; `1` is an axis of size 1 that
            the original does not have.
        sizes: sizes of the dimensions inside groups, all but one of each group.
        hidden_below: values at or below this are attention masks, not numbers: they count as equal when
            both sides hide the position. None where the tensor is never masked.
    """

    name: str
    dims: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    hidden_below: float | None = None

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """All names, groups taken apart: `batch length (heads d_kv)` -> batch, length, heads, d_kv."""
        return tuple(name for axis in self._axes() if axis != _ONE for name in axis)

    def unfolded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with every group taken apart, and without axes that are `1`.

        Raises:
            ValueError: the tensor has another number of axes, or an axis does not divide.
        """
        axes = self._axes()
        if len(axes) != len(shape):
            raise ValueError(f"{self.name}: dims '{self.dims}' name {len(axes)} axes, the tensor has {shape}")
        unfolded: list[int] = []
        for names, size in zip(axes, shape, strict=True):
            if names == _ONE:
                if size != 1:
                    raise ValueError(f"{self.name}: dims '{self.dims}' have 1 where the tensor has {size}")
                continue
            unfolded += self._split(names, size) if len(names) > 1 else [size]
        return tuple(unfolded)

    def _axes(self) -> list[tuple[str, ...]]:
        return [
            tuple(group.split()) if group else (name,)
            for group, name in _TOKEN.findall(self.dims)
            if group or name
        ]

    def _split(self, names: tuple[str, ...], size: int) -> list[int]:
        known = {name: self.sizes[name] for name in names if name in self.sizes}
        product = math.prod(known.values())
        free = [name for name in names if name not in known]
        if len(free) > 1 or size % product or (not free and size != product):
            raise ValueError(f"{self.name}: an axis of {size} is not ({' '.join(names)}) with {known}")
        return [known.get(name, size // product) for name in names]
