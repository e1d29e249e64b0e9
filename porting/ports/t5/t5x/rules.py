"""The rule table of T5X's variables -> state-dict keys, total in both directions as Mesh's is.

    target/token_embedder/embedding            [vocab, d_model]        shared.weight
    target/encoder/layers_0/attention/query/kernel
                                               [d_model, h*k]          encoder.block.0.layer.0....q.weight
    target/encoder/encoder/attention/query/kernel
                                               [d_model, layers, h, k] the same of each layer
    .../attention/out/kernel                   [h*k, d_model]          ....o.weight
    target/encoder/relpos_bias/rel_embedding   [h, buckets]            ....relative_attention_bias.weight
    target/encoder/encoder/relpos_bias/rel_embedding
                                               [h, layers, buckets]    one for each layer
    target/encoder/side_relpos_bias/rel_embedding
                                               [h, buckets]            the same towards LongT5's summaries
    .../attention/T5LayerNorm_0/scale          [d_model]               ....global_input_layer_norm.weight
    .../mlp/wi_0/kernel                        [d_model, d_ff]         ....DenseReluDense.wi_0.weight
    .../pre_mlp_layer_norm/scale               [d_model]               ....layer_norm.weight
    target/encoder/encoder_norm/scale          [d_model]               encoder.final_layer_norm.weight
    target/decoder/logits_dense/kernel         [d_model, vocab]        lm_head.weight

Kernels are transposed: Flax keeps [in, out], torch.nn.Linear [out, in]. T5X's scalable T5 keeps heads as a
dimension of their own, which is flattened first, each dimension asserted. The names agree with those that T5X
itself gives to Mesh's variables: `t5_importer` in its checkpoint_importer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from porting.mapping import Drop, Rule
from porting.ops import Op, Reshape, Transpose
from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.attention_specs import (
    AttentionSpec,
    LocalAttentionSpec,
    RelativePositions,
    TransientGlobalAttentionSpec,
)
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec
from porting.ports.t5.t5x.long_t5 import SIDE_TABLE, SUMMARY_NORM
from porting.ports.t5.t5x.names import DROPS, SCAN_AXIS, WEIGHTS, is_scanned, sublayers

_TRANSPOSE = (Transpose(),)
_PROJECTIONS = {"query": "q", "key": "k", "value": "v"}


def rules(config: Config, names: Sequence[str]) -> list[Rule | Drop]:
    """The table for a configuration and the variables that a checkpoint has.

    Args:
        config: the model.
        names: the checkpoint's variables, which tell whether layers are scanned.

    Raises:
        ConfigError: T5X has no names for such layers.
    """
    architecture = config.architecture
    table: list[Rule | Drop] = [*DROPS]
    if architecture.shares_embedding:
        table.append(Rule(f"{WEIGHTS}/token_embedder/embedding", "shared.weight"))
    table.append(Rule(f"{WEIGHTS}/decoder/logits_dense/kernel", "lm_head.weight", _TRANSPOSE))
    for name, stack in architecture.stacks.items():
        if not architecture.shares_embedding:
            own = f"{WEIGHTS}/{name}/token_embedder/embedding"
            table.append(Rule(own, f"{name}.embed_tokens.weight"))
        norm = f"{WEIGHTS}/{name}/{name}_norm/scale"
        table.append(Rule(norm, f"{name}.final_layer_norm.weight"))
        layers = _Layers(name, len(stack.places) // len(sublayers(name, stack)), is_scanned(names, name))
        table += _stack_rules(layers, name, stack, architecture.d_model)
    return table


class _Layers:
    """Rules for something that each layer of a stack has: in a variable of its own, or in one for all."""

    def __init__(self, stack: str, number: int, scanned: bool) -> None:
        self.stack, self.number, self.scanned = stack, number, scanned

    def rule(self, source: str, target: str, ops: tuple[Op, ...] = ()) -> Rule:
        """From `source`, below the layer's scope, to `target`, below the port's block."""
        if self.scanned:
            pattern, block = f"{WEIGHTS}/{self.stack}/{self.stack}/{source}", "{part}"
        else:
            pattern, block = rf"{WEIGHTS}/{self.stack}/layers_(?P<i>\d+)/{source}", "{i}"
        target = f"{self.stack}.block.{block}.{target}"
        return Rule(pattern, target, ops, self.number if self.scanned else 0, axis=SCAN_AXIS)


def _stack_rules(layers: _Layers, name: str, stack: StackSpec, d_model: int) -> Iterator[Rule]:
    for sub in sublayers(name, stack):
        spec, layer = sub.spec, f"layer.{sub.index}"
        yield layers.rule(f"{sub.norm}/scale", f"{layer}.layer_norm.weight")
        if isinstance(spec, FeedForwardSpec):
            target = f"{layer}.DenseReluDense.{{name}}.weight"
            yield layers.rule(rf"{sub.module}/(?P<name>wi|wi_\d+|wo)/kernel", target, _TRANSPOSE)
        elif isinstance(spec, AttentionSpec | LocalAttentionSpec):
            yield from _attention_rules(layers, sub.module, f"{layer}.{spec.kind}", spec, d_model)
            yield from _bias_rules(layers, name, f"{layer}.{spec.kind}", spec)
            if isinstance(spec, TransientGlobalAttentionSpec):
                target = f"{layer}.{spec.kind}"
                norm = f"{target}.global_input_layer_norm.weight"
                yield layers.rule(f"{sub.module}/{SUMMARY_NORM}", norm)
                table = f"{name}.block.0.{target}.global_relative_attention_bias.weight"
                yield Rule(f"{WEIGHTS}/{name}/{SIDE_TABLE}", table, _TRANSPOSE)


def _attention_rules(
    layers: _Layers, module: str, target: str, spec: AttentionSpec | LocalAttentionSpec, d_model: int
) -> Iterator[Rule]:
    inner = spec.num_heads * spec.d_kv
    into: tuple[Op, ...] = _TRANSPOSE
    out: tuple[Op, ...] = _TRANSPOSE
    if not spec.combine_dims:
        heads = (spec.num_heads, spec.d_kv)
        into = (Reshape((d_model, *heads), (d_model, inner)), *_TRANSPOSE)
        out = (Reshape((*heads, d_model), (inner, d_model)), *_TRANSPOSE)
    for theirs, ours in _PROJECTIONS.items():
        yield layers.rule(f"{module}/{theirs}/kernel", f"{target}.{ours}.weight", into)
    yield layers.rule(f"{module}/out/kernel", f"{target}.o.weight", out)


def _bias_rules(layers: _Layers, stack: str, target: str, spec: LayerSpec) -> Iterator[Rule]:
    kind = spec.relative_attention_type if isinstance(spec, RelativePositions) else None
    path = f"{target}.relative_attention_bias.weight"
    if kind == "bias":
        yield layers.rule("relpos_bias/rel_embedding", path, _TRANSPOSE)
    elif kind == "bias_shared":
        source = f"{WEIGHTS}/{stack}/relpos_bias/rel_embedding"
        yield Rule(source, f"{stack}.block.0.{path}", _TRANSPOSE)
