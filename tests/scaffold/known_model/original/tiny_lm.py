"""The original of the walk through the steps: a decoder-only language model, in TensorFlow 1's way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

END = 1


def encode(text: str, vocab_size: int) -> list[int]:
    """Ids of a text, in lower case: 0 is padding, 1 ends a text."""
    return [byte % (vocab_size - 2) + 2 for byte in text.lower().encode("utf-8")] + [END]


def norm(tf: Any, x: Any, scope: str) -> Any:
    with tf.variable_scope(scope):
        width = x.shape.as_list()[-1]
        scale = tf.get_variable("g", [width], initializer=tf.ones_initializer())
        shift = tf.get_variable("b", [width], initializer=tf.zeros_initializer())
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
        return tf.add((x - mean) * tf.rsqrt(variance + 1e-3) * scale, shift, name="normed")


def dense(tf: Any, x: Any, width: int, scope: str) -> Any:
    with tf.variable_scope(scope):
        batch, length, before = x.shape.as_list()
        kernel = tf.get_variable("w", [before, width])
        bias = tf.get_variable("b", [width], initializer=tf.zeros_initializer())
        flat = tf.matmul(tf.reshape(x, [batch * length, before]), kernel) + bias
        return tf.reshape(flat, [batch, length, width], name="out")


def attention(tf: Any, x: Any, config: Mapping[str, Any]) -> Any:
    heads, width = config["n_head"], config["d_head"]
    with tf.variable_scope("attn"):
        batch, length, before = x.shape.as_list()
        split = tf.reshape(dense(tf, x, 3 * heads * width, "c_attn"), [batch, length, 3, heads, width])
        q, k, v = tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))
        scores = tf.matmul(q, k, transpose_b=True) * width**-0.5
        seen = tf.linalg.band_part(tf.ones([length, length]), -1, 0)
        weights = tf.nn.softmax(scores * seen - 1e10 * (1 - seen), name="weights")
        merged = tf.reshape(tf.transpose(tf.matmul(weights, v), [0, 2, 1, 3]), [batch, length, heads * width])
        return dense(tf, merged, before, "c_proj")


def block(tf: Any, x: Any, config: Mapping[str, Any], scope: str) -> Any:
    with tf.variable_scope(scope):
        x = x + attention(tf, norm(tf, x, "ln_1"), config)
        with tf.variable_scope("mlp"):
            hidden = tf.nn.relu(dense(tf, norm(tf, x, "ln_2"), 3 * config["n_embd"] + 1, "c_fc"))
            return tf.add(x, dense(tf, hidden, config["n_embd"], "c_proj"), name="added")


def model(tf: Any, ids: Any, targets: Any, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Logits [batch, length, n_vocab] and loss []; ids and targets are int32 [batch, length]."""
    with tf.variable_scope("model"):
        table = tf.get_variable("wte", [config["n_vocab"], config["n_embd"]])
        positions = tf.get_variable("wpe", [config["n_ctx"], config["n_embd"]])
        x = tf.add(tf.gather(table, ids), positions[: ids.shape.as_list()[1]], name="embedded")
        for layer in range(config["n_layer"]):
            x = block(tf, x, config, f"h{layer}")
        x = norm(tf, x, "ln_f")
        logits = tf.einsum("bld,vd->blv", x, table)
        logits = tf.identity(logits, name="logits")
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    real = tf.cast(tf.not_equal(targets, 0), tf.float32)
    return logits, tf.divide(tf.reduce_sum(losses * real), tf.reduce_sum(real), name="loss")


def greedy(tf: Any, checkpoint: str, rows: list[list[int]], config: Mapping[str, Any], steps: int) -> list:
    """What the model says behind each row, up to and with the end."""
    with tf.Graph().as_default(), tf.Session() as session:
        ids = tf.placeholder(tf.int32, [1, config["n_ctx"]])
        logits, _ = model(tf, ids, ids, config)
        tf.train.Saver(tf.global_variables()).restore(session, checkpoint)
        said = []
        for row in rows:
            tokens = list(row)
            while len(tokens) < len(row) + steps and END not in tokens[len(row) :]:
                padded = [tokens + [0] * (config["n_ctx"] - len(tokens))]
                tokens.append(int(session.run(logits, {ids: padded})[0, len(tokens) - 1].argmax()))
            said.append(tokens[len(row) :])
        return said
