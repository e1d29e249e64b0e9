"""The original T5, built by Mesh TensorFlow from its own config, tapped (reference_taps.py), and run.

Runs in the reference process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from porting.inputs import Inputs
from porting.ports.t5.config import config_from_json
from porting.ports.t5.reference_taps import tapped
from porting.ports.t5.taps import MASKED_BELOW
from porting.references.mesh_tf import (
    Feed,
    Mesh,
    Recorder,
    Session,
    dimension_names,
    import_feed,
    import_mesh_tensorflow,
    parse_gin,
)
from porting.trace import TraceWriter, read_trace


def run(request: Mapping[str, Any]) -> None:
    """Run the original on a checkpoint and write a trace.

    Args:
        request: `checkpoint` (prefix), `gin` (config text), `config` (config.json's contents), `inputs` (a
            directory with a trace's inputs), `trace` (where to write), `metadata` (to write along).
    """
    mesh = import_mesh_tensorflow()
    parse_gin(mesh, request["gin"])
    inputs = read_trace(request["inputs"]).inputs
    model = build_from_config(mesh, request["config"])
    graph = mesh.mtf.Graph()
    mtf_mesh = mesh.mtf.Mesh(graph, "mesh")
    recorder = Recorder()
    with tapped(mesh, model, recorder):
        logits, loss = call(mesh, mtf_mesh, model, inputs)
    recorder.add("logits", "logits", logits)
    recorder.add("loss", "loss", loss)

    with Session(mesh, graph, mtf_mesh, Path(request["checkpoint"])) as session:
        tensors = [record.tensor for record in recorder.records]
        values = session.run(tensors)
        again = session.run([logits, loss])
    writer = TraceWriter(Path(request["trace"]), inputs)
    for record, value in zip(recorder.records, values, strict=True):
        hidden_below = MASKED_BELOW if record.name.endswith(".scores") else None
        names, array = _without_replicas(dimension_names(record.tensor), np.asarray(value, np.float32))
        writer.add(
            record.name,
            array,
            names,
            original_name=record.original_name,
            hidden_below=hidden_below,
        )
    writer.close(
        {
            **request["metadata"],
            "implementation": "Mesh TensorFlow",
            "versions": mesh.versions(),
            "compute_dtype": "float32",
            "deterministic": bool(
                np.array_equal(values[-2], again[0], equal_nan=True)
                and np.array_equal(values[-1], again[1], equal_nan=True)
            ),
        }
    )


def _without_replicas(names: tuple[str, ...], array: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Without Mesh's dimension of expert replicas, of which there is one here."""
    if "outer_batch" not in names:
        return names, array
    axis = names.index("outer_batch")
    return names[:axis] + names[axis + 1 :], array.squeeze(axis)


def build_from_config(mesh: Mesh, content: Mapping[str, Any]) -> Any:
    """The original's model, from the gin config that was parsed and what Mesh takes from elsewhere."""
    architecture = config_from_json(content).architecture
    sizes = list(architecture.embedding_rows.values())
    output = architecture.vocab_size
    if architecture.first_sentinel_id is not None:
        # Mesh counts sentinels from the end of the vocabulary before it was padded.
        number = mesh.gin.query_parameter("relative_position_spans.num_sentinels")
        output = architecture.first_sentinel_id + number
        sizes[0] = output if architecture.shares_embedding else sizes[0]
    if architecture.is_encoder_decoder:
        return build(mesh, "bitransformer", sizes[0], output)
    kind = "lm" if architecture.encoder is None else "aligned"
    scope = architecture.stacks[architecture.output_stack].scope
    return build(mesh, kind, sizes[0], output, scope)


def build(mesh: Mesh, kind: str, input_vocab: int, output_vocab: int, scope: str = "transformer") -> Any:
    """The original's Bitransformer or Unitransformer, as `build_model` in Mesh's utils.py builds it.

    Args:
        mesh: the original, its gin config parsed.
        kind: bitransformer, lm, delimited_lm or aligned.
        input_vocab, output_vocab: sizes of the vocabularies, which Mesh pads.
        scope: of a single stack's variables.
    """
    vocabularies = {"input_vocab_size": input_vocab, "output_vocab_size": output_vocab}
    # Mixtures of experts read layout and mesh_shape: "" is one device.
    if kind == "bitransformer":
        return mesh.transformer.make_bitransformer(**vocabularies, layout="", mesh_shape="")
    return mesh.transformer.Unitransformer(
        autoregressive=kind != "aligned",
        layer_stack=mesh.transformer.make_layer_stack(),
        name=scope,
        layout="",
        mesh_shape="",
        **vocabularies,
    )


def call(mesh: Mesh, mtf_mesh: Any, model: Any, inputs: Inputs, mode: str = "eval") -> tuple[Any, Any]:
    """Logits [batch, length, vocab] and loss [] of the original, float32, as mtf tensors."""
    mtf, tf = mesh.mtf, mesh.tf
    batch = mtf.Dimension("batch", inputs.inputs.shape[0])
    # Both stacks call their own axis "length", and may be of different length: so does Mesh's training.
    encoder = [batch, mtf.Dimension("length", inputs.inputs.shape[1])]
    decoder = [batch, mtf.Dimension("length", inputs.targets.shape[1])]

    def feed(name: str, values: np.ndarray | None, dims: list[Any]) -> Any:
        return None if values is None else import_feed(mesh, mtf_mesh, Feed(name, values, dims))

    ids, targets = feed("inputs", inputs.inputs, encoder), feed("targets", inputs.targets, decoder)
    settings = {
        "inputs": ids,
        "targets": targets,
        "compute_loss": True,
        "mode": mode,
        "variable_dtype": mtf.VariableDType(tf.float32, tf.float32, tf.float32),
    }
    sequence_ids = feed("encoder_sequence_id", inputs.sequence_ids, encoder)
    if isinstance(model, mesh.transformer.Unitransformer):
        if sequence_ids is None:  # where there is padding, as datasets say it in training
            sequence_ids = mtf.minimum(targets if model.autoregressive else ids, 1)
        logits, loss = model.call_simple(**settings, sequence_id=sequence_ids)
        return logits, loss
    logits, loss = model.call_simple(
        **settings,
        encoder_sequence_id=sequence_ids,
        decoder_sequence_id=feed("decoder_sequence_id", inputs.decoder_sequence_ids, decoder),
    )
    return logits, loss
