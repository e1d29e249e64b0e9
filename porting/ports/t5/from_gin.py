"""Architecture from Mesh's `operative_config.gin`: each stack, layer by layer, as Mesh would build it.

What the port cannot express is refused here by name, all of it at once, rather than built wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porting.errors import ConfigError, Problem
from porting.gin_file import GinFile, Reference, read_gin
from porting.mapping import Shape
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.layer_specs import (
    ACTIVATIONS,
    SPECS,
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    MixtureSpec,
    TalkingHeadsSpec,
    reads_memory,
)
from porting.ports.t5.rules import is_weight

# configurable, parameter, the value that the port computes with (also Mesh's default), and why no other.
_FIXED: tuple[tuple[str, str, Any, str], ...] = (
    (
        "Unitransformer",
        "ensemble",
        None,
        "an ensemble is several models in one checkpoint, each with its own answer",
    ),
    ("Unitransformer", "loss_fn", None, ""),
    ("make_layer_stack", "layer_stack_cls", "LayerStack", ""),
    ("get_vocab_embedding_cls", "cls", "VocabEmbedding", ""),
    ("unit_scaling_convention", "value", False, ""),
    ("make_bitransformer", "bitransformer_cls", "Bitransformer", ""),
    ("enc_dec_attention_bias", "relative_position_fn", "relative_position_spans", ""),
    ("enc_dec_attention", "attention_fn", "attention", ""),
)
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
_DROPOUT = "sublayer_dropout"  # changes nothing outside training
_SUBLAYERS = {
    "sublayers_initial": (_DROPOUT,),
    "sublayers_per_layer": ("sublayer_rms_norm", "sublayer_call_layer", _DROPOUT, "sublayer_residual"),
    "sublayers_final": ("sublayer_rms_norm", _DROPOUT),
}
_USUAL_LAYERS = {
    "encoder": ("SelfAttention", "DenseReluDense"),
    "decoder": ("SelfAttention", "EncDecAttention", "DenseReluDense"),
    "": ("SelfAttention", "DenseReluDense"),
}
_MODEL_TYPES = {"bitransformer": True, "lm": False, "delimited_lm": False, "aligned": False}


@dataclass
class _Reader:
    """Asks a gin file, and collects what the port cannot express and what had to be assumed."""

    gin: GinFile
    shapes: Mapping[str, Shape]
    stacks: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def get(self, stack: str, configurable: str, parameter: str, default: Any = None) -> Any:
        return self.gin.get(stack, configurable, parameter, default)

    def same(self, configurable: str, parameter: str, default: Any) -> Any:
        """A value that all stacks must share."""
        values = {stack: self.get(stack, configurable, parameter, default) for stack in self.stacks}
        last = list(values.values())[-1]
        if any(value != last for value in values.values()):
            self.refuse(f"{configurable}.{parameter}", "one value for encoder and decoder", f"{values}")
        return last

    def refuse(self, key: str, expected: str, found: str, why: str = "") -> None:
        problem = Problem(key, expected, found, why)
        if problem not in self.problems:
            self.problems.append(problem)

    def fixed(self, key: str, wanted: Any, value: Any, why: str = "") -> None:
        """Refuse a value other than the one that the port computes with."""
        if isinstance(value, Reference):
            value = value.name
        if value != wanted:
            self.refuse(key, repr(wanted), repr(value), why)


def config_from_gin(path: Path, shapes: Mapping[str, Shape]) -> tuple[Architecture, tuple[str, ...]]:
    """Read a Mesh Transformer's configuration. Nothing that the file imports is imported.

    Args:
        path: an `operative_config.gin`.
        shapes: the checkpoint's variables: Mesh takes vocabularies from the tokenizer, and the kind of
            model from the training script, not from gin.

    Returns:
        The architecture, and what had to be assumed, in words.

    Raises:
        ConfigError: the file cannot be read, or describes something that the port does not have.
    """
    gin = read_gin(path)
    if not any(gin.binds(name) for name in ("make_layer_stack", *SPECS)):
        raise ConfigError(
            f"{path} says nothing of a Transformer's layers.",
            remedy="Give the operative_config.gin that Mesh TensorFlow wrote beside the checkpoint.",
        )
    reader = _Reader(gin, {name: shape for name, shape in shapes.items() if is_weight(name)})
    reader.stacks = ("encoder", "decoder") if _has_two_stacks(reader) else ("",)
    for stack in reader.stacks:
        for configurable, parameter, wanted, why in _FIXED:
            key = f"{stack}/{configurable}.{parameter}".lstrip("/")
            reader.fixed(key, wanted, reader.get(stack, configurable, parameter, wanted), why)
        _check_sublayers(reader, stack)
    stacks = {stack: _read_stack(reader, stack) for stack in reader.stacks}
    values = _read_model(reader, stacks)
    if not reader.problems:
        try:
            return Architecture(**values), tuple(reader.assumed)
        except ConfigError as error:
            reader.problems += error.problems
    raise ConfigError(
        f"{path} describes a model that this port cannot express; nothing was converted.",
        problems=reader.problems,
    )


def _has_two_stacks(reader: _Reader) -> bool:
    model_type = reader.get("", "run", "model_type")
    if model_type is None:
        return any(name.startswith("encoder/") or "EncDecAttention/" in name for name in reader.shapes)
    if model_type not in _MODEL_TYPES:
        reader.refuse("run.model_type", f"one of {', '.join(_MODEL_TYPES)}", repr(model_type))
    return _MODEL_TYPES.get(model_type, True)


def _read_model(reader: _Reader, stacks: Mapping[str, StackSpec | None]) -> dict[str, Any]:
    output = reader.stacks[-1]
    values: dict[str, Any] = {
        "d_model": reader.same("Unitransformer", "d_model", 1024),
        "layer_norm_epsilon": _norm_epsilon(reader),
        "dropout_rate": _dropout_rate(reader),
        "tie_word_embeddings": reader.get(
            output, "Unitransformer", "shared_embedding_and_softmax_weights", False
        ),
        "scale_embedding": reader.same("VocabEmbedding", "scale_variable_like_classifier_weights", False),
        "label_smoothing": reader.get(output, "Unitransformer", "label_smoothing", 0.0),
        "loss_denominator": reader.get(output, "Unitransformer", "loss_denominator", None),
        "loss_on_targets_only": reader.get(output, "Unitransformer", "loss_on_targets_only", False),
    }
    if len(stacks) == 2:
        values |= {name: stack for name, stack in stacks.items() if stack is not None}
        values["shared_embedding"] = reader.get("", "Bitransformer", "shared_embedding", True)
        scope = reader.get("", "make_bitransformer", "decoder_name", "decoder")
    else:
        stack = stacks[""]
        name = "encoder" if stack is not None and not stack.autoregressive else "decoder"
        values |= {name: stack} if stack is not None else {}
        scope = _single_scope(reader)
    values |= _vocabularies(reader, values, scope)
    _read_sentinels(reader, values, [stack for stack in stacks.values() if stack is not None])
    return values


def _vocabularies(reader: _Reader, values: Mapping[str, Any], scope: str) -> dict[str, Any]:
    """Sizes of the vocabularies, from the checkpoint's embeddings and output."""
    names = {"vocab_size": f"{scope}/embedding"}
    if len(reader.stacks) == 2 and values["shared_embedding"]:
        names = {"vocab_size": "shared/embedding"}
    elif len(reader.stacks) == 2:
        encoder = reader.get("", "make_bitransformer", "encoder_name", "encoder")
        names["source_vocab_size"] = f"{encoder}/embedding"
    elif not values["tie_word_embeddings"]:
        names = {"source_vocab_size": f"{scope}/embedding", "vocab_size": f"{scope}/logits/kernel"}
    sizes = {}
    for size, name in names.items():
        shape = reader.shapes.get(name, ())
        if len(shape) == 2:
            sizes[size] = shape[1 if name.endswith("/kernel") else 0]
        else:
            found = f"shape {shape}" if name in reader.shapes else "no such variable"
            reader.refuse(name, "a matrix, to read the vocabulary's size off", found)
    return sizes


def _read_sentinels(reader: _Reader, values: dict[str, Any], stacks: Sequence[StackSpec]) -> None:
    """Where the ids begin that mark spans, for relative positions between decoder and encoder."""
    specs = [spec for stack in stacks for spec in stack.layers if reads_memory(spec)]
    if not any(getattr(spec, "relative_attention_type", None) for spec in specs):
        return
    number = reader.get("decoder", "relative_position_spans", "num_sentinels")
    if type(number) is not int:
        reader.refuse("relative_position_spans.num_sentinels", "a number of ids", repr(number))
        return
    vocab_size = values.get("vocab_size", 0)
    values["first_sentinel_id"] = vocab_size - number
    reader.assumed.append(
        f"the vocabulary is not padded: the {number} sentinels that relative positions between decoder and"
        f" encoder are counted from begin at id {vocab_size - number}; override with --config FILE.json that"
        ' holds {"first_sentinel_id": 32000}, say, and the rest'
    )


def _single_scope(reader: _Reader) -> str:
    """Scope of the only stack: as gin names it, else as the variables do."""
    embeddings = [name.removesuffix("/embedding") for name in reader.shapes if name.endswith("/embedding")]
    found = embeddings[0] if len(embeddings) == 1 else "transformer"
    return str(reader.get("", "Unitransformer", "name", found))


def _read_stack(reader: _Reader, stack: str) -> StackSpec | None:
    layers = reader.get(stack, "make_layer_stack", "layers")
    if layers is None:  # a file that was written by hand, for defaults.gin to complete
        layers = [Reference(name) for name in _USUAL_LAYERS[stack]]
    parsed = [_read_layer(reader, stack, layer) for layer in _as_list(layers)]
    autoregressive = stack == "decoder" or (not stack and _is_autoregressive(reader))
    positions = None
    if reader.get(stack, "Unitransformer", "sinusoid_positional_embedding", False):
        positions = "sinusoid"
    elif reader.get(stack, "Unitransformer", "positional_embedding", True):
        positions = "learned"
    if any(spec is None for _, spec in parsed):
        return None
    names = tuple(name for name, _ in parsed)
    return StackSpec(
        layers=tuple(spec for _, spec in parsed if spec is not None),
        num_blocks=reader.get(stack, "make_layer_stack", "num_layers", 6),
        autoregressive=autoregressive,
        input_full_attention=reader.get(stack, "Unitransformer", "input_full_attention", False),
        positions=positions,
        max_length=reader.get(stack, "Unitransformer", "max_length", 512) if positions else 512,
        scope=reader.get("", "make_bitransformer", f"{stack}_name", stack)
        if stack
        else _single_scope(reader),
        layer_names=names if any(names) else (),
        block_scope=reader.get(stack, "make_layer_stack", "block_scope", True),
    )


def _is_autoregressive(reader: _Reader) -> bool:
    """Whether the only stack is a language model; Mesh's training script says so, not always the gin file."""
    model_type = reader.get("", "run", "model_type")
    if model_type is not None:
        return bool(model_type != "aligned")
    given = reader.get("", "Unitransformer", "autoregressive")
    if given is not None:
        return bool(given)
    if not reader.get("", "Unitransformer", "input_full_attention", False):
        reader.assumed.append(
            "the model is a language model, each position seeing those before it (the gin file does not say):"
            " for one that sees all of them, add the line: run.model_type = 'aligned'"
        )
    return True


def _read_layer(reader: _Reader, stack: str, layer: Any) -> tuple[str, LayerSpec | None]:
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

    reader: _Reader
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
    given = set(layer.get("attention_kwargs", None) or {}) - {"dropout_broadcast_dims"}
    if given:
        layer.reader.refuse(layer.key("attention_kwargs"), "nothing", ", ".join(sorted(given)))
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
        dynamic_projections=tuple(layer.get("dynamic_projections", None) or ()),
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
    per_token = {"top_n": ("top_n_num_experts_per_token", 3), "ntlb": ("ntlb_top_k", 4)}.get(gating)
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
    names = ["linear" if name is None else name for name in _as_list(value)]
    if not names or any(name not in ACTIVATIONS for name in names):
        layer.reader.refuse(layer.key("activation"), f"of {', '.join(ACTIVATIONS)}", repr(value))
        return ("relu",)
    return tuple(names)


def _check_sublayers(reader: _Reader, stack: str) -> None:
    if reader.get(stack, "LayerStack", "norm_epsilon") is not None:
        return  # legacy mode: Mesh ignores the lists of sublayers
    for parameter, wanted in _SUBLAYERS.items():
        found = reader.get(stack, "LayerStack", parameter)
        if found is None:
            continue
        names = [part.name if isinstance(part, Reference) else repr(part) for part in _as_list(found)]
        if [name for name in names if name != _DROPOUT] != [name for name in wanted if name != _DROPOUT]:
            reader.refuse(f"{stack}/LayerStack.{parameter}".lstrip("/"), " ".join(wanted), " ".join(names))


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _norm_epsilon(reader: _Reader) -> Any:
    legacy = reader.same("LayerStack", "norm_epsilon", None)
    if (legacy is None) != (reader.same("LayerStack", "dropout_rate", None) is None):
        reader.refuse("LayerStack", "dropout_rate and norm_epsilon both set, or neither", "one of them")
    # What LayerStack.norm_epsilon says is not used: sublayer_legacy_rms_norm does not pass it on.
    return reader.same("sublayer_rms_norm", "epsilon", 1e-6)


def _dropout_rate(reader: _Reader) -> Any:
    legacy = reader.same("LayerStack", "dropout_rate", None)
    return legacy if legacy is not None else reader.same("sublayer_dropout", "dropout_rate", 0.0)
