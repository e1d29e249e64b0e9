"""How a variable's shape becomes a parameter's: the ops that could do it, and what leaves doubt.

A shape proves little: most published T5 have square attention kernels, where a wrong transpose passes every
check. So each way says whether the shapes alone decide it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from porting.mapping import Shape
from porting.ops import Op, Reshape, Transpose

# What a parameter is to its module: nn.Linear keeps [out, in], nn.Embedding [rows, d_model], as variables do.
OUT_IN, ROWS, UNKNOWN = "out_in", "rows", ""


@dataclass(frozen=True)
class Way:
    """Ops from a shape to another.

    Attributes:
        ops: in order.
        words: for people.
        transposes: whether the axes end up exchanged.
        doubt: why the shapes do not decide it; "" where they do.
    """

    ops: tuple[Op, ...]
    words: str
    transposes: bool = False
    doubt: str = ""

    @property
    def reshapes(self) -> bool:
        """Whether dimensions are merged or taken apart."""
        return any(isinstance(op, Reshape) for op in self.ops)


def text(shape: Shape) -> str:
    """`40x64`; `scalar` for a number."""
    return "x".join(map(str, shape)) or "scalar"


def ways(source: Shape, target: Shape) -> list[Way]:
    """Every way from one shape to the other; those that need less are first.

    Example: ways((40, 4, 16), (64, 40)) is one: reshape to 40x64, then transpose.
    """
    if prod(source) != prod(target):
        return []
    found: list[Way] = []
    if source == target:
        found.append(Way((), f"shape {text(source)} as it is"))
    if len(source) == 2 and source[::-1] == target:
        found.append(Way((Transpose(),), f"shape transposed {text(source)} to {text(target)}", True))
    if found and len(source) <= 2:
        return _doubted(found, source)
    if len(target) == 2 and len(source) > 2:
        for cut in range(1, len(source)):
            flat = (prod(source[:cut]), prod(source[cut:]))
            if flat in (target, target[::-1]):
                reshape = Reshape(source, flat)
                if flat == target:
                    found.append(Way((reshape,), f"shape {text(source)} merged to {text(flat)}"))
                if flat[::-1] == target:
                    words = f"shape {text(source)} merged to {text(flat)}, then transposed"
                    found.append(Way((reshape, Transpose()), words, True))
    elif source != target:
        found.append(Way((Reshape(source, target),), f"shape {text(source)} to {text(target)}"))
        if len(source) == 2 and len(target) > 2:
            middle = source[::-1]
            found.append(
                Way(
                    (Transpose(), Reshape(middle, target)),
                    f"shape {text(source)} transposed, then to {text(target)}",
                    True,
                )
            )
    return _doubted(found, source)


def _doubted(found: list[Way], source: Shape) -> list[Way]:
    """Of several ways, none is proved by the shapes."""
    if len(found) < 2:
        return found
    what = "square" if len(set(source)) == 1 and len(source) == 2 else "ambiguous"
    words = f"{what} ({text(source)}), so the shape does not say whether it is transposed"
    return [Way(way.ops, way.words, way.transposes, words) for way in found]
