"""Faults in LongT5's local attention: who is seen, blocks in the wrong order, the bias within the window.

No original is heard at scores and weights: such a fault shows at what attention says, `o`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.corpus.fault import Content, State, in_code, in_config, in_weights
from benchmarks.corpus.long_variants import BLOCK_SIZE, LONG_VARIANTS, RADIUS
from porting.ports.t5.context import visibility_bias
from porting.ports.t5.local_attention import (
    NOWHERE,
    LocalAttention,
    Windows,
    three_blocks,
    window_visible,
    within_radius,
)
from porting.ports.t5.long_config import TRANSIENT_GLOBAL
from porting.ports.t5.transient_global_attention import WindowsAndSummaries

ALL = tuple(LONG_VARIANTS)
LOCAL = tuple(name for name in ALL if "local" in name)
TGLOBAL = tuple(name for name in ALL if "tglobal" in name)
BLOCKS = r"encoder\.block\.\d+\.layer\.0\.\w+"


def attention(variant: str, block: int) -> str:
    """Path of the encoder's attention in a block."""
    kind = "TransientGlobal" if LONG_VARIANTS[variant].encoder_attention_type == TRANSIENT_GLOBAL else "Local"
    return f"encoder.block.{block}.layer.0.{kind}SelfAttention"


def at(block: int, leaf: str, variants: tuple[str, ...] = ALL) -> dict[str, str]:
    """The tap of the encoder's attention, for each variant."""
    return {name: f"{attention(name, block)}.{leaf}" for name in variants}


def long_attentions(model: nn.Module, *blocks: int) -> Iterator[Any]:
    """The encoder's attention, in these blocks or in all."""
    for path, module in model.named_modules():
        if isinstance(module, LocalAttention) and (not blocks or int(path.split(".")[2]) in blocks):
            yield module


Weigh = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def together(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """One softmax over the window and the summaries."""
    if side is None:
        return scores.softmax(-1), None
    weights = torch.cat([scores, side], dim=-1).softmax(-1)
    return weights[..., : scores.shape[-1]], weights[..., scores.shape[-1] :]


def _unchanged(x: Tensor) -> Tensor:
    return x


def attend(
    module: Any,
    *,
    q: Callable[[Tensor], Tensor] = _unchanged,
    keys: Callable[[Tensor], Tensor] = three_blocks,
    values: Callable[[Tensor], Tensor] = three_blocks,
    visible: Callable[[Windows], Tensor] | None = None,
    bias: Callable[[Tensor], Tensor] = _unchanged,
    side: Callable[[WindowsAndSummaries], Tensor] | None = None,
    side_values: Callable[[Tensor], Tensor] = _unchanged,
    weigh: Weigh = together,
) -> None:
    """The layer's attention written again, with one step done otherwise."""

    def seen(part: Windows) -> Tensor:
        return window_visible(part.ids, part.relative_position, module.spec.local_radius)

    def attended(part: Windows) -> Tensor:
        part = replace(part, q=q(part.q))
        k, v = (module.per_head(order(x)) for order, x in ((keys, part.k), (values, part.v)))
        scores = module.per_head(part.q) @ k.transpose(-1, -2)
        assert part.bias is not None
        scores = scores + bias(part.bias)[:, None] + visibility_bias((visible or seen)(part))[:, None]
        far_scores = None
        if isinstance(part, WindowsAndSummaries):
            far_scores = module.side_scores((side or module.summary_scores)(part))
        near, far = weigh(module.scores(scores), far_scores)
        mixed: Tensor = module.weights(near) @ v
        if far is not None:
            assert isinstance(part, WindowsAndSummaries)
            from_summaries = module.side_weights(far).flatten(2, 3) @ side_values(part.side_v)
            mixed = mixed + from_summaries.view_as(mixed)
        out: Tensor = module.all_heads(mixed)
        return out

    module.attend = attended


# --- who is seen


def _radius(back: int, ahead: int) -> Callable[[Windows], Tensor]:
    def visible(part: Windows) -> Tensor:
        same = window_visible(part.ids, part.relative_position, 1 << 30)
        return same & (part.relative_position >= -back) & (part.relative_position <= ahead)

    return visible


@in_code(at(0, "o"), "mask", f"{RADIUS + 1} away", also=rf"{BLOCKS}\.o")
def radius_one_too_large(model: nn.Module) -> None:
    for module in long_attentions(model):
        attend(module, visible=_radius(RADIUS + 1, RADIUS + 1))


@in_code(at(1, "o"), "mask", f"{RADIUS - 1} away")
def radius_one_too_small_in_one_layer(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        attend(module, visible=_radius(RADIUS - 1, RADIUS - 1))


@in_code(at(0, "o"), "mask", "ahead", also=rf"{BLOCKS}\.o")
def radius_without_its_end_ahead(model: nn.Module) -> None:
    """range(-radius, radius)"""
    for module in long_attentions(model):
        attend(module, visible=_radius(RADIUS, RADIUS - 1))


@in_code(at(0, "o"), "mask", "three blocks", also=rf"{BLOCKS}\.o")
def radius_not_looked_at(model: nn.Module) -> None:
    for module in long_attentions(model):
        attend(module, visible=_radius(1 << 20, 1 << 20))


@in_code(at(0, "o"), "mask", "looks back only", also=rf"{BLOCKS}\.o")
def encoder_sees_what_lies_before_only(model: nn.Module) -> None:
    for module in long_attentions(model):
        attend(module, visible=_radius(RADIUS, 0))


@in_code(at(1, "o"), "mask", "own block")
def neighbouring_blocks_not_seen(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        size = module.spec.block_length

        def visible(part: Windows, size: int = size) -> Tensor:
            near = window_visible(part.ids, part.relative_position, RADIUS)
            column = torch.arange(3 * size)
            return near & (column >= size) & (column < 2 * size)

        attend(module, visible=visible)


@in_code(at(0, "o"), "mask", "not there", also=rf"{BLOCKS}\.o")
def keys_beyond_the_sequence_seen(model: nn.Module) -> None:
    """Zeros that fill up blocks are given a weight."""

    def visible(part: Windows) -> Tensor:
        return window_visible(part.ids.where(part.ids != NOWHERE, 1), part.relative_position, RADIUS)

    for module in long_attentions(model):
        attend(module, visible=visible)


@in_code(at(0, "o"), "mask", "padding", also=rf"{BLOCKS}\.o")
def padding_within_the_radius_seen(model: nn.Module) -> None:
    def visible(part: Windows) -> Tensor:
        there = three_blocks(part.ids)[:, :, None, :] != NOWHERE
        return there & within_radius(part.relative_position, RADIUS)

    for module in long_attentions(model):
        attend(module, visible=visible)


@in_code(at(1, "o"), "mask order", "wrap")
def blocks_rolled_around_the_ends(model: nn.Module) -> None:
    """torch.roll in place of padding: the first block's neighbour is the last."""

    def wrapped(blocks: Tensor) -> Tensor:
        own = blocks[:, 1:-1]
        return torch.cat([own[:, -1:], own, own[:, :1]], dim=1)

    def visible(part: Windows) -> Tensor:
        return window_visible(wrapped(part.ids), part.relative_position, RADIUS)

    for module in long_attentions(model, 1):
        attend(
            module,
            keys=lambda x: three_blocks(wrapped(x)),
            values=lambda x: three_blocks(wrapped(x)),
            visible=visible,
        )


# --- blocks in another order


def _in_order(*order: int) -> Callable[[Tensor], Tensor]:
    def blocks(x: Tensor) -> Tensor:
        parts = x[:, :-2], x[:, 1:-1], x[:, 2:]
        return torch.cat([parts[i] for i in order], dim=2)

    return blocks


@in_code(at(0, "o"), "order", "behind, own, before", also=rf"{BLOCKS}\.o")
def blocks_before_and_behind_exchanged(model: nn.Module) -> None:
    for module in long_attentions(model):
        attend(module, keys=_in_order(2, 1, 0), values=_in_order(2, 1, 0))


@in_code(at(1, "o"), "order", "keys")
def blocks_of_keys_before_and_behind_exchanged(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        attend(module, keys=_in_order(2, 1, 0))


@in_code(at(1, "o"), "order", "values")
def blocks_of_values_begin_with_the_own(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        attend(module, values=_in_order(1, 0, 2))


@in_code(at(0, "o"), "order", "own, before, behind", also=rf"{BLOCKS}\.o")
def own_block_first(model: nn.Module) -> None:
    """Keys, values and who is seen in one order, the bias in another."""

    def ids(part: Windows) -> Tensor:
        order = _in_order(1, 0, 2)
        same = part.ids[:, 1:-1, :, None] == order(part.ids)[:, :, None, :]
        return same & within_radius(_columns(part.relative_position), RADIUS)

    for module in long_attentions(model):
        attend(module, keys=_in_order(1, 0, 2), values=_in_order(1, 0, 2), visible=ids)


def _columns(window: Tensor) -> Tensor:
    """The columns of three blocks, the own first: [..., w]"""
    before, own, behind = window.chunk(3, dim=-1)
    return torch.cat([own, before, behind], dim=-1)


@in_code(at(1, "o"), "bias order", "bias")
def bias_in_another_order_than_the_keys(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        attend(module, bias=_columns)


@in_code(at(1, "o"), "order", "neighbour")
def neighbouring_blocks_of_queries_exchanged(model: nn.Module) -> None:
    """Blocks come out in another order than they went in."""
    for module in long_attentions(model, 1):
        right = module.attend

        def exchanged(part: Windows, right: Any = right) -> Tensor:
            out: Tensor = right(part)
            order = torch.arange(out.shape[1])
            pairs = out.shape[1] // 2 * 2
            order[:pairs] = order[:pairs].view(-1, 2).flip(1).flatten()
            return out[:, order]

        module.attend = exchanged


# --- bias, scale, softmax


def _relative(model: nn.Module, change: Callable[[Tensor], Tensor], table: str) -> None:
    for module in long_attentions(model, 0):
        bias: Any = module.get_submodule(table)
        original = bias.forward
        bias.forward = lambda relative, original=original: original(change(relative))


_TABLE = "relative_attention_bias"
_BIASES = rf"{BLOCKS}\.position_bias"


@in_code(at(0, "position_bias"), "buckets", "offset", also=_BIASES)
def local_bias_off_by_one(model: nn.Module) -> None:
    _relative(model, lambda relative: relative + 1, _TABLE)


@in_code(at(0, "position_bias"), "buckets", "offset", also=_BIASES)
def local_bias_counted_from_the_beginning_of_the_window(model: nn.Module) -> None:
    _relative(model, lambda relative: relative + RADIUS + 1, _TABLE)


@in_code(at(0, "position_bias"), "buckets", "direction", also=_BIASES)
def local_bias_direction(model: nn.Module) -> None:
    _relative(model, lambda relative: -relative, _TABLE)


@in_code(at(0, "position_bias"), "buckets", "bidirectional", also=_BIASES)
def local_bias_looks_back_only(model: nn.Module) -> None:
    for module in long_attentions(model, 0):
        module.relative_attention_bias.bidirectional = False


@in_code(at(1, "o"), "bias", "no position bias", also=rf"{BLOCKS}\.o")
def local_bias_left_out_after_the_first_block(model: nn.Module) -> None:
    for module in long_attentions(model, 1, 2):
        attend(module, bias=torch.zeros_like)


@in_code(at(0, "o"), "bias", "2 times")
def local_bias_added_twice(model: nn.Module) -> None:
    for module in long_attentions(model, 0):
        attend(module, bias=lambda bias: 2 * bias)


@in_code(at(0, "o"), "scale", "d_kv", also=rf"{BLOCKS}\.o")
def queries_divided_by_sqrt_d_kv_in_the_encoder(model: nn.Module) -> None:
    for module in long_attentions(model):
        attend(module, q=lambda q, m=module: q * m.spec.d_kv**-0.5)


@in_code(at(1, "o"), "scale", "d_kv")
def queries_multiplied_by_sqrt_d_kv_in_one_layer(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        attend(module, q=lambda q, m=module: q * m.spec.d_kv**0.5)


@in_code(at(1, "o"), "softmax", "1 added")
def local_softmax_with_one_added_to_its_denominator(model: nn.Module) -> None:
    def weigh(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
        every = scores if side is None else torch.cat([scores, side], dim=-1)
        weights = every.exp() / (1 + every.exp().sum(-1, keepdim=True))
        return weights[..., : scores.shape[-1]], None if side is None else weights[..., scores.shape[-1] :]

    for module in long_attentions(model, 1):
        attend(module, weigh=weigh)


@in_code(at(1, "o"), "softmax", "block by block", also=rf"{BLOCKS}\.o")
def softmax_over_each_block_of_the_window(model: nn.Module) -> None:
    def weigh(scores: Tensor, side: Tensor | None) -> tuple[Tensor, Tensor | None]:
        each = torch.cat([part.softmax(-1) for part in scores.chunk(3, dim=-1)], dim=-1)
        return each, None if side is None else side.softmax(-1)

    for module in long_attentions(model, 1):
        attend(module, weigh=weigh)


@in_code(at(1, "o"), "source", "keys for values")
def keys_mixed_in_place_of_values_in_the_window(model: nn.Module) -> None:
    for module in long_attentions(model, 1):
        kept: list[Tensor] = []

        def keys(x: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept[:] = [three_blocks(x)]
            return kept[0]

        attend(module, keys=keys, values=lambda _v, kept=kept: kept[0])


@in_code(at(2, "o"), "order")
def heads_of_local_attention_merged_in_reverse(model: nn.Module) -> None:
    for module in long_attentions(model, 2):
        right = module.all_heads
        module.all_heads = lambda x, right=right: right(x.flip(1))


# --- weights


def _first(block: int, leaf: str, side: str) -> dict[str, str]:
    """Google's computes keys and values of summaries before anything else of the attention."""
    return at(block, leaf) | at(block, side, ("LongT5 tglobal, recorded",))


@in_weights(_first(1, "q", "side_k"), "weight", "holds", also=rf"{BLOCKS}\.(q|k|side_k)")
def encoder_q_and_k_exchanged(state: State) -> None:
    q, k = (_name(state, 1, f"{leaf}.weight") for leaf in ("q", "k"))
    state[q], state[k] = state[k].clone(), state[q].clone()


@in_weights(at(1, "o"), "weight", "transposed")
def encoder_o_reshaped_instead_of_transposed(state: State) -> None:
    name = _name(state, 1, "o.weight")
    state[name] = state[name].T.contiguous().reshape(state[name].shape)


@in_weights(_first(1, "k", "side_k"), "rounding", "bfloat16", also=rf"{BLOCKS}\.(k|side_k)")
def encoder_k_rounded_to_bfloat16(state: State) -> None:
    name = _name(state, 1, "k.weight")
    state[name] = state[name].bfloat16().float()


@in_weights(_first(2, "v", "side_v"), "weight", "1 of", also=rf"{BLOCKS}\.(v|side_v)")
def one_element_of_the_encoders_v_changed(state: State) -> None:
    state[_name(state, 2, "v.weight")][5, 7] += 1e-3


@in_weights(at(0, "position_bias"), "weight", "permuted", also=_BIASES)
def local_bias_rows_off_by_one(state: State) -> None:
    name = _name(state, 0, "relative_attention_bias.weight")
    state[name] = state[name].roll(1, 0)


def _name(state: State, block: int, leaf: str) -> str:
    """A parameter of the encoder's attention."""
    start = f"encoder.block.{block}.layer.0."
    (name,) = (n for n in state if n.startswith(start) and n.split(".", 6)[-1] == leaf)
    return name


# --- config


@in_config(at(0, "position_bias"), "config", "local_radius", also=rf"{BLOCKS}\.(position_bias|o)")
def config_local_radius_one_too_small(content: Content) -> None:
    content["local_radius"] = RADIUS - 1


@in_config(at(0, "position_bias"), "config", "local_radius", also=rf"{BLOCKS}\.(position_bias|o)")
def config_local_radius_127(content: Content) -> None:
    content["local_radius"] = 127


_OF_SUMMARIES = rf"{BLOCKS}\.(global_input_layer_norm|side_.*|o)"


@in_config(at(0, "global_input_layer_norm", TGLOBAL), "config", "global_block_size", also=_OF_SUMMARIES)
def config_global_block_size_one_too_large(content: Content) -> None:
    content["global_block_size"] = BLOCK_SIZE + 1


@in_config(at(0, "global_input_layer_norm", TGLOBAL), "config", "global_block_size", also=_OF_SUMMARIES)
def config_global_block_size_16(content: Content) -> None:
    content["global_block_size"] = 16


# Modules have other names: nothing of the attention itself has a counterpart.
_AFTER = {
    "LongT5 tglobal": "encoder.block.0.layer.0",
    "LongT5 tglobal, recorded": "encoder.block.0.layer.1.layer_norm",
}


@in_config(
    _AFTER, "config", "encoder_attention_type", also=r"encoder\.block\.\d+\.layer\.[01](\.layer_norm)?"
)
def config_local_attention_alone(content: Content) -> None:
    content["encoder_attention_type"] = "local"
