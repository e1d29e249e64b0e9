"""Where the PyTorch T5 is listened to. Names are module paths; `reference.py` taps the original under them.

The two lists are made apart on purpose: a tap that only one side has is reported, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from porting.ports.t5.config import T5Config
from porting.tap import Tap

HIDDEN = "batch length d_model"
# Scores of hidden positions are around -1e9 (MASK_BIAS in attention.py): float32 has no digits left there.
MASKED_BELOW = -1e8


def taps(config: T5Config) -> list[Tap]:
    """Every tapped tensor of a T5 of this configuration, stack by stack."""
    return [
        *_stack(config, "encoder", config.num_layers, ("SelfAttention",)),
        *_stack(config, "decoder", config.num_decoder_layers, ("SelfAttention", "EncDecAttention")),
        Tap("logits", "batch length vocab"),
        Tap("loss", ""),
    ]


def _stack(config: T5Config, stack: str, blocks: int, attentions: tuple[str, ...]) -> Iterator[Tap]:
    yield Tap(f"{stack}.embed_tokens", HIDDEN)
    for i in range(blocks):
        for j, attention in enumerate(attentions):
            layer = f"{stack}.block.{i}.layer.{j}"
            yield Tap(f"{layer}.layer_norm", HIDDEN)
            yield Tap(f"{layer}.mask_padding", HIDDEN)
            yield from _attention(config, f"{layer}.{attention}", positions=attention == "SelfAttention")
            yield Tap(layer, HIDDEN)
        layer = f"{stack}.block.{i}.layer.{len(attentions)}"
        yield Tap(f"{layer}.layer_norm", HIDDEN)
        yield Tap(f"{layer}.mask_padding", HIDDEN)
        yield from _feed_forward(config, f"{layer}.DenseReluDense")
        yield Tap(layer, HIDDEN)
    yield Tap(f"{stack}.final_layer_norm", HIDDEN)
    yield Tap(stack, HIDDEN)


def _attention(config: T5Config, path: str, *, positions: bool) -> Iterator[Tap]:
    heads = {"heads": config.num_heads, "d_kv": config.d_kv}
    yield Tap(f"{path}.q", "batch length (heads d_kv)", heads)
    yield Tap(f"{path}.k", "batch memory_length (heads d_kv)", heads)
    yield Tap(f"{path}.v", "batch memory_length (heads d_kv)", heads)
    if positions:
        yield Tap(f"{path}.position_bias", "heads length memory_length")
    yield Tap(f"{path}.scores", "batch heads length memory_length", hidden_below=MASKED_BELOW)
    yield Tap(f"{path}.weights", "batch heads length memory_length")
    yield Tap(f"{path}.attended", "batch heads length d_kv")
    yield Tap(f"{path}.o", HIDDEN)


def _feed_forward(config: T5Config, path: str) -> Iterator[Tap]:
    inner = "batch length d_ff"
    if config.is_gated:
        yield Tap(f"{path}.wi_0", inner)
        yield Tap(f"{path}.act", inner)
        yield Tap(f"{path}.wi_1", inner)
    else:
        yield Tap(f"{path}.wi", inner)
        yield Tap(f"{path}.act", inner)
    yield Tap(f"{path}.hidden", inner)
    yield Tap(f"{path}.wo", HIDDEN)
