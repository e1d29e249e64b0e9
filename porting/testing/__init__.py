"""The pytest plugin: traces of the original that are made once, and an assertion that shows a report.

    from porting.testing import assert_port_matches

    def test_the_port_is_right(reference_trace):
        trace = reference_trace("checkpoints/small")        # runs the original once, then never again
        assert_port_matches(trace, "converted/small", checkpoint="checkpoints/small")

Installed with the package and found by pytest through the entry point group `pytest11`; `-p no:porting`
leaves it out. docs/testing.md describes fixtures, marker and options. Loading it imports neither PyTorch nor
TensorFlow.

plugin.py      what pytest calls: options, marker, fixtures
matching.py    `assert_port_matches`
reference.py   traces of the original, kept by content; sources.py: the code that they depend on
cache.py       directories kept by content, each made once however many processes ask for it
session.py     what one test run has set up
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from porting.testing.matching import PortMismatchError, assert_port_matches
    from porting.testing.reference import ReferenceTraces

_HOME = {
    "PortMismatchError": "porting.testing.matching",
    "ReferenceTraces": "porting.testing.reference",
    "assert_port_matches": "porting.testing.matching",
}

__all__ = ["PortMismatchError", "ReferenceTraces", "assert_port_matches"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'porting.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
