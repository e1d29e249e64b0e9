"""Let the original decode: Mesh's own greedy decoder and beam search, in the reference process.

decode_with_original("model.ckpt-1000", input_ids, num_beams=4)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from porting.checkpoint import open_checkpoint
from porting.convert import resolve_config
from porting.references.process import run_in_process


def decode_with_original(
    source: str | Path,
    input_ids: np.ndarray,
    *,
    num_beams: int = 1,
    max_new_tokens: int = 64,
    config: str | Path | None = None,
) -> np.ndarray:
    """What the original says after reading the inputs.

    Args:
        source: a checkpoint prefix, or the directory that holds it.
        input_ids: int [batch, length], 0 is padding. Of a language model, the beginnings to go on from,
            without a start token.
        num_beams: 1 decodes greedily; more is Mesh's beam search, alpha 0.6.
        max_new_tokens: how many tokens at most. Mesh's beam search also stops after 1.5 times the longest
            input and ten more.
        config: as in `convert_checkpoint`.

    Returns:
        int32 [batch, max_new_tokens]; of a language model [batch, length + max_new_tokens], beginnings
        included. Greedy decoding goes on behind a row's end (id 1) until every row has ended: what stands
        there means nothing.

    Raises:
        ReferenceRunError: the original cannot be run here, or failed.
    """
    checkpoint = open_checkpoint(source)
    port, resolved = resolve_config(checkpoint, config)
    with tempfile.TemporaryDirectory(prefix="porting-decode-") as folder:
        ids, output = Path(folder) / "inputs.npy", Path(folder) / "output.npy"
        np.save(ids, np.asarray(input_ids, np.int32))
        run_in_process(
            f"{__name__}:run",
            {
                "checkpoint": str(checkpoint.path.resolve()),
                "gin": resolved.original_text
                or port.reference_config(resolved.config, list(checkpoint.tensors)),
                "config": port.config_to_json(resolved.config),
                "inputs": str(ids),
                "output": str(output),
                "num_beams": num_beams,
                "max_new_tokens": max_new_tokens,
            },
        )
        decoded: np.ndarray = np.load(output)
    return decoded


def run(request: Mapping[str, Any]) -> None:
    """Decode in the reference process, and save the ids."""
    from porting.ports.t5.reference import build_from_config
    from porting.references.mesh_tf import Feed, Session, import_feed, import_mesh_tensorflow, parse_gin

    mesh = import_mesh_tensorflow()
    mtf, tf = mesh.mtf, mesh.tf
    parse_gin(mesh, request["gin"])
    model = build_from_config(mesh, request["config"])
    graph = mtf.Graph()
    mtf_mesh = mtf.Mesh(graph, "mesh")
    ids = np.load(request["inputs"])
    floats = mtf.VariableDType(tf.float32, tf.float32, tf.float32)
    if isinstance(model, mesh.transformer.Unitransformer):
        ids = np.pad(ids, ((0, 0), (0, request["max_new_tokens"])))
        dims = [mtf.Dimension("batch", ids.shape[0]), mtf.Dimension("length", ids.shape[1])]
        beginnings = import_feed(mesh, mtf_mesh, Feed("beginnings", ids, dims))
        decoded = model.sample_autoregressive(beginnings, variable_dtype=floats, temperature=0.0)
    else:
        if request["num_beams"] > 1:
            # With a layout, Mesh looks at two candidates of each beam only, to save time on TPUs. Here there
            # is one device, and the search is to be exact. (Mixtures of experts want one: greedily only.)
            model.decoder.layout = model.decoder.mesh_shape = None
        dims = [mtf.Dimension("batch", ids.shape[0]), mtf.Dimension("length", ids.shape[1])]
        decoded = model.decode(
            import_feed(mesh, mtf_mesh, Feed("inputs", ids, dims)),
            variable_dtype=floats,
            beam_size=request["num_beams"],
            max_decode_length=request["max_new_tokens"],
        )
    with Session(mesh, graph, mtf_mesh, Path(request["checkpoint"])) as session:
        np.save(request["output"], session.run([decoded])[0])
