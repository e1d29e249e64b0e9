"""Runs a port's `make_checkpoint.py`, in the process that `work.make_checkpoint` starts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run(request: Mapping[str, Any]) -> None:
    """Call `make(directory)` of the file `script`; what lies beside it can be imported."""
    script = Path(request["script"])
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location("make_checkpoint", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(Path(request["directory"]))
