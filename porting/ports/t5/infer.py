"""Architecture from variables and shapes alone, saying what was read off them and what had to be assumed.

Kinds and sizes of layers, heads (from tables of relative positions), sharing and tying are in the variables.
What is not: activations, what positions see of each other, how experts are filled. Those are assumed, in
words that say how to override them, or asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from porting.mapping import Shape
from porting.port import ResolvedConfig
from porting.ports.t5.answers import answer_problems
from porting.ports.t5.architecture import UNPADDED_VOCABULARIES, Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.infer_layers import Heads, Reading, layer_spec
from porting.ports.t5.layer_specs import FeedForwardSpec, MixtureSpec, is_self_attention
from porting.ports.t5.rules import is_weight
from porting.ports.t5.scopes import SourceLayer, source_layers

_USUAL_SENTINELS = 100
_REMEDY = "Give it with --config FILE (an operative_config.gin or a config.json)."


def infer_config(shapes: Mapping[str, Shape], answers: Mapping[str, Any] | None = None) -> ResolvedConfig:
    """The architecture that the variables of a Mesh Transformer determine.

    Args:
        shapes: variable name -> shape.
        answers: what is known beforehand, by the names that the assumptions say.

    Raises:
        ConfigError: something that sizes are read off is missing or has the wrong rank, or cannot even be
            assumed; lists it all.
    """
    weights = {name: shape for name, shape in shapes.items() if is_weight(name)}
    given = {name: value for name, value in (answers or {}).items() if value is not None}  # null is no answer
    reading = Reading(weights, given)
    reading.problems += answer_problems(reading.answers)
    architecture = reading.accept(None if reading.problems else _architecture(reading), _REMEDY)
    return ResolvedConfig(
        config=architecture,
        origin="inferred from the variables and their shapes",
        inferred=tuple(_in_words(architecture)),
        assumed=(
            *reading.assumed.values(),
            "layer_norm_epsilon 1e-06, relative_attention_max_distance 128, dropout_rate 0.1 (training only),"
            " fold_scaling_into_initializer true, scale_embedding false: override them in the same way",
        ),
    )


def _architecture(reading: Reading) -> Architecture | None:
    scopes = _stack_scopes(reading)
    if not scopes:
        reading.refuse("encoder/block_000/...", "layers of a Transformer", "none")
        return None
    layers = {name: _layers(reading, name, scope, scopes) for name, scope in scopes.items()}
    stacks: dict[str, Any] = {
        name: _stack(reading, scopes, name, found) for name, found in layers.items() if found
    }
    vocabularies = _vocabularies(reading, scopes)
    if reading.problems or not stacks:
        return None
    output = scopes[list(scopes)[-1]]
    answered = {
        name: reading.answers[name]
        for name in ("layer_norm_epsilon", "dropout_rate", "label_smoothing", "loss_denominator",
                     "loss_on_targets_only", "scale_embedding")
        if reading.answers.get(name) is not None
    }  # fmt: skip
    return Architecture(
        **vocabularies,
        **stacks,
        shared_embedding="shared/embedding" in reading.shapes,
        tie_word_embeddings=f"{output}/logits/kernel" not in reading.shapes,
        first_sentinel_id=_first_sentinel(reading, stacks, vocabularies["vocab_size"]),
        **answered,
    )


def _stack_scopes(reading: Reading) -> dict[str, str]:
    """Name of each stack in the port -> its scope in the checkpoint."""
    if any(name.startswith("encoder/") for name in reading.shapes):
        return {"encoder": "encoder", "decoder": "decoder"}
    layer = re.compile(r"([^/]+)/(?:block_\d+/)?[^/]+/(?:\w*Attention|DenseReluDense|MoE1D)/")
    found = list(dict.fromkeys(match[1] for name in reading.shapes if (match := layer.match(name))))
    if len(found) != 1:
        for scope in found:
            reading.refuse(scope, "an encoder and a decoder, or one stack alone", f"one of {len(found)}")
        return {}
    (scope,) = found
    # an encoder that shares the decoder's variables
    if reading.find(rf"{re.escape(scope)}/.*EncDecAttention/.*"):
        return {"encoder": scope, "decoder": scope}
    why = "each position sees those before it (a language model), which the variables do not tell"
    if reading.answer("autoregressive", True, why, '{"autoregressive": false}'):
        return {"decoder": scope}
    return {"encoder": scope}


def _layers(reading: Reading, name: str, scope: str, scopes: Mapping[str, str]) -> list[SourceLayer] | None:
    """The layers of one block, in order; without scopes of blocks, of the whole stack."""
    found = source_layers(list(reading.shapes), scope)
    if found is None:
        reading.refuse(f"{scope}/...", "layers whose order their names tell", "several of one kind, named")
        return None
    if name == "encoder" and scopes.get("decoder") == scope:
        found = [layer for layer in found if not layer.kind.endswith("EncDecAttention")]
    if not found:
        reading.refuse(f"{scope}/block_000/...", "a matrix to read sizes off", "no such variable")
        return None
    if found[0].block is None and not all(re.fullmatch(r"layer_\d+", layer.name) for layer in found):
        reading.refuse(
            f"{scope}/{found[0].name}",
            "to know how often layers repeat",
            "named layers that all blocks share",
        )
        return None
    return found


def _stack(
    reading: Reading, scopes: Mapping[str, str], name: str, layers: Sequence[SourceLayer]
) -> StackSpec | None:
    scope = scopes[name]
    heads = Heads(reading, scope, layers, list(scopes.values()))
    block = [layer for layer in layers if layer.block in (None, layers[0].block)]
    specs = [layer_spec(reading, scope, layer, heads) for layer in block]
    if reading.problems or any(spec is None for spec in specs):
        return None
    numbered = all(layer.name == f"layer_{i:03d}" for i, layer in enumerate(block))
    is_language_model = name == "decoder" and len(scopes) == 1
    prefix = False
    if is_language_model:
        why = "no part of a sequence sees all of itself, which the variables do not tell"
        prefix = bool(reading.answer("input_full_attention", False, why, '{"input_full_attention": true}'))
    relative = any(getattr(spec, "relative_attention_type", None) for spec in specs if spec is not None)
    positions, max_length = _positions(reading, scope, relative=relative)
    return StackSpec(
        layers=tuple(spec for spec in specs if spec is not None),
        num_blocks=1 if layers[0].block is None else max(layer.block or 0 for layer in layers) + 1,
        autoregressive=name == "decoder",
        input_full_attention=prefix,
        positions=positions,
        max_length=max_length,
        scope=scope,
        layer_names=() if numbered else tuple(layer.name for layer in block),
        block_scope=layers[0].block is not None,
    )


def _positions(reading: Reading, scope: str, *, relative: bool) -> tuple[str | None, int]:
    for name in (f"{scope}/positional_embedding", "shared/positional_embedding"):
        if name in reading.shapes:
            return "learned", reading.shapes[name][0]
    if relative and "positions" not in reading.answers:
        return None, 512
    why = "sinusoids for positions, as there is neither a table of them nor of relative ones"
    answer = reading.answer("positions", "sinusoid", why, '{"positions": "none"}')
    return None if answer in ("none", None) else answer, int(reading.answers.get("max_length", 512))


def _vocabularies(reading: Reading, scopes: Mapping[str, str]) -> dict[str, Any]:
    first, last = (list(scopes.values())[i] for i in (0, -1))
    shared = "shared/embedding" in reading.shapes
    source = f"{first}/embedding"
    if shared or (first != last and source not in reading.shapes):
        source = "shared/embedding"
    embedding = _matrix(reading, source, "[vocab, d_model]")
    if embedding is None:
        return {}
    rows, d_model = embedding
    if shared:
        return {"vocab_size": rows, "d_model": d_model}
    logits = reading.shapes.get(f"{last}/logits/kernel", ())
    vocab_size = logits[1] if len(logits) == 2 else reading.shapes.get(f"{last}/embedding", embedding)[0]
    return {"vocab_size": vocab_size, "d_model": d_model, "source_vocab_size": rows}


def _first_sentinel(reading: Reading, stacks: Mapping[str, Any], vocab_size: int) -> int | None:
    if not any(stack.needs_sentinels for stack in stacks.values()):
        return None
    unpadded = UNPADDED_VOCABULARIES.get(vocab_size)
    known = None if unpadded is None else unpadded - _USUAL_SENTINELS
    if known is None and reading.answers.get("first_sentinel_id") is None:
        expected = 'an answer: --config FILE.json that holds {"first_sentinel_id": 32000}, say'
        reading.refuse("first_sentinel_id", expected, "nothing in the checkpoint tells it")
        return 0
    why = f"spans are marked by ids from {known} on, as in T5's own vocabulary"
    return int(reading.answer("first_sentinel_id", known, why))


def _matrix(reading: Reading, name: str, what: str) -> Shape | None:
    shape = reading.shapes.get(name)
    if shape is None or len(shape) != 2:
        found = "no such variable" if shape is None else f"{shape}"
        reading.refuse(f"{name} {what}", "a matrix to read sizes off", found)
        return None
    return shape


def _in_words(architecture: Architecture) -> Iterator[str]:
    """What was read off the variables."""
    sizes = [f"d_model {architecture.d_model}", f"vocabulary {architecture.vocab_size}"]
    for name, stack in architecture.stacks.items():
        sizes.append(f"{name} of {len(stack.places)} layers in {stack.places[-1].block + 1} blocks")
    yield ", ".join(sizes)
    for name, stack in architecture.stacks.items():
        for spec in dict.fromkeys(stack.layers):
            if isinstance(spec, AttentionSpec) and is_self_attention(spec):
                relative = spec.relative_attention_type
                buckets = f"{spec.relative_attention_num_buckets} relative-position buckets ({relative})"
                said = buckets if relative else "no relative positions"
                yield f"{name}: {spec.num_heads} heads of {spec.d_kv}, {said}"
            elif isinstance(spec, FeedForwardSpec):
                kind = "gated" if len(spec.activations) > 1 else "single"
                yield f"{name}: d_ff {spec.d_ff}, {kind} feed-forward projection"
            elif isinstance(spec, MixtureSpec):
                yield f"{name}: {spec.num_experts} experts of d_ff {spec.d_ff}, {spec.gating} gating"
    tied = architecture.tie_word_embeddings
    yield "output tied to the embedding (no decoder/logits)" if tied else "output of its own (decoder/logits)"
