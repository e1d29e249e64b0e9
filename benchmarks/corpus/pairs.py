"""Two independent faults at once, and the small selection of both."""

from __future__ import annotations

# (variant, one, other)
PAIRS: tuple[tuple[str, str, str], ...] = (
    ("t5.1.0", "encoder_q_reshaped_instead_of_transposed", "causal_mask_off_by_one"),
    ("t5.1.0", "tied_logits_not_scaled", "epsilon_1e_5_in_code"),
    ("t5.1.0", "k_and_v_exchanged_towards_the_encoder", "loss_averaged_over_real_targets"),
    ("t5.1.0", "config_max_distance_64", "decoder_wo_reshaped_instead_of_transposed"),
    ("t5.1.0", "scores_divided_by_sqrt_d_kv", "residual_missing"),
    ("t5.1.0", "one_element_of_q_changed_by_1e_4", "one_element_of_v_changed_by_1e_4"),
    ("t5.1.0", "gelu_in_place_of_relu", "decoder_inputs_not_shifted"),
    ("t5.1.1", "gelu_exact", "encoder_output_not_masked"),
    ("t5.1.1", "q_and_k_exchanged", "softmax_sums_to_one_where_all_is_hidden"),
    ("t5.1.1", "norm_computed_in_bfloat16", "wi_0_and_wi_1_exchanged"),
    ("t5.1.1", "relative_positions_negated", "untied_logits_scaled"),
    ("t5.1.1", "one_head_of_v_rounded_to_bfloat16", "bias_of_a_far_bucket_changed"),
    ("t5.1.1", "config_epsilon_1e_5", "lm_head_is_the_embedding"),
    ("t5.1.1", "padding_not_zeroed_before_sublayers", "causal_mask_missing"),
    ("t5.1.1", "residual_from_the_normed_x", "dropout_scaling_left_in_the_feed_forward"),
    ("bias of each layer", "position_bias_added_twice", "k_rounded_to_bfloat16"),
    (
        "bias of each layer",
        "bias_table_of_the_first_layer_in_the_second",
        "padding_ignored_towards_the_encoder",
    ),
    ("bias of each layer", "leaky_relu_in_place_of_relu", "relative_positions_negated"),
    ("grouped heads", "groups_of_k_exchanged", "gate_left_out"),
    ("grouped heads", "bias_of_a_far_bucket_changed", "silu_in_place_of_gelu"),
    ("shared kv", "shared_kv_reshaped_instead_of_transposed", "norm_scale_rounded_to_bfloat16"),
    ("shared kv", "config_gelu_in_the_encoder", "attended_rounded_to_bfloat16"),
    ("talking heads", "talking_logits_kernel_reshaped_instead_of_transposed", "gelu_exact_in_one_layer"),
    ("talking heads", "decoder_inputs_shifted_by_two", "label_smoothing_left_on"),
    ("learned positions", "positions_begin_at_one", "q_scaled_by_d_kv_to_minus_one_half"),
    ("learned positions", "decoder_positions_left_out", "residual_from_the_normed_x"),
    ("language model", "bias_table_is_zero", "z_loss_added_at_evaluation"),
    ("language model", "softmax_in_bfloat16", "decoder_final_norm_missing"),
    ("switch", "router_columns_reversed", "encoder_output_not_masked"),
    ("switch", "one_element_of_one_expert_changed", "config_router_aux_loss_1e_3"),
    ("LongT5 tglobal", "side_bias_direction", "radius_one_too_small_in_one_layer"),
    ("LongT5 tglobal", "orphan_tokens_belong_to_none", "gelu_exact"),
    ("LongT5 tglobal, recorded", "summaries_not_normalised", "side_bias_sign"),
    ("LongT5 local", "local_bias_off_by_one", "blocks_of_keys_before_and_behind_exchanged"),
    ("LongT5 local, recorded", "queries_divided_by_sqrt_d_kv_in_the_encoder", "local_bias_direction"),
)

SMALL: frozenset[tuple[str, str]] = frozenset(
    (
        ("t5.1.1", "q_and_k_exchanged"),
        ("t5.1.1", "one_element_of_v_changed_by_1e_4"),
        ("t5.1.1", "bias_of_a_far_bucket_changed"),
        ("t5.1.1", "config_epsilon_1e_5"),
        ("t5.1.1", "gelu_exact_in_one_layer"),
        ("t5.1.1", "causal_mask_off_by_one"),
        ("t5.1.1", "softmax_sums_to_one_where_all_is_hidden"),
        ("t5.1.1", "norm_takes_off_the_mean"),
        ("t5.1.1", "residual_from_the_normed_x"),
        ("t5.1.1", "relative_positions_negated"),
        ("t5.1.1", "decoder_inputs_not_shifted"),
        ("t5.1.1", "encoder_output_not_masked"),
        ("t5.1.1", "loss_averaged_over_real_targets"),
        ("t5.1.1", "decoder_inputs_not_begun_anew_in_packed_examples"),
    )
)
SMALL_PAIRS: tuple[tuple[str, str, str], ...] = (
    ("t5.1.1", "gelu_exact", "encoder_output_not_masked"),
    ("t5.1.1", "one_head_of_v_rounded_to_bfloat16", "bias_of_a_far_bucket_changed"),
    ("t5.1.1", "relative_positions_negated", "untied_logits_scaled"),
)
