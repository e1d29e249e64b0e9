"""Architecture from Mesh's `operative_config.gin`: each stack, layer by layer, as Mesh would build it.

What the port cannot express is refused here by name, all of it at once, rather than built wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from porting.errors import ConfigError
from porting.gin_file import Reference, read_gin
from porting.mapping import Shape
from porting.ports.t5.architecture import UNPADDED_VOCABULARIES, Architecture, StackSpec
from porting.ports.t5.gin_layers import GinReader, as_list, read_layer
from porting.ports.t5.layer_specs import SPECS
from porting.ports.t5.rules import is_weight
from porting.ports.t5.spec_problems import MAX_LAYERS

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
# Mesh builds its stacks inside gin's scopes, and calls these later, outside of them. So it does with norms,
# embeddings and the positions of spans, which are asked for without a scope below.
_CALLED_WITHOUT_SCOPE = {
    "enc_dec_attention",
    "enc_dec_attention_bias",
    "get_vocab_embedding_cls",
    "unit_scaling_convention",
}
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
    reader = GinReader(gin, {name: shape for name, shape in shapes.items() if is_weight(name)})
    reader.stacks = ("encoder", "decoder") if _has_two_stacks(reader) else ("",)
    for stack in reader.stacks:
        for configurable, parameter, wanted, why in _FIXED:
            scope = "" if configurable in _CALLED_WITHOUT_SCOPE else stack
            key = f"{scope}/{configurable}.{parameter}".lstrip("/")
            reader.fixed(key, wanted, reader.get(scope, configurable, parameter, wanted), why)
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


def _has_two_stacks(reader: GinReader) -> bool:
    model_type = reader.get("", "run", "model_type")
    if model_type is None:
        return any(name.startswith("encoder/") or "EncDecAttention/" in name for name in reader.shapes)
    if str(model_type) not in _MODEL_TYPES:
        reader.refuse("run.model_type", f"one of {', '.join(_MODEL_TYPES)}", repr(model_type))
    return _MODEL_TYPES.get(str(model_type), True)


def _read_model(reader: GinReader, stacks: Mapping[str, StackSpec | None]) -> dict[str, Any]:
    output = reader.stacks[-1]
    values: dict[str, Any] = {
        "d_model": reader.same("Unitransformer", "d_model", 1024),
        "layer_norm_epsilon": _norm_epsilon(reader),
        "dropout_rate": _dropout_rate(reader),
        "tie_word_embeddings": reader.get(
            output, "Unitransformer", "shared_embedding_and_softmax_weights", False
        ),
        "scale_embedding": reader.get("", "VocabEmbedding", "scale_variable_like_classifier_weights", False),
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


def _vocabularies(reader: GinReader, values: Mapping[str, Any], scope: str) -> dict[str, Any]:
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


def _read_sentinels(reader: GinReader, values: dict[str, Any], stacks: Sequence[StackSpec]) -> None:
    """Where the ids begin that mark spans, for relative positions between decoder and encoder."""
    if not any(stack.needs_sentinels for stack in stacks):
        return
    number = reader.get("", "relative_position_spans", "num_sentinels")
    if type(number) is not int:
        reader.refuse("relative_position_spans.num_sentinels", "a number of ids", repr(number))
        return
    size = values.get("vocab_size", 0)
    unpadded = UNPADDED_VOCABULARIES.get(size, size)
    values["first_sentinel_id"] = unpadded - number
    reader.assumed.append(
        f"the vocabulary has {unpadded} ids before padding: the {number} sentinels that relative positions"
        f" between decoder and encoder are counted from begin at id {unpadded - number}; override with"
        ' --config FILE.json that holds {"first_sentinel_id": 32000}, say, and the rest'
    )


def _single_scope(reader: GinReader) -> str:
    """Scope of the only stack: as gin names it, else as the variables do."""
    embeddings = [name.removesuffix("/embedding") for name in reader.shapes if name.endswith("/embedding")]
    found = embeddings[0] if len(embeddings) == 1 else "transformer"
    return str(reader.get("", "Unitransformer", "name", found))


def _read_stack(reader: GinReader, stack: str) -> StackSpec | None:
    layers = reader.get(stack, "make_layer_stack", "layers")
    if layers is None:  # a file that was written by hand, for defaults.gin to complete
        layers = [Reference(name) for name in _USUAL_LAYERS[stack]]
    listed = as_list(layers)
    if len(listed) > MAX_LAYERS:
        reader.refuse(
            f"{stack}/make_layer_stack.layers".lstrip("/"), f"at most {MAX_LAYERS}", f"{len(listed)}"
        )
        return None
    parsed = [read_layer(reader, stack, layer) for layer in listed]
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


def _is_autoregressive(reader: GinReader) -> bool:
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


def _check_sublayers(reader: GinReader, stack: str) -> None:
    if reader.get(stack, "LayerStack", "norm_epsilon") is not None:
        return  # legacy mode: Mesh ignores the lists of sublayers
    for parameter, wanted in _SUBLAYERS.items():
        found = reader.get(stack, "LayerStack", parameter)
        if found is None:
            continue
        names = [part.name if isinstance(part, Reference) else repr(part) for part in as_list(found)]
        if [name for name in names if name != _DROPOUT] != [name for name in wanted if name != _DROPOUT]:
            reader.refuse(f"{stack}/LayerStack.{parameter}".lstrip("/"), " ".join(wanted), " ".join(names))


def _norm_epsilon(reader: GinReader) -> Any:
    legacy = reader.same("LayerStack", "norm_epsilon", None)
    if (legacy is None) != (reader.same("LayerStack", "dropout_rate", None) is None):
        reader.refuse("LayerStack", "dropout_rate and norm_epsilon both set, or neither", "one of them")
    # What LayerStack.norm_epsilon says is not used: sublayer_legacy_rms_norm does not pass it on.
    return reader.get("", "sublayer_rms_norm", "epsilon", 1e-6)


def _dropout_rate(reader: GinReader) -> Any:
    legacy = reader.same("LayerStack", "dropout_rate", None)
    return legacy if legacy is not None else reader.get("", "sublayer_dropout", "dropout_rate", 0.0)
