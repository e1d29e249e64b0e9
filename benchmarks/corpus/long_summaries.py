"""Faults in LongT5's summaries: what they hold, their norm, their bias, and how they meet the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.corpus.fault import State, in_code, in_weights
from benchmarks.corpus.long_attention import BLOCKS, TGLOBAL, at, attend, attention, long_attentions
from benchmarks.corpus.long_variants import BLOCK_SIZE
from porting.ports.t5 import transient_global_attention as tglobal
from porting.ports.t5.context import StackContext, visibility_bias
from porting.ports.t5.local_attention import NOWHERE, LocalAttention
from porting.ports.t5.transient_global_attention import (
    WindowsAndSummaries,
    side_position,
    summaries,
    summary_blocks,
)

_NORM = "global_input_layer_norm"
_NORMS = rf"{BLOCKS}\.{_NORM}"
_BIASES = rf"{BLOCKS}\.side_position_bias"
_OF_BLOCKS = rf"{BLOCKS}\.({_NORM}|side_position_bias|o)"

Blocks = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def summarise(
    module: Any,
    *,
    blocks: Blocks = summary_blocks,
    added: Callable[[Tensor, Tensor, int], Tensor] = summaries,
    keys_of: Callable[[Tensor, Tensor], Tensor] = lambda normed, _sums: normed,
    k: Tensor | None = None,
    v: Tensor | None = None,
) -> None:
    """The layer's windows written again, with one step about summaries done otherwise."""

    def windows(x: Tensor, context: StackContext) -> WindowsAndSummaries:
        ids = module.sequence_ids(x, context)
        block, summary_ids = blocks(ids, module.block_size)
        number = summary_ids.shape[1]
        sums = module.summaries(added(x, block, number))
        normed = module.global_input_layer_norm(sums)
        weights = module.k.weight if k is None else k, module.v.weight if v is None else v
        own = LocalAttention.windows(module, x, context)
        return WindowsAndSummaries(
            **vars(own),
            side_k=module.per_head(module.side_k(F.linear(keys_of(normed, sums), weights[0]))),
            side_v=module.per_head(module.side_v(F.linear(normed, weights[1]))),
            side_bias=module.held_side_bias(number, context),
            block=block,
            positions=ids,
            summary_ids=summary_ids,
        )

    module.windows = windows


# --- what a summary is


@in_code(at(0, _NORM, TGLOBAL), "norm", "does nothing", also=_NORMS)
def summaries_not_normalised(model: nn.Module) -> None:
    for module in long_attentions(model):
        module.global_input_layer_norm.forward = lambda x: x


@in_code(at(1, _NORM, TGLOBAL), "norm", "leaves out its weight")
def norm_of_summaries_without_its_scale(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        norm = module.global_input_layer_norm
        norm.forward = lambda x, n=norm: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + n.epsilon)


@in_code(at(1, _NORM, TGLOBAL), "norm", "mean")
def norm_of_summaries_takes_off_the_mean(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        norm = module.global_input_layer_norm
        norm.forward = lambda x, n=norm: F.layer_norm(x, x.shape[-1:], n.weight, None, n.epsilon)


@in_code(at(0, _NORM, TGLOBAL[:1]), "blocks", "mean", also=_NORMS)
def summaries_averaged(model: nn.Module) -> None:
    """The norm takes all of it back, but for its epsilon."""

    def mean(x: Tensor, block: Tensor, number: int) -> Tensor:
        count = summaries(torch.ones_like(x[..., :1]), block, number).clamp(min=1)
        return summaries(x, block, number) / count

    for module in long_attentions(model):
        summarise(module, added=mean)


@in_code(at(1, _NORM, TGLOBAL), "blocks", "first token")
def summary_is_the_first_token_of_its_block(model: nn.Module) -> None:
    def first(x: Tensor, block: Tensor, number: int) -> Tensor:
        begins = block != F.pad(block, (1, 0), value=-2)[:, :-1]
        return summaries(x, block.where(begins, -1), number)

    for module in long_attentions(model, 1):
        summarise(module, added=first)


@in_code(
    at(0, _NORM, TGLOBAL), "blocks", f"blocks of {BLOCK_SIZE + 1}", also=_OF_BLOCKS + rf"|{BLOCKS}\.side_[kv]"
)
def blocks_of_summaries_one_too_long(model: nn.Module) -> None:
    for module in long_attentions(model):
        module.block_size = BLOCK_SIZE + 1


@in_code(
    at(0, _NORM, TGLOBAL), "blocks", f"blocks of {BLOCK_SIZE - 1}", also=_OF_BLOCKS + rf"|{BLOCKS}\.side_[kv]"
)
def blocks_of_summaries_one_too_short(model: nn.Module) -> None:
    for module in long_attentions(model):
        module.block_size = BLOCK_SIZE - 1


@in_code(at(0, _NORM, TGLOBAL), "blocks mask", "fill up", also=_OF_BLOCKS)
def padding_fills_up_a_block(model: nn.Module) -> None:
    """Blocks by position alone, whatever is padding."""

    def blocks(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return summary_blocks(torch.ones_like(ids), size)

    for module in long_attentions(model):
        summarise(module, blocks=blocks)


@in_code(at(0, _NORM, TGLOBAL), "blocks", "padding", also=_OF_BLOCKS)
def padding_counted_into_a_summary(model: Any) -> None:
    """What is summed was not masked before."""
    for i, module in enumerate(long_attentions(model)):
        kept: list[Tensor] = []
        norm = model.encoder.block[i].layer[0].layer_norm
        norm.register_forward_hook(lambda _m, _args, out, kept=kept: kept.__setitem__(slice(None), [out]))

        def unmasked(_x: Tensor, block: Tensor, number: int, kept: list[Tensor] = kept) -> Tensor:
            x = kept[0]
            by_position = torch.arange(x.shape[1]) // BLOCK_SIZE
            last = block.amax(1, keepdim=True)
            whole = torch.where(block >= 0, block, by_position.expand_as(block).clamp(max=number - 1))
            return summaries(x, torch.where(last >= 0, torch.minimum(whole, last), -1), number)

        summarise(module, added=unmasked)


def _orphans(ids: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks, whose they are, and which tokens are behind the last full one."""
    block, summary_ids = summary_blocks(ids, size)
    index = torch.arange(ids.shape[1]).expand_as(ids)
    return block, summary_ids, (block >= 0) & (index // size > block)


@in_code(at(0, _NORM, TGLOBAL), "blocks", "to none", also=_OF_BLOCKS)
def orphan_tokens_belong_to_none(model: nn.Module) -> None:
    def blocks(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
        block, summary_ids, orphans = _orphans(ids, size)
        return block.where(~orphans, -1), summary_ids

    for module in long_attentions(model):
        summarise(module, blocks=blocks)


@in_code(at(0, _NORM, TGLOBAL), "blocks", "of their own", also=_OF_BLOCKS)
def orphan_tokens_make_a_block_of_their_own(model: nn.Module) -> None:
    """Where there is room for one more; a full row leaves them to none."""

    def blocks(ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
        block, summary_ids, orphans = _orphans(ids, size)
        number = summary_ids.shape[1]
        own = torch.where(orphans, block + 1, block)
        own = torch.where(own < number, own, -1)
        filled = summaries((own >= 0)[..., None].float(), own, number)[..., 0] > 0
        return own, torch.where(filled, 1, NOWHERE)

    for module in long_attentions(model):
        summarise(module, blocks=blocks)


# --- keys and values of summaries


@in_code(at(1, "side_k", TGLOBAL), "weight", "v.weight", also=rf"{BLOCKS}\.side_k")
def keys_of_summaries_from_the_weights_of_values(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        summarise(module, k=module.v.weight)


@in_code(at(1, "side_v", TGLOBAL), "weight", "k.weight", also=rf"{BLOCKS}\.side_v")
def values_of_summaries_from_the_weights_of_keys(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        summarise(module, v=module.k.weight)


@in_code(at(0, "side_k", TGLOBAL), "weight", "block.1", also=rf"{BLOCKS}\.side_k")
def keys_of_summaries_from_another_layer(model: nn.Module) -> None:
    first, second, _ = long_attentions(model)
    summarise(first, k=second.k.weight)


@in_code(at(1, "side_k", TGLOBAL), "source", "not normalised")
def keys_of_summaries_that_were_not_normalised(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        summarise(module, keys_of=lambda _normed, sums: sums)


# --- the side bias


def _side_table(model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    for module in long_attentions(model, 0):
        table = module.global_relative_attention_bias
        original = table.forward
        table.forward = lambda relative, original=original: original(change(relative))


@in_code(at(0, "side_position_bias", TGLOBAL), "buckets", "direction", also=_BIASES)
def side_bias_direction(model: nn.Module) -> None:
    """The block of the token - the summary."""
    _side_table(model, lambda relative: -relative)


@in_code(at(0, "side_position_bias", TGLOBAL), "buckets", "offset", also=_BIASES)
def side_bias_off_by_one(model: nn.Module) -> None:
    _side_table(model, lambda relative: relative + 1)


@in_code(at(0, "side_position_bias", TGLOBAL), "buckets", "bidirectional", also=_BIASES)
def side_bias_with_unidirectional_buckets(model: nn.Module) -> None:
    for module in long_attentions(model, 0):
        module.global_relative_attention_bias.bidirectional = False


@in_code(at(0, "side_position_bias", TGLOBAL[:1]), "buckets", "max_distance", also=_BIASES)
def side_bias_up_to_distance_64(model: nn.Module) -> None:
    for module in long_attentions(model, 0):
        table = module.global_relative_attention_bias
        table.spec = replace(table.spec, relative_attention_max_distance=64)


@in_code(at(0, "side_position_bias", TGLOBAL), "weight", "relative_attention_bias", also=_BIASES)
def side_bias_from_the_table_of_the_window(model: nn.Module) -> None:
    for module in long_attentions(model, 0):
        module.global_relative_attention_bias.forward = module.relative_attention_bias.forward


@in_code(at(1, "side_position_bias", TGLOBAL), "blocks", "bias towards summaries", also=_BIASES)
def side_bias_by_the_tokens_own_position(model: nn.Module) -> None:
    """Of one layer: i // block_size for all tokens, orphans too."""
    for module in long_attentions(model, 1):
        _summary_scores(module, block=lambda part: _by_position(part.block))


def _by_position(block: Tensor) -> Tensor:
    own = torch.arange(block.shape[1]) // BLOCK_SIZE
    return own.expand_as(block).clamp(max=block.max().item())


def _summary_scores(
    module: Any,
    *,
    share: float = 1.0,
    block: Callable[[WindowsAndSummaries], Tensor] = lambda part: part.block,
    visible: Callable[[WindowsAndSummaries], Tensor] | None = None,
) -> None:
    """Scores of summaries with one step done otherwise."""

    def scores(part: WindowsAndSummaries) -> Tensor:
        number = part.side_k.shape[2]
        assert part.side_bias is not None
        relative = part.side_bias[:, side_position(block(part), number) + number]
        seen = visible(part) if visible else tglobal.summaries_visible(part.positions, part.summary_ids)
        bias = visibility_bias(seen)[:, None] + share * module.side_position_bias(relative).transpose(0, 1)
        q = module.per_head(part.q).flatten(2, 3)
        made = q @ part.side_k.transpose(-1, -2)
        made = made + F.pad(bias, (0, 0, 0, made.shape[2] - bias.shape[2]))
        out: Tensor = made.view(*made.shape[:2], *part.q.shape[1:3], number)
        return out

    module.summary_scores = scores


@in_code(at(0, "o", TGLOBAL), "bias", "no bias", also=rf"{BLOCKS}\.o")
def side_bias_left_out(model: nn.Module) -> None:
    for module in long_attentions(model):
        _summary_scores(module, share=0.0)


@in_code(at(1, "o", TGLOBAL), "bias", "-1 times")
def side_bias_sign(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        _summary_scores(module, share=-1.0)


# --- how summaries meet the window


@in_code(at(0, "o", TGLOBAL), "softmax", "each", also=rf"{BLOCKS}\.o")
def softmax_over_the_window_and_over_summaries_apart(model: nn.Module) -> None:
    for module in long_attentions(model):
        attend(
            module,
            weigh=lambda near, far: (near.softmax(-1), None if far is None else far.softmax(-1)),
        )


@in_code(at(1, "o", TGLOBAL), "mask", "no summaries")
def summaries_not_seen(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        attend(module, weigh=lambda near, far: (near.softmax(-1), torch.zeros_like(far)))


@in_code(at(0, "o", TGLOBAL), "mask", "that no block fills", also=rf"{BLOCKS}\.o")
def summaries_that_no_block_fills_seen(model: nn.Module) -> None:
    def visible(part: WindowsAndSummaries) -> Tensor:
        return torch.ones(*part.positions.shape, part.side_k.shape[2], dtype=torch.bool)

    for module in long_attentions(model):
        _summary_scores(module, visible=visible)


@in_code(at(1, "o", TGLOBAL), "source order", "keys")
def keys_of_summaries_mixed_in_place_of_their_values(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        right = module.windows

        def windows(x: Tensor, context: StackContext, right: Any = right) -> Any:
            made = right(x, context)
            return replace(made, side_v=made.side_k)

        module.windows = windows


# --- weights


@in_weights(at(1, _NORM, TGLOBAL), "weight", "holds")
def norm_scale_of_summaries_is_that_of_the_layer(state: State) -> None:
    start = "encoder.block.1.layer.0"
    name = f"{attention(TGLOBAL[0], 1)}.{_NORM}.weight"
    state[name] = state[f"{start}.layer_norm.weight"].clone()


@in_weights(at(0, "side_position_bias", TGLOBAL), "weight", "zero", also=_BIASES)
def side_bias_table_is_zero(state: State) -> None:
    state[f"{attention(TGLOBAL[0], 0)}.global_relative_attention_bias.weight"].zero_()


# Google's computes the bias towards summaries before the other.
_FIRST_BIAS = at(0, "position_bias", TGLOBAL[:1]) | at(0, "side_position_bias", TGLOBAL[1:])


@in_weights(_FIRST_BIAS, "weight", "holds", also=rf"{BLOCKS}\.(position_bias|side_position_bias)")
def tables_of_window_and_summaries_exchanged(state: State) -> None:
    one, other = (
        f"{attention(TGLOBAL[0], 0)}.{name}relative_attention_bias.weight" for name in ("", "global_")
    )
    state[one], state[other] = state[other].clone(), state[one].clone()
