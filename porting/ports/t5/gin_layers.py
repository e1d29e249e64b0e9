"""Single layers from Mesh's gin config: each with its own settings, its class's, and what that inherits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from porting.errors import Problem
from porting.gin_file import GinFile, Reference
from porting.mapping import Shape
from porting.ports.t5.attention_specs import AttentionSpec, TalkingHeadsSpec
from porting.ports.t5.layer_specs import ACTIVATIONS, SPECS, FeedForwardSpec, LayerSpec, MixtureSpec

_FIXED_IN_ATTENTION: tuple[tuple[str, Any], ...] = (
    ("attention_func", None),
    ("keep_query_heads_dims", False),
    ("use_hyperprompt", False),
    ("hyperprompt_length_encoder", None),
    ("hyperprompt_length_decoder", None),
)
_FIXED_IN_MIXTURES: tuple[tuple[str, Any], ...] = (("use_experts_attention", False), ("output_dim", None))
_AT_RANDOM = "it is drawn at random at evaluation too, so that no two runs of the original agree"
_NOT_PORTED = {
    "LocalSelfAttention": "it does not run in Mesh TensorFlow 0.1.21: its attention call lacks the context",
    "MoE2D": "experts of experts, which no published T5 has",
}
_NOT_PORTED_OTHERWISE = "not one of the layers that this port has"


@dataclass
class GinReader:
    """Asks a gin file, and collects what the port cannot express and what had to be assumed."""

    gin: GinFile
    shapes: Mapping[str, Shape]
    stacks: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def get(self, scope: str, configurable: str, parameter: str, default: Any = None) -> Any:
        """The value that holds in a scope, a stack's or "" for none, or the default."""
        return self.gin.get(scope, configurable, parameter, default)

    def same(self, configurable: str, parameter: str, default: Any) -> Any:
        """A value that all stacks must share."""
        values = {stack: self.get(stack, configurable, parameter, default) for stack in self.stacks}
        last = list(values.values())[-1]
        if any(value != last for value in values.values()):
            self.refuse(f"{configurable}.{parameter}", "one value for encoder and decoder", f"{values}")
        return last

    def refuse(self, key: str, expected: str, found: str, why: str = "") -> None:
        """Note what the port cannot express, once."""
        problem = Problem(key, expected, found, why)
        if problem not in self.problems:
            self.problems.append(problem)

    def fixed(self, key: str, wanted: Any, value: Any, why: str = "") -> None:
        """Refuse a value other than the one that the port computes with."""
        if isinstance(value, Reference):
            value = value.name
        if value != wanted:
            self.refuse(key, repr(wanted), repr(value), why)


def read_layer(reader: GinReader, stack: str, layer: Any) -> tuple[str, LayerSpec | None]:
    """(the name it was given or "", what it is); None where the port has no such layer."""
    name, settings, kind = "", {}, None
    for part in layer if isinstance(layer, list | tuple) else [layer]:
        if isinstance(part, str):
            name = part
        elif isinstance(part, dict):
            settings = part
        elif isinstance(part, Reference):
            kind = part
    key = f"{stack}/make_layer_stack.layers".lstrip("/")
    if kind is None or "/" in kind.selector:
        reader.refuse(key, "layers, without gin scopes of their own", f"{layer!r}")
        return name, None
    if kind.name not in SPECS:
        why = _NOT_PORTED.get(kind.name, _NOT_PORTED_OTHERWISE)
        reader.refuse(key, f"of {', '.join(SPECS)}", kind.name, why)
        return name, None
    read = {
        AttentionSpec: _read_attention,
        TalkingHeadsSpec: _read_talking_heads,
        FeedForwardSpec: _read_feed_forward,
        MixtureSpec: _read_mixture,
    }[SPECS[kind.name]]
    return name, read(_LayerReader(reader, stack, kind.name, settings))


@dataclass
class _LayerReader:
    """Asks for the settings of one layer: its own, its class's, those of the class that it extends."""

    reader: GinReader
    stack: str
    kind: str
    settings: Mapping[str, Any]

    def get(self, parameter: str, default: Any, *, inherited: bool = True) -> Any:
        """As the layer's constructor would get it. `inherited`: from the self-attention it extends too."""
        if parameter in self.settings:
            return self.settings[parameter]
        if inherited and self.kind.endswith("EncDecAttention"):
            base = self.kind.replace("EncDecAttention", "SelfAttention")
            default = self.reader.get(self.stack, base, parameter, default)
        return self.reader.get(self.stack, self.kind, parameter, default)

    def fixed(self, parameter: str, wanted: Any, why: str = "") -> None:
        """Refuse a value other than the one that the port computes with."""
        self.reader.fixed(self.key(parameter), wanted, self.get(parameter, wanted), why)

    def key(self, parameter: str) -> str:
        """The parameter as gin names it."""
        return f"{self.stack}/{self.kind}.{parameter}".lstrip("/")

    def relative(self) -> dict[str, Any]:
        """Settings of relative positions. Attention to the encoder does not inherit their type."""
        return {
            "relative_attention_type": self.get("relative_attention_type", None, inherited=False),
            "relative_attention_num_buckets": self.get("relative_attention_num_buckets", 32),
        }


def _read_attention(layer: _LayerReader) -> LayerSpec:
    for parameter, wanted in _FIXED_IN_ATTENTION:
        layer.fixed(parameter, wanted)
    given = layer.get("attention_kwargs", None) or {}
    if not isinstance(given, dict) or set(given) - {"dropout_broadcast_dims"}:
        layer.reader.refuse(layer.key("attention_kwargs"), "nothing", repr(given))
    return AttentionSpec(
        kind=layer.kind,
        num_heads=layer.get("num_heads", 8),
        d_kv=layer.get("key_value_size", 128),
        num_memory_heads=layer.get("num_memory_heads", 0),
        shared_kv=layer.get("shared_kv", False),
        fold_scaling_into_initializer=layer.get("fold_scaling_into_initializer", True),
        combine_dims=layer.get("combine_dims", True),
        **layer.relative(),
    )


def _read_talking_heads(layer: _LayerReader) -> LayerSpec:
    twelve = (("heads", 12),)

    def dims(parameter: str) -> Any:
        value = layer.get(parameter, twelve)
        try:
            return tuple((str(name), size) for name, size in value)
        except (TypeError, ValueError):
            layer.reader.refuse(layer.key(parameter), "(name, size) pairs", repr(value))
            return twelve

    return TalkingHeadsSpec(
        kind=layer.kind,
        key_heads=dims("key_heads_dims"),
        softmax_heads=dims("softmax_heads_dims"),
        value_heads=dims("value_heads_dims"),
        d_k=layer.get("key_size", 64),
        d_v=layer.get("value_size", 64),
        dynamic_projections=tuple(as_list(layer.get("dynamic_projections", None) or ())),
        **layer.relative(),
    )


def _read_feed_forward(layer: _LayerReader) -> LayerSpec:
    return FeedForwardSpec(
        d_ff=layer.get("hidden_size", 4096),
        activations=_activations(layer),
        use_bias=layer.get("use_bias", False),
    )


def _read_mixture(layer: _LayerReader) -> LayerSpec:
    for parameter, wanted in _FIXED_IN_MIXTURES:
        layer.fixed(parameter, wanted)
    gating = layer.get("moe_gating", "top_2")
    second_policy = "all"
    if gating in ("top_2", "top_n"):
        second_policy = layer.get("second_policy_eval", "random")
        if second_policy == "random":
            layer.reader.refuse(
                layer.key("second_policy_eval"), "all, none or threshold", "random", _AT_RANDOM
            )
            second_policy = "all"
    if gating != "expert_selection" and layer.get("switch_policy_eval", "input_jitter") == "sample":
        layer.reader.refuse(
            layer.key("switch_policy_eval"), "argmax, input_jitter or input_dropout", "sample", _AT_RANDOM
        )
    if gating == "top_n":
        layer.fixed("use_second_place_loss", False)
    per_token = {"top_n": ("top_n_num_experts_per_token", 3), "ntlb": ("ntlb_top_k", 4)}.get(str(gating))
    return MixtureSpec(
        num_experts=layer.get("num_experts", 16),
        d_ff=layer.get("hidden_size", 4096),
        activations=_activations(layer),
        gating=gating,
        group_size=layer.get("group_size", 1024),
        capacity_factor=layer.get("capacity_factor_eval", 2.0),
        min_expert_capacity=layer.get("min_expert_capacity", 4),
        loss_coef=layer.get("loss_coef", 1e-2),
        second_policy=second_policy,
        second_threshold=layer.get("second_threshold_eval", 0.2),
        use_second_place_loss=layer.get("use_second_place_loss", False),
        experts_per_token=layer.get(*per_token) if per_token else 0,
        word_embed_mode=layer.get("word_embed_mode", None),
    )


def _activations(layer: _LayerReader) -> tuple[str, ...]:
    """Names of the factors' activations; Mesh's None is "linear"."""
    value = layer.get("activation", "relu")
    names = ["linear" if name is None else name for name in as_list(value)]
    if not names or any(name not in ACTIVATIONS for name in names):
        layer.reader.refuse(layer.key("activation"), f"of {', '.join(ACTIVATIONS)}", repr(value))
        return ("relu",)
    return tuple(names)


def as_list(value: Any) -> list[Any]:
    """What Mesh takes alone or in a list."""
    return list(value) if isinstance(value, list | tuple) else [value]
