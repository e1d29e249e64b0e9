"""Names in a recorded run of T5X's T5: which of them is which tap of the port.

A recording holds what Flax modules returned: `encoder/layers_0/attention/query/__call__:0`, `:1` for the
second call of the same module. What T5X computes by functions inside a module (scores, their softmax, the
activation, the sum around a sublayer) no module returns, so that no recording has it.

Sources: `t5x/examples/t5/network.py` and `layers.py`, `t5x/examples/scalable_t5` for scanned models, whose
layers are not recorded. What a name is was checked by numbers: tests/ports/t5/t5x/test_recorded_taps.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from porting.inputs import Inputs
from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec, TransientGlobalAttentionSpec
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec, is_self_attention
from porting.ports.t5.t5x.names import WEIGHTS
from porting.ports.t5.taps import taps
from porting.references.original_tap import OriginalTap
from porting.references.recorded import RecordedNames

# T5X sees no padding from anywhere, Mesh lets padding see padding: at padded positions each computes its own.
HERE = {"encoder": (("inputs", "batch length"),), "decoder": (("targets", "batch length"),)}
MEMORY = {"encoder": (("inputs", "batch memory_length"),), "decoder": (("targets", "batch memory_length"),)}
HIDDEN, HEADS, WIDE = "batch length d_model", "heads d_kv", "batch length d_ff"
WHY_MASKED = "padded positions"
_COPY, _SAME = "a copy, for dropout is off", "the same as what the last module in it returns"
_LOGITS = "the same as logits"


def real_positions(inputs: Inputs) -> dict[str, np.ndarray]:
    """The masks of such traces: bool [batch, length] each, true where there is no padding."""
    return {name: np.asarray(inputs[name] != 0) for name in ("inputs", "targets")}


def recorded_names(config: Config, names: Sequence[str]) -> RecordedNames:
    """What the names in a recording of a model of this config are.

    Args:
        config: of the model.
        names: those that the recording has, without `tensor:`. A recording without any layer is that of a
            scanned model.
    """
    scanned = not any("/layers_" in name for name in names)
    found = [tap for stack in _stacks(config) for tap in _stack(config, stack, set(names), scanned=scanned)]
    found.append(OriginalTap("logits", "logits", "batch length vocab", where=HERE["decoder"]))
    heard = {tap.name for tap in found}
    return RecordedNames(
        taps=found,
        left_out=_left_out(config),
        unheard=[tap.name for tap in taps(config) if tap.name not in heard],
        masks=real_positions,
        why_masked=WHY_MASKED,
        variable=lambda path: f"{WEIGHTS}/{path}",
        implementation="T5X, a recorded run",
    )


def _stacks(config: Config) -> Sequence[str]:
    return list(config.architecture.stacks)


def _stack(config: Config, name: str, there: set[str], *, scanned: bool) -> Iterator[OriginalTap]:
    call = _stacks(config).index(name)  # of the one embedder, which both stacks use
    yield OriginalTap(f"{name}.embed_tokens", f"token_embedder/__call__:{call}", HIDDEN, where=HERE[name])
    if not scanned:
        yield from _layers(config, name, config.architecture.stacks[name])
    yield _tap(f"{name}.final_layer_norm", f"{name}/{name}_norm", HIDDEN, name)
    # What a decoder returns are the logits; what goes into them is behind its dropout.
    flaxformer = f"{name}/output_dropout/__call__:0" in there
    output = name if name == "encoder" else f"{name}/{'output_dropout' if flaxformer else 'Dropout_1'}"
    yield _tap(name, output, HIDDEN, name)


def _layers(config: Config, name: str, stack: StackSpec) -> Iterator[OriginalTap]:
    """Layer by layer: a layer of T5X's is a block, whose parts are called by their roles."""
    last = {place.block: place.number for place in stack.places}
    biases = 0
    for place in stack.places:
        layer, spec = f"{name}.{place.path}", place.spec
        module = f"{layer}.{config.architecture.module_name(spec)}"
        original = f"{name}/layers_{place.block}"
        yield _tap(f"{layer}.layer_norm", f"{original}/{_norm(name, spec)}", HIDDEN, name)
        if isinstance(spec, AttentionSpec):
            yield from _attention(name, spec, module, f"{original}/{_role(name, spec)}", biases)
            biases += spec.relative_attention_type is not None
        elif isinstance(spec, LocalAttentionSpec):
            yield from _local_attention(name, spec, module, f"{original}/{_role(name, spec)}", biases)
            biases += spec.relative_attention_type is not None
        elif isinstance(spec, FeedForwardSpec):
            yield from _feed_forward(name, spec, module, f"{original}/mlp")
        if place.number == last[place.block]:
            yield _tap(layer, original, HIDDEN, name)


def _role(name: str, spec: LayerSpec) -> str:
    """What T5X calls a part of a layer."""
    if isinstance(spec, FeedForwardSpec):
        return "mlp"
    if not is_self_attention(spec):
        return "encoder_decoder_attention"
    return "attention" if name == "encoder" else "self_attention"


def _norm(name: str, spec: LayerSpec) -> str:
    """What T5X calls the norm before a part of a layer."""
    role = _role(name, spec).replace("encoder_decoder", "cross")
    return f"pre_{role}_layer_norm"


def _attention(
    name: str, spec: AttentionSpec, module: str, original: str, bias: int
) -> Iterator[OriginalTap]:
    yield _tap(f"{module}.q", f"{original}/query", f"batch length {HEADS}", name)
    memory = MEMORY[name if is_self_attention(spec) else "encoder"]
    for ours, theirs in (("k", "key"), ("v", "value")):
        dims = f"batch memory_length {HEADS}"
        yield OriginalTap(f"{module}.{ours}", f"{original}/{theirs}/__call__:0", dims, where=memory)
    if spec.relative_attention_type:  # the stack's one module, called by each layer
        dims = "1 heads length memory_length"
        yield OriginalTap(f"{module}.position_bias", f"{name}/relpos_bias/__call__:{bias}", dims)
    yield _tap(f"{module}.o", f"{original}/out", HIDDEN, name)


def _local_attention(
    name: str, spec: LocalAttentionSpec, module: str, original: str, bias: int
) -> Iterator[OriginalTap]:
    """LongT5's. What it takes from tokens and from summaries comes from the same modules, called twice."""
    if isinstance(spec, TransientGlobalAttentionSpec):
        # Summaries that no block fills are zero on both sides.
        norm = f"{module}.global_input_layer_norm"
        yield OriginalTap(norm, f"{original}/T5LayerNorm_0/__call__:0", "batch global_length d_model")
        for ours, theirs in (("side_k", "key"), ("side_v", "value")):
            dims = f"batch global_length {HEADS}"
            yield OriginalTap(f"{module}.{ours}", f"{original}/{theirs}/__call__:1", dims)
        if spec.relative_attention_type:
            dims = "1 heads batch length global_length"
            table = f"{name}/side_relpos_bias/__call__:{bias}"
            yield OriginalTap(f"{module}.side_position_bias", table, dims, where=HERE[name])
    yield _tap(f"{module}.q", f"{original}/query", f"batch length {HEADS}", name)
    for ours, theirs in (("k", "key"), ("v", "value")):
        dims = f"batch memory_length {HEADS}"
        yield OriginalTap(f"{module}.{ours}", f"{original}/{theirs}/__call__:0", dims, where=MEMORY[name])
    if spec.relative_attention_type:
        dims = "1 heads block_length window_length"
        yield OriginalTap(f"{module}.position_bias", f"{name}/relpos_bias/__call__:{bias}", dims)
    yield _tap(f"{module}.o", f"{original}/out", HIDDEN, name)


def _feed_forward(name: str, spec: FeedForwardSpec, module: str, original: str) -> Iterator[OriginalTap]:
    for projection in spec.projections:
        yield _tap(f"{module}.{projection}", f"{original}/{projection}", WIDE, name)
    # The product of the factors, which no module makes: dropout, which is off, returns it as it is.
    yield _tap(f"{module}.hidden", f"{original}/Dropout_0", WIDE, name)
    yield _tap(f"{module}.wo", f"{original}/wo", HIDDEN, name)


def _tap(name: str, module: str, dims: str, stack: str) -> OriginalTap:
    """Of the only call of a module, at the stack's real positions."""
    return OriginalTap(name, f"{module}/__call__:0", dims, where=HERE[stack])


def _left_out(config: Config) -> dict[str, str]:
    """Further names that T5X or LongT5's original records -> why they are not compared."""
    found = {"": _LOGITS, "decoder": _LOGITS, "decoder/logits_dense": _LOGITS}
    for name, stack in config.architecture.stacks.items():
        for copy in ("Dropout_0", "Dropout_1", "embedder", "input_dropout", "output_dropout"):
            found[f"{name}/{copy}"] = _COPY
        for place in stack.places:
            layer, role = f"{name}/layers_{place.block}", _role(name, place.spec)
            found[f"{layer}/{role}"] = _SAME
            short = role.replace("encoder_decoder", "cross")
            for copy in (f"Dropout_{place.index}", f"post_{short}_dropout", "mlp/Dropout_1"):
                found[f"{layer}/{copy}"] = _COPY
    return {f"{name}/__call__:0".lstrip("/"): why for name, why in found.items()}
