"""The original: built by its own code, tapped, and run, in the reference process.

Nothing of it is written again here: a reference that this port wrote itself would prove nothing. Import the
original inside the functions, for this file is read where its framework is not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porting.references.tf1_graph import BuiltGraph, reference
from porting.scaffold import UnfinishedError


def build(tf: Any, request: Mapping[str, Any], inputs: Mapping[str, Any]) -> BuiltGraph:
    """Build the original's graph, and say which of its tensors are which taps.

    Args:
        tf: tensorflow.compat.v1, as old code needs it.
        request: `config` (config.json's contents) and `checkpoint` (its path).
        inputs: int32 placeholders by the names of the input arrays.
    """
    raise UnfinishedError(
        "Let the original's own code build its model on these inputs, for evaluation (no dropout), and"
        " return BuiltGraph([OriginalTap('embeddings', 'bert/embeddings/LayerNorm/batchnorm/add_1', 'batch"
        " length d_model'), ...], loss=loss.name): a tap's name, the original's tensor, its dimensions."
        " What the graph has is listed if you return BuiltGraph([]). This is for TensorFlow 1 graphs; the top"
        " of porting/references/tf1_graph.py says all of it. Of other frameworks: pytorch.py, keras.py,"
        " flax.py beside it."
    )


# Packages whose versions a verdict rests on, besides the framework's.
run = reference(build, implementation="the original of PORT_NAME", packages=())
