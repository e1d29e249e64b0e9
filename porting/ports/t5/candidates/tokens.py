"""The ids that a stack reads: shifted or not, by how far, from which start."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from porting.ports.t5.candidates.sequences import sequence_ids, stack_of
from porting.ports.t5.model import shift_right


def wrong_tokens(site: Site) -> Iterator[Hypothesis]:
    """Both sides' embeddings, looked up for each way to read the ids."""
    if site.leaf != "embed_tokens" or site.original.ndim != 3:
        return
    ways = _ways(site)
    for table in site.parameters().values():
        if table.ndim != 2 or table.shape[1] != site.port.shape[-1]:
            continue
        rows = table.cpu().double()
        forms = {}
        for name, ids in ways.items():
            if ids.shape == site.port.shape[:2] and int(ids.min()) >= 0 and int(ids.max()) < len(rows):
                forms[name] = rows[ids]
                forms[f"{name}, times d_model**0.5"] = rows[ids] * table.shape[1] ** 0.5
                forms[f"{name}, id 0 as zeros"] = rows[ids] * (ids != 0)[..., None]
        for port, original in site.told_apart(forms):
            cause = Cause("tokens", f"the port embeds {port}; the original {original}")
            yield Hypothesis(cause, forms[original], forms[port])


def _ways(site: Site) -> dict[str, Tensor]:
    inputs = torch.from_numpy(site.inputs["inputs"]).long()
    if stack_of(site.name) == "encoder" or "encoder" not in site.lab.by_name:
        ways = {"the ids": inputs}
        base = inputs
    else:
        targets = torch.from_numpy(site.inputs["targets"]).long()
        ids = sequence_ids(site, "decoder")
        one = torch.ones_like(ids)
        start = targets.clone()
        start[:] = torch.cat([torch.ones_like(targets[:, :1]), targets[:, :-1]], dim=1)
        ways = {
            "the targets shifted right, anew in each sequence": shift_right(targets, ids),
            "the targets shifted right": shift_right(targets, one),
            "the targets, not shifted": targets,
            "the targets shifted right by two": shift_right(shift_right(targets, one), one),
            "the targets shifted right from the end token": start,
            "the targets rolled right": targets.roll(1, 1),
            "the targets shifted left": torch.cat([targets[:, 1:], torch.zeros_like(targets[:, :1])], dim=1),
        }
        base = ways["the targets shifted right, anew in each sequence"]
    for offset in (1, -1):
        ways[f"ids that are {abs(offset)} too {'large' if offset > 0 else 'small'}"] = (base + offset).clamp(
            min=0
        )
    ways["the ids in reverse"] = base.flip(1)
    return ways
