"""The original's relative-position buckets, computed in a process of their own (it loads TensorFlow)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from porting.references.mesh_tf import import_mesh_tensorflow


def run(request: Mapping[str, Any]) -> None:
    """Write int32 [cases, 2 * reach + 1]: the buckets of -reach ... reach for each (buckets, direction)."""
    mesh = import_mesh_tensorflow()
    mtf, tf = mesh.mtf, mesh.tf
    reach = request["reach"]
    graph = mtf.Graph()
    mtf_mesh = mtf.Mesh(graph, "mesh")
    positions = tf.constant(np.arange(-reach, reach + 1, dtype=np.int32))
    relative = mtf.import_tf_tensor(mtf_mesh, positions, mtf.Shape([mtf.Dimension("p", 2 * reach + 1)]))
    buckets = [
        mesh.transformer_layers._relative_position_bucket(
            relative, bidirectional=bidirectional, num_buckets=count
        )
        for count, bidirectional in request["cases"]
    ]
    implementation = mtf.placement_mesh_impl.PlacementMeshImpl(shape=[], layout={}, devices=[""])
    lowering = mtf.Lowering(graph, {mtf_mesh: implementation})
    with tf.Session() as session:
        values = session.run([lowering.export_to_tf_tensor(bucket) for bucket in buckets])
    np.save(request["output"], np.stack(values))
