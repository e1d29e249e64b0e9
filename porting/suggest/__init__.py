"""Mapping suggestions: a checkpoint and a PyTorch module -> proposed rules, each with a confidence.

A starting file for a person to edit. Nothing here applies a rule: see docs/suggestions.md.
"""

from __future__ import annotations

from porting.suggest.suggest import Suggestion, suggest_rules

__all__ = ["Suggestion", "suggest_rules"]
