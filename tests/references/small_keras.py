"""A small model in Keras, run in the reference process; and what makes its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from porting.references.keras import BuiltModel, load_weights, reference
from porting.references.original_tap import OriginalTap

VOCABULARY, WIDTH, CLASSES = 11, 5, 3


def make_model(tf: Any, *, functional: bool = False) -> Any:
    """A layer that is called twice and returns two tensors, inside a subclassed or a functional model."""
    keras = tf.keras

    class Block(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(name="block")
            self.dense = keras.layers.Dense(WIDTH, activation="tanh")
            self.dropout = keras.layers.Dropout(0.5)

        def call(self, x: Any, training: Any = None) -> Any:
            y = self.dense(x) + self.dropout(x, training=training)
            return y, y / 2

        def compute_output_shape(self, shape: Any) -> Any:
            return shape, shape

    class Model(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = keras.layers.Embedding(VOCABULARY, WIDTH, name="table")
            self.blocks = [Block()]
            self.out = keras.layers.Dense(CLASSES)

        def call(self, ids: Any, training: Any = None) -> Any:
            x, _ = self.blocks[0](self.table(ids), training=training)
            x, half = self.blocks[0](x, training=training)
            return self.out(x + half)

    if not functional:
        model = Model()
        model(tf.zeros([1, 2], tf.int32))
        return model
    ids = keras.Input([None], dtype="int32")
    block = Block()
    x, _ = block(keras.layers.Embedding(VOCABULARY, WIDTH, name="table")(ids))
    x, half = block(x)
    return keras.Model(ids, keras.layers.Dense(CLASSES, name="out")(keras.layers.Add(name="add")([x, half])))


def key(variable: Any) -> str:
    """Names that do not hang on Keras's numbering: dense/kernel, out/kernel, table/embeddings."""
    name = str(getattr(variable, "path", variable.name)).removesuffix(":0").split("/")
    width = tuple(variable.shape)[-1]
    owner = {"embeddings": "table"}.get(name[-1], "out" if width == CLASSES else "dense")
    return f"{owner}/{name[-1]}"


def build(tf: Any, request: Mapping[str, Any]) -> BuiltModel:
    config = request["config"]
    functional = config.get("functional", False)
    model = make_model(tf, functional=functional)
    load_weights(tf, model, request["checkpoint"], key)

    def run_model(model: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        logits = model(inputs["inputs"], training=config.get("training", False))
        return {"logits": logits, "loss": tf.reduce_mean(tf.square(logits))}

    wrong = config.get("wrong", "")
    taps = [
        OriginalTap("loss", "loss", ""),
        OriginalTap("logits", "logits", "batch length classes"),
        OriginalTap("half", "block@1:1", "batch length width"),
        OriginalTap("second", "block@1", "batch length width"),
        OriginalTap("first", "block" if functional else "blocks.0", "batch length width"),
        OriginalTap("embedded", "table" + wrong, "batch length width"),
        OriginalTap("tanh", "block/dense" + wrong, "batch length width"),
        OriginalTap("spare", "block@2", "batch", optional=True),
    ]
    return BuiltModel(model, run_model, taps, variable_name=key, loss=config.get("loss", "loss"))


run = reference(build, implementation="a small Keras model")
run_legacy = reference(build, implementation="a small Keras model", legacy=True)


def make_checkpoint(request: Mapping[str, Any]) -> None:
    """Every variable random, saved under the names of `key`."""
    from porting.references.tf1_compat import import_tf1

    random = np.random.default_rng(8)
    shapes = {
        "table/embeddings": (VOCABULARY, WIDTH),
        "dense/kernel": (WIDTH, WIDTH),
        "dense/bias": (WIDTH,),
        "out/kernel": (WIDTH, CLASSES),
        "out/bias": (CLASSES,),
    }
    tf = import_tf1()
    with tf.Graph().as_default(), tf.Session() as session:
        kept = {
            name: tf.Variable(random.standard_normal(shape).astype(np.float32))
            for name, shape in shapes.items()
            if name not in request.get("without", ())
        }
        session.run(tf.global_variables_initializer())
        tf.train.Saver(kept).save(session, request["output"], write_meta_graph=False)
