"""The sentences of a comparison, as its JSON keeps them: what the terminal says, section by section."""

from __future__ import annotations

from typing import Any

from porting.compare import Comparison
from porting.report.backward import gradient_lines
from porting.report.generation import generation_lines
from porting.report.search import search_lines
from porting.report.text import verdict


def summary_of(comparison: Comparison) -> dict[str, Any]:
    """`verdict`, a sentence; `gradients`, `generation` and `search`, lines of each, or null."""
    generation, search, backward = comparison.generation, comparison.search, comparison.backward
    return {
        "verdict": verdict(comparison),
        "gradients": gradient_lines(backward) if backward else None,
        "generation": generation_lines(generation) if generation else None,
        "search": list(search_lines(search)) if search else None,
    }
