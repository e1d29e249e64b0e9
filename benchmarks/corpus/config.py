"""Faults in config.json: the model is built from it, with the right weights."""

from __future__ import annotations

import copy
from typing import Any

from benchmarks.corpus.fault import T5_LIKE, Content, in_config
from benchmarks.corpus.layers import NORMS
from benchmarks.corpus.positions import BIASES_D, BIASES_E

E0, D0 = (f"{stack}.block.0.layer.0.SelfAttention" for stack in ("encoder", "decoder"))
_FIRST_NORM = "encoder.block.0.layer.0.layer_norm"
_ACT = "encoder.block.0.layer.1.DenseReluDense.act"
_LOSS = ("loss", "config")


def _layers(content: Content, stack: str, kind: str) -> list[dict[str, Any]]:
    """The layers of a kind, in a content of their own."""
    content[stack] = copy.deepcopy(content[stack])
    return [layer for layer in content[stack]["layers"] if layer["kind"].endswith(kind)]


@in_config(
    _FIRST_NORM, "config", "layer_norm_epsilon", also=NORMS, variants=(*T5_LIKE, "shared kv", "switch")
)
def config_epsilon_1e_5(content: Content) -> None:
    content["layer_norm_epsilon"] = 1e-5


@in_config(_FIRST_NORM, "config", "layer_norm_epsilon", also=NORMS, variants=(*T5_LIKE, "talking heads"))
def config_epsilon_1e_3(content: Content) -> None:
    content["layer_norm_epsilon"] = 1e-3


@in_config(_ACT, "config activation", also=r".*\.act", variants=("t5.1.1",))
def config_gated_silu(content: Content) -> None:
    content["feed_forward_proj"] = "gated-silu"


@in_config(_ACT, "config activation", also=r".*\.act", variants=("t5.1.1",))
def config_gated_relu(content: Content) -> None:
    content["feed_forward_proj"] = "gated-relu"


@in_config(_ACT, "config activation", also=r".*\.act", variants=("t5.1.0",))
def config_silu(content: Content) -> None:
    content["feed_forward_proj"] = "silu"


@in_config(_ACT, "config activation", also=r"encoder.*\.act", variants=("shared kv", "learned positions"))
def config_gelu_in_the_encoder(content: Content) -> None:
    for layer in _layers(content, "encoder", "DenseReluDense"):
        layer["activations"] = ["gelu"]


@in_config(
    f"{E0}.position_bias",
    "config buckets",
    "max_distance",
    also=f"{BIASES_E}|{BIASES_D}",
    variants=(*T5_LIKE, "switch"),
)
def config_max_distance_64(content: Content) -> None:
    content["relative_attention_max_distance"] = 64


@in_config(
    f"{D0}.position_bias",
    "config buckets",
    "max_distance",
    also=BIASES_D,
    variants=("shared kv", "language model"),
)
def config_max_distance_of_the_decoder(content: Content) -> None:
    for layer in _layers(content, "decoder", "SelfAttention"):
        layer["relative_attention_max_distance"] = 192


@in_config(
    "encoder.embed_tokens",
    "config",
    "scale_embedding",
    also=r"decoder\.embed_tokens|logits",
    variants=("shared kv", "learned positions"),
)
def config_scales_embeddings(content: Content) -> None:
    content["scale_embedding"] = True


@in_config("loss", "config", "label_smoothing", variants=(*T5_LIKE, "language model"))
def config_label_smoothing(content: Content) -> None:
    content["label_smoothing"] = 0.1


@in_config("loss", "config", "loss_denominator", variants=T5_LIKE)
def config_without_loss_denominator(content: Content) -> None:
    content["loss_denominator"] = None


@in_config(
    "decoder.block.0.layer.0.mask_padding",
    "config",
    "autoregressive",
    also=r".*",
    variants=("language model",),
)
def config_sees_ahead(content: Content) -> None:
    content["decoder"] = {**content["decoder"], "autoregressive": False}


@in_config(
    f"{D0}.position_bias",
    "config",
    "input_full_attention",
    also=r".*\.(scores|position_bias)",
    variants=("language model",),
)
def config_sees_all_of_the_inputs_part(content: Content) -> None:
    content["decoder"] = {**content["decoder"], "input_full_attention": True}


@in_config(f"{E0}.q", "config", also=r".*Attention\..*", variants=("learned positions",))
def config_heads_and_d_kv_exchanged(content: Content) -> None:
    for stack in ("encoder", "decoder"):
        for layer in _layers(content, stack, "Attention"):
            layer["num_heads"], layer["d_kv"] = layer["d_kv"], layer["num_heads"]


@in_config(
    "encoder.block.1.layer.1.mlp.expert_inputs",
    "config",
    "capacity_factor_eval",
    also=r".*\.mlp(\..*)?",
    variants=("switch",),
)
def config_capacity_factor_2(content: Content) -> None:
    content["capacity_factor_eval"] = 2.0


@in_config("loss", "config", "router_aux_loss_coef", variants=("switch",))
def config_router_aux_loss_1e_3(content: Content) -> None:
    content["router_aux_loss_coef"] = 0.001
