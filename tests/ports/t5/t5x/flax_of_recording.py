"""FlaxT5 with the weights of a recorded run, for tests that run it in its own environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from porting.ports.t5.t5x.flax_reference import built, spelled
from porting.references.flax import BuiltModule, reference


def build(request: Mapping[str, Any]) -> BuiltModule:
    with np.load(request["checkpoint"]) as held:
        arrays = {name.removeprefix("param:"): held[name] for name in held.files if name.startswith("param:")}
    return built(spelled(request["config"]), arrays)


run = reference(build, implementation="FlaxT5 of transformers", packages=["transformers"])
