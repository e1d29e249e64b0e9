"""Where the port is listened to."""

from __future__ import annotations

from porting.tap import Tap

from .config import Config

HIDDEN = "batch length d_model"


def taps(config: Config) -> list[Tap]:
    layers = [
        tap
        for i in range(config.n_layer)
        for tap in (
            Tap(f"h.{i}.ln_1", HIDDEN),
            Tap(f"h.{i}.attn.weights", "batch heads length memory_length"),
            Tap(f"h.{i}.attn", HIDDEN),
            Tap(f"h.{i}.ln_2", HIDDEN),
            Tap(f"h.{i}.mlp", HIDDEN),
            Tap(f"h.{i}", HIDDEN),
        )
    ]
    ends = (Tap("ln_f", HIDDEN), Tap("logits", "batch length vocab"), Tap("loss", ""))
    return [Tap("embeddings", HIDDEN), *layers, *ends]
