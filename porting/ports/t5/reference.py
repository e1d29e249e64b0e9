"""The original T5, built by Mesh TensorFlow from its own config, tapped (reference_taps.py), and run.

Runs in the reference process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from porting.inputs import Inputs
from porting.ports.t5.config import config_from_json
from porting.ports.t5.reference_taps import tapped
from porting.ports.t5.taps import MASKED_BELOW
from porting.references.mesh_gradients import Gradient, add_gradients, write_gradients
from porting.references.mesh_tf import (
    Feed,
    Mesh,
    Placeholders,
    Record,
    Recorder,
    Session,
    dimension_names,
    import_feed,
    import_mesh_tensorflow,
    parse_gin,
)
from porting.references.tf_session import Weights
from porting.trace import TraceWriter, read_trace

# TensorFlow graphs only grow; after so many shapes a fresh one costs less than what has gathered.
_MOST_SHAPES = 32


def run(request: Mapping[str, Any]) -> None:
    """Run the original on a checkpoint and write a trace.

    What was built is kept for the next request: of the same model, ids of the same shapes cost a run of the
    graph and no more, other shapes a graph but no reading of weights.

    Args:
        request: `checkpoint` (prefix), `gin` (config text), `config` (config.json's contents), `inputs` (a
            directory with a trace's inputs), `trace` (where to write), `metadata` (to write along); and
            `gradients`, where to write a trace of those, if they are wanted.
    """
    inputs = read_trace(request["inputs"]).inputs
    original = _original(request["checkpoint"], request["original_config"], json.dumps(request["config"]))
    wanted = request.get("gradients")
    writer = TraceWriter(Path(request["trace"]), inputs)
    original.trace(inputs, writer, request["metadata"], gradients=Path(wanted) if wanted else None)


@lru_cache(maxsize=1)  # gin's bindings are the whole process's
def _original(checkpoint: str, gin: str, config: str) -> Original:
    mesh = import_mesh_tensorflow()
    parse_gin(mesh, gin)
    return Original(mesh, json.loads(config), Path(checkpoint))


class Original:
    """The original's model with a checkpoint's weights, and a graph for each shape it was asked for."""

    def __init__(self, mesh: Mesh, config: Mapping[str, Any], checkpoint: Path) -> None:
        """The model of the gin config that was parsed; `config` is config.json's contents."""
        self._mesh, self._config, self._checkpoint = mesh, config, checkpoint
        self._begin()

    def _begin(self) -> None:
        self._tf_graph = self._mesh.tf.Graph()
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        with self._tf_graph.as_default():
            self._weights = Weights(self._mesh.tf, self._checkpoint)

    def trace(
        self, inputs: Inputs, writer: TraceWriter, metadata: Mapping[str, Any], gradients: Path | None = None
    ) -> None:
        """Run on the inputs and write the trace, and that of the gradients where it is wanted."""
        arrays = inputs.arrays().items()
        shapes = (gradients is not None, *((name, array.shape) for name, array in arrays))
        if shapes not in self._graphs and len(self._graphs) == _MOST_SHAPES:
            self._weights.session.close()
            self._begin()
        with self._tf_graph.as_default():
            if shapes not in self._graphs:
                self._graphs[shapes] = self._build(inputs, gradients=gradients is not None)
            built = self._graphs[shapes]
            values, deterministic = built.run(inputs)
            if gradients is not None:
                write_gradients(
                    lambda tensors: built.values(tensors, inputs),
                    built.gradients,
                    gradients,
                    inputs,
                    metadata,
                    _without_replicas,
                )
        for record, value in zip(built.records, values, strict=True):
            names, array = _without_replicas(dimension_names(record.tensor), np.asarray(value, np.float32))
            writer.add(
                record.name,
                array,
                names,
                original_name=record.original_name,
                hidden_below=MASKED_BELOW if record.name.endswith(".scores") else None,
            )
        writer.close(
            {
                **metadata,
                "implementation": "Mesh TensorFlow",
                "versions": self._mesh.versions(),
                "compute_dtype": "float32",
                "deterministic": deterministic,
            }
        )

    def _build(self, inputs: Inputs, *, gradients: bool) -> _Graph:
        mesh, tf = self._mesh, self._mesh.tf
        graph = mesh.mtf.Graph()
        mtf_mesh = mesh.mtf.Mesh(graph, "mesh")
        model = build_from_config(mesh, self._config)
        recorder, placeholders = Recorder(), Placeholders()
        with tf.variable_scope("", reuse=tf.AUTO_REUSE), tapped(mesh, model, recorder):
            logits, loss = call(mesh, mtf_mesh, model, inputs, import_ids=placeholders)
        recorder.add("logits", "logits", logits)
        recorder.add("loss", "loss", loss)
        added = add_gradients(mesh, graph, loss, recorder.records) if gradients else []
        session = Session(mesh, graph, mtf_mesh, self._weights)
        return _Graph(session, recorder.records, placeholders.tensors, added)


@dataclass(frozen=True)
class _Graph:
    """The original's graph for one shape of inputs. `records` end with logits and loss."""

    session: Session
    records: Sequence[Record]
    placeholders: Mapping[str, Any]
    gradients: Sequence[Gradient]

    def values(self, tensors: Sequence[Any], inputs: Inputs) -> list[np.ndarray]:
        """Of any tensors of the graph (mtf.Tensor)."""
        arrays = inputs.arrays()
        feeds = {tensor: arrays[FEEDS[name]] for name, tensor in self.placeholders.items()}
        return self.session.run(tensors, feeds)

    def run(self, inputs: Inputs) -> tuple[list[np.ndarray], bool]:
        """Values of all records, and whether a second run gave the same logits and loss."""
        tensors = [record.tensor for record in self.records]
        values = self.values(tensors, inputs)
        again = self.values(tensors[-2:], inputs)
        same = (np.array_equal(a, b, equal_nan=True) for a, b in zip(values[-2:], again, strict=True))
        return values, all(same)


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


# What the original calls its ids -> the field of Inputs.
FEEDS = {
    "inputs": "inputs",
    "targets": "targets",
    "encoder_sequence_id": "sequence_ids",
    "decoder_sequence_id": "decoder_sequence_ids",
}


def call(
    mesh: Mesh,
    mtf_mesh: Any,
    model: Any,
    inputs: Inputs,
    mode: str = "eval",
    import_ids: Callable[[Mesh, Any, Feed], Any] = import_feed,
) -> tuple[Any, Any]:
    """Logits [batch, length, vocab] and loss [] of the original, float32, as mtf tensors.

    `import_ids` makes mtf tensors of ids under the names in `FEEDS`; by default constants.
    """
    mtf, tf = mesh.mtf, mesh.tf
    batch = mtf.Dimension("batch", inputs["inputs"].shape[0])
    # Both stacks call their own axis "length", and may be of different length: so does Mesh's training.
    encoder = [batch, mtf.Dimension("length", inputs["inputs"].shape[1])]
    decoder = [batch, mtf.Dimension("length", inputs["targets"].shape[1])]

    def feed(name: str, values: np.ndarray | None, dims: list[Any]) -> Any:
        return None if values is None else import_ids(mesh, mtf_mesh, Feed(name, values, dims))

    ids, targets = feed("inputs", inputs["inputs"], encoder), feed("targets", inputs["targets"], decoder)
    settings = {
        "inputs": ids,
        "targets": targets,
        "compute_loss": True,
        "mode": mode,
        "variable_dtype": mtf.VariableDType(tf.float32, tf.float32, tf.float32),
    }
    sequence_ids = feed("encoder_sequence_id", inputs.get("sequence_ids"), encoder)
    if isinstance(model, mesh.transformer.Unitransformer):
        if sequence_ids is None:  # where there is padding, as datasets say it in training
            sequence_ids = mtf.minimum(targets if model.autoregressive else ids, 1)
        logits, loss = model.call_simple(**settings, sequence_id=sequence_ids)
        return logits, loss
    logits, loss = model.call_simple(
        **settings,
        encoder_sequence_id=sequence_ids,
        decoder_sequence_id=feed("decoder_sequence_id", inputs.get("decoder_sequence_ids"), decoder),
    )
    return logits, loss
