"""How the original of a T5X checkpoint is run: FlaxT5 in its place, or a recorded run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from porting.port import OriginalRun
from porting.ports.t5.t5x.names import is_t5x

_T5X = OriginalRun("porting.ports.t5.t5x.flax_reference:run", uses_recording=True)


def run_of(_config: Any, names: Sequence[str]) -> OriginalRun | None:
    """None for a checkpoint of Mesh's."""
    return _T5X if is_t5x(names) else None
