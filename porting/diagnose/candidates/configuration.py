"""The port was built with another configuration than the original's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.errors import PortingError
from porting.findings import Cause


def another_configuration(site: Site) -> Iterator[Hypothesis]:
    """Each field that differs is set right, one by one and then all at once, in a model built anew.

    A model built anew with the port's own configuration must show the fault too: else the fault is in the
    code of the live module, which building anew would heal as well.
    """
    variants = site.lab.variants
    build, differing = variants.build, variants.differing
    if build is None or not differing:
        return

    def tensor(fields: Sequence[str]) -> Tensor | None:
        assert build is not None
        try:
            return site.lab.replay(site.name, instead=build(fields))
        except (PortingError, RuntimeError, ValueError):  # no such model, or the weights do not fit it
            return None

    groups = [[name] for name in differing] + ([list(differing)] if len(differing) > 1 else [])
    for fields in groups:
        leaves = [leaf for field in fields for leaf in _leaves(field, *differing[field])]
        words = ", ".join(f"{name} is {_shown(port)}" for name, port, _ in leaves)
        right = ", ".join(_shown(original) for _, _, original in leaves)
        cause = Cause("config", f"in the port's config {words}; the original has {right}", ", ".join(fields))
        yield Hypothesis(cause, lambda fields=fields: tensor(fields), lambda: tensor([]))  # type: ignore[misc]


def _leaves(name: str, port: object, original: object) -> Iterator[tuple[str, object, object]]:
    """What differs within a field that holds others: (name, port's, original's)."""
    if isinstance(port, Mapping) and isinstance(original, Mapping):
        parts = [(f".{key}", port.get(key), original.get(key)) for key in {**port, **original}]
    elif isinstance(port, list | tuple) and isinstance(original, list | tuple) and len(port) == len(original):
        parts = [(f"[{i}]", *pair) for i, pair in enumerate(zip(port, original, strict=True))]
    else:
        yield name, port, original
        return
    for key, ours, theirs in parts:
        if ours != theirs:
            yield from _leaves(name + key, ours, theirs)


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
