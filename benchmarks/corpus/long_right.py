"""Right LongT5s written otherwise: full attention in a band, other products, summaries summed otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.corpus.long_attention import attend, long_attentions, together
from benchmarks.corpus.long_summaries import summarise
from benchmarks.corpus.long_variants import LONG_INPUTS, LONG_VARIANTS
from benchmarks.corpus.right import BY_NAME, REFACTORINGS, Run
from porting.ports.t5.context import StackContext
from porting.ports.t5.layers import RMSNorm
from porting.ports.t5.local_attention import NOWHERE
from porting.ports.t5.transient_global_attention import (
    TransientGlobalAttention,
    side_position,
    summaries_visible,
)


def band_in_full_attention(model: nn.Module) -> None:
    """Every pair of positions is scored, and those beyond the radius are hidden: no blocks at all."""
    for module in long_attentions(model):
        _whole(module)


def _whole(module: Any) -> None:
    def forward(x: Tensor, context: StackContext) -> Tensor:
        windows = module.windows(x, context)
        length = x.shape[1]
        position = torch.arange(length)[None, :] - torch.arange(length)[:, None]
        q, k, v = (
            module.per_head(part.flatten(1, 2)[:, :length])
            for part in (windows.q, windows.k[:, 1:-1], windows.v[:, 1:-1])
        )
        ids = module.sequence_ids(x, context)
        near = position.abs() <= module.spec.local_radius
        block = module.spec.block_length
        # Each distance within the radius is somewhere in the bias of the window, [h, q, w].
        bias = windows.bias[:, 0, (position + block).clamp(0, 3 * block - 1)]
        seen = (ids[:, :, None] == ids[:, None, :]) & near
        scores = (q @ k.transpose(-1, -2) + bias).masked_fill(~seen[:, None], -torch.inf)
        values = v
        if isinstance(module, TransientGlobalAttention):
            number = windows.side_k.shape[2]
            table = windows.side_bias[:, side_position(windows.block, number) + number]
            tapped: Tensor = module.side_position_bias(table)
            far = q @ windows.side_k.transpose(-1, -2) + tapped.transpose(0, 1)
            hidden = ~summaries_visible(ids, windows.summary_ids)[:, None]
            scores = torch.cat([scores, far.masked_fill(hidden, -torch.inf)], dim=-1)
            values = torch.cat([v, windows.side_v], dim=2)
        mixed = scores.softmax(-1) @ values
        out: Tensor = module.o(module.attended(module.all_heads(mixed)))
        return out

    module.forward = forward


def window_in_einsum(model: nn.Module) -> None:
    """Positions before heads, as in the original."""

    def windowed(x: Tensor) -> Tensor:
        parts = x[:, :-2], x[:, 1:-1], x[:, 2:]
        return torch.stack(parts, dim=2).flatten(2, 3)

    for module in long_attentions(model):
        attend(module, keys=windowed, values=windowed)


def local_softmax_by_hand(model: nn.Module) -> None:
    """The largest score is taken off, of the window and of summaries together."""

    def weigh(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if side is None:
            return together(scores, None)
        largest = torch.cat([scores, side], dim=-1).amax(-1, keepdim=True)
        near, far = (scores - largest).exp(), (side - largest).exp()
        total = near.sum(-1, keepdim=True) + far.sum(-1, keepdim=True)
        return near / total, far / total

    for module in long_attentions(model):
        attend(module, weigh=weigh)


def window_block_by_block(model: nn.Module) -> None:
    """One block of queries after the other."""
    for module in long_attentions(model):
        right = module.attend

        def attended(part: Any, right: Any = right) -> Tensor:
            each = [right(part.part(i, i + 1)) for i in range(part.q.shape[1])]
            return torch.cat(each, dim=1)

        if not isinstance(module, TransientGlobalAttention):  # whose bias is listened to once, whole
            module.attend = attended


def summaries_by_one_hot_matmul(model: nn.Module) -> None:
    """As the original sums them."""

    def added(x: Tensor, block: Tensor, number: int) -> Tensor:
        one_hot = F.one_hot(block.where(block >= 0, number), number + 1)[..., :-1].to(x.dtype)
        return torch.einsum("bld,blg->bgd", x, one_hot)

    for module in long_attentions(model):
        if isinstance(module, TransientGlobalAttention):
            summarise(module, added=added)


def blocks_of_summaries_in_a_loop(model: nn.Module) -> None:
    """Token after token, written down from the paper, for rows whose padding lies behind what is real."""

    def blocks(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
        number = ids.shape[1] // size
        block = torch.full_like(ids, -1)
        whose = torch.full((len(ids), number), NOWHERE)
        for row, real in enumerate((ids != 0).sum(1).tolist()):
            whole = real // size
            for position in range(real if whole else 0):
                block[row, position] = min(position // size, whole - 1)
            whose[row, :whole] = 1
        return block, whose

    for module in long_attentions(model):
        if isinstance(module, TransientGlobalAttention):
            summarise(module, blocks=blocks)


def norm_of_summaries_from_the_library(model: nn.Module) -> None:
    for module in long_attentions(model):
        if isinstance(module, TransientGlobalAttention):
            norm: RMSNorm = module.global_input_layer_norm
            norm.forward = lambda x, n=norm: F.rms_norm(x, x.shape[-1:], n.weight, n.epsilon)  # type: ignore[method-assign]


LONG_REFACTORINGS: tuple[Callable[[Any], None], ...] = (
    band_in_full_attention,
    window_in_einsum,
    local_softmax_by_hand,
    window_block_by_block,
    summaries_by_one_hot_matmul,
    blocks_of_summaries_in_a_loop,
    norm_of_summaries_from_the_library,
)
BY_NAME.update({change.__name__: change for change in LONG_REFACTORINGS})
_ALL = (*LONG_REFACTORINGS, *REFACTORINGS)


def long_right_runs(number: int, variants: Sequence[str]) -> list[Run]:
    """So many runs, each refactoring, variant and inputs in turn; LongT5's own way of writing it first."""
    runs = []
    changes, inputs = itertools.cycle(_ALL), itertools.cycle(LONG_INPUTS)
    for i in range(number if variants else 0):
        if i and i % len(_ALL) == 0:
            next(inputs)
        change, ids = next(changes), next(inputs)
        variant = variants[(i + i // len(variants)) % len(variants)]
        recorded = LONG_VARIANTS[variant].recorded is not None
        runs.append(Run(change.__name__, variant, "standard" if recorded else ids))
    return runs
