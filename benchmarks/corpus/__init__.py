"""What diagnosis is measured on: variants of T5, faults of porters, and right ports written otherwise."""

from __future__ import annotations

from pathlib import Path

# Each registers its faults when it is imported.
from benchmarks.corpus import attention, config, embeddings, layers, mixture, positions, weights  # isort: skip
from benchmarks.corpus import long_attention, long_summaries  # isort: skip
from benchmarks.corpus import long_existing  # isort: skip  # more variants of what is above
from benchmarks.corpus.fault import FAULTS
from benchmarks.corpus.long_variants import LONG_VARIANTS, at_hand, long_ported
from benchmarks.corpus.pairs import PAIRS, SMALL, SMALL_PAIRS
from benchmarks.corpus.variants import VARIANTS, Ported, ported

__all__ = [
    "FAULTS",
    "PAIRS",
    "SMALL",
    "SMALL_PAIRS",
    "any_ported",
    "attention",
    "config",
    "embeddings",
    "layers",
    "long_attention",
    "long_existing",
    "long_summaries",
    "mixture",
    "positions",
    "variants_at_hand",
    "weights",
]


def variants_at_hand() -> list[str]:
    """Names of the variants whose original can be had here."""
    return [*VARIANTS, *at_hand()]


def any_ported(name: str, cache: Path) -> Ported:
    """A variant of either kind."""
    return long_ported(name, cache) if name in LONG_VARIANTS else ported(name, cache)
