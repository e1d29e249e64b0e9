"""Let the original decode: Mesh's own greedy decoder and beam search, in the reference process.

decode_with_original("model.ckpt-1000", input_ids, num_beams=4)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from porting.checkpoint import open_checkpoint
from porting.ports.t5.config import config_from_json
from porting.ports.t5.decoding import given_tokens, said_by_reference
from porting.references.process import run_in_process
from porting.source import resolve_config
from porting.trace import read_trace


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
        max_new_tokens: how many tokens at most.
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
                "original_config": resolved.original_text
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
    ids = np.load(request["inputs"])
    np.save(request["output"], _decode(request, ids, request["num_beams"], request["max_new_tokens"]))


def run_for_comparison(request: Mapping[str, Any]) -> None:
    """Decode in the reference process for `compare-outputs --generate`; see `Decoding.reference`.

    A language model goes on from its inputs without their start token.
    """
    inputs = read_trace(request["inputs"]).inputs
    settings = request["generation"]
    continues = config_from_json(request["config"]).architecture.encoder is None
    ids = inputs["inputs"][:, 1:] if continues else inputs["inputs"]
    begins = given_tokens(inputs) if continues else [0] * len(ids)
    decoded = _decode(request, ids, settings["num_beams"], settings["max_new_tokens"])
    said = [
        said_by_reference(row, begin, settings["max_new_tokens"])
        for row, begin in zip(decoded.tolist(), begins, strict=True)
    ]
    Path(request["output"]).write_text(json.dumps(said), encoding="utf-8")


def _decode(request: Mapping[str, Any], ids: np.ndarray, num_beams: int, max_new_tokens: int) -> np.ndarray:
    """int32 [batch, max_new_tokens], or [batch, length + max_new_tokens] of a language model."""
    from porting.ports.t5.reference import build_from_config
    from porting.references.mesh_tf import Feed, Session, import_feed, import_mesh_tensorflow, parse_gin

    mesh = import_mesh_tensorflow()
    mtf, tf = mesh.mtf, mesh.tf
    parse_gin(mesh, request["original_config"])
    model = build_from_config(mesh, request["config"])
    graph = mtf.Graph()
    mtf_mesh = mtf.Mesh(graph, "mesh")
    floats = mtf.VariableDType(tf.float32, tf.float32, tf.float32)
    if isinstance(model, mesh.transformer.Unitransformer):
        ids = np.pad(ids, ((0, 0), (0, max_new_tokens)))
        dims = [mtf.Dimension("batch", ids.shape[0]), mtf.Dimension("length", ids.shape[1])]
        beginnings = import_feed(mesh, mtf_mesh, Feed("beginnings", ids, dims))
        decoded = model.sample_autoregressive(beginnings, variable_dtype=floats, temperature=0.0)
    else:
        if num_beams > 1:
            # With a layout, Mesh looks at two candidates of each beam only, to save time on TPUs. Here there
            # is one device, and the search is to be exact. (Mixtures of experts want one: greedily only.)
            model.decoder.layout = model.decoder.mesh_shape = None
        dims = [mtf.Dimension("batch", ids.shape[0]), mtf.Dimension("length", ids.shape[1])]
        decoded = model.decode(
            import_feed(mesh, mtf_mesh, Feed("inputs", ids, dims)),
            variable_dtype=floats,
            beam_size=num_beams,
            max_decode_length=max_new_tokens,
            # Beams stop at so many times the longest input, and so many more; a config may ask for samples.
            decode_length_multiplier=0.0,
            decode_length_constant=max_new_tokens,
            temperature=0.0,
            sampling_keep_top_k=-1,
        )
    with Session(mesh, graph, mtf_mesh, Path(request["checkpoint"])) as session:
        values: np.ndarray = session.run([decoded])[0]
    return values
