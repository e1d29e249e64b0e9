"""LongT5 among T5X's checkpoints: what tells one from a T5, and what it has beside a T5's variables.

    target/encoder/side_relpos_bias/rel_embedding         [h, buckets]  towards summaries, one for all layers
    target/encoder/layers_0/attention/T5LayerNorm_0/scale [d_model]     the norm of summaries, in each layer

Both are of transient-global attention alone: with local attention a LongT5 has the variables of a T5 1.1, and
only a config tells them apart.

Sources: `LongEncoder` in flaxformer's longt5_architecture.py, and long_attention.py beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from porting.mapping import Shape
from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec, TransientGlobalAttentionSpec
from porting.ports.t5.infer_layers import Reading
from porting.ports.t5.long_config import LOCAL, TRANSIENT_GLOBAL
from porting.ports.t5.t5x.names import WEIGHTS

FULL = "full"
"""`encoder_attention_type` where each position sees all others."""
SIDE_TABLE = "side_relpos_bias/rel_embedding"
SUMMARY_NORM = "T5LayerNorm_0/scale"
_LOCAL_RADIUS, _BLOCK_SIZE = 127, 16  # of the published LongT5s


def own_variables(spec: LocalAttentionSpec, d_model: int) -> Iterator[tuple[str, Shape]]:
    """What an attention layer has beside a T5's: path below it -> shape."""
    if isinstance(spec, TransientGlobalAttentionSpec):
        yield SUMMARY_NORM, (d_model,)


def shared_variables(spec: LocalAttentionSpec) -> Iterator[tuple[str, Shape]]:
    """What the encoder has once, beside a T5's: path below it -> shape."""
    if isinstance(spec, TransientGlobalAttentionSpec) and spec.relative_attention_type == "bias_shared":
        yield SIDE_TABLE, (spec.num_heads, spec.relative_attention_num_buckets)


def with_encoder_attention(reading: Reading, encoder: StackSpec) -> StackSpec:
    """An encoder that was read as a T5's, with the attention that it has.

    What decides, in this order: the table that transient-global attention has, an answer, an assumption that
    is said.
    """
    spec = encoder.layers[0]
    shared = isinstance(spec, AttentionSpec) and spec.relative_attention_type == "bias_shared"
    kind = _kind(reading) if shared else FULL  # no LongT5 has a table for each layer
    if kind == FULL or not isinstance(spec, AttentionSpec):
        return encoder
    radius = _size(reading, "local_radius", _LOCAL_RADIUS)
    local = LocalAttentionSpec(
        num_heads=spec.num_heads,
        d_kv=spec.d_kv,
        local_radius=radius,
        relative_attention_type=spec.relative_attention_type,
        relative_attention_num_buckets=spec.relative_attention_num_buckets,
        relative_attention_max_distance=spec.relative_attention_max_distance,
    )
    if kind == TRANSIENT_GLOBAL:
        local = TransientGlobalAttentionSpec(
            **{**vars(local), "kind": TransientGlobalAttentionSpec.kind},
            global_block_size=_size(reading, "global_block_size", _BLOCK_SIZE),
        )
    for problem in local.problems():
        reading.refuse(problem.key, problem.expected, problem.found)
    return replace(encoder, layers=(local, *encoder.layers[1:]))


def _kind(reading: Reading) -> str:
    table = f"{WEIGHTS}/encoder/{SIDE_TABLE}"
    said = reading.answers.get("encoder_attention_type")
    if table in reading.shapes:
        if said not in (None, TRANSIENT_GLOBAL):
            reading.refuse("encoder_attention_type", f"{TRANSIENT_GLOBAL}, as there is a {table}", f"{said}")
        return TRANSIENT_GLOBAL
    if said is None and reading.answers.get("model_type") == "longt5":
        return LOCAL  # as transformers takes it
    why = "each position of the encoder sees all others (a local LongT5 has the same variables)"
    how = f'{{"encoder_attention_type": "{LOCAL}", "local_radius": {_LOCAL_RADIUS}}}'
    kind = reading.answer("encoder_attention_type", FULL, why, how)
    if kind not in (FULL, LOCAL):
        expected = f"{FULL} or {LOCAL}, as there is no {table}"
        reading.refuse("encoder_attention_type", expected, f"{kind}")
        return FULL
    return str(kind)


def _size(reading: Reading, name: str, usual: int) -> int:
    why = f"{name} {usual}, as the published LongT5s have it"
    found = reading.answer(name, usual, why)
    if type(found) is not int:
        reading.refuse(name, "an integer", repr(found))
        return usual
    return found
