"""T5Config from Mesh's `operative_config.gin`, and back: the text from which Mesh builds the same model.

What T5 cannot express is refused here by name, all of it at once, rather than built wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from porting.errors import ConfigError, Problem
from porting.gin_file import GinFile, Reference, read_gin
from porting.ports.t5.config import FEED_FORWARD_ACTIVATIONS, T5Config
from porting.ports.t5.rules import BLOCK_LAYERS, is_weight, layer_scope

# Mesh's names of activations -> transformers'. Mesh's gelu is the tanh approximation.
ACTIVATIONS = {"relu": "relu", "gelu": "gelu_new", "swish": "silu"}
STACKS = ("encoder", "decoder")

# configurable, parameter, and the value that T5 computes with (also Mesh's default).
_FIXED: tuple[tuple[str, str, Any], ...] = (
    ("SelfAttention", "num_memory_heads", 0),
    ("SelfAttention", "shared_kv", False),
    ("SelfAttention", "combine_dims", True),
    ("SelfAttention", "fold_scaling_into_initializer", True),
    ("SelfAttention", "attention_func", None),
    ("SelfAttention", "keep_query_heads_dims", False),
    ("EncDecAttention", "relative_attention_type", None),
    ("DenseReluDense", "use_bias", False),
    ("Unitransformer", "ensemble", None),
    ("Unitransformer", "sinusoid_positional_embedding", False),
    ("Unitransformer", "input_full_attention", False),
    ("Unitransformer", "loss_on_targets_only", False),
    ("Unitransformer", "loss_fn", None),
    ("make_layer_stack", "block_scope", True),
    ("VocabEmbedding", "scale_variable_like_classifier_weights", False),
)
_FIXED_OUTSIDE_STACKS: tuple[tuple[str, str, Any], ...] = (
    ("Bitransformer", "shared_embedding", True),
    ("unit_scaling_convention", "value", False),
    ("make_bitransformer", "encoder_name", "encoder"),
    ("make_bitransformer", "decoder_name", "decoder"),
)
_UNBOUND = object()
_DROPOUT = "sublayer_dropout"  # changes nothing outside training
_SUBLAYERS = {
    "sublayers_initial": (_DROPOUT,),
    "sublayers_per_layer": ("sublayer_rms_norm", "sublayer_call_layer", _DROPOUT, "sublayer_residual"),
    "sublayers_final": ("sublayer_rms_norm", _DROPOUT),
}
# Mesh's own default is True, and no positional embedding is what makes it a T5.
_REQUIRED: tuple[tuple[str, str, Any], ...] = (
    ("Unitransformer", "positional_embedding", False),
    ("SelfAttention", "relative_attention_type", "bias_shared"),
)


@dataclass
class _Reader:
    """Asks the same of both stacks, and collects what T5 cannot express."""

    gin: GinFile
    problems: list[Problem] = field(default_factory=list)

    def same(self, configurable: str, parameter: str, default: Any) -> Any:
        """A value that encoder and decoder must share."""
        values = {stack: self.gin.get(stack, configurable, parameter, default) for stack in STACKS}
        if values["encoder"] != values["decoder"]:
            self.refuse(f"{configurable}.{parameter}", "one value for encoder and decoder", f"{values}")
        return values["decoder"]

    def refuse(self, key: str, expected: str, found: str) -> None:
        self.problems.append(Problem(key, expected, found))


def config_from_gin(path: Path, vocab_size: int) -> T5Config:
    """Read a Mesh T5's configuration. Nothing that the file imports is imported.

    Args:
        path: an `operative_config.gin`.
        vocab_size: rows of the checkpoint's embedding; Mesh takes it from the tokenizer, not from gin.

    Raises:
        ConfigError: the file cannot be read, or describes something that T5 is not.
    """
    gin = read_gin(path)
    reader = _Reader(gin)
    if not (gin.binds("SelfAttention") or gin.binds("make_layer_stack")):
        raise ConfigError(
            f"{path} says nothing of a Transformer's layers.",
            remedy="Give the operative_config.gin that Mesh TensorFlow wrote beside the checkpoint.",
        )
    for configurable, parameter, wanted in (*_FIXED, *_REQUIRED):
        default = True if parameter == "positional_embedding" else wanted
        default = None if parameter == "relative_attention_type" else default
        for stack in STACKS:
            value = gin.get(stack, configurable, parameter, default)
            if value != wanted:
                reader.refuse(f"{stack}/{configurable}.{parameter}", repr(wanted), repr(value))
    # Bound for EncDecAttention alone, a parameter of its base class holds for it alone.
    for parameter in (*(p for c, p, _ in _FIXED if c == "SelfAttention"), "num_heads", "key_value_size"):
        own = gin.get("decoder", "EncDecAttention", parameter, _UNBOUND)
        shared = gin.get("decoder", "SelfAttention", parameter, _UNBOUND)
        if own is not _UNBOUND and own != shared:
            reader.refuse(f"decoder/EncDecAttention.{parameter}", "as SelfAttention's", repr(own))
    for configurable, parameter, wanted in _FIXED_OUTSIDE_STACKS:
        value = gin.get("", configurable, parameter, wanted)
        if value != wanted:
            reader.refuse(f"{configurable}.{parameter}", repr(wanted), repr(value))
    for stack in STACKS:
        _check_layers(reader, stack)
    config = {
        "vocab_size": vocab_size,
        "d_model": reader.same("Unitransformer", "d_model", 1024),
        "d_kv": reader.same("SelfAttention", "key_value_size", 128),
        "d_ff": reader.same("DenseReluDense", "hidden_size", 4096),
        "num_layers": gin.get("encoder", "make_layer_stack", "num_layers", 6),
        "num_decoder_layers": gin.get("decoder", "make_layer_stack", "num_layers", 6),
        "num_heads": reader.same("SelfAttention", "num_heads", 8),
        "relative_attention_num_buckets": reader.same("SelfAttention", "relative_attention_num_buckets", 32),
        "layer_norm_epsilon": _norm_epsilon(reader),
        "dropout_rate": _dropout_rate(reader),
        "feed_forward_proj": _feed_forward(reader),
        "tie_word_embeddings": gin.get(
            "decoder", "Unitransformer", "shared_embedding_and_softmax_weights", False
        ),
        "label_smoothing": gin.get("decoder", "Unitransformer", "label_smoothing", 0.0),
        "loss_denominator": gin.get("decoder", "Unitransformer", "loss_denominator", None),
    }
    if reader.problems:
        raise ConfigError(
            f"{path} describes a model that this port cannot express; nothing was converted.",
            problems=reader.problems,
        )
    return T5Config(**config)


def _check_layers(reader: _Reader, stack: str) -> None:
    layers = reader.gin.get(stack, "make_layer_stack", "layers")
    if layers is None:  # a file that was written by hand, for defaults.gin to complete
        return
    kinds = []
    for layer in _as_list(layers):
        parts = layer if isinstance(layer, list | tuple) else [layer]
        kinds += [part.name for part in parts if isinstance(part, Reference)]
        overrides = [part for part in parts if isinstance(part, dict) and part]
        if overrides:
            reader.refuse(
                f"{stack}/make_layer_stack.layers", "no settings of single layers", f"{overrides[0]}"
            )
    if tuple(kinds) != BLOCK_LAYERS[stack]:
        reader.refuse(f"{stack}/make_layer_stack.layers", " ".join(BLOCK_LAYERS[stack]), " ".join(kinds))
    if reader.gin.get(stack, "LayerStack", "norm_epsilon") is not None:
        return  # legacy mode: Mesh ignores the lists of sublayers
    for parameter, wanted in _SUBLAYERS.items():
        found = reader.gin.get(stack, "LayerStack", parameter)
        if found is None:
            continue
        names = [part.name if isinstance(part, Reference) else repr(part) for part in _as_list(found)]
        if [name for name in names if name != _DROPOUT] != [name for name in wanted if name != _DROPOUT]:
            reader.refuse(f"{stack}/LayerStack.{parameter}", " ".join(wanted), " ".join(names))


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _norm_epsilon(reader: _Reader) -> Any:
    legacy = reader.same("LayerStack", "norm_epsilon", None)
    if (legacy is None) != (reader.same("LayerStack", "dropout_rate", None) is None):
        reader.refuse("LayerStack", "dropout_rate and norm_epsilon both set, or neither", "one of them")
    return legacy if legacy is not None else reader.same("sublayer_rms_norm", "epsilon", 1e-6)


def _dropout_rate(reader: _Reader) -> Any:
    legacy = reader.same("LayerStack", "dropout_rate", None)
    return legacy if legacy is not None else reader.same("sublayer_dropout", "dropout_rate", 0.0)


def _feed_forward(reader: _Reader) -> str:
    value = reader.same("DenseReluDense", "activation", "relu")
    names = [str(name) for name in _as_list(value)]
    gated = len(names) == 2 and names[1] == "linear"
    activation = ACTIVATIONS.get(names[0]) if names else None
    name = f"gated-{activation}" if gated else f"{activation}"
    name = {"gated-gelu_new": "gated-gelu"}.get(name, name)
    if len(names) > 2 or (len(names) == 2 and not gated) or name not in FEED_FORWARD_ACTIVATIONS:
        expected = f"one of {', '.join(ACTIVATIONS)}, alone or followed by 'linear'"
        reader.refuse("DenseReluDense.activation", expected, repr(value))
        return "relu"
    return name


def gin_from_config(config: T5Config, names: Sequence[str]) -> str:
    """A config from which Mesh builds this model, for a checkpoint that came without one.

    Args:
        config: the model.
        names: the checkpoint's variables, which tell whether norms are called `layer_norm` (old) or
            `rms_norm`, and how layers are called.
    """
    weights = [name for name in names if is_weight(name)]
    legacy = any(re.fullmatch(r"encoder/final_layer_norm/scale", name) for name in weights)
    activation = {v: k for k, v in ACTIVATIONS.items()}[config.activation]
    lines = [
        "Bitransformer.shared_embedding = True",
        f"Unitransformer.d_model = {config.d_model}",
        "Unitransformer.max_length = 512",
        "Unitransformer.positional_embedding = False",
        f"Unitransformer.shared_embedding_and_softmax_weights = {config.tie_word_embeddings}",
        f"decoder/Unitransformer.label_smoothing = {config.label_smoothing}",
        f"decoder/Unitransformer.loss_denominator = {config.loss_denominator}",
        f"DenseReluDense.hidden_size = {config.d_ff}",
        f"DenseReluDense.activation = {[activation, 'linear'] if config.is_gated else activation!r}",
        "DenseReluDense.use_bias = False",
        f"DenseReluDense.dropout_rate = {config.dropout_rate}",
        f"SelfAttention.num_heads = {config.num_heads}",
        f"SelfAttention.key_value_size = {config.d_kv}",
        f"SelfAttention.dropout_rate = {config.dropout_rate}",
        "SelfAttention.relative_attention_type = 'bias_shared'",
        f"SelfAttention.relative_attention_num_buckets = {config.relative_attention_num_buckets}",
        "EncDecAttention.relative_attention_type = None",
    ]
    if legacy:
        lines += [
            f"LayerStack.dropout_rate = {config.dropout_rate}",
            f"LayerStack.norm_epsilon = {config.layer_norm_epsilon}",
        ]
    else:
        lines += [
            "LayerStack.dropout_rate = None",
            "LayerStack.norm_epsilon = None",
            "LayerStack.sublayers_initial = [@transformer.sublayer_dropout]",
            "LayerStack.sublayers_per_layer = [@transformer.sublayer_rms_norm, "
            "@transformer.sublayer_call_layer, @transformer.sublayer_dropout, "
            "@transformer.sublayer_residual]",
            "LayerStack.sublayers_final = [@transformer.sublayer_rms_norm, @transformer.sublayer_dropout]",
            f"sublayer_rms_norm.epsilon = {config.layer_norm_epsilon}",
            f"sublayer_dropout.dropout_rate = {config.dropout_rate}",
        ]
    for stack, blocks in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        layers = ", ".join(
            f"({layer_scope(stack, i, kind, weights)!r}, @transformer_layers.{kind})"
            for i, kind in enumerate(BLOCK_LAYERS[stack])
        )
        lines += [
            f"{stack}/make_layer_stack.num_layers = {blocks}",
            f"{stack}/make_layer_stack.layers = [{layers}]",
        ]
    return "\n".join(lines) + "\n"
