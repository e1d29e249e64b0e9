"""What T5X calls the parts of a T5, and how to tell its checkpoints by that.

    target/token_embedder/embedding                                     one for both stacks
    target/encoder/layers_0/attention/query/kernel                      a layer of its own
    target/encoder/encoder/attention/query/kernel                       all layers in one, along axis 1
    target/decoder/logits_dense/kernel
    state/param_states/..., state/step                                  the optimizer's

Sources: `T5Config` and its modules in T5X's examples/t5/network.py and examples/scalable_t5/network.py, and
the same parts in flaxformer's t5_architecture.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from porting.errors import ConfigError, Problem
from porting.mapping import Drop, Shape
from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.layer_specs import LayerSpec, is_self_attention, reads_memory

WEIGHTS = "target"
STEP = "state/step"
SCAN_AXIS = 1
"""Where scanned layers lie in a variable; T5X's `param_scan_axis`, which nobody sets otherwise."""

DROPS = (
    Drop(r"state/param_states/.*", "optimizer state"),
    Drop(re.escape(STEP), "global step"),
)
_LAYER = rf"{WEIGHTS}/(?:encoder|decoder)/(?:layers_\d+|encoder|decoder)/(?:\w*attention|mlp)/.*"
_EMBEDDING = rf"{WEIGHTS}/(?:(?:encoder|decoder)/)?token_embedder/embedding"


@dataclass(frozen=True)
class Sublayer:
    """One of the two or three layers that T5X makes a block of.

    Attributes:
        index: its place in the port's block.
        module: T5X's name of it.
        norm: T5X's name of the norm before it.
        spec: what it is; None where only names are asked for.
    """

    index: int
    module: str
    norm: str
    spec: LayerSpec | None = None


SUBLAYERS = {
    "encoder": (
        Sublayer(0, "attention", "pre_attention_layer_norm"),
        Sublayer(1, "mlp", "pre_mlp_layer_norm"),
    ),
    "decoder": (
        Sublayer(0, "self_attention", "pre_self_attention_layer_norm"),
        Sublayer(1, "encoder_decoder_attention", "pre_cross_attention_layer_norm"),
        Sublayer(2, "mlp", "pre_mlp_layer_norm"),
    ),
}


def is_t5x(names: Iterable[str]) -> bool:
    """Whether these names are T5X's of an encoder or a decoder: an embedding and layers, below `target`."""
    listed = list(names)
    return any(re.fullmatch(_EMBEDDING, name) for name in listed) and any(
        re.fullmatch(_LAYER, name) for name in listed
    )


def is_weight(name: str) -> bool:
    """Whether a variable is a weight of the model, not the optimizer's."""
    return name.startswith(f"{WEIGHTS}/")


def weights(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The weights among a checkpoint's variables."""
    return {name: shape for name, shape in shapes.items() if is_weight(name)}


def is_scanned(names: Iterable[str], stack: str) -> bool:
    """Whether the layers of a stack lie in one variable each (`scan_layers`)."""
    return any(name.startswith(f"{WEIGHTS}/{stack}/{stack}/") for name in names)


def sublayers(name: str, stack: StackSpec) -> tuple[Sublayer, ...]:
    """The layers of a block of a stack, T5X's names beside what they are.

    Raises:
        ConfigError: T5X makes no such block.
    """
    usual = SUBLAYERS[name]
    per_block = len(usual)
    blocks = [stack.layers[i : i + per_block] for i in range(0, len(stack.layers), per_block)]
    block = blocks[0] if blocks else ()
    found = [spec.kind for spec in stack.layers]
    kinds = [_role(spec) for spec in block]
    wanted = ["self", "mlp"] if name == "encoder" else ["self", "memory", "mlp"]
    if kinds != wanted or any(other != block for other in blocks):
        expected = "blocks of " + ", ".join(sub.module for sub in usual) + ", all of them alike"
        raise ConfigError(
            "T5X has no names for this model's layers.",
            problems=[Problem(f"{name}.layers", expected, ", ".join(found))],
        )
    return tuple(
        Sublayer(sub.index, sub.module, sub.norm, spec) for sub, spec in zip(usual, block, strict=True)
    )


def _role(spec: LayerSpec) -> str:
    if is_self_attention(spec):
        return "self"
    if reads_memory(spec):
        return "memory"
    return "mlp" if spec.kind == "DenseReluDense" else spec.kind
