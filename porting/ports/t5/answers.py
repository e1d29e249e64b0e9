"""What a config file may answer where variables leave something open, each of its kind: used by infer.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from porting.errors import Problem
from porting.ports.t5.spec_problems import MAX_SIZE


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIZE


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_SIZE and math.isfinite(value)


def _is_name(value: Any) -> bool:
    return type(value) is str


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_name, value))


_SIZE = ("a positive integer", _is_size)
_COUNT = (f"a number from 0 to {MAX_SIZE}", lambda value: value == 0 or _is_size(value))
_NUMBER = ("a number", _is_number)
_FLAG = ("true or false", lambda value: type(value) is bool)
_NAME = ("a name", _is_name)
_NAMES = ("a list of names", _are_names)
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("num_heads", "d_kv", "max_length", "moe_group_size", "min_expert_capacity"), _SIZE),
    **dict.fromkeys(("relative_attention_max_distance", "experts_per_token"), _SIZE),
    "first_sentinel_id": _COUNT,
    **dict.fromkeys(("capacity_factor_eval", "router_aux_loss_coef", "second_threshold"), _NUMBER),
    **dict.fromkeys(("layer_norm_epsilon", "dropout_rate", "label_smoothing", "loss_denominator"), _NUMBER),
    **dict.fromkeys(("autoregressive", "input_full_attention", "fold_scaling_into_initializer"), _FLAG),
    **dict.fromkeys(("use_second_place_loss", "loss_on_targets_only", "scale_embedding"), _FLAG),
    **dict.fromkeys(("feed_forward_proj", "dense_act_fn", "positions"), _NAME),
    **dict.fromkeys(("second_policy", "word_embed_mode"), _NAME),
    "activations": ("a name or a list of names", lambda value: _is_name(value) or _are_names(value)),
    "dynamic_projections": _NAMES,
}


def answer_problems(answers: Mapping[str, Any]) -> Iterator[Problem]:
    """A problem for each answer that is not of its kind. Null is no answer; other names are passed over."""
    for name, (expected, fits) in _KINDS.items():
        value = answers.get(name)
        if value is not None and not fits(value):
            yield Problem(name, expected, repr(value))
