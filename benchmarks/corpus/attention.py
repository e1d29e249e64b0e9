"""Faults in the code of attention: scale, softmax, heads, what is read, and who sees whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.corpus.fault import T5_LIKE, in_code
from porting.ports.t5.attention import T5Attention, softmax
from porting.ports.t5.context import StackContext, Visibility, visibility_bias
from porting.ports.t5.layers import Tap

E0, E1, D0, D1 = (
    f"{stack}.block.{block}.layer.0.SelfAttention" for stack in ("encoder", "decoder") for block in (0, 1)
)
C0, C1 = (f"decoder.block.{block}.layer.1.EncDecAttention" for block in (0, 1))
TALKING = "talking heads"
# The first attention of each variant.
FIRST = {
    **dict.fromkeys(("t5.1.0", "t5.1.1", "grouped heads", "shared kv", "learned positions", "switch"), E0),
    TALKING: "encoder.block.0.layer.0.TalkingHeadsSelfAttention",
    "language model": D0,
}
FIRST_OF_DECODER = {**FIRST, **dict.fromkeys(set(FIRST) - {TALKING}, D0)}
FIRST_OF_DECODER[TALKING] = "decoder.block.0.layer.0.TalkingHeadsSelfAttention"
FIRST_TO_ENCODER = dict.fromkeys(("t5.1.0", "t5.1.1", "grouped heads", "shared kv", "learned positions"), C0)


def _at(places: dict[str, str], leaf: str, *variants: str) -> dict[str, str]:
    return {name: f"{places[name]}.{leaf}" for name in variants}


def attentions(model: nn.Module, within: str = "") -> Iterator[Any]:
    """Every attention whose path holds these words."""
    for path, module in model.named_modules():
        if isinstance(module, T5Attention) and within in path:
            yield module


class _AlwaysHooked(Tap):
    hooked = True


def attend(
    module: Any,
    *,
    score: Callable[[Tensor, Tensor], Tensor] = lambda q, k: q @ k.transpose(-1, -2),
    weigh: Callable[[Tensor], Tensor] = softmax,
    mix: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda weights, _k, v: weights @ v,
) -> None:
    """Attention written again, with one step done otherwise."""

    def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        scores = score(q, k)
        if bias is not None:
            scores = scores + bias
        weights = module.weights(weigh(module.scores(scores)))
        return mix(weights, k, v)

    module._explicit = explicit
    module.scores = _AlwaysHooked()  # a fused kernel would be right where nothing listens


def see(stack: Any, change: Callable[[StackContext], None]) -> None:
    """Change what the layers of a stack share."""
    original = stack._context

    def context(*args: Any) -> StackContext:
        made: StackContext = original(*args)
        change(made)
        return made

    stack._context = context


def _stacks(model: Any) -> list[Any]:
    return [getattr(model, name) for name in ("encoder", "decoder") if hasattr(model, name)]


# --- scores


@in_code(
    _at(FIRST, "scores", *T5_LIKE, "learned positions", "language model", "shared kv"),
    "scale",
    "d_kv",
    also=r".*\.scores",
)
def scores_divided_by_sqrt_d_kv(model: nn.Module) -> None:
    for module in attentions(model):
        attend(module, score=lambda q, k: (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2))


@in_code(f"{C1}.scores", "scale", "d_kv", variants=(*T5_LIKE, "grouped heads"))
def scores_towards_the_encoder_divided_by_sqrt_d_kv(model: nn.Module) -> None:
    for module in attentions(model, C1):
        attend(module, score=lambda q, k: q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5)


@in_code(f"{E1}.scores", "order source", variants=("learned positions",))
def q_and_k_exchanged_in_the_product(model: nn.Module) -> None:
    for module in attentions(model, E1):
        attend(module, score=lambda q, k: k @ q.transpose(-1, -2))


@in_code(f"{E1}.scores", "order source", variants=T5_LIKE)
def q_and_k_exchanged_in_the_product_beside_a_bias(model: nn.Module) -> None:
    for module in attentions(model, E1):
        attend(module, score=lambda q, k: k @ q.transpose(-1, -2))


@in_code(f"{D1}.scores", "rounding", variants=T5_LIKE)
def scores_computed_in_bfloat16(model: nn.Module) -> None:
    for module in attentions(model, D1):
        attend(module, score=lambda q, k: (q.bfloat16() @ k.bfloat16().transpose(-1, -2)).float())


@in_code(f"{E0}.scores", "order", also=r".*Attention\.(scores|attended)", variants=("grouped heads",))
def heads_of_keys_repeated_in_the_wrong_order(model: nn.Module) -> None:
    """k.repeat(1, n, 1, 1) where every head is to be repeated n times in a row."""

    def tiled(x: Tensor) -> Tensor:
        return x[:, ::3].repeat(1, 3, 1, 1)

    for module in attentions(model):
        attend(
            module,
            score=lambda q, k: q @ tiled(k).transpose(-1, -2),
            mix=lambda weights, _k, v: weights @ tiled(v),
        )


# --- weights


@in_code(
    _at(FIRST_TO_ENCODER, "weights", *FIRST_TO_ENCODER),
    "softmax",
    "sum to 1",
    also=r".*EncDecAttention\.weights",
)
def softmax_sums_to_one_where_all_is_hidden(model: nn.Module) -> None:
    for module in attentions(model):
        attend(module, weigh=lambda scores: scores.softmax(-1))


@in_code(f"{E1}.weights", "softmax", "queries", variants=T5_LIKE)
def softmax_over_the_queries(model: nn.Module) -> None:
    for module in attentions(model, E1):
        attend(module, weigh=lambda scores: scores.softmax(-2))


@in_code(f"{E1}.weights", "softmax", "heads", variants=T5_LIKE)
def softmax_over_the_heads(model: nn.Module) -> None:
    for module in attentions(model, E1):
        attend(module, weigh=lambda scores: scores.softmax(1))


@in_code(f"{D0}.weights", "softmax rounding", "bfloat16", variants=(*T5_LIKE, "language model"))
def softmax_in_bfloat16(model: nn.Module) -> None:
    for module in attentions(model, D0):
        attend(module, weigh=lambda scores: scores.bfloat16().softmax(-1).float())


@in_code(f"{E0}.weights", "softmax", "1 added", variants=T5_LIKE)
def softmax_with_one_added_to_its_denominator(model: nn.Module) -> None:
    for module in attentions(model, E0):
        attend(module, weigh=lambda scores: scores.exp() / (1 + scores.exp().sum(-1, keepdim=True)))


@in_code(f"{E1}.weights", "scale", variants=(*T5_LIKE, "shared kv"))
def softmax_of_scores_divided_by_sqrt_d_kv(model: nn.Module) -> None:
    for module in attentions(model, E1):
        attend(module, weigh=lambda scores: softmax(scores * 12**-0.5))


@in_code(f"{D1}.weights", "scale", variants=(*T5_LIKE, "learned positions"))
def dropout_scaling_left_in_the_weights(model: nn.Module) -> None:
    for module in attentions(model, D1):
        attend(module, weigh=lambda scores: softmax(scores) / 0.9)


@in_code(
    "decoder.block.0.layer.0.TalkingHeadsSelfAttention.softmax", "softmax", "queries", variants=(TALKING,)
)
def talking_heads_softmax_over_the_queries(model: nn.Module) -> None:
    module: Any = model.get_submodule("decoder.block.0.layer.0.TalkingHeadsSelfAttention")
    right = module.scores.forward
    kept: list[Tensor] = []

    def scores(x: Tensor) -> Tensor:
        kept[:] = [x]
        out: Tensor = right(x)
        return out

    module.scores.forward = scores
    module.softmax.forward = lambda _weights: kept[0].softmax(-2)


# --- values


@in_code(f"{D1}.attended", "scale", variants=T5_LIKE)
def dropout_scaling_left_in_what_the_values_are_mixed_with(model: nn.Module) -> None:
    for module in attentions(model, D1):
        attend(module, mix=lambda weights, _k, v: (weights / 0.9) @ v)


@in_code(f"{E1}.attended", "source", variants=T5_LIKE)
def keys_mixed_in_place_of_values(model: nn.Module) -> None:
    for module in attentions(model, E1):
        attend(module, mix=lambda weights, k, _v: weights @ k)


@in_code(f"{C0}.attended", "rounding", "bfloat16", variants=(*T5_LIKE, "shared kv"))
def attended_rounded_to_bfloat16(model: nn.Module) -> None:
    for module in attentions(model, C0):
        attend(module, mix=lambda weights, _k, v: (weights @ v).bfloat16().float())


@in_code(f"{D0}.attended", "rounding", variants=T5_LIKE)
def weights_rounded_to_float16_before_the_values(model: nn.Module) -> None:
    for module in attentions(model, D0):
        attend(module, mix=lambda weights, _k, v: weights.half().float() @ v)


@in_code(f"{E1}.o", "order", variants=(*T5_LIKE, "learned positions"))
def heads_merged_without_transposing(model: nn.Module) -> None:
    """[b, h, l, k] reshaped to [b, l, h*k]."""
    for module in attentions(model, E1):
        original = module.o.forward
        heads = module.spec.num_heads

        def merged(x: Tensor, original: Any = original, heads: int = heads) -> Any:
            b, length, width = x.shape
            return original(x.view(b, length, heads, -1).transpose(1, 2).reshape(b, length, width))

        module.o.forward = merged


@in_code(f"{E1}.q", "order weight", variants=T5_LIKE)
def d_kv_taken_for_the_slower_axis_of_q(model: nn.Module) -> None:
    """[b, l, d_kv, heads] where heads come first."""
    for module in attentions(model, E1):
        original = module.q.forward
        module.q.forward = lambda x, f=original: f(x).view(*x.shape[:-1], 12, 3).transpose(-1, -2).flatten(-2)


@in_code(f"{E1}.q", "rounding", "bfloat16", variants=(*T5_LIKE, "bias of each layer"))
def q_computed_in_bfloat16(model: nn.Module) -> None:
    for module in attentions(model, E1):
        module.q.forward = lambda x, q=module.q: nn.functional.linear(x.bfloat16(), q.weight.bfloat16()).to(
            x.dtype
        )


# --- what is read


@in_code(f"{C1}.k", "source", also=rf"{C1}\.v", inputs="length 129", variants=T5_LIKE)
def cross_attention_reads_the_decoders_x(model: nn.Module) -> None:
    for module in attentions(model, C1):
        module.memory = lambda x, _context: x


@in_code(f"{C1}.k", "source", also=rf"{C1}\.(v|scores|weights)", variants=T5_LIKE)
def cross_attention_reads_the_decoders_x_of_another_length(model: nn.Module) -> None:
    for module in attentions(model, C1):
        module.memory = lambda x, _context: x
        module.visibility = lambda context: context.visibility


@in_code(f"{C0}.k", "source", also=r".*EncDecAttention\.[kv]", variants=(*T5_LIKE, "bias of each layer"))
def cross_attention_reads_the_encoder_before_its_final_norm(model: Any) -> None:
    kept: list[Tensor] = []
    last = model.encoder.block[-1]
    original = last.forward

    def forward(x: Tensor, context: StackContext) -> Tensor:
        kept[:] = [original(x, context)]
        return kept[0]

    last.forward = forward
    for module in attentions(model, "EncDec"):
        module.memory = lambda _x, _context: kept[0]


@in_code(f"{D1}.k", "source", also=rf"{D1}\.v", variants=T5_LIKE)
def keys_and_values_of_what_was_not_normed(model: Any) -> None:
    layer = model.decoder.block[1].layer[0]
    kept: list[Tensor] = []
    layer.layer_norm.register_forward_pre_hook(lambda _m, args: kept.__setitem__(slice(None), [args[0]]))
    layer.SelfAttention.memory = lambda _x, _context: kept[0]


# --- who sees whom


def _causal(length: int, ahead: int) -> Tensor:
    i = torch.arange(length)
    return i[None, :] <= i[:, None] + ahead


def _visible(context: StackContext, mask: Tensor) -> None:
    context.visibility = Visibility(visibility_bias(mask))


def _same(context: StackContext) -> Tensor:
    ids = context.sequence_ids
    assert ids is not None
    return (ids[:, :, None] == ids[:, None, :])[:, None]


_DECODERS = (*T5_LIKE, "language model", "learned positions", TALKING)
_DECODER_SCORES = r"decoder\.block\.\d+\.layer\.0\..*\.scores"
_ENCODER_SCORES = r"encoder\.block\.\d+\.layer\.0\..*\.scores"


@in_code(_at(FIRST_OF_DECODER, "scores", *_DECODERS), "mask", "itself", also=_DECODER_SCORES)
def causal_mask_missing(model: Any) -> None:
    def change(context: StackContext) -> None:
        ids = context.sequence_ids
        length = context.relative_position.shape[0]
        _visible(
            context, _same(context) if ids is not None else torch.ones(1, 1, length, length, dtype=torch.bool)
        )

    see(model.decoder, change)


@in_code(_at(FIRST_OF_DECODER, "scores", *_DECODERS), "mask", "ahead", also=_DECODER_SCORES)
def causal_mask_off_by_one(model: Any) -> None:
    see(model.decoder, lambda c: _visible(c, _same(c) & _causal(c.relative_position.shape[0], 1)))


@in_code(_at(FIRST_OF_DECODER, "scores", *T5_LIKE), "mask", "before itself", also=_DECODER_SCORES)
def causal_mask_hides_the_position_itself(model: Any) -> None:
    for module in attentions(model, "decoder"):
        attend(module)  # the fused kernel gives a mean where the first position sees nothing
    see(model.decoder, lambda c: _visible(c, _same(c) & _causal(c.relative_position.shape[0], -1)))


@in_code(_at(FIRST_OF_DECODER, "scores", *T5_LIKE), "mask", "from itself on", also=_DECODER_SCORES)
def causal_mask_transposed(model: Any) -> None:
    see(
        model.decoder,
        lambda c: _visible(c, (_same(c) & _causal(c.relative_position.shape[0], 0)).transpose(2, 3)),
    )


@in_code(f"{E0}.scores", "mask", "all positions", also=_ENCODER_SCORES, variants=(*T5_LIKE, "shared kv"))
def padding_ignored_by_the_encoders_attention(model: Any) -> None:
    see(model.encoder, lambda context: setattr(context, "visibility", Visibility(None)))


@in_code(
    f"{E0}.scores", "mask", "not padding", also=r".*\.scores", variants=(*T5_LIKE, "grouped heads", "switch")
)
def masks_as_transformers_makes_them(model: Any) -> None:
    """Keys at padding are hidden from every query; padded queries see what is real."""

    def keys(context: StackContext, causal: bool) -> None:
        ids = context.sequence_ids
        assert ids is not None
        mask = (ids != 0)[:, None, None, :]
        length = ids.shape[1]
        _visible(context, (mask & _causal(length, 0)) if causal else mask.expand(-1, -1, length, -1))
        if context.memory is not None:
            real = (kept[0] != 0)[:, None, None, :].expand(-1, -1, length, -1)
            context.memory_visibility = Visibility(visibility_bias(real))

    kept: list[Tensor] = []

    def encoder(context: StackContext) -> None:
        assert context.sequence_ids is not None
        kept[:] = [context.sequence_ids]
        keys(context, False)

    see(model.encoder, encoder)
    see(model.decoder, lambda context: keys(context, True))


@in_code(f"{D0}.scores", "mask", also=_DECODER_SCORES, variants=(*T5_LIKE, "language model"))
def padding_ignored_by_the_decoders_attention(model: Any) -> None:
    see(model.decoder, lambda c: _visible(c, _causal(c.relative_position.shape[0], 0)[None, None]))


@in_code(f"{E0}.scores", "mask", "-1e+04", also=_ENCODER_SCORES, variants=(*T5_LIKE, "learned positions"))
def mask_adds_minus_ten_thousand(model: Any) -> None:
    def change(context: StackContext) -> None:
        context.visibility = Visibility((~_same(context)).float() * -10000.0)

    see(model.encoder, change)


@in_code(
    f"{C0}.scores",
    "mask",
    "all positions",
    also=r".*EncDecAttention\.scores",
    variants=(*T5_LIKE, "bias of each layer"),
)
def padding_ignored_towards_the_encoder(model: Any) -> None:
    see(model.decoder, lambda context: setattr(context, "memory_visibility", Visibility(None)))


@in_code(
    f"{E0}.scores",
    "mask",
    "any sequence",
    also=_ENCODER_SCORES,
    inputs="packed",
    variants=(*T5_LIKE, "shared kv"),
)
def packed_examples_see_each_other(model: Any) -> None:
    def change(context: StackContext) -> None:
        ids = context.sequence_ids
        assert ids is not None
        _visible(context, ((ids[:, :, None] != 0) == (ids[:, None, :] != 0))[:, None])

    see(model.encoder, change)


@in_code(f"{C0}.scores", "mask", also=r".*EncDecAttention\.scores", inputs="packed", variants=T5_LIKE)
def packed_examples_see_each_others_inputs(model: Any) -> None:
    original = model.decoder._context

    def context(x: Tensor, ids: Tensor, memory: Any, *rest: Any) -> StackContext:
        made: StackContext = original(x, ids, memory, *rest)
        seen = Visibility.of_memory(ids.clamp(max=1), memory.sequence_ids.clamp(max=1))
        return replace(made, memory_visibility=seen)

    model.decoder._context = context


@in_code(f"{E1}.scores", "mask", variants=T5_LIKE)
def attention_of_one_block_in_a_window(model: Any) -> None:
    """Positions more than 64 apart do not see each other, as in a local attention."""
    for module in attentions(model, E1):

        def visibility(context: StackContext) -> Visibility:
            bias = context.visibility.bias
            assert bias is not None
            far = context.relative_position.abs() > 64
            return Visibility(bias + far * -1e9)

        module.visibility = visibility
