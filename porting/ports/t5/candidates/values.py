"""What attention makes of its weights: which values they mix, and how the heads come together again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

_NARROW = (torch.bfloat16, torch.float16)


def wrong_values(site: Site) -> Iterator[Hypothesis]:
    """weights @ v, for other values, other orders of their heads, and narrower weights."""
    weights = site.sibling("weights")
    if site.leaf != "attended" or weights is None or not site.fits:
        return
    shape = site.port.shape  # [b, h..., l, k]
    per_head = weights.reshape(weights.shape[0], -1, *weights.shape[-2:])
    memory = {name: x for name in ("v", "kv", "k") if (x := site.sibling(name)) is not None}
    forms: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in memory.items():
        values = tensor.reshape(*tensor.shape[:2], -1, tensor.shape[-1]).transpose(1, 2)
        if values.shape[-1] != shape[-1] or per_head.shape[1] % values.shape[1]:
            continue
        times = per_head.shape[1] // values.shape[1]
        each = values.repeat_interleave(times, dim=1)
        forms[name] = ("source", per_head @ each)
        if times > 1 and values.shape[1] > 1:
            tiled = per_head @ values.repeat(1, times, 1, 1)
            forms[f"{name}, whose heads follow each other in turn"] = ("order", tiled)
        for dtype in _NARROW:
            narrow = str(dtype).removeprefix("torch.")
            rounded = per_head.to(dtype).double() @ each
            forms[f"{name} by weights rounded to {narrow}"] = ("rounding", rounded)
            both = per_head.to(dtype).double() @ each.to(dtype).double()
            forms[f"{name} by weights, both rounded to {narrow}"] = ("rounding", both)
        if per_head.shape[-1] == per_head.shape[-2]:
            forms[f"{name} by the weights of keys and queries exchanged"] = (
                "order",
                per_head.transpose(-1, -2) @ each,
            )
    reshaped = {name: value.reshape(shape) for name, (_, value) in forms.items()}
    for port, original in site.told_apart(reshaped):
        cause = Cause(forms[port][0], f"the port mixes {port}; the original {original}")
        yield Hypothesis(cause, reshaped[original], reshaped[port])


def wrong_merge(site: Site) -> Iterator[Hypothesis]:
    """The output projection of heads that were put together in another order."""
    attended = site.sibling("attended")
    weights = [p.cpu().double() for p in site.parameters().values() if p.ndim == 2]
    if site.leaf != "o" or attended is None or len(weights) != 1 or not site.fits:
        return
    heads = attended.reshape(attended.shape[0], -1, *attended.shape[-2:])  # [b, h, l, k]
    width = heads.shape[1] * heads.shape[3]
    if weights[0].shape[1] != width:
        return
    merged = {
        "head after head": heads.transpose(1, 2).flatten(2),
        "without exchanging heads and length": heads.reshape(heads.shape[0], -1, width),
        "with d_kv slower than the heads": heads.permute(0, 2, 3, 1).flatten(2),
        "in reverse": heads.flip(1).transpose(1, 2).flatten(2),
    }
    forms = {name: x @ weights[0].T for name, x in merged.items()}
    for port, original in site.told_apart(forms):
        cause = Cause("order", f"the port puts its heads together {port}; the original {original}")
        yield Hypothesis(cause, forms[original], forms[port])
