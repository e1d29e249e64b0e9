"""The original, built by its own code, tapped, and run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porting.references.original_tap import OriginalTap
from porting.references.tf1_graph import BuiltGraph, reference

HIDDEN = "batch length d_model"
LAYER = {
    "ln_1": ("ln_1/normed", HIDDEN),
    "attn.weights": ("attn/weights", "batch heads length memory_length"),
    "attn": ("attn/c_proj/out", HIDDEN),
    "ln_2": ("mlp/ln_2/normed", HIDDEN),
    "mlp": ("mlp/c_proj/out", HIDDEN),
}


def build(tf: Any, request: Mapping[str, Any], inputs: Mapping[str, Any]) -> BuiltGraph:
    import tiny_lm

    logits, loss = tiny_lm.model(tf, inputs["inputs"], inputs["targets"], request["config"])
    taps = [OriginalTap("embeddings", "model/embedded", HIDDEN)]
    for i in range(request["config"]["n_layer"]):
        for name, (tensor, dims) in LAYER.items():
            taps.append(OriginalTap(f"h.{i}.{name}", f"model/h{i}/{tensor}", dims))
        taps.append(OriginalTap(f"h.{i}", f"model/h{i}/mlp/added", HIDDEN))
    taps.append(OriginalTap("ln_f", "model/ln_f/normed", HIDDEN))
    taps.append(OriginalTap("logits", logits.name, "batch length vocab"))
    taps.append(OriginalTap("loss", loss.name, ""))
    gradients_of = ""
    # step 10: absent before
    gradients_of = loss.name
    # done
    return BuiltGraph(taps, loss=gradients_of)


run = reference(build, implementation="tiny_lm", packages=())
