"""Faults in the code of norms, residuals, feed-forward layers and padding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.corpus.fault import T5_LIKE, in_code
from porting.ports.t5.context import StackContext
from porting.ports.t5.layers import RMSNorm, T5FeedForward
from porting.ports.t5.stack import T5Layer

EF0, EF1 = (f"encoder.block.{block}.layer.1.DenseReluDense" for block in (0, 1))
DF0, DF1 = (f"decoder.block.{block}.layer.2.DenseReluDense" for block in (0, 1))
GATED = ("t5.1.1", "grouped heads", "talking heads")
RELU = ("t5.1.0", "bias of each layer", "shared kv", "learned positions")
TALKING = "talking heads"
NORMS = r".*layer_norm"
_FIRST_NORM = {
    **dict.fromkeys(
        (
            *T5_LIKE,
            "bias of each layer",
            "grouped heads",
            "shared kv",
            TALKING,
            "learned positions",
            "switch",
        ),
        "encoder.block.0.layer.0.layer_norm",
    ),
    "language model": "decoder.block.0.layer.0.layer_norm",
}


def _at(places: dict[str, str], *variants: str) -> dict[str, str]:
    return {name: places[name] for name in variants}


def norms(model: nn.Module, within: str = "") -> Iterator[Any]:
    for path, module in model.named_modules():
        if isinstance(module, RMSNorm) and within in path:
            yield module


def feed_forwards(model: nn.Module, within: str = "") -> Iterator[Any]:
    for path, module in model.named_modules():
        if isinstance(module, T5FeedForward) and within in path:
            yield module


def forward(module: Any, function: Callable[..., Any]) -> None:
    module.forward = function


# --- norms


@in_code(_at(_FIRST_NORM, *T5_LIKE, "language model", TALKING), "norm", "mean", also=NORMS)
def norm_takes_off_the_mean(model: nn.Module) -> None:
    for norm in norms(model):
        forward(norm, lambda x, n=norm: F.layer_norm(x, x.shape[-1:], n.weight, None, n.epsilon))


@in_code(_at(_FIRST_NORM, *T5_LIKE, "language model", "shared kv"), "epsilon", "1e-05", also=NORMS)
def epsilon_1e_5_in_code(model: nn.Module) -> None:
    for norm in norms(model):
        norm.epsilon = 1e-5


@in_code(
    "decoder.block.0.layer.0.layer_norm",
    "epsilon",
    "0.01",
    also=r"decoder.*layer_norm",
    variants=(*T5_LIKE, "learned positions"),
)
def epsilon_1e_2_in_the_decoder(model: nn.Module) -> None:
    for norm in norms(model, "decoder"):
        norm.epsilon = 1e-2


@in_code("encoder.final_layer_norm", "norm", "weight", variants=T5_LIKE)
def final_norm_without_its_weight(model: Any) -> None:
    norm = model.encoder.final_layer_norm
    forward(norm, lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.epsilon))


@in_code("decoder.final_layer_norm", "norm", "does nothing", variants=(*T5_LIKE, "language model"))
def decoder_final_norm_missing(model: Any) -> None:
    forward(model.decoder.final_layer_norm, lambda x: x)


@in_code("encoder.final_layer_norm", "norm", "does nothing", variants=(*T5_LIKE, "switch"))
def encoder_final_norm_missing(model: Any) -> None:
    forward(model.encoder.final_layer_norm, lambda x: x)


@in_code("decoder.block.1.layer.1.layer_norm", "norm", "sum of squares", variants=T5_LIKE)
def norm_divides_by_the_root_of_the_sum(model: Any) -> None:
    norm = model.decoder.block[1].layer[1].layer_norm
    forward(norm, lambda x: x * torch.rsqrt(x.square().sum(-1, keepdim=True) + norm.epsilon) * norm.weight)


@in_code(
    "encoder.block.1.layer.0.layer_norm", "norm", "1 + weight", variants=(*T5_LIKE, "bias of each layer")
)
def norm_multiplies_by_one_plus_weight(model: Any) -> None:
    norm = model.encoder.block[1].layer[0].layer_norm
    right = norm.forward
    forward(norm, lambda x: right(x) / norm.weight * (1 + norm.weight))


@in_code(
    "decoder.block.0.layer.0.layer_norm",
    "rounding",
    "bfloat16",
    also=r"decoder.*layer_norm",
    variants=(*T5_LIKE, "shared kv"),
)
def norm_computed_in_bfloat16(model: nn.Module) -> None:
    for norm in norms(model, "decoder"):
        right = norm.forward
        forward(norm, lambda x, right=right: right(x.bfloat16()).bfloat16().float())


@in_code("encoder.block.1.layer.1.layer_norm", "rounding norm", variants=T5_LIKE)
def mean_square_computed_in_bfloat16(model: Any) -> None:
    norm = model.encoder.block[1].layer[1].layer_norm
    forward(
        norm,
        lambda x: (
            x * torch.rsqrt(x.bfloat16().square().mean(-1, keepdim=True).float() + norm.epsilon) * norm.weight
        ),
    )


@in_code("encoder.block.1.layer.0.layer_norm", "epsilon norm", variants=T5_LIKE)
def epsilon_added_outside_of_the_root(model: Any) -> None:
    norm = model.encoder.block[1].layer[0].layer_norm
    forward(norm, lambda x: x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-4) * norm.weight)


# --- residuals


def _layer(
    model: nn.Module, path: str, function: Callable[[T5Layer, Tensor, Tensor, Tensor], Tensor]
) -> None:
    """function(layer, x, normed, what the sublayer says)."""
    layer = model.get_submodule(path)
    assert isinstance(layer, T5Layer)

    def run(x: Tensor, context: StackContext) -> Tensor:
        normed = layer.mask_padding(layer.layer_norm(x), context.sequence_ids)
        return function(layer, x, normed, getattr(layer, layer.name)(normed, context))

    forward(layer, run)


@in_code("decoder.block.1.layer.2", "sum", "leaves out", variants=(*T5_LIKE, "talking heads"))
def residual_missing(model: nn.Module) -> None:
    _layer(model, "decoder.block.1.layer.2", lambda _layer, _x, _normed, y: y)


@in_code("encoder.block.1.layer.0", "sum", "adds", variants=(*T5_LIKE, "learned positions"))
def residual_from_the_normed_x(model: nn.Module) -> None:
    _layer(model, "encoder.block.1.layer.0", lambda _layer, _x, normed, y: normed + y)


@in_code("decoder.block.0.layer.1", "sum", variants=(*T5_LIKE, "bias of each layer"))
def residual_added_twice(model: nn.Module) -> None:
    _layer(model, "decoder.block.0.layer.1", lambda _layer, x, _normed, y: x + x + y)


@in_code("encoder.block.1.layer.1", "sum", "leaves out", variants=(*T5_LIKE, "switch"))
def sublayer_left_out(model: nn.Module) -> None:
    _layer(model, "encoder.block.1.layer.1", lambda _layer, x, _normed, _y: x)


@in_code("decoder.block.0.layer.1", "sum", variants=T5_LIKE)
def dropout_scaling_left_in_a_sublayer(model: nn.Module) -> None:
    _layer(model, "decoder.block.0.layer.1", lambda _layer, x, _normed, y: x + y / 0.9)


@in_code("encoder.block.0.layer.0", "sum scale", variants=("t5.1.1", "grouped heads"))
def residual_scaled_by_the_root_of_one_half(model: nn.Module) -> None:
    _layer(model, "encoder.block.0.layer.0", lambda _layer, x, _normed, y: (x + y) * 0.5**0.5)


@in_code("decoder.block.1.layer.1", "rounding", "bfloat16", variants=(*T5_LIKE, "grouped heads"))
def residual_stream_rounded_to_bfloat16(model: nn.Module) -> None:
    _layer(model, "decoder.block.1.layer.1", lambda _layer, x, _normed, y: (x + y).bfloat16().float())


@in_code(
    "encoder.block.1.layer.0.layer_norm",
    "source norm",
    also=r"encoder\.block\.1\.layer\.0(\..*)?",
    variants=T5_LIKE,
)
def norm_after_the_residual(model: nn.Module) -> None:
    """Post-norm: norm(x + sublayer(x))."""
    layer: Any = model.get_submodule("encoder.block.1.layer.0")

    def run(x: Tensor, context: StackContext) -> Tensor:
        out: Tensor = layer.mask_padding(
            layer.layer_norm(x + layer.SelfAttention(x, context)), context.sequence_ids
        )
        return out

    forward(layer, run)


@in_code(
    "encoder.block.1.layer.1.layer_norm",
    "source sum",
    also=r"encoder\.block\.(1\.layer\.1|2\.layer\.0.*)",
    variants=T5_LIKE,
)
def attention_and_feed_forward_in_parallel(model: nn.Module) -> None:
    block: Any = model.get_submodule("encoder.block.1")

    def run(x: Tensor, context: StackContext) -> Tensor:
        attention, dense = (layer(x, context) for layer in block.layer)
        out: Tensor = attention + dense - x
        return out

    forward(block, run)


# --- feed-forward


def _activations(model: nn.Module, function: Callable[[Tensor], Tensor], within: str = "") -> None:
    for module in feed_forwards(model, within):
        forward(module.get_submodule("act"), function)


@in_code(f"{EF0}.act", "activation", "exact", also=r".*\.act", variants=GATED)
def gelu_exact(model: nn.Module) -> None:
    _activations(model, F.gelu)


@in_code(f"{DF1}.act", "activation", "exact", variants=GATED)
def gelu_exact_in_one_layer(model: nn.Module) -> None:
    _activations(model, F.gelu, DF1)


@in_code(f"{EF0}.act", "activation", "relu", also=r".*\.act", variants=GATED)
def relu_in_place_of_gelu(model: nn.Module) -> None:
    _activations(model, F.relu)


@in_code(f"{DF0}.act", "activation", "silu", also=r"decoder.*\.act", variants=GATED)
def silu_in_place_of_gelu(model: nn.Module) -> None:
    _activations(model, F.silu, "decoder")


@in_code(f"{EF0}.act", "activation", "quick", also=r".*\.act", variants=GATED)
def gelu_quick(model: nn.Module) -> None:
    _activations(model, lambda x: x * torch.sigmoid(1.702 * x))


@in_code(f"{EF0}.act", "activation", "gelu", also=r".*\.act", variants=RELU)
def gelu_in_place_of_relu(model: nn.Module) -> None:
    _activations(model, lambda x: F.gelu(x, approximate="tanh"))


@in_code(f"{DF0}.act", "activation", "leaky", also=r"decoder.*\.act", variants=RELU[:2])
def leaky_relu_in_place_of_relu(model: nn.Module) -> None:
    _activations(model, F.leaky_relu, "decoder")


@in_code(f"{EF1}.act", "activation source sum", also=rf"{re.escape(EF1)}\.hidden", variants=GATED)
def gate_exchanged(model: nn.Module) -> None:
    """wi_0(x) * act(wi_1(x))"""
    for module in feed_forwards(model, EF1):
        m: Any = module
        m.inner = lambda x, m=m: m.wi_0(x) * m.act(m.wi_1(x))


@in_code(f"{EF1}.hidden", "sum", variants=GATED)
def gate_left_out(model: nn.Module) -> None:
    for module in feed_forwards(model, EF1):
        m: Any = module

        def inner(x: Tensor, m: Any = m) -> Tensor:
            m.wi_1(x)
            out: Tensor = m.act(m.wi_0(x))
            return out

        m.inner = inner


@in_code(f"{EF1}.hidden", "sum", variants=GATED)
def gate_added(model: nn.Module) -> None:
    for module in feed_forwards(model, EF1):
        m: Any = module
        m.inner = lambda x, m=m: m.act(m.wi_0(x)) + m.wi_1(x)


@in_code(f"{DF0}.wo", "scale", also=r"decoder.*\.wo", variants=(*T5_LIKE, "learned positions"))
def dropout_scaling_left_in_the_feed_forward(model: nn.Module) -> None:
    for module in feed_forwards(model, "decoder"):
        forward(module.dropout, lambda x: x / 0.9)


@in_code(f"{EF1}.hidden", "rounding", "bfloat16", variants=(*T5_LIKE, "bias of each layer"))
def hidden_rounded_to_bfloat16(model: nn.Module) -> None:
    for module in feed_forwards(model, EF1):
        inner = module.inner
        module.inner = lambda x, inner=inner: inner(x).bfloat16().float()


@in_code(f"{DF1}.wo", "rounding", "float16", variants=T5_LIKE)
def wo_computed_in_float16(model: nn.Module) -> None:
    for module in feed_forwards(model, DF1):
        forward(module.wo, lambda x, wo=module.wo: F.linear(x.half(), wo.weight.half()).to(x.dtype))


@in_code(f"{DF1}.wo", "bias", variants=T5_LIKE)
def wo_with_a_bias(model: nn.Module) -> None:
    for module in feed_forwards(model, DF1):
        module.wo.bias = nn.Parameter(torch.linspace(-1e-3, 1e-3, module.wo.out_features))


@in_code(f"{EF0}.wi", "source", also=rf"{re.escape(EF0)}\.wi", variants=("t5.1.0", "shared kv"))
def feed_forward_reads_what_was_not_normed(model: Any) -> None:
    layer = model.encoder.block[0].layer[1]
    kept: list[Tensor] = []
    layer.layer_norm.register_forward_pre_hook(lambda _m, args: kept.__setitem__(slice(None), [args[0]]))
    right = layer.DenseReluDense.forward
    forward(layer.DenseReluDense, lambda _x, context: right(kept[0], context))


# --- padding


@in_code("encoder", "padding", "leaves padded", variants=(*T5_LIKE, "grouped heads", "switch"))
def encoder_output_not_masked(model: Any) -> None:
    forward(model.encoder.mask_padding, lambda x, _ids: x)


@in_code("decoder", "padding", "leaves padded", variants=(*T5_LIKE, "language model"))
def decoder_output_not_masked(model: Any) -> None:
    forward(model.decoder.mask_padding, lambda x, _ids: x)


@in_code(
    "encoder.block.0.layer.0.mask_padding",
    "padding",
    "leaves padded",
    also=r".*\.mask_padding",
    variants=(*T5_LIKE, TALKING, "learned positions"),
)
def padding_not_zeroed_before_sublayers(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, T5Layer):
            forward(module.mask_padding, lambda x, _ids: x)


@in_code("decoder.block.1.layer.1.mask_padding", "padding", variants=T5_LIKE)
def padding_of_inputs_zeroed_in_place_of_that_of_targets(model: Any) -> None:
    layer = model.decoder.block[1].layer[1]
    forward(layer.mask_padding, lambda x, ids: x * (ids == 0)[..., None])
