"""What diagnosis is measured on: variants of T5, faults of porters, and right ports written otherwise."""

from __future__ import annotations

# Each registers its faults when it is imported.
from benchmarks.corpus import attention, config, embeddings, layers, mixture, positions, weights
from benchmarks.corpus.fault import FAULTS
from benchmarks.corpus.pairs import PAIRS, SMALL, SMALL_PAIRS

__all__ = [
    "FAULTS",
    "PAIRS",
    "SMALL",
    "SMALL_PAIRS",
    "attention",
    "config",
    "embeddings",
    "layers",
    "mixture",
    "positions",
    "weights",
]
