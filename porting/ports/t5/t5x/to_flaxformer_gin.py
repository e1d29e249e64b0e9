"""The text from which T5X builds a LongT5 with flaxformer, written beside a checkpoint that was made for it.

The bindings are those of flaxformer/t5x/configs/longt5/architectures, with values in place of macros, and
without what only initializes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec, TransientGlobalAttentionSpec
from porting.ports.t5.layer_specs import FeedForwardSpec
from porting.ports.t5.t5x.to_gin import FLAX_ACTIVATIONS

_IMPORTS = (
    "from __gin__ import dynamic_registration",
    "from flax import linen",
    "from flaxformer.architectures.longt5 import long_attention",
    "from flaxformer.architectures.longt5 import longt5_architecture",
    "from flaxformer.architectures.longt5 import relative_position_biases_general",
    "from flaxformer.architectures.t5 import t5_architecture",
    "from flaxformer.components import dense",
    "from flaxformer.components import embedding",
    "from flaxformer.components import layer_norm",
    "from flaxformer.components import relative_position_biases",
    "from flaxformer.components.attention import dense_attention",
)
_GENERAL = "relative_position_biases_general.RelativePositionBiasesGeneral"
_BIASES = "relative_position_biases.RelativePositionBiases"


class _Code(str):
    """What is written as it stands: a reference, not a string."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def flaxformer_gin(architecture: Architecture) -> str:
    """A config from which T5X builds this LongT5, with flaxformer.

    Args:
        architecture: the model, whose layers are all of the same sizes.
    """
    lines = [*_IMPORTS, "", "ARCHITECTURE = @longt5_architecture.LongEncoderDecoder()"]
    for name, values in _bindings(architecture):
        lines += ["", f"{name}:", *(f"  {key} = {value!r}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _bindings(architecture: Architecture) -> Iterator[tuple[str, Mapping[str, Any]]]:
    stacks = architecture.stacks
    encoder, decoder = stacks["encoder"], stacks["decoder"]
    specs = [spec for stack in stacks.values() for spec in stack.layers]
    local = next(spec for spec in specs if isinstance(spec, LocalAttentionSpec))
    attention = next(spec for spec in specs if isinstance(spec, AttentionSpec))
    mlp = next(spec for spec in specs if isinstance(spec, FeedForwardSpec))
    kind = "EtcTransientGlobalSelfAttention" if _is_global(local) else "EncoderLocalSelfAttention"
    norm = {"layer_norm_factory": _Code("@layer_norm.T5LayerNorm")}
    dropout = _Code("@linen.Dropout")
    rate = {"dropout_rate": architecture.dropout_rate, "broadcast_dropout": True}
    # What tables, embedding and stacks have no default for, or bfloat16.
    dtype = {"dtype": "float32"}
    sizes = {"num_heads": local.num_heads, "head_dim": local.d_kv, "use_bias": False, **rate, **dtype}

    yield "linen.Dropout", {"rate": architecture.dropout_rate, "broadcast_dims": (-2,)}
    yield "layer_norm.T5LayerNorm", {"epsilon": architecture.layer_norm_epsilon, **dtype}
    yield (
        "longt5_architecture.LongEncoderDecoder",
        {
            "encoder_factory": _Code("@longt5_architecture.LongEncoder"),
            "decoder_factory": _Code("@t5_architecture.Decoder"),
            "shared_token_embedder_factory": _Code("@embedding.Embed"),
            **dtype,
        },
    )
    side = {"shared_side_relpos_bias_factory": _Code(f"@{_GENERAL}")} if _is_global(local) else {}
    yield (
        "longt5_architecture.LongEncoder",
        {
            "num_layers": sum(place.index == 0 for place in encoder.places),
            "layer_factory": _Code("@longt5_architecture.LongEncoderLayer"),
            "input_dropout_factory": dropout,
            "output_dropout_factory": dropout,
            **norm,
            "position_embedder_factory": None,
            "shared_relpos_bias_factory": _Code(f"@{_GENERAL}"),
            **side,
            **dtype,
        },
    )
    yield (
        "longt5_architecture.LongEncoderLayer",
        {
            "attention_factory": _Code(f"@long_attention.{kind}"),
            "mlp": _Code("@dense.MlpBlock()"),
            "dropout_factory": dropout,
            **norm,
        },
    )
    tied = architecture.tie_word_embeddings
    yield (
        "t5_architecture.Decoder",
        {
            "num_layers": sum(place.index == 0 for place in decoder.places),
            "layer_factory": _Code("@t5_architecture.DecoderLayer"),
            "dropout_factory": dropout,
            **norm,
            "position_embedder_factory": None,
            "shared_relative_position_bias_factory": _Code(f"@{_BIASES}"),
            "output_logits_factory": None if tied else _Code("@output_logits/dense.DenseGeneral"),
            **dtype,
        },
    )
    if not tied:
        # T5X's partitioner asks how the axes are called.
        output = {"features": architecture.vocab_size, "kernel_axis_names": ["embed", "vocab"]}
        yield "output_logits/dense.DenseGeneral", {**output, "use_bias": False, **dtype}
    dense_attention = _Code("@dense_attention.MultiHeadDotProductAttention()")
    yield (
        "t5_architecture.DecoderLayer",
        {
            "self_attention": dense_attention,
            "encoder_decoder_attention": dense_attention,
            "mlp": _Code("@dense.MlpBlock()"),
            "dropout_factory": dropout,
            **norm,
        },
    )
    yield (
        "embedding.Embed",
        {
            "num_embeddings": architecture.vocab_size,
            "features": architecture.d_model,
            "cast_input_dtype": "int32",
            "attend_dtype": "float32",
            **dtype,
            "one_hot": True,
            "name": "token_embedder",
        },
    )
    yield "dense_attention.MultiHeadDotProductAttention", sizes
    block = {"tokens_per_block": local.global_block_size} if _is_global(local) else {}
    yield f"long_attention.{kind}", {"local_radius": local.local_radius, **block, **sizes}
    for name, spec in ((_GENERAL, local), (_BIASES, attention)):
        yield (
            name,
            {
                "num_heads": spec.num_heads,
                "num_buckets": spec.relative_attention_num_buckets,
                "max_distance": spec.relative_attention_max_distance,
                **dtype,
            },
        )
    yield (
        "dense.MlpBlock",
        {
            "use_bias": False,
            "intermediate_dim": mlp.d_ff,
            "activations": tuple(FLAX_ACTIVATIONS[name] for name in mlp.activations),
            "intermediate_dropout_rate": architecture.dropout_rate,
            **dtype,
        },
    )


def _is_global(spec: LocalAttentionSpec) -> TypeGuard[TransientGlobalAttentionSpec]:
    return isinstance(spec, TransientGlobalAttentionSpec)
