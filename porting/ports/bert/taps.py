"""Where the port is listened to: module paths, and the names of the dimensions of what they give.

reference.py taps the original under these names. The two lists are made apart on purpose: a tap that only one
side has is reported, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from porting.tap import Tap

from .config import Config

_HIDDEN = "batch length d_model"
_INNER = "batch length d_ff"
_PREDICTED = "batch predictions d_model"
# Scores of hidden positions are around -10000 (MASK_ADDER in model.py).
MASKED_BELOW = -5000.0


def taps(config: Config) -> list[Tap]:
    """Every tapped tensor, in the order of computation."""
    encoder = config.prefix
    return [
        Tap(f"{encoder}embeddings.word_embeddings", _HIDDEN),
        Tap(f"{encoder}embeddings.token_type_embeddings", _HIDDEN),
        Tap(f"{encoder}embeddings.position_embeddings", "length d_model"),
        Tap(f"{encoder}embeddings.summed", _HIDDEN),
        Tap(f"{encoder}embeddings.LayerNorm", _HIDDEN),
        *(
            tap
            for i in range(config.num_hidden_layers)
            for tap in _layer(config, f"{encoder}encoder.layer.{i}")
        ),
        Tap(f"{encoder}pooler.dense", "batch d_model"),
        Tap(f"{encoder}pooler.activation", "batch d_model"),
        *(_heads(config) if config.heads else ()),
    ]


def _layer(config: Config, path: str) -> Iterator[Tap]:
    heads = {"heads": config.num_attention_heads}
    attention, pairs = f"{path}.attention.self", "batch heads length memory_length"
    yield Tap(f"{attention}.query", "batch length (heads d_kv)", heads)
    yield Tap(f"{attention}.key", "batch memory_length (heads d_kv)", heads)
    yield Tap(f"{attention}.value", "batch memory_length (heads d_kv)", heads)
    yield Tap(f"{attention}.scores", pairs, hidden_below=MASKED_BELOW)
    yield Tap(f"{attention}.weights", pairs)
    yield Tap(f"{attention}.attended", "batch heads length d_kv")
    yield from _output(f"{path}.attention.output")
    yield Tap(f"{path}.intermediate.dense", _INNER)
    if config.hidden_act != "linear":
        yield Tap(f"{path}.intermediate.act", _INNER)
    yield from _output(f"{path}.output")


def _output(path: str) -> Iterator[Tap]:
    for name in ("dense", "residual", "LayerNorm"):
        yield Tap(f"{path}.{name}", _HIDDEN)


def _heads(config: Config) -> Iterator[Tap]:
    path = "cls.predictions"
    yield Tap(f"{path}.gathered", _PREDICTED)
    yield Tap(f"{path}.transform.dense", _PREDICTED)
    if config.hidden_act != "linear":
        yield Tap(f"{path}.transform.act", _PREDICTED)
    yield Tap(f"{path}.transform.LayerNorm", _PREDICTED)
    yield Tap(f"{path}.logits", "batch predictions vocab")
    yield Tap("cls.seq_relationship", "batch relations")
    yield Tap("masked_lm_loss.log_probs", "batch predictions vocab")
    yield Tap("masked_lm_loss.example_loss", "batch predictions")
    yield Tap("masked_lm_loss", "")
    yield Tap("next_sentence_loss.log_probs", "batch relations")
    yield Tap("next_sentence_loss.example_loss", "batch")
    yield Tap("next_sentence_loss", "")
    yield Tap("loss", "")
