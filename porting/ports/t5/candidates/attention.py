"""Attention: scale of the scores, position bias left out or another's, masks, and the softmax."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from porting.ports.t5.attention import softmax
from porting.ports.t5.candidates.masks import mask_words
from porting.ports.t5.taps import MASKED_BELOW


@dataclass(frozen=True)
class _Scores:
    """scale * (q k) + bias_share * bias, where it can be seen.

    Attributes:
        scale, bias_share: by least squares, whole numbers where they nearly are.
        bias: whose bias; "" where there is none.
        values: [b, h, l, m] of these.
        product: which product it is, where it is not that of q and k.
    """

    scale: float
    bias_share: float
    bias: str
    values: Tensor
    product: str = ""


_PRODUCT = "queries by keys"


def wrong_scores(site: Site) -> Iterator[Hypothesis]:
    """Both sides' scores taken apart into q k, bias and mask; what differs between the two is the cause."""
    if site.leaf != "scores":
        return
    products = {name: x for name, x in _products(site).items() if x.numel() == site.port.numel()}
    shape = site.port.shape
    flat = (shape[0], -1, *shape[-2:])
    if not site.fits or not products:
        return
    port, original, floor = (x.reshape(flat) for x in (site.port, site.original, site.floor))
    seen = {"port": port > MASKED_BELOW, "original": original > MASKED_BELOW}
    both = seen["port"] & seen["original"]
    tolerance = site.times * floor
    biases = _biases(site, flat)
    parts = {
        side: next(_fits(values, products, biases, both, tolerance), None)
        for side, values in (("port", port), ("original", original))
    }
    found, right = parts["port"], parts["original"]
    if found is None or right is None:
        return
    words, kinds = _differences(site, found, right)
    # Hidden by the original alone: the port may still lower such scores, only not enough.
    odd = seen["port"] & ~seen["original"]
    lowered = (port - found.values)[odd]
    level = float(lowered.mean()) if bool(odd.any()) else 0.0
    soft = level < -1 and bool(((lowered - level).abs() < 1).all())
    if soft:
        words.append(f"the port's mask adds {level:.4g} to hidden scores, the original -1e9")
        kinds.append("mask")
    elif not torch.equal(seen["port"], seen["original"]):
        words.append(mask_words(site, seen["port"], seen["original"]))
        kinds.append("mask")
    if not kinds:
        return
    faulty = torch.where(seen["port"], found.values, port)
    if soft:
        # Beside the level float32 loses digits of the score: no finer than that can the two agree.
        near = (port - found.values - level).abs() <= 4 * torch.finfo(torch.float32).eps * abs(level)
        faulty = torch.where(odd, torch.where(near, port, found.values + level), faulty)
    mended = torch.where(seen["original"], right.values, original)
    yield Hypothesis(Cause(kinds[0], "; ".join(words)), mended.reshape(shape), faulty.reshape(shape))


def _differences(site: Site, found: _Scores, right: _Scores) -> tuple[list[str], list[str]]:
    words, kinds = [], []
    if found.product != right.product:
        words.append(
            f"the port multiplies {found.product or _PRODUCT}, the original {right.product or _PRODUCT}"
        )
        kinds.append("rounding" if "rounded" in found.product else "order")
    if found.scale != right.scale:
        factor = found.scale / right.scale if right.scale else found.scale
        d_kv = site.lab.by_name[site.name].sizes.get("d_kv") or _width(site)
        named = f" (d_kv**{_power(factor, d_kv):g}, with d_kv {d_kv})" if _power(factor, d_kv) else ""
        words.append(f"the port's q k is {factor:.6g} times the original's{named}")
        kinds.append("scale")
    if (found.bias, found.bias_share) != (right.bias, right.bias_share):
        share = {"port": found, "original": right}
        said = {side: _bias_words(part) for side, part in share.items()}
        words.append(f"the port adds {said['port']}, the original {said['original']}")
        kinds.append("bias")
    return words, kinds


def _bias_words(part: _Scores) -> str:
    if not part.bias or not part.bias_share:
        return "no position bias"
    return part.bias if part.bias_share == 1 else f"{part.bias_share:.6g} times {part.bias}"


def _power(factor: float, size: int) -> float:
    return next((p for p in (-1.0, -0.5, 0.5, 1.0) if size > 1 and abs(factor / size**p - 1) < 1e-4), 0.0)


def _width(site: Site) -> int:
    q = _queries(site)
    return 0 if q is None else int(q.shape[-1])


def _queries(site: Site) -> Tensor | None:
    q = site.sibling("scaled_q")
    if q is not None:  # [b, h..., l, k]
        return q.reshape(q.shape[0], -1, *q.shape[-2:])
    q = site.sibling("q")  # [b, l, h..., k]
    return None if q is None else q.reshape(*q.shape[:2], -1, q.shape[-1]).transpose(1, 2)


def _products(site: Site) -> dict[str, Tensor]:
    """q k of the original, [b, h, l, m], under ""; then what else may be multiplied, by name."""
    logits = site.sibling("logits")  # of talking heads, mixed already
    if logits is not None:
        return {"": logits.reshape(logits.shape[0], -1, *logits.shape[-2:])}
    q, k = _queries(site), site.sibling("k")
    k = site.sibling("kv") if k is None else k
    if q is None or k is None:
        return {}
    keys = k.reshape(*k.shape[:2], -1, k.shape[-1]).transpose(1, 2)
    if q.shape[-1] != keys.shape[-1] or q.shape[1] % keys.shape[1]:
        return {}
    times = q.shape[1] // keys.shape[1]
    each = keys.repeat_interleave(times, dim=1)
    found = {"": q @ each.transpose(-1, -2)}
    if q.shape[-2] == keys.shape[-2]:
        found["keys by queries (the two exchanged)"] = found[""].transpose(-1, -2)
    if times > 1 and keys.shape[1] > 1:
        tiled = keys.repeat(1, times, 1, 1)
        found["queries by keys whose heads follow each other in turn"] = q @ tiled.transpose(-1, -2)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = str(dtype).removeprefix("torch.")
        both = q.to(dtype), each.transpose(-1, -2).to(dtype)
        found[f"queries by keys, rounded to {narrow}"] = both[0].double() @ both[1].double()
        found[f"queries by keys in {narrow}, the product rounded too"] = (both[0] @ both[1]).double()
    values = site.sibling("v")
    if values is not None and values.shape == k.shape:
        instead = values.reshape(*k.shape[:2], -1, k.shape[-1]).transpose(1, 2)
        found["queries by values"] = q @ instead.repeat_interleave(times, dim=1).transpose(-1, -2)
    return found


def _biases(site: Site, flat: tuple[int, ...]) -> dict[str, Tensor]:
    """The original's position biases that fit here: the layer's own, its transpose, then others'."""
    own = f"{site.parent}.position_bias"
    flat_heads = site.port.numel() // (flat[0] * flat[-2] * flat[-1])
    found: dict[str, Tensor] = {}
    for name in sorted(site.lab.by_name, key=lambda name: name != own):
        if not name.endswith(".position_bias"):
            continue
        bias = site.lab.original(name)
        if bias is None or bias.shape[-2:] != torch.Size(flat[-2:]):
            continue
        # Heads may be several axes: how many there are does not tell whether the batch is among them.
        each = "batch" in site.lab.by_name[name].dimension_names
        whole = bias.reshape(bias.shape[0] if each else 1, -1, *bias.shape[-2:])
        if whole.shape[1] != flat_heads or whole.shape[0] not in (1, flat[0]):
            continue
        whole = whole if each else whole[0]
        if any(torch.equal(whole, other) for other in found.values()):
            continue
        found[name] = whole
        if name == own and flat[-1] == flat[-2]:
            found[f"{name} with queries and keys exchanged"] = whole.transpose(-1, -2)
    return found


def _fits(
    values: Tensor, products: dict[str, Tensor], biases: dict[str, Tensor], seen: Tensor, tolerance: Tensor
) -> Iterator[_Scores]:
    """Ways to make the values of q k and a bias, of those seen."""
    target = values[seen]
    if not bool(torch.isfinite(target).all()):
        return  # the solver takes numbers only
    ways = itertools.product(
        products.items(), (*biases.items(), ("", torch.zeros(1, 1, 1, dtype=torch.float64)))
    )
    for (which, product), (name, bias) in ways:
        columns = [product[seen]] + ([bias.expand_as(product)[seen]] if name else [])
        matrix = torch.stack(columns, dim=1)
        solution = torch.linalg.lstsq(matrix.T @ matrix, (matrix.T @ target)[:, None]).solution.flatten()
        scale, share = _whole(float(solution[0])), _whole(float(solution[1])) if name else 0.0
        made = scale * product + share * bias
        if bool(((made - values).abs()[seen] <= tolerance[seen]).all()):
            yield _Scores(scale, share, name if share else "", made, which)


def _whole(x: float) -> float:
    return float(round(x)) if math.isfinite(x) and abs(x - round(x)) < 1e-5 else x


def wrong_softmax(site: Site) -> Iterator[Hypothesis]:
    """Weights that are no softmax, or another, of the original's scores."""
    if site.leaf not in ("weights", "softmax") or site.parent + ".scores" not in site.lab.by_name:
        return
    scores = site.sibling("scores")
    if scores is None or scores.shape != site.port.shape:
        return
    # In float32, where hidden scores have lost what they were before the mask.
    narrow = scores.float()
    mesh = softmax(narrow).double()
    forms = {
        "exp(x - logsumexp(x)), whose weights are 1 each where all is hidden": mesh,
        "a softmax whose weights sum to 1 where all is hidden": narrow.softmax(-1).double(),
        "a softmax over the queries": narrow.softmax(-2).double(),
        "a softmax over the heads": narrow.softmax(1).double(),
        "a softmax with 1 added to its denominator": _softmax_one(scores),
        "a sigmoid": scores.sigmoid(),
        "no softmax": scores,
        "a softmax in bfloat16": scores.bfloat16().softmax(-1).double(),
    }
    for port, original in site.told_apart(forms):
        cause = Cause("softmax", f"the port takes {port}; the original {original}")
        yield Hypothesis(cause, forms[original], forms[port])
    yield from _temperature(site, scores)


def _softmax_one(scores: Tensor) -> Tensor:
    largest = scores.amax(-1, keepdim=True)
    powers = (scores - largest).exp()
    return powers / (powers.sum(-1, keepdim=True) + (-largest).exp())


def _temperature(site: Site, scores: Tensor) -> Iterator[Hypothesis]:
    """softmax(c * scores): the logarithms of weights differ by c times what scores differ by."""
    shown = (scores > MASKED_BELOW) & (site.port > 1e-12)
    logs = site.port.clamp(min=1e-300).log()
    count = shown.sum(-1, keepdim=True).clamp(min=1)

    def centred(x: Tensor) -> Tensor:
        x = x.masked_fill(~shown, 0.0)
        return (x - x.sum(-1, keepdim=True) / count).masked_fill(~shown, 0.0)

    one, other = centred(scores), centred(logs)
    if not one.any():
        return
    factor = float((one * other).sum() / one.square().sum())
    faulty = softmax((scores * factor).where(scores > MASKED_BELOW, scores).float()).double()
    cause = Cause("scale", f"the port's scores enter the softmax multiplied by {factor:.6g}")
    yield Hypothesis(cause, softmax(scores.float()).double(), faulty)
