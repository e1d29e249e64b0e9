"""The whole family, Mesh TensorFlow's and LongT5: a model is one or two stacks, a stack a list of layers.

`Architecture` says everything that shapes the model, the source's scopes included. The plain T5, LongT5 and
the Switch Transformer have shorter spellings that transformers understands (config.py); what has none is
written to config.json as it stands here, with a model_type of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from porting.errors import ConfigError, Problem
from porting.ports.t5.attention_specs import LocalAttentionSpec
from porting.ports.t5.layer_specs import (
    LONG_SPECS,
    SPECS,
    FeedForwardSpec,
    LayerSpec,
    MixtureSpec,
    bias_group,
    is_self_attention,
    reads_memory,
)
from porting.ports.t5.spec_problems import MAX_EXPERTS, MAX_LAYERS, kind_problems, positive

MODEL_TYPE = "mesh_t5"
POSITIONS = (None, "learned", "sinusoid")
# Embeddings padded to a multiple of 128 -> the vocabularies of T5 and mT5 before that, 100 sentinels last.
UNPADDED_VOCABULARIES = {32128: 32100, 250112: 250100}


@dataclass(frozen=True)
class Place:
    """One layer of a stack, where it is in the port and in the original.

    Attributes:
        number: its number in the stack, from 0.
        block, index: its place in the port: `block.{block}.layer.{index}`.
        scope: its scope in the original, below the stack's: `block_000/layer_001`.
        spec: what it is.
    """

    number: int
    block: int
    index: int
    scope: str
    spec: LayerSpec

    @property
    def path(self) -> str:
        """Module path below the stack."""
        return f"block.{self.block}.layer.{self.index}"


@dataclass(frozen=True, kw_only=True)
class StackSpec:
    """A stack of layers, as Mesh's `make_layer_stack` and `Unitransformer` make it.

    In Mesh a block is whatever is repeated. In the port a block begins at each self-attention layer: for a
    plain T5 that is the same, and where Mesh repeats several pairs of layers it is what transformers does.

    Attributes:
        layers: one of Mesh's blocks.
        num_blocks: how often it is repeated (Mesh: `num_layers`).
        autoregressive: positions see earlier ones only.
        input_full_attention: ... but the inputs part of a sequence sees all of itself (a prefix language
            model: each example is inputs, 1, targets, 1).
        positions: what is added to the embeddings: None, "learned", "sinusoid".
        max_length: how many positions there are, where they are added.
        scope: variable scope of the stack: `encoder`, `decoder`, `transformer`.
        layer_names: names that layers of a block were given, "" for `layer_000`, `layer_001`...
        block_scope: False: Mesh numbers the layers through, without scopes of blocks.
    """

    layers: tuple[LayerSpec, ...]
    num_blocks: int
    autoregressive: bool
    input_full_attention: bool = False
    positions: str | None = None
    max_length: int = 512
    scope: str = "transformer"
    layer_names: tuple[str, ...] = ()
    block_scope: bool = True

    @property
    def bidirectional(self) -> bool:
        """Whether relative positions tell before from behind."""
        return not self.autoregressive or self.input_full_attention

    @property
    def needs_sentinels(self) -> bool:
        """Whether a layer has relative positions between decoder and encoder."""
        return any(
            reads_memory(spec) and getattr(spec, "relative_attention_type", None) for spec in self.layers
        )

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Which layers of one of Mesh's blocks begin a block of the port."""
        return tuple(i for i, spec in enumerate(self.layers) if i == 0 or is_self_attention(spec))

    def layer_scope(self, block: int, index: int) -> str:
        """Scope of a layer by Mesh's numbers."""
        name = self.layer_names[index] if self.layer_names else ""
        if self.block_scope:
            return f"block_{block:03d}/{name or f'layer_{index:03d}'}"
        return name or f"layer_{block * len(self.layers) + index:03d}"

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """All layers in order."""
        places: list[Place] = []
        for mesh_block in range(self.num_blocks):
            block = mesh_block * len(self.starts) - 1
            index = 0
            for i, spec in enumerate(self.layers):
                block, index = (block + 1, 0) if i in self.starts else (block, index + 1)
                scope = self.layer_scope(mesh_block, i)
                places.append(Place(len(places), block, index, scope, spec))
        return tuple(places)

    @cached_property
    def bias_holders(self) -> Mapping[int, int]:
        """Number of each layer with a relative position bias -> of the layer that holds its table."""
        holders: dict[int, int] = {}
        shared: dict[object, int] = {}
        for place in self.places:
            kind = getattr(place.spec, "relative_attention_type", None)
            if kind == "bias":
                holders[place.number] = place.number
            elif kind == "bias_shared":
                key = bias_group(place.spec)  # type: ignore[arg-type]
                holders[place.number] = shared.setdefault(key, place.number)
        return holders

    def problems(self) -> Iterator[Problem]:
        """What is not of its kind, out of range, or does not fit together."""
        wrong = [*kind_problems(self), *positive({"num_blocks": self.num_blocks})]
        yield from wrong
        if not self.layers:
            yield Problem("layers", "at least one layer", "none")
        for i, spec in enumerate(self.layers):
            for problem in spec.problems():
                wrong.append(problem)
                yield replace(problem, key=f"layers.{i}.{spec.kind}.{problem.key}")
            if isinstance(spec, LocalAttentionSpec) and self.autoregressive:
                yield Problem(f"layers.{i}.kind", "attention that hides what lies ahead", spec.kind)
        if self.input_full_attention and not self.autoregressive:
            yield Problem("input_full_attention", "an autoregressive stack", "one that is not")
        if self.positions not in POSITIONS:
            yield Problem("positions", f"one of {', '.join(map(str, POSITIONS))}", repr(self.positions))
        if self.positions:
            yield from positive({"max_length": self.max_length})
        if not wrong and len(self.layers) * self.num_blocks > MAX_LAYERS:
            wrong.append(Problem("num_blocks", "", ""))
            found = f"{self.num_blocks} of {len(self.layers)}"
            yield Problem("num_blocks", f"at most {MAX_LAYERS} layers in all", found)
        if self.layer_names and len(self.layer_names) != len(self.layers):
            wrong.append(Problem("layer_names", "", ""))
            yield Problem("layer_names", f"{len(self.layers)} names", f"{len(self.layer_names)}")
        if wrong:
            return
        for number, holder in self.bias_holders.items():
            mine, its = self.places[number].spec, self.places[holder].spec
            buckets = [getattr(spec, "relative_attention_num_buckets", None) for spec in (mine, its)]
            if buckets[0] != buckets[1]:
                expected = f"{buckets[1]}, as in the layer whose table it shares"
                yield Problem(f"layer {number}: relative_attention_num_buckets", expected, f"{buckets[0]}")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model of the family.

    Attributes:
        encoder, decoder: both: an encoder-decoder; a decoder alone: a language model; an encoder alone: an
            "aligned" model, which says one token for each it reads.
        vocab_size: rows of the output, padding to a multiple of 128 included.
        source_vocab_size: rows of the first stack's embedding; None: vocab_size.
        shared_embedding: encoder and decoder embed with one matrix.
        d_model: width of the hidden states.
        tie_word_embeddings: logits from the embedding matrix, else an output of its own.
        scale_embedding: embeddings are scaled by d_model**0.5 when read; else, where they are tied, hidden
            states by d_model**-0.5 (Mesh: `scale_variable_like_classifier_weights`).
        first_sentinel_id: ids from here on mark spans, for relative positions between decoder and encoder
            (Mesh: vocabulary size before padding - `relative_position_spans.num_sentinels`).
        layer_norm_epsilon, dropout_rate, label_smoothing, loss_denominator: as in T5Config.
        loss_on_targets_only: of a prefix language model.
    """

    vocab_size: int
    d_model: int
    encoder: StackSpec | None = None
    decoder: StackSpec | None = None
    source_vocab_size: int | None = None
    shared_embedding: bool = True
    tie_word_embeddings: bool = True
    scale_embedding: bool = False
    first_sentinel_id: int | None = None
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    label_smoothing: float = 0.0
    loss_denominator: float | None = None
    loss_on_targets_only: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError unless everything is in range and fits together; lists all that does not."""
        problems = list(self._problems())
        if problems:
            raise ConfigError("This is not a model of the T5 family.", problems=problems)

    def _problems(self) -> Iterator[Problem]:
        sizes: dict[str, object] = {"vocab_size": self.vocab_size, "d_model": self.d_model}
        if self.source_vocab_size is not None:
            sizes["source_vocab_size"] = self.source_vocab_size
        wrong = [*kind_problems(self), *positive(sizes)]
        yield from wrong
        if wrong:
            return
        yield from loss_problems(self)
        if not self.stacks:
            yield Problem("encoder, decoder", "at least one stack", "none")
        for name, stack in self.stacks.items():
            found = list(stack.problems())
            for problem in found:
                yield replace(problem, key=f"{name}.{problem.key}")
            memory = [spec.kind for spec in stack.layers if reads_memory(spec)]
            if memory and (name == "encoder" or self.encoder is None):
                yield Problem(f"{name}.layers", "no attention to an encoder here", ", ".join(memory))
        experts = sum(
            spec.num_experts * stack.num_blocks
            for stack in self.stacks.values()
            for spec in stack.layers
            if isinstance(spec, MixtureSpec) and not [*stack.problems()]
        )
        if experts > MAX_EXPERTS:
            yield Problem("num_experts", f"at most {MAX_EXPERTS} in all layers", f"{experts}")
        positional = [stack.positions for stack in self.stacks.values() if stack.positions]
        if "sinusoid" in positional and self.d_model % 2:
            yield Problem("d_model", "an even number, for sinusoids", f"{self.d_model}")
        if self.shares_embedding and self.source_vocab_size not in (None, self.vocab_size):
            yield Problem(
                "source_vocab_size", f"{self.vocab_size}, as they share", f"{self.source_vocab_size}"
            )
        if self.needs_sentinels and type(self.first_sentinel_id) is not int:
            yield Problem("first_sentinel_id", "the first id that marks a span", repr(self.first_sentinel_id))

    @property
    def architecture(self) -> Architecture:
        """Itself: the short spellings have this attribute too."""
        return self

    @cached_property
    def stacks(self) -> dict[str, StackSpec]:
        """The stacks there are, by their names in the port, in the order in which they run."""
        both = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: stack for name, stack in both.items() if stack is not None}

    @property
    def output_stack(self) -> str:
        """Name of the stack that the logits come from."""
        return "encoder" if self.decoder is None else "decoder"

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether there are two stacks."""
        return self.encoder is not None and self.decoder is not None

    @property
    def shares_embedding(self) -> bool:
        """Whether there are two stacks, which embed with one matrix."""
        return self.is_encoder_decoder and self.shared_embedding

    @property
    def embedding_rows(self) -> dict[str, int]:
        """Rows of each stack's embedding."""
        first = next(iter(self.stacks))
        source = self.source_vocab_size or self.vocab_size
        return {name: source if name == first else self.vocab_size for name in self.stacks}

    @property
    def shares_positions(self) -> bool:
        """Whether encoder and decoder add the same learned positions, as Mesh's `_shared_params` decides."""
        if not (self.shares_embedding and self.encoder and self.decoder):
            return False
        stacks = (self.encoder, self.decoder)
        return all(s.positions == "learned" for s in stacks) and stacks[0].max_length == stacks[1].max_length

    @property
    def needs_sentinels(self) -> bool:
        """Whether a layer has relative positions between decoder and encoder."""
        return any(stack.needs_sentinels for stack in self.stacks.values())

    @property
    def feed_forward_module(self) -> str:
        """What feed-forward layers are called: transformers calls them `mlp` where there are experts."""
        mixtures = any(isinstance(s, MixtureSpec) for stack in self.stacks.values() for s in stack.layers)
        return "mlp" if mixtures else "DenseReluDense"

    def module_name(self, spec: LayerSpec) -> str:
        """Name of the module inside a layer."""
        return self.feed_forward_module if isinstance(spec, FeedForwardSpec | MixtureSpec) else spec.kind

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`, for what transformers has no architecture for."""
        decoding = decoding_json(is_encoder_decoder=self.is_encoder_decoder)
        return {"model_type": MODEL_TYPE, **decoding, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Architecture:
        """From the contents of a `config.json`.

        Raises:
            ConfigError: something is missing, unknown or out of range.
        """
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in content.items() if key in known}
        try:
            for name in ("encoder", "decoder"):
                if values.get(name) is not None:
                    values[name] = _stack_from_json(values[name])
            return cls(**values)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ConfigError(f"The config.json does not describe a {MODEL_TYPE}: {error!r}") from error


def loss_problems(config: Any) -> Iterator[Problem]:
    """What is out of range among the numbers that every spelling has."""
    for name in ("layer_norm_epsilon", "dropout_rate", "label_smoothing"):
        value = getattr(config, name)
        if type(value) not in (int, float) or not 0 <= value <= 1:
            yield Problem(name, "a number from 0.0 to 1.0", repr(value))
    denominator = 1.0 if config.loss_denominator is None else config.loss_denominator
    if type(denominator) not in (int, float) or not 0 < denominator < math.inf:
        yield Problem("loss_denominator", "null or a number above 0", repr(denominator))
    if repr(config.tie_word_embeddings) not in ("True", "False"):
        yield Problem("tie_word_embeddings", "true or false", repr(config.tie_word_embeddings))


def decoding_json(*, is_encoder_decoder: bool) -> dict[str, Any]:
    """What `config.json` says, in every spelling, to whoever decodes."""
    return {
        "is_encoder_decoder": is_encoder_decoder,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _stack_from_json(content: Mapping[str, Any]) -> StackSpec:
    layers = [_layer_from_json(layer) for layer in content["layers"]]
    names = tuple(content.get("layer_names", ()))
    return StackSpec(**{**content, "layers": tuple(layers), "layer_names": names})


def _layer_from_json(content: Mapping[str, Any]) -> LayerSpec:
    kind = content["kind"]
    specs: dict[str, type[LayerSpec]] = {**SPECS, **LONG_SPECS}
    if kind not in specs:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(specs)}")
    return specs[kind](**{key: _tuples(value) for key, value in content.items()})


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, however deep."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
