"""A small model in TensorFlow 1's way, run in the reference process; and what makes its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porting.references.original_tap import OriginalTap
from porting.references.tf1_compat import import_tf1, tensorflow_is_v1
from porting.references.tf1_graph import BuiltGraph, reference

VOCABULARY, WIDTH, CLASSES = 11, 5, 3


def model(tf: Any, ids: Any, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Logits [batch, length, classes] and loss []: an embedding, a norm, a dense layer over merged axes."""
    with tensorflow_is_v1():
        from tensorflow.contrib import layers as contrib_layers

    batch, length = ids.shape
    with tf.variable_scope("small"):
        table = tf.get_variable("table", [VOCABULARY, WIDTH])
        tf.get_variable("unused", [2])
        embedded = tf.nn.embedding_lookup(table, ids, name="embedded")
        normed = contrib_layers.layer_norm(embedded, begin_norm_axis=-1, scope="norm")
        if config.get("dropout"):
            normed = tf.nn.dropout(normed, rate=0.5)
        flat = tf.reshape(normed, [batch * length, WIDTH])
        with tf.variable_scope("out"):
            kernel = tf.get_variable("kernel", [WIDTH, CLASSES])
            bias = tf.get_variable("bias", [CLASSES])
            logits = tf.nn.bias_add(tf.matmul(flat, kernel), bias)
    loss = tf.reduce_mean(tf.square(logits), name="loss")
    return logits, loss


def model_fn(tf: Any, ids: Any, mode: str) -> Any:
    """As old run files have one, which reads a flag of theirs."""
    from absl import flags  # tf.flags would parse them by itself

    if "small" not in flags.FLAGS:
        flags.DEFINE_string("small", "small", "a scope")
    assert flags.FLAGS.small == "small"
    loss = model(tf, ids, {})[1]
    spec = tf.estimator.EstimatorSpec(mode=mode, loss=loss)
    assert spec.train_op is None
    return tf.estimator.tpu.TPUEstimatorSpec(mode=mode, loss=spec.loss)


def build(tf: Any, request: Mapping[str, Any], inputs: Mapping[str, Any]) -> BuiltGraph:
    config = request["config"]
    if config.get("calls"):
        tf.contrib.rnn.LSTMCell(3)
    ids = inputs["inputs"]
    if config.get("model_fn"):
        loss = model_fn(tf, ids, "eval").loss
    else:
        _logits, loss = model(tf, ids, config)
    wrong, dims = config.get("wrong", ""), config.get("dims", "(batch length) classes")
    # Not in the order of computation.
    taps = [
        OriginalTap("loss", loss.name, ""),
        OriginalTap("logits", f"small/out/BiasAdd{wrong}:0", dims),
        OriginalTap("embedded", f"small/embedded{wrong}/Identity", "batch length width"),
        OriginalTap("norm", "small/norm/batchnorm/add_1", "batch length width", hidden_below=-1e4),
        OriginalTap("ids", "inputs:0", "batch length"),
        OriginalTap("pooled", "small/pooled:0", "batch width", optional=True),
    ]
    if config.get("no_taps"):
        taps = []
    return BuiltGraph(taps, loss="" if config.get("no_loss") else "loss", sizes={"batch": ids.shape[0]})


run = reference(build, implementation="a small graph", packages=["numpy"])


def make_checkpoint(request: Mapping[str, Any]) -> None:
    """Every variable random; those named in `without` are left out, those in `reshaped` get a row more."""
    tf = import_tf1()
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(7)
        model(tf, tf.placeholder(tf.int32, [2, 3]), {})
        kept = {}
        for variable in tf.global_variables():
            name, shape = variable.op.name, variable.shape.as_list()
            shape[0] += name in request.get("reshaped", ())
            if name not in request.get("without", ()):
                value = session.run(tf.random_normal(shape, seed=len(kept)))
                kept[name] = tf.Variable(value, name=f"saved/{name}")
        session.run(tf.variables_initializer(list(kept.values())))
        tf.train.Saver(kept).save(session, request["output"], write_meta_graph=False)
