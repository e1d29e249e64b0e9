"""Sizes that a layer or a stack may have, and what is said of values that are not of their kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from porting.errors import Problem

Dims = tuple[tuple[str, int], ...]


# Far beyond every model, and small enough that a model of such sizes can be described, if not held: a config
# that asks for more is answered at once, instead of when memory is used up.
MAX_SIZE = 1 << 24


MAX_HEADS = 1 << 12


MAX_LAYERS = 1 << 12


MAX_EXPERTS = 1 << 16


MAX_WINDOW = 1 << 14


def size(dims: Dims) -> int:
    """How many elements the dimensions hold together."""
    return math.prod(n for _, n in dims)


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer", lambda v: type(v) is int),
    "bool": ("true or false", lambda v: type(v) is bool),
    "float": ("a number", lambda v: type(v) in (int, float) and math.isfinite(v)),
    "str": ("a name", lambda v: type(v) is str),
    "tuple[str, ...]": ("a list of names", lambda v: type(v) is tuple and all(type(n) is str for n in v)),
    "Dims": (
        "a list of names with sizes",
        lambda v: type(v) is tuple and all(type(d) is tuple and [*map(type, d)] == [str, int] for d in v),
    ),
}


def kind_problems(spec: Any) -> list[Problem]:
    """A problem for each field of a dataclass whose value is not of the annotated kind."""
    problems = []
    for f in fields(spec):
        value, kind = getattr(spec, f.name), str(f.type)
        if kind.endswith(" | None"):
            kind = kind.removesuffix(" | None")
            if value is None:
                continue
        expected, fits = _KINDS.get(kind, ("", lambda _: True))
        if not fits(value):
            problems.append(Problem(f.name, expected, repr(value)))
    return problems


def positive(values: Mapping[str, object], largest: int = MAX_SIZE) -> Iterator[Problem]:
    """A problem for each value that is not a positive integer, or larger than any model's."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            yield Problem(name, "a positive integer", repr(value))
        elif value > largest:
            yield Problem(name, f"at most {largest}", repr(value))


def bucket_problems(buckets: object, max_distance: object) -> Iterator[Problem]:
    """Half of the buckets (a quarter, in both directions) hold one distance each; see Mesh's function."""
    wrong = list(
        positive({"relative_attention_max_distance": max_distance, "relative_attention_num_buckets": buckets})
    )
    yield from wrong
    if wrong or not isinstance(buckets, int) or not isinstance(max_distance, int):
        return
    if 4 <= buckets < 2 * max_distance:
        return
    expected = f"4 to {2 * max_distance - 1} (below twice the largest distance)"
    yield Problem("relative_attention_num_buckets", expected, f"{buckets}")
