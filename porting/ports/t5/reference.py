"""The original T5, built by Mesh TensorFlow from its own config, tapped, and run.

Runs in the reference process. The taps sit on what the original's functions return (a layer's call, the
attention projections, `dense`) and on the softmax and the bucket lookup inside a layer, each recorded while
that layer is being built. The names recorded are the port's module paths; the original's scope names stand
beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from porting.inputs import Inputs
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
    replaced,
)
from porting.trace import TraceWriter, read_trace


def run(request: Mapping[str, Any]) -> None:
    """Run the original on a checkpoint and write a trace.

    Args:
        request: `checkpoint` (prefix), `gin` (config text), `vocab_size`, `inputs` (a directory with a
            trace's inputs), `trace` (where to write), `metadata` (to write along).
    """
    mesh = import_mesh_tensorflow()
    parse_gin(mesh, request["gin"])
    inputs = read_trace(request["inputs"]).inputs
    model = build(mesh, request["vocab_size"])
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
        writer.add(
            record.name,
            np.asarray(value, np.float32),
            dimension_names(record.tensor),
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


def build(mesh: Mesh, vocab_size: int) -> Any:
    """The original's Bitransformer, from the gin config that was parsed."""
    return mesh.transformer.make_bitransformer(
        input_vocab_size=vocab_size, output_vocab_size=vocab_size, layout="", mesh_shape=""
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

    logits, loss = model.call_simple(
        inputs=feed("inputs", inputs.inputs, encoder),
        targets=feed("targets", inputs.targets, decoder),
        compute_loss=True,
        mode=mode,
        variable_dtype=mtf.VariableDType(tf.float32, tf.float32, tf.float32),
        encoder_sequence_id=feed("encoder_sequence_id", inputs.sequence_ids, encoder),
        decoder_sequence_id=feed("decoder_sequence_id", inputs.decoder_sequence_ids, decoder),
    )
    return logits, loss


@dataclass
class _Position:
    """The layer that is being built: the port's path of it, and the original's scope."""

    recorder: Recorder
    tf: Any
    path: str = ""
    recorded: set[str] = field(default_factory=set)

    def record(self, what: str, original: str, tensor: Any) -> None:
        """Record a tensor of the current layer, once; outside a layer nothing is recorded."""
        if self.path:
            self.absolute(f"{self.path}.{what}", original, tensor)

    def absolute(self, name: str, original: str, tensor: Any) -> None:
        if name not in self.recorded:
            self.recorded.add(name)
            scope = self.tf.get_variable_scope().name
            self.recorder.add(name, f"{scope}/{original}" if original else scope, tensor)


@contextmanager
def tapped(mesh: Mesh, model: Any, recorder: Recorder) -> Iterator[None]:
    """Record the tensors of a Bitransformer while its graph is built inside the block."""
    position = _Position(recorder, mesh.tf)
    for stack, transformer in (("encoder", model.encoder), ("decoder", model.decoder)):
        _tap_stack(position, stack, transformer.layer_stack)
    layers = mesh.mtf.layers
    params = mesh.attention.AttentionParams
    with ExitStack() as patches:
        for name in ("q", "k", "v"):
            patches.enter_context(replaced(params, f"compute_{name}", _returns(position, name, name)))
        patches.enter_context(replaced(params, "compute_output", _returns(position, "o", "o")))
        patches.enter_context(
            replaced(mesh.attention, "attention", _returns(position, "attended", "attention"))
        )
        patches.enter_context(replaced(mesh.mtf, "softmax", functools.partial(_tap_softmax, position)))
        patches.enter_context(replaced(mesh.mtf, "gather", functools.partial(_tap_bucket_lookup, position)))
        patches.enter_context(replaced(layers, "dense", functools.partial(_tap_dense, position)))
        patches.enter_context(
            replaced(layers, "dense_product", _returns(position, "hidden", "dense_product"))
        )
        yield


def _returns(position: _Position, name: str, original: str) -> Callable[[Any], Any]:
    """Record what a function returns."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            position.record(name, original, result)
            return result

        return wrapped

    return wrap


def _tap_softmax(position: _Position, softmax: Callable[..., Any]) -> Callable[..., Any]:
    """Attention scores go into the softmax over memory_length, weights come out."""

    def wrapped(x: Any, reduced_dim: Any, *args: Any, **kwargs: Any) -> Any:
        weights = softmax(x, reduced_dim, *args, **kwargs)
        if getattr(reduced_dim, "name", "") == "memory_length":
            position.record("scores", "logits", x)
            position.record("weights", "weights", weights)
        return weights

    return wrapped


def _tap_bucket_lookup(position: _Position, gather: Callable[..., Any]) -> Callable[..., Any]:
    """The relative position bias is what is gathered along the dimension "buckets"."""

    def wrapped(weights: Any, indices: Any, dim: Any, *args: Any, **kwargs: Any) -> Any:
        result = gather(weights, indices, dim, *args, **kwargs)
        if getattr(dim, "name", "") == "buckets":
            position.record("position_bias", "relative_attention_bias", result)
        return result

    return wrapped


def _tap_dense(position: _Position, dense: Callable[..., Any]) -> Callable[..., Any]:
    """A dense layer before its activation (wi_0), and the activation (act) where it has one."""

    def wrapped(x: Any, *args: Any, **kwargs: Any) -> Any:
        name, activation = kwargs.get("name") or "", kwargs.get("activation")
        if activation is not None:

            def recorded(projection: Any) -> Any:
                position.record(name, "", projection)
                active = activation(projection)
                position.record("act", getattr(activation, "__name__", "activation"), active)
                return active

            return dense(x, *args, **{**kwargs, "activation": recorded})
        result = dense(x, *args, **kwargs)
        if name.startswith(("wi", "wo")):
            position.record(name, name, result)
        return result

    return wrapped


def _tap_stack(position: _Position, stack: str, layer_stack: Any) -> None:
    """Tap the layers of one stack: what goes into each, its norm, and the sum that leaves it."""
    blocks = sum(type(layer).__name__ == "SelfAttention" for layer in layer_stack.layers)
    layers_in_block = len(layer_stack.layers) // blocks
    owner_of_norm = ""  # the layer that a norm belongs to, or the stack's end

    def path_of(number: int) -> str:
        return f"{stack}.block.{number // layers_in_block}.layer.{number % layers_in_block}"

    def tap_norm(sublayer: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(sublayer)
        def wrapped(x: Any, stack_object: Any, context: Any) -> Any:
            result = sublayer(x, stack_object, context)
            if "norm" in sublayer.__name__:
                position.absolute(f"{owner_of_norm}layer_norm", sublayer.__name__, result)
            return result

        return wrapped

    layer_fn, call = layer_stack._layer_fn, layer_stack.call

    def tapped_layer_fn(x: Any, layer: Any, context: Any) -> Any:
        nonlocal owner_of_norm
        path = path_of(context.layer_index)
        owner_of_norm = f"{path}."
        result = layer_fn(x, layer, context)
        owner_of_norm = f"{stack}.final_"
        position.absolute(path, "residual", result)
        return result

    def tapped_call(context: Any, x: Any) -> Any:
        position.absolute(f"{stack}.embed_tokens", "embedding", x)
        result = call(context, x)
        position.absolute(stack, "output", result)
        return result

    for number, layer in enumerate(layer_stack.layers):
        layer.call = _tap_layer(position, path_of(number), type(layer).__name__, layer.call)
    layer_stack._sublayers_per_layer = [tap_norm(s) for s in layer_stack._sublayers_per_layer]
    layer_stack._sublayers_final = [tap_norm(s) for s in layer_stack._sublayers_final]
    layer_stack._layer_fn = tapped_layer_fn
    layer_stack.call = tapped_call


def _tap_layer(position: _Position, path: str, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Record what goes into a layer, and let what it computes inside be recorded under its path."""

    def wrapped(context: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        position.absolute(f"{path}.mask_padding", "input", x)
        position.path = f"{path}.{kind}"
        try:
            return call(context, x, *args, **kwargs)
        finally:
            position.path = ""

    return wrapped
