"""The rule table: Mesh TensorFlow variable names -> state-dict keys, total in both directions.

    shared/embedding                                              shared.weight
    encoder/block_000/layer_000/SelfAttention/q  [d_model, h*k]   encoder.block.0.layer.0.SelfAttention.q...
    .../SelfAttention/relative_attention_bias    [h, buckets]     ....relative_attention_bias.weight
    .../DenseReluDense/wi/kernel                 [d_model, d_ff]  ...DenseReluDense.wi.weight
    .../layer_norm/scale or .../rms_norm/scale                    ....layer_norm.weight
    encoder/final_layer_norm/scale or encoder/rms_norm/scale      encoder.final_layer_norm.weight
    decoder/logits/kernel                        [d_model, vocab] lm_head.weight

Kernels are transposed: Mesh keeps [in, out], torch.nn.Linear [out, in].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from porting.mapping import Drop, Rule, Shape
from porting.ops import Transpose
from porting.ports.t5.config import T5Config

# Layers of one block, in order, by the class names of Mesh's transformer_layers.py.
BLOCK_LAYERS = {
    "encoder": ("SelfAttention", "DenseReluDense"),
    "decoder": ("SelfAttention", "EncDecAttention", "DenseReluDense"),
}
# Old checkpoints (LayerStack.dropout_rate and norm_epsilon set) and newer ones.
LAYER_NORM = r"(?:layer_norm|rms_norm)"
FINAL_NORM = r"(?:final_layer_norm|rms_norm)"
_TRANSPOSE = (Transpose(),)

DROPS = (
    # As Mesh's optimize.py names them: Adafactor's, Adam's, momentum's.
    Drop(r".*_slot_(?:v|vr|vc|m)|.*/adam_[mv]|.*_momentum_v", "optimizer state"),
    Drop(r"global_step", "global step"),
)


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are the variables of a Mesh encoder-decoder Transformer."""
    return any(re.fullmatch(r"(?:encoder|decoder)/block_\d+/.*", name) for name in shapes)


def is_weight(name: str) -> bool:
    """Whether a variable is a weight of the model, not optimizer state or a counter."""
    return not any(drop.regex.fullmatch(name) for drop in DROPS)


def rules(config: T5Config, names: Sequence[str]) -> list[Rule | Drop]:
    """The table for a configuration and the layer names that a checkpoint uses.

    Args:
        config: only how many outputs there are depends on it; every rule is stated in any case.
        names: the checkpoint's variables; layers that were given names are found in them.
    """
    del config
    table: list[Rule | Drop] = [
        Rule(r"shared/embedding", "shared.weight"),
        Rule(r"decoder/logits/kernel", "lm_head.weight", _TRANSPOSE),
        *DROPS,
    ]
    for stack, kinds in BLOCK_LAYERS.items():
        table.append(Rule(rf"{stack}/{FINAL_NORM}/scale", f"{stack}.final_layer_norm.weight"))
        for index, kind in enumerate(kinds):
            table.extend(_layer_rules(stack, index, kind, re.escape(layer_scope(stack, index, kind, names))))
    return table


def _layer_rules(stack: str, index: int, kind: str, scope: str) -> Iterator[Rule]:
    source = rf"{stack}/block_(?P<block>\d+)/{scope}"
    target = f"{stack}.block.{{block}}.layer.{index}"
    yield Rule(f"{source}/{LAYER_NORM}/scale", f"{target}.layer_norm.weight")
    if kind == "DenseReluDense":
        yield Rule(
            rf"{source}/{kind}/(?P<kernel>wi|wi_0|wi_1|wo)/kernel",
            f"{target}.{kind}.{{kernel}}.weight",
            _TRANSPOSE,
        )
        return
    yield Rule(
        rf"{source}/{kind}/(?P<projection>q|k|v|o)", f"{target}.{kind}.{{projection}}.weight", _TRANSPOSE
    )
    if kind == "SelfAttention":
        yield Rule(
            f"{source}/{kind}/relative_attention_bias",
            f"{target}.{kind}.relative_attention_bias.weight",
            _TRANSPOSE,
        )


def layer_scope(stack: str, index: int, kind: str, names: Sequence[str]) -> str:
    """The scope of the layer of this kind: `layer_001`, or the name it was given (`dense_relu_dense`)."""
    for name in names:
        match = re.match(rf"{stack}/block_\d+/([^/]+)/{kind}/", name)
        if match:
            return match[1]
    return f"layer_{index:03d}"
