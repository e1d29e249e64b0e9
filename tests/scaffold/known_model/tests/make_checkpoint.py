"""A small checkpoint of the original, written by its own code. Runs in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

HPARAMS = {"n_vocab": 37, "n_ctx": 32, "n_embd": 12, "n_head": 3, "d_head": 5, "n_layer": 2}


def make(directory: Path) -> None:
    """Three heads of 5 in a width of 12, an inner width of 37; every variable random."""
    import tiny_lm

    from porting.references.tf1_compat import import_tf1

    tf = import_tf1()
    with tf.Graph().as_default(), tf.Session() as session:
        ids = tf.placeholder(tf.int32, [2, 4])
        tiny_lm.model(tf, ids, ids, HPARAMS)
        tf.train.get_or_create_global_step()
        session.run(tf.global_variables_initializer())
        for number, variable in enumerate(tf.trainable_variables()):
            value = tf.random_normal(variable.shape, stddev=0.4, seed=number)
            variable.load(session.run(value), session)
        tf.train.Saver().save(session, str(directory / "model.ckpt"), write_meta_graph=False)
    (directory / "hparams.json").write_text(json.dumps(HPARAMS))
