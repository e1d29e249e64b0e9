"""Faults of T5 that LongT5 has as well: in its decoder, its norms, its feed-forward layers, its weights.

Imported after the faults themselves. Left out are those that show only at tensors that no LongT5's original
can be heard at: scores, weights, what is masked in between, the loss.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.corpus.fault import FAULTS
from benchmarks.corpus.long_variants import LIVE

_SHARED = (
    # weights
    "decoder_o_reshaped_instead_of_transposed",
    "decoder_wo_reshaped_instead_of_transposed",
    "heads_of_v_rolled_by_one",
    "k_and_v_exchanged_towards_the_encoder",
    "q_of_self_attention_and_of_cross_attention_exchanged",
    "wi_0_and_wi_1_exchanged",
    "decoder_wi_1_is_the_encoders",
    "norm_scales_of_two_layers_exchanged",
    "decoder_final_norm_is_that_of_the_last_layer",
    "lm_head_is_the_embedding",
    "embedding_rows_off_by_one",
    "one_element_of_v_changed_by_1e_4",
    "o_is_zero",
    "wo_not_filled_in",
    "one_head_of_v_rounded_to_bfloat16",
    "norm_scale_rounded_to_bfloat16",
    "one_norm_scale_changed_by_1e_5",
    "norm_scale_reversed",
    "bias_table_is_zero",
    "q_scaled_by_d_kv_to_minus_one_half",
    # config
    "config_gated_silu",
    # code
    "epsilon_1e_2_in_the_decoder",
    "final_norm_without_its_weight",
    "encoder_final_norm_missing",
    "norm_divides_by_the_root_of_the_sum",
    "norm_computed_in_bfloat16",
    "residual_missing",
    "residual_added_twice",
    "sublayer_left_out",
    "residual_stream_rounded_to_bfloat16",
    "gelu_exact",
    "silu_in_place_of_gelu",
    "gate_left_out",
    "hidden_rounded_to_bfloat16",
    "wo_with_a_bias",
    "decoder_buckets_look_both_ways",
    "cross_attention_reads_the_encoder_before_its_final_norm",
    "decoder_inputs_not_shifted",
    "logits_rounded_to_bfloat16",
)

for _name in _SHARED:
    _fault = FAULTS[_name]
    _places = _fault.at if isinstance(_fault.at, str) else {**_fault.at}
    assert isinstance(_places, str), f"{_name} has another place in each variant"
    FAULTS[_name] = replace(_fault, variants=(*_fault.variants, *LIVE))
