"""Names and shapes of the variables that T5X makes for a model, from its config alone.

Source: `network.py` and `layers.py` of T5X's examples/t5 and examples/scalable_t5.
"""

from __future__ import annotations

from collections.abc import Iterator

from porting.mapping import Shape
from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec, RelativePositions
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec
from porting.ports.t5.t5x.long_t5 import own_variables, shared_variables
from porting.ports.t5.t5x.names import SCAN_AXIS, WEIGHTS, sublayers


def variables(config: Config, *, scanned: bool = False) -> dict[str, Shape]:
    """Variable name -> shape: the weights, not the optimizer's.

    Args:
        config: the model.
        scanned: the layers of a stack in one variable, along axis 1.

    Raises:
        ConfigError: T5X has no names for such layers.
    """
    architecture = config.architecture
    found: dict[str, Shape] = {}
    if architecture.shares_embedding:
        found["token_embedder/embedding"] = (architecture.vocab_size, architecture.d_model)
    for name, stack in architecture.stacks.items():
        if not architecture.shares_embedding:
            rows = architecture.embedding_rows[name]
            found[f"{name}/token_embedder/embedding"] = (rows, architecture.d_model)
        found[f"{name}/{name}_norm/scale"] = (architecture.d_model,)
        found |= _stack(name, stack, architecture.d_model, scanned=scanned)
    if not architecture.tie_word_embeddings:
        found["decoder/logits_dense/kernel"] = (architecture.d_model, architecture.vocab_size)
    return {f"{WEIGHTS}/{name}": shape for name, shape in found.items()}


def _stack(name: str, stack: StackSpec, d_model: int, *, scanned: bool) -> dict[str, Shape]:
    block = sublayers(name, stack)
    number = len(stack.places) // len(block)
    each: dict[str, Shape] = {}
    for sub in block:
        each[f"{sub.norm}/scale"] = (d_model,)
        assert sub.spec is not None
        each |= dict(_layer(sub.module, sub.spec, d_model))
    found = {f"{name}/{path}": shape for sub in block for path, shape in _shared(sub.spec)}
    for path, shape in each.items():
        if scanned:
            found[f"{name}/{name}/{path}"] = (*shape[:SCAN_AXIS], number, *shape[SCAN_AXIS:])
        else:
            found |= {f"{name}/layers_{i}/{path}": shape for i in range(number)}
    return found


def _shared(spec: LayerSpec | None) -> Iterator[tuple[str, Shape]]:
    """What a stack has once."""
    if isinstance(spec, RelativePositions) and spec.relative_attention_type == "bias_shared":
        yield from _table(spec)
    if isinstance(spec, LocalAttentionSpec):
        yield from shared_variables(spec)


def _table(spec: RelativePositions) -> Iterator[tuple[str, Shape]]:
    assert isinstance(spec, AttentionSpec | LocalAttentionSpec)
    yield "relpos_bias/rel_embedding", (spec.num_heads, spec.relative_attention_num_buckets)


def _layer(module: str, spec: LayerSpec, d_model: int) -> Iterator[tuple[str, Shape]]:
    if isinstance(spec, AttentionSpec | LocalAttentionSpec):
        heads = (spec.num_heads, spec.d_kv)
        inner = (spec.num_heads * spec.d_kv,) if spec.combine_dims else heads
        for name in ("query", "key", "value"):
            yield f"{module}/{name}/kernel", (d_model, *inner)
        yield f"{module}/out/kernel", (*inner, d_model)
        if spec.relative_attention_type == "bias":
            yield from _table(spec)
        if isinstance(spec, LocalAttentionSpec):
            yield from ((f"{module}/{path}", shape) for path, shape in own_variables(spec, d_model))
    elif isinstance(spec, FeedForwardSpec):
        for name in spec.projections:
            yield f"{module}/{name}/kernel", (d_model, spec.d_ff)
        yield f"{module}/wo/kernel", (spec.d_ff, d_model)
