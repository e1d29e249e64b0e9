"""Padded positions that are not zeroed, or real ones that are."""

from __future__ import annotations

from collections.abc import Iterator

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from porting.ports.t5.candidates.sequences import sequence_ids, stack_of


def wrong_padding(site: Site) -> Iterator[Hypothesis]:
    """The tensor before, with and without its padded positions."""
    if site.leaf != "mask_padding" and "." in site.name:
        return
    real = (sequence_ids(site, stack_of(site.name)) != 0).double()[..., None]
    for source in reversed(site.recorded.sources):
        x = site.lab.original(source)
        if x is None or x.shape != site.port.shape:
            continue
        forms = {
            "zeroes padded positions": x * real,
            "leaves padded positions as they are": x,
            "zeroes real positions": x * (1 - real),
        }
        for port, original in site.told_apart(forms):
            yield Hypothesis(
                Cause("padding", f"the port {port}; the original {original}"), forms[original], forms[port]
            )
