"""A T5 from the gin that T5X writes beside its checkpoints (`config.gin`), held against the variables.

Two families of files say what a T5 is: those for T5X's own networks (`network.T5Config`), and those for
flaxformer, with which the public T5, mT5, ByT5 and LongT5 were trained (`dense_attention.
MultiHeadDotProductAttention`, `dense.MlpBlock`...). What the variables show is held against what the file
says; what they do not show (activations, dropout, the largest distance) is taken from it.

Sources: T5X's t5x/examples/{t5,scalable_t5}/**/*.gin, flaxformer/t5x/configs/{t5,longt5}/**/*.gin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from porting.config_file import read_config_text
from porting.errors import ConfigError, Problem
from porting.gin_file import Binding, GinFile, Macro, Reference, read_gin
from porting.mapping import Shape
from porting.port import ResolvedConfig
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.layer_specs import ACTIVATIONS
from porting.ports.t5.t5x.infer import infer_config
from porting.ports.t5.t5x.long_t5 import FULL
from porting.ports.t5.t5x.sizes import feed_forwards, sizes_seen

# What a file leaves open: `%gin.REQUIRED`, or a macro of a file that is not there.
_OPEN = object()
# Flax's name of an activation -> Mesh's, where they differ. Flax's gelu is the tanh approximation, too.
_FLAX = {"silu": "swish"}
_ATTENTION = "MultiHeadDotProductAttention"
# Defaults of T5X's own networks, for what a complete file does not bind.
_DEFAULTS: dict[tuple[str, str], Any] = {
    ("T5Config", "emb_dim"): 512,
    ("T5Config", "num_heads"): 8,
    ("T5Config", "num_encoder_layers"): 6,
    ("T5Config", "num_decoder_layers"): 6,
    ("T5Config", "head_dim"): 64,
    ("T5Config", "mlp_dim"): 2048,
    ("T5Config", "mlp_activations"): ("relu",),
    ("T5Config", "dropout_rate"): 0.1,
    ("T5Config", "logits_via_embedding"): False,
}
_USUAL = {"layer_norm_epsilon": 1e-6, "relative_attention_max_distance": 128, "dropout_rate": 0.1}
# flaxformer's attention of LongT5's encoder -> `encoder_attention_type`, as transformers calls it.
_LONG = {"EncoderLocalSelfAttention": "local", "EtcTransientGlobalSelfAttention": "transient-global"}
_SIZES = {
    "vocab_size": (("T5Config", "vocab_size"), ("Embed", "num_embeddings")),
    "d_model": (("T5Config", "emb_dim"), ("Embed", "features")),
    "num_layers": (
        ("T5Config", "num_encoder_layers"),
        ("Encoder", "num_layers"),
        ("LongEncoder", "num_layers"),
    ),
    "num_decoder_layers": (("T5Config", "num_decoder_layers"), ("Decoder", "num_layers")),
    "num_heads": (("T5Config", "num_heads"), (_ATTENTION, "num_heads")),
    "d_kv": (("T5Config", "head_dim"), (_ATTENTION, "head_dim")),
    "d_ff": (("T5Config", "mlp_dim"), ("MlpBlock", "intermediate_dim")),
    "tie_word_embeddings": (("T5Config", "logits_via_embedding"),),
    "scan_layers": (("T5Config", "scan_layers"), ("EncoderDecoder", "scan_layers")),
    "relative_attention_num_buckets": (
        ("RelativePositionBiases", "num_buckets"),
        ("RelativePositionBiasesGeneral", "num_buckets"),
    ),
}
# What the port computes with, and T5X too unless a file says otherwise.
_FIXED: tuple[tuple[str, str, Any], ...] = (
    ("T5Config", "param_scan_axis", 1),
    ("MlpBlock", "use_bias", False),
    (_ATTENTION, "use_bias", False),
    (_ATTENTION, "rescale_logits", False),
    *((kind, "rescale_logits", False) for kind in _LONG),
    *((kind, "use_extra_logit", False) for kind in (_ATTENTION, *_LONG)),
    *((kind, "use_rotary_embedding", False) for kind in (_ATTENTION, *_LONG)),
    *((kind, "causal", False) for kind in _LONG),
    ("T5LayerNorm", "center_scale_at_zero", False),
    ("Encoder", "position_embedder_factory", None),
    ("LongEncoder", "position_embedder_factory", None),
    ("Decoder", "position_embedder_factory", None),
    ("EncoderLayer", "parallel", False),
    ("DecoderLayer", "parallel", False),
)


@dataclass
class _Reader:
    """A gin file, asked for values that it may leave open.

    Attributes:
        complete: every file that it includes was there, so that what is not bound is as T5X has it by
            default.
    """

    gin: GinFile
    complete: bool
    problems: list[Problem] = field(default_factory=list)

    def get(self, configurable: str, parameter: str) -> Any:
        """What is bound, else T5X's default; None where there is none, or it is left open."""
        has_defaults = self.complete and self.gin.binds(configurable)
        usual = _DEFAULTS.get((configurable, parameter)) if has_defaults else None
        value = self.gin.get("", configurable, parameter, usual)
        return None if value is _OPEN else value

    def first(self, *where: tuple[str, str]) -> tuple[str, Any]:
        """The first of several that is bound, and its key; "" and None where none is."""
        for configurable, parameter in where:
            value = self.get(configurable, parameter)
            if value is not None:
                return f"{configurable}.{parameter}", value
        return "", None


def config_from_gin(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """Read T5X's configuration of a T5. Nothing that the file imports is imported.

    Args:
        path: a `config.gin`. What it includes may be missing: variables tell most of it, and what they do not
            tell is assumed and said.
        shapes: the checkpoint's variables.

    Raises:
        ConfigError: the file cannot be read, says nothing of a T5, describes another model than the variables
            show, or one that the port does not have; lists it all.
    """
    missing: list[str] = []
    gin = read_gin(path, missing)
    reader = _Reader(gin, complete=not missing)
    if not any(reader.gin.binds(name) for name in ("T5Config", _ATTENTION, "MlpBlock")):
        raise ConfigError(
            f"{path} says nothing of a T5's layers.",
            remedy="Give the config.gin that T5X wrote beside the checkpoint, or a config.json, or move this"
            " file away: the configuration is then inferred from the variables.",
        )
    _leave_open(gin)
    answers = _answers(reader)
    for configurable, parameter, wanted in _FIXED:
        found = reader.get(configurable, parameter)
        if found not in (None, wanted):
            key = f"{configurable}.{parameter}"
            reader.problems.append(Problem(key, f"{wanted}, which this port computes with", f"{found!r}"))
    if reader.problems:
        raise ConfigError(
            f"{path} describes a model that this port cannot express; nothing was converted.",
            problems=reader.problems,
        )
    resolved = infer_config(shapes, answers)
    architecture: Architecture = resolved.config.architecture
    problems = list(_contradictions(reader, architecture, shapes))
    if problems:
        raise ConfigError(
            f"{path} is not of this checkpoint: the variables show another model; nothing was converted.",
            problems=problems,
            remedy="Give the config that belongs to it, or none, to have it inferred from the variables.",
        )
    said = [f"{path} includes {name}, which is not there: what it says was not read" for name in missing]
    assumed = (*resolved.assumed, *said)
    return replace(
        resolved, origin=str(path), inferred=(), assumed=assumed, original_text=read_config_text(path)
    )


def _leave_open(gin: GinFile) -> None:
    """Give each macro that has no value, and `%gin.REQUIRED`, one that says so."""
    bound = {binding.selector for binding in gin.bindings if not binding.parameter}
    used = {name for binding in gin.bindings for name in _macros(binding.value)}
    gin.bindings[:0] = [Binding("", name, "", _OPEN) for name in sorted(used - bound)]


def _macros(value: Any) -> Iterator[str]:
    """Names of the macros in a value."""
    left, seen = [value], 0
    while left and seen < 100_000:
        value, seen = left.pop(), seen + 1
        if isinstance(value, Macro):
            yield value.name
        elif isinstance(value, list | tuple):
            left.extend(value)
        elif isinstance(value, dict):
            left.extend([*value, *value.values()])


def _answers(reader: _Reader) -> dict[str, Any]:
    """What no variable shows, as infer.py asks for it."""
    answers: dict[str, Any] = _encoder_attention(reader)
    key, activations = reader.first(("T5Config", "mlp_activations"), ("MlpBlock", "activations"))
    if activations is not None:
        answers["activations"] = _activations(reader, key, activations)
    _, answers["dropout_rate"] = reader.first(
        ("T5Config", "dropout_rate"), (_ATTENTION, "dropout_rate"), ("MlpBlock", "intermediate_dropout_rate")
    )
    answers["layer_norm_epsilon"] = reader.get("T5LayerNorm", "epsilon")
    tables = ("RelativePositionBiases", "RelativePositionBiasesGeneral")
    distances = {name: reader.get(name, "max_distance") for name in tables}
    found = [distance for distance in distances.values() if distance is not None]
    if len(set(map(repr, found))) > 1:
        expected = f"{found[0]}, as of {tables[0]}: there is one for both stacks"
        reader.problems.append(Problem(f"{tables[1]}.max_distance", expected, _shown(found[1])))
    answers["relative_attention_max_distance"] = found[0] if found else None
    answers["label_smoothing"] = reader.get("EncoderDecoderModel", "label_smoothing")
    said = {name: value for name, value in answers.items() if value is not None}
    # What the networks themselves fix is no assumption where the file says which network it is.
    return {**_USUAL, **said} if reader.complete else said


def _encoder_attention(reader: _Reader) -> dict[str, Any]:
    """What an encoder's position sees: all, or what LongT5's does. Empty where the file does not say it."""
    if not reader.gin.binds("LongEncoderLayer"):
        said = reader.gin.binds("T5Config") or reader.gin.binds("EncoderLayer")
        return {"encoder_attention_type": FULL} if said else {}
    layer = reader.get("LongEncoderLayer", "attention_factory")
    kind = layer.name if isinstance(layer, Reference) else ""
    if kind not in _LONG:
        expected = " or ".join(f"@long_attention.{name}" for name in _LONG)
        reader.problems.append(Problem("LongEncoderLayer.attention_factory", expected, _shown(layer)))
        return {}
    return {
        "encoder_attention_type": _LONG[kind],
        "local_radius": reader.get(kind, "local_radius"),
        "global_block_size": reader.get(kind, "tokens_per_block"),
    }


def _activations(reader: _Reader, key: str, found: Any) -> list[str]:
    listed = list(found) if isinstance(found, list | tuple) else [found]
    names = [_FLAX.get(name, name) if isinstance(name, str) else name for name in listed]
    if not names or any(name not in ACTIVATIONS for name in names):
        known = ", ".join(ACTIVATIONS)
        reader.problems.append(Problem(key, f"names of {known}", f"{_shown(found)}"))
        return ["relu"]
    return names


def _contradictions(
    reader: _Reader, architecture: Architecture, shapes: Mapping[str, Shape]
) -> Iterator[Problem]:
    """A problem for each thing that the file says and the variables show otherwise."""
    seen = sizes_seen(architecture, shapes)
    for what, where in _SIZES.items():
        key, said = reader.first(*where)
        if said is not None and said not in seen[what]:
            shown = " and ".join(str(value) for value in dict.fromkeys(seen[what]))
            yield Problem(key, f"{shown}, as the variables show", _shown(said))
    wide = {len(s.activations) for stack in architecture.stacks.values() for s in feed_forwards(stack.layers)}
    inner = {name.rsplit("/", 2)[-2] for name in shapes if "/mlp/wi" in name and name.startswith("target/")}
    if wide and inner and wide != {len(inner)}:
        key, said = reader.first(("T5Config", "mlp_activations"), ("MlpBlock", "activations"))
        expected = f"{len(inner)}, as the variables show: {', '.join(sorted(inner))}"
        yield Problem(key or "T5Config.mlp_activations", expected, _shown(said or ("relu",)))
    factory = reader.gin.get("", "Decoder", "output_logits_factory", _OPEN)
    key = "Decoder.output_logits_factory"
    if isinstance(factory, Reference) and architecture.tie_word_embeddings:
        yield Problem(key, "None, as there is no logits_dense", f"@{factory.selector}")
    elif factory is None and not architecture.tie_word_embeddings:
        yield Problem(key, "a factory, as there is a logits_dense", "None")


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | list | tuple | None) else "something else"
