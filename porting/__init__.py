"""Convert checkpoints of one framework into models of another, and prove the port tensor by tensor.

    from porting import convert_checkpoint, load_model, run_reference, compare_outputs

    convert_checkpoint("model.ckpt-1000", "model_dir")
    model = load_model("model_dir")
    comparison = compare_outputs("model.ckpt-1000", model)
    print(comparison.status, comparison.first_divergence)

Names are resolved when they are first used, so that `import porting` loads neither PyTorch nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from porting.compare import Comparison
    from porting.convert import Conversion, check_directory, convert_checkpoint
    from porting.errors import PortingError
    from porting.gradients.traces import gradients_of
    from porting.inputs import Inputs
    from porting.model_dir import load_model
    from porting.trace import Trace
    from porting.workbench import compare_outputs, run_reference

_HOME = {
    "Comparison": "porting.compare",
    "Conversion": "porting.convert",
    "Inputs": "porting.inputs",
    "PortingError": "porting.errors",
    "Trace": "porting.trace",
    "check_directory": "porting.convert",
    "compare_outputs": "porting.workbench",
    "convert_checkpoint": "porting.convert",
    "gradients_of": "porting.gradients.traces",
    "load_model": "porting.model_dir",
    "run_reference": "porting.workbench",
}

__all__ = [
    "Comparison",
    "Conversion",
    "Inputs",
    "PortingError",
    "Trace",
    "check_directory",
    "compare_outputs",
    "convert_checkpoint",
    "gradients_of",
    "load_model",
    "run_reference",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'porting' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
