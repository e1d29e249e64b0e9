"""A T5 from T5X's variables and shapes alone, saying what was read off them and what had to be assumed.

Sizes, depths, heads, gating, tying, tables of relative positions are in the variables. Activations, and
whether the encoder's attention is local (a local LongT5 has the variables of a T5 1.1), are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from porting.mapping import Shape
from porting.port import ResolvedConfig
from porting.ports.t5.answers import answer_problems
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec, TransientGlobalAttentionSpec
from porting.ports.t5.infer_layers import Reading
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec
from porting.ports.t5.t5x.infer_layers import StackLayers, attention, feed_forward
from porting.ports.t5.t5x.long_t5 import with_encoder_attention
from porting.ports.t5.t5x.names import SUBLAYERS, WEIGHTS, is_scanned, weights

_REMEDY = "Give it with --config FILE (T5X's config.gin or a config.json)."
# As T5X's networks have them.
_USUAL = {
    "layer_norm_epsilon": "1e-06",
    "relative_attention_max_distance": "128",
    "dropout_rate": "0.1 (training only)",
}
_ANSWERED = ("layer_norm_epsilon", "dropout_rate", "label_smoothing", "loss_denominator")


def infer_config(shapes: Mapping[str, Shape], answers: Mapping[str, Any] | None = None) -> ResolvedConfig:
    """The architecture that the variables of a T5X checkpoint determine.

    Args:
        shapes: variable name -> shape.
        answers: what is known beforehand, by the names that the assumptions say.

    Raises:
        ConfigError: something that sizes are read off is missing or has the wrong rank; lists it all.
    """
    given = {name: value for name, value in (answers or {}).items() if value is not None}
    reading = Reading(weights(shapes), given)
    reading.problems += answer_problems(given)
    architecture = reading.accept(None if reading.problems else _architecture(reading), _REMEDY)
    return ResolvedConfig(
        config=architecture,
        origin="inferred from the variables and their shapes",
        inferred=tuple(_in_words(architecture, list(reading.shapes))),
        assumed=(*reading.assumed.values(), *_usual(given)),
    )


def _usual(given: Mapping[str, Any]) -> Iterator[str]:
    left = [f"{name} {value}" for name, value in _USUAL.items() if name not in given]
    if left:
        yield f"{', '.join(left)}, as in T5X's own networks: override in the same way"


def _architecture(reading: Reading) -> Architecture | None:
    stacks = {name: _stack(reading, name) for name in SUBLAYERS}
    if stacks["encoder"] is not None:
        stacks["encoder"] = with_encoder_attention(reading, stacks["encoder"])
    vocabulary = _vocabulary(reading)
    if reading.problems or vocabulary is None:
        return None
    return Architecture(
        **vocabulary,
        encoder=stacks["encoder"],
        decoder=stacks["decoder"],
        tie_word_embeddings=f"{WEIGHTS}/decoder/logits_dense/kernel" not in reading.shapes,
        **{name: reading.answers[name] for name in _ANSWERED if name in reading.answers},
    )


def _vocabulary(reading: Reading) -> dict[str, Any] | None:
    shared = f"{WEIGHTS}/token_embedder/embedding"
    names = [shared]
    if shared not in reading.shapes:
        names = [f"{WEIGHTS}/{stack}/token_embedder/embedding" for stack in SUBLAYERS]
        if not any(name in reading.shapes for name in names):
            names = [shared]
    found = []
    for name in names:
        shape = reading.shapes.get(name)
        if shape is None or len(shape) != 2:
            said = "no such variable" if shape is None else f"{shape}"
            reading.refuse(name, "[vocab, d_model], to read sizes off", said)
            return None
        found.append(shape)
    values: dict[str, Any] = {"vocab_size": found[-1][0], "d_model": found[-1][1]}
    if len(found) > 1:
        values |= {"source_vocab_size": found[0][0], "shared_embedding": False}
    return values


def _stack(reading: Reading, name: str) -> StackSpec | None:
    layers = StackLayers(reading, name, is_scanned(reading.shapes, name))
    number = layers.number()
    specs: list[LayerSpec | None] = []
    heads = None
    for sub in SUBLAYERS[name]:
        if sub.module == "mlp":
            specs.append(feed_forward(layers))
            continue
        kind = "EncDecAttention" if sub.module.startswith("encoder_decoder") else "SelfAttention"
        spec = attention(layers, sub.module, kind, heads)
        heads = spec.num_heads if spec is not None else heads
        specs.append(spec)
    if number is None or None in specs:
        return None
    return StackSpec(
        layers=tuple(spec for spec in specs if spec is not None),
        num_blocks=number,
        autoregressive=name == "decoder",
        scope=name,
    )


def _in_words(architecture: Architecture, names: Sequence[str]) -> Iterator[str]:
    """What was read off the variables."""
    sizes = [f"d_model {architecture.d_model}", f"vocabulary {architecture.vocab_size}"]
    for name, stack in architecture.stacks.items():
        scanned = ", scanned" if is_scanned(names, name) else ""
        sizes.append(f"{name} of {stack.num_blocks} blocks{scanned}")
    yield ", ".join(sizes)
    for name, stack in architecture.stacks.items():
        for spec in stack.layers:
            if isinstance(spec, AttentionSpec) and spec.relative_attention_type is not None:
                shared = spec.relative_attention_type == "bias_shared"
                whose = "a table for all layers" if shared else "a table for each layer, as in umT5"
                buckets = f"{spec.relative_attention_num_buckets} relative-position buckets, {whose}"
                yield f"{name}: {spec.num_heads} heads of {spec.d_kv}, {buckets}"
            elif isinstance(spec, LocalAttentionSpec):
                buckets = f"{spec.relative_attention_num_buckets} relative-position buckets"
                yield f"{name}: {spec.num_heads} heads of {spec.d_kv}, {buckets}, a table for all layers"
                if isinstance(spec, TransientGlobalAttentionSpec):
                    yield f"{name}: transient-global attention, as LongT5 has it (side_relpos_bias)"
            elif isinstance(spec, FeedForwardSpec):
                kind = "gated" if len(spec.activations) > 1 else "single"
                yield f"{name}: d_ff {spec.d_ff}, {kind} feed-forward projection"
    tied = architecture.tie_word_embeddings
    yield "output tied to the embedding (no logits_dense)" if tied else "output of its own (logits_dense)"
