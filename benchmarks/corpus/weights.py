"""Faults in weights: transposed, exchanged, off by one, rounded, of another layer."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from benchmarks.corpus.fault import T5_LIKE, State, in_weights

E0, E1, D0, D1 = (
    f"{stack}.block.{block}.layer.0.SelfAttention" for stack in ("encoder", "decoder") for block in (0, 1)
)
C0, C1 = (f"decoder.block.{block}.layer.1.EncDecAttention" for block in (0, 1))
EF1, DF1 = "encoder.block.1.layer.1.DenseReluDense", "decoder.block.1.layer.2.DenseReluDense"
TIED = ("t5.1.0", "bias of each layer", "shared kv")
GATED = ("t5.1.1", "grouped heads")
T_E1, T_D0, T_D1 = (
    f"{place}.layer.0.TalkingHeadsSelfAttention"
    for place in ("encoder.block.1", "decoder.block.0", "decoder.block.1")
)
MOE = "encoder.block.1.layer.1.mlp"
# Each layer of a stack takes its bias from the first one's table.
BIASES_E, BIASES_D = (
    rf"{stack}\.block\.\d+\.layer\.0\.SelfAttention\.position_bias" for stack in ("encoder", "decoder")
)
EMBEDDED = r"decoder\.embed_tokens|logits"


def _heads(weight: Tensor, d_kv: int = 12) -> Tensor:
    """[heads * d_kv, d_model] -> [heads, d_kv, d_model]"""
    return weight.view(-1, d_kv, weight.shape[1])


def _exchange(state: State, one: str, other: str) -> None:
    state[one], state[other] = state[other].clone(), state[one].clone()


def _transposed(weight: Tensor) -> Tensor:
    """As a reshape in place of a transpose leaves it."""
    return weight.T.contiguous().reshape(weight.shape)


def _set(state: State, name: str, value: Tensor) -> None:
    assert value.shape == state[name].shape
    state[name] = value.contiguous()


# --- transposed or interleaved


@in_weights(f"{E1}.q", "weight", "transposed")
def encoder_q_reshaped_instead_of_transposed(state: State) -> None:
    _set(state, f"{E1}.q.weight", _transposed(state[f"{E1}.q.weight"]))


@in_weights(f"{D1}.o", "weight", "transposed", variants=(*T5_LIKE, "language model", "learned positions"))
def decoder_o_reshaped_instead_of_transposed(state: State) -> None:
    _set(state, f"{D1}.o.weight", _transposed(state[f"{D1}.o.weight"]))


@in_weights(f"{DF1}.wo", "weight", "transposed")
def decoder_wo_reshaped_instead_of_transposed(state: State) -> None:
    _set(state, f"{DF1}.wo.weight", _transposed(state[f"{DF1}.wo.weight"]))


@in_weights(f"{E0}.position_bias", "weight", "transposed", also=BIASES_E, variants=(*T5_LIKE, "switch"))
def bias_table_reshaped_instead_of_transposed(state: State) -> None:
    name = f"{E0}.relative_attention_bias.weight"
    _set(state, name, _transposed(state[name]))


@in_weights(f"{E1}.k", "weight", variants=T5_LIKE)
def heads_and_d_kv_interleaved_in_k(state: State) -> None:
    name = f"{E1}.k.weight"
    _set(state, name, _heads(state[name]).transpose(0, 1).reshape(state[name].shape))


@in_weights(f"{D0}.v", "weight", variants=(*T5_LIKE, "bias of each layer"))
def heads_of_v_rolled_by_one(state: State) -> None:
    name = f"{D0}.v.weight"
    _set(state, name, _heads(state[name]).roll(1, 0).reshape(state[name].shape))


@in_weights(f"{E1}.k", "weight", variants=("grouped heads",))
def groups_of_k_exchanged(state: State) -> None:
    name = f"{E1}.k.weight"
    _set(state, name, _heads(state[name]).flip(0).reshape(state[name].shape))


@in_weights(f"{T_E1}.v", "weight", "permuted", variants=("talking heads",))
def talking_value_heads_of_v_reversed(state: State) -> None:
    name = f"{T_E1}.v.weight"
    _set(state, name, _heads(state[name], 7).flip(0).reshape(state[name].shape))


@in_weights(f"{T_E1}.logits", "weight", "transposed", variants=("talking heads",))
def talking_logits_kernel_reshaped_instead_of_transposed(state: State) -> None:
    name = f"{T_E1}.logits.weight"
    _set(state, name, _transposed(state[name]))


@in_weights(
    f"{T_D0}.weights", "weight", "holds", also=f"{re.escape(T_D1)}.weights", variants=("talking heads",)
)
def talking_weights_kernels_of_two_blocks_exchanged(state: State) -> None:
    _exchange(state, f"{T_D0}.weights.weight", f"{T_D1}.weights.weight")


# --- of another parameter


@in_weights(
    f"{E1}.q", "weight", "holds", also=f"{re.escape(E1)}.k", variants=(*T5_LIKE, "bias of each layer")
)
def q_and_k_exchanged(state: State) -> None:
    _exchange(state, f"{E1}.q.weight", f"{E1}.k.weight")


@in_weights(f"{C0}.k", "weight", "holds", also=f"{re.escape(C0)}.v", variants=(*T5_LIKE, "grouped heads"))
def k_and_v_exchanged_towards_the_encoder(state: State) -> None:
    _exchange(state, f"{C0}.k.weight", f"{C0}.v.weight")


@in_weights(f"{D1}.q", "weight", "holds", also=f"{re.escape(C1)}.q", variants=(*T5_LIKE, "shared kv"))
def q_of_self_attention_and_of_cross_attention_exchanged(state: State) -> None:
    _exchange(state, f"{D1}.q.weight", f"{C1}.q.weight")


@in_weights(f"{EF1}.wi_0", "weight", "holds", also=f"{re.escape(EF1)}.wi_1", variants=GATED)
def wi_0_and_wi_1_exchanged(state: State) -> None:
    _exchange(state, f"{EF1}.wi_0.weight", f"{EF1}.wi_1.weight")


@in_weights(f"{DF1}.wi_1", "weight", "holds", variants=GATED)
def decoder_wi_1_is_the_encoders(state: State) -> None:
    _set(state, f"{DF1}.wi_1.weight", state[f"{EF1}.wi_1.weight"].clone())


@in_weights(
    "encoder.block.1.layer.0.layer_norm",
    "weight",
    "holds",
    also=r"encoder\.block\.1\.layer\.1\.layer_norm",
    variants=(*T5_LIKE, "talking heads", "learned positions"),
)
def norm_scales_of_two_layers_exchanged(state: State) -> None:
    _exchange(state, "encoder.block.1.layer.0.layer_norm.weight", "encoder.block.1.layer.1.layer_norm.weight")


@in_weights("decoder.final_layer_norm", "weight", "holds", variants=(*T5_LIKE, "language model"))
def decoder_final_norm_is_that_of_the_last_layer(state: State) -> None:
    last = max(name for name in state if name.startswith("decoder.block.") and "layer_norm" in name)
    _set(state, "decoder.final_layer_norm.weight", state[last].clone())


@in_weights(f"{D0}.position_bias", "weight", "holds", also=BIASES_D)
def decoder_bias_table_is_the_encoders(state: State) -> None:
    table = "relative_attention_bias.weight"
    _set(state, f"{D0}.{table}", state[f"{E0}.{table}"].clone())


@in_weights(f"{E1}.position_bias", "weight", "holds", variants=("bias of each layer",))
def bias_table_of_the_first_layer_in_the_second(state: State) -> None:
    table = "relative_attention_bias.weight"
    _set(state, f"{E1}.{table}", state[f"{E0}.{table}"].clone())


@in_weights("logits", "weight", "holds", variants=GATED)
def lm_head_is_the_embedding(state: State) -> None:
    _set(state, "lm_head.weight", state["shared.weight"].clone())


@in_weights(f"{MOE}.hidden", "weight", also=f"{re.escape(MOE)}.expert_outputs", variants=("switch",))
def experts_in_the_wrong_order(state: State) -> None:
    for name in ("wi", "wo"):
        keys = [f"{MOE}.experts.expert_{i}.{name}.weight" for i in range(5)]
        values = [state[key].clone() for key in keys]
        for key, value in zip(keys, [*values[1:], values[0]], strict=True):
            state[key] = value


@in_weights(f"{MOE}.router.logits", "weight", "permuted", variants=("switch",))
def router_columns_reversed(state: State) -> None:
    name = f"{MOE}.router.classifier.weight"
    _set(state, name, state[name].flip(0))


# --- embeddings


@in_weights("encoder.embed_tokens", "weight", "permuted", also=EMBEDDED, variants=TIED)
def tied_embedding_rows_off_by_one(state: State) -> None:
    _set(state, "shared.weight", state["shared.weight"].roll(1, 0))


@in_weights("encoder.embed_tokens", "weight", "permuted", also=r"decoder\.embed_tokens", variants=GATED)
def embedding_rows_off_by_one(state: State) -> None:
    _set(state, "shared.weight", state["shared.weight"].roll(-1, 0))


@in_weights("encoder.embed_tokens", "weight", "times", also=r"decoder\.embed_tokens", variants=GATED)
def embedding_weights_scaled_by_sqrt_d_model(state: State) -> None:
    _set(state, "shared.weight", state["shared.weight"] * 24**0.5)


@in_weights("logits", "weight", "times", variants=GATED)
def lm_head_weights_scaled(state: State) -> None:
    _set(state, "lm_head.weight", state["lm_head.weight"] * 24**-0.5)


@in_weights("encoder.embed_tokens", "weight", "1 of", also=EMBEDDED, variants=TIED)
def one_element_of_the_embedding_of_the_end_token_changed(state: State) -> None:
    state["shared.weight"][1, 3] += 1e-3


@in_weights(
    "encoder.embed_positions",
    "weight",
    "permuted",
    also=r"decoder\.embed_positions",
    variants=("learned positions",),
)
def position_rows_off_by_one(state: State) -> None:
    name = "encoder.embed_positions.weight"
    _set(state, name, state[name].roll(1, 0))


@in_weights(
    "encoder.embed_positions",
    "weight",
    "1 of",
    also=r"decoder\.embed_positions",
    variants=("learned positions",),
)
def one_far_position_changed(state: State) -> None:
    state["encoder.embed_positions.weight"][130, 5] += 1e-3


# --- small


@in_weights(f"{C1}.v", "weight", "1 of", variants=(*T5_LIKE, "grouped heads"))
def one_element_of_v_changed_by_1e_4(state: State) -> None:
    state[f"{C1}.v.weight"][5, 7] += 1e-4


@in_weights(f"{E0}.q", "weight", "1 of", variants=T5_LIKE)
def one_element_of_q_changed_by_1e_4(state: State) -> None:
    state[f"{E0}.q.weight"][0, 0] -= 1e-4


@in_weights(f"{D1}.o", "weight", "zero", variants=T5_LIKE)
def o_is_zero(state: State) -> None:
    state[f"{D1}.o.weight"].zero_()


@in_weights(f"{DF1}.wo", "weight", "differ")
def wo_not_filled_in(state: State) -> None:
    generator = torch.Generator().manual_seed(0)
    name = f"{DF1}.wo.weight"
    state[name] = torch.randn(state[name].shape, generator=generator) * 0.02


@in_weights(f"{E1}.k", "rounding", "bfloat16", variants=(*T5_LIKE, "bias of each layer"))
def k_rounded_to_bfloat16(state: State) -> None:
    _set(state, f"{E1}.k.weight", state[f"{E1}.k.weight"].bfloat16().float())


@in_weights(f"{D0}.v", "weight", "differ", variants=T5_LIKE)
def one_head_of_v_rounded_to_bfloat16(state: State) -> None:
    name = f"{D0}.v.weight"
    state[name][12:24] = state[name][12:24].bfloat16().float()


@in_weights(f"{C0}.o", "rounding", "float16", variants=(*T5_LIKE, "shared kv"))
def o_rounded_to_float16(state: State) -> None:
    _set(state, f"{C0}.o.weight", state[f"{C0}.o.weight"].half().float())


@in_weights("decoder.block.1.layer.1.layer_norm", "rounding", "bfloat16", variants=(*T5_LIKE, "shared kv"))
def norm_scale_rounded_to_bfloat16(state: State) -> None:
    name = "decoder.block.1.layer.1.layer_norm.weight"
    _set(state, name, state[name].bfloat16().float())


@in_weights("encoder.final_layer_norm", "weight", "1 of", variants=(*T5_LIKE, "switch"))
def one_norm_scale_changed_by_1e_5(state: State) -> None:
    state["encoder.final_layer_norm.weight"][3] += 1e-5


@in_weights("decoder.block.0.layer.0.layer_norm", "weight", variants=(*T5_LIKE, "language model"))
def norm_scale_one_is_added(state: State) -> None:
    state["decoder.block.0.layer.0.layer_norm.weight"] += 1.0


@in_weights("encoder.block.0.layer.0.layer_norm", "weight", "permuted", variants=T5_LIKE)
def norm_scale_reversed(state: State) -> None:
    name = "encoder.block.0.layer.0.layer_norm.weight"
    _set(state, name, state[name].flip(0))


@in_weights(f"{E0}.position_bias", "weight", "1 of", also=BIASES_E, variants=(*T5_LIKE, "grouped heads"))
def bias_of_a_far_bucket_changed(state: State) -> None:
    state[f"{E0}.relative_attention_bias.weight"][15, 1] += 1e-4


@in_weights(f"{D0}.position_bias", "weight", "zero", also=BIASES_D, variants=(*T5_LIKE, "language model"))
def bias_table_is_zero(state: State) -> None:
    state[f"{D0}.relative_attention_bias.weight"].zero_()


@in_weights(f"{D0}.position_bias", "weight", "permuted", also=BIASES_D)
def bias_table_rows_off_by_one(state: State) -> None:
    name = f"{D0}.relative_attention_bias.weight"
    _set(state, name, state[name].roll(1, 0))


@in_weights(f"{D1}.q", "weight", "times", variants=(*T5_LIKE, "learned positions"))
def q_scaled_by_d_kv_to_minus_one_half(state: State) -> None:
    name = f"{D1}.q.weight"
    _set(state, name, state[name] * 12**-0.5)


@in_weights(f"{EF1}.wi", "weight", "permuted", variants=("t5.1.0", "shared kv", "bias of each layer"))
def two_columns_of_wi_exchanged(state: State) -> None:
    order = list(range(24))
    order[4], order[17] = 17, 4
    _set(state, f"{EF1}.wi.weight", state[f"{EF1}.wi.weight"][:, order])


@in_weights(f"{E1}.kv", "weight", "transposed", variants=("shared kv",))
def shared_kv_reshaped_instead_of_transposed(state: State) -> None:
    _set(state, f"{E1}.kv.weight", _transposed(state[f"{E1}.kv.weight"]))


@in_weights(f"{MOE}.hidden", "weight", "1 of", variants=("switch",))
def one_element_of_one_expert_changed(state: State) -> None:
    state[f"{MOE}.experts.expert_2.wi.weight"][3, 4] += 1e-3


@in_weights(f"{MOE}.expert_outputs", "weight", "transposed", variants=("switch",))
def one_experts_wo_reshaped_instead_of_transposed(state: State) -> None:
    name = f"{MOE}.experts.expert_1.wo.weight"
    _set(state, name, _transposed(state[name]))


@in_weights(f"{MOE}.router.logits", "rounding", "bfloat16", variants=("switch",))
def router_weights_rounded_to_bfloat16(state: State) -> None:
    name = f"{MOE}.router.classifier.weight"
    _set(state, name, state[name].bfloat16().float())
