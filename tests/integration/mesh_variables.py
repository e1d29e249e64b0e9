"""The variables that the original makes of a gin config, listed in a process of its own (TensorFlow)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from porting.inputs import Inputs
from porting.ports.t5.config import config_from_json
from porting.ports.t5.reference import build_from_config, call
from porting.references.mesh_tf import import_mesh_tensorflow, parse_gin


def listed(request: Mapping[str, Any]) -> None:
    """Write {variable name: shape} as JSON.

    Args:
        request: `gin` (config text), `config` (contents of config.json), `output`.
    """
    mesh = import_mesh_tensorflow()
    parse_gin(mesh, request["gin"])
    ids = np.ones((2, 8), np.int32)
    single = not config_from_json(request["config"]).architecture.is_encoder_decoder
    inputs = Inputs.from_arrays({"inputs": ids, "targets": ids if single else ids[:, :5]})
    with mesh.tf.Graph().as_default():
        graph = mesh.mtf.Graph()
        mtf_mesh = mesh.mtf.Mesh(graph, "mesh")
        call(mesh, mtf_mesh, build_from_config(mesh, request["config"]), inputs)
        found = {variable.name: variable.shape.to_integer_list for variable in graph.all_variables}
    Path(request["output"]).write_text(json.dumps(found))
