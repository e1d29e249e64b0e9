"""Attention masks by name: who sees whom on each side."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from porting.diagnose.site import Site
from porting.ports.t5.candidates.sequences import sequence_ids, stack_of


def mask_words(site: Site, port: Tensor, original: Tensor) -> str:
    """In what the two differ. Both bool [b, h, l, m]: what is seen."""
    known = _named(site)
    ports = [name for name, mask in known.items() if torch.equal(mask.expand_as(port), port)]
    originals = [name for name, mask in known.items() if torch.equal(mask.expand_as(original), original)]
    # Names that share a half are the likeliest pair: what they do not share is the fault.
    pairs = sorted(
        itertools.product(ports, originals),
        key=lambda pair: -sum(a == b for a, b in zip(*pair, strict=True)),
    )
    if pairs:
        (who, when), (right_who, right_when) = pairs[0]
        return f"in the port a position sees {who}{when}; in the original {right_who}{right_when}"
    shows, hides = int((port & ~original).sum()), int((original & ~port).sum())
    place = (port != original).nonzero()[0].tolist()
    return (
        f"the masks differ: the port shows {shows} pairs of positions that the original hides, and hides"
        f" {hides} that it shows, the first at batch {place[0]}, length {place[2]}, memory_length {place[3]}"
    )


def _named(site: Site) -> dict[tuple[str, str], Tensor]:
    """Masks by the two halves of their names: whom, and up to where."""
    stack = stack_of(site.name)
    within = "EncDec" not in site.name
    queries = sequence_ids(site, stack)
    memory = queries if within else sequence_ids(site, "encoder")
    q, m = queries[:, None, :, None], memory[:, None, None, :]
    everyone = torch.ones_like(q == m)
    whom = {
        "its own sequence (padding sees padding)": q == m,
        "all positions": everyone,
        "all that is not padding": everyone & (m != 0),
        "its own sequence and no padding": (q == m) & (m != 0),
        "padding only": everyone & (m == 0),
        "all real positions of any sequence, padding sees padding": (q != 0) == (m != 0),
    }
    until = {"": everyone[:1]}
    if within:
        i, j = torch.arange(q.shape[2])[:, None], torch.arange(m.shape[3])[None, :]
        until[", up to itself"] = (j <= i)[None, None]
        until[", before itself"] = (j < i)[None, None]
        until[", up to one position ahead"] = (j <= i + 1)[None, None]
        until[", from itself on"] = (j >= i)[None, None]
    return {
        (who, when): mask & limit
        for (who, mask), (when, limit) in itertools.product(whom.items(), until.items())
    }
