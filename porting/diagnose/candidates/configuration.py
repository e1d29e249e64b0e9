"""The port was built with another configuration than the original's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
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
            return site.lab.replay(site.name, model=build(fields))
        except (RuntimeError, ValueError):  # the weights do not fit such a model
            return None

    groups = [[name] for name in differing] + ([list(differing)] if len(differing) > 1 else [])
    for fields in groups:
        words = ", ".join(f"{f} is {_shown(differing[f][0])}" for f in fields)
        right = ", ".join(_shown(differing[f][1]) for f in fields)
        cause = Cause("config", f"in the port's config {words}; the original has {right}", ", ".join(fields))
        yield Hypothesis(cause, lambda fields=fields: tensor(fields), lambda: tensor([]))  # type: ignore[misc]


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
