"""A small checkpoint of the original, written by its own code. Runs in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from porting.references.tf1_compat import import_tf1

# Heads times their size is always the width; every other size is unlike it and unlike each other.
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "max_position_embeddings": 36,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": 3,
    "vocab_size": 51,
}
# Of WordPiece: what a BERT vocabulary begins with, whole words, their parts, and what accents leave behind.
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the quick brown fox jump ##s over la ##zy dog . , ! ' t don won can ( ) -"
    " e g 3 1 ##4 and na ##ive cafe two spaces ##le ##ad upper lower mixed [ ] cl a ##ng ##str \u4f60 \u754c"
    " ##per"
)


def make(directory: Path) -> None:
    """Write a checkpoint, and the config and vocabulary that belong to it, into an empty directory."""
    write(directory)


def run(request: Mapping[str, Any]) -> None:
    """As `write`, for a request in the reference process: its `output` and the options of `write`."""
    options = {name: value for name, value in request.items() if name != "output"}
    write(Path(request["output"]), **options)


def write(
    directory: Path,
    *,
    config: Mapping[str, Any] | None = None,
    heads: bool = True,
    training: bool = True,
    with_config: bool = True,
    dtype: str = "float32",
    scale: float = 0.3,
    seed: int = 1,
) -> None:
    """Let the original build its graph, and save its variables, every one of them random.

    Args:
        directory: to write into.
        config: what differs from CONFIG.
        heads: the pre-training model of run_pretraining.py; otherwise the encoder and its pooler alone.
        training: save global_step and the optimizer's slots as well; only with heads.
        with_config: leave bert_config.json beside the checkpoint.
        dtype: of the weights that are saved.
        scale: standard deviation of the random values.
        seed: of the random values.
    """
    tf = import_tf1()
    from bert import modeling, run_pretraining

    settings = {**CONFIG, **(config or {})}
    bert_config = modeling.BertConfig.from_dict(settings)
    with tf.Graph().as_default(), tf.Session() as session:

        def ids(*shape: int) -> Any:
            return tf.zeros(shape, tf.int32)

        if heads:
            tf.train.get_or_create_global_step()
            model_fn = run_pretraining.model_fn_builder(
                bert_config, None, 1e-4, 100, 10, use_tpu=False, use_one_hot_embeddings=False
            )
            features = {
                "input_ids": ids(2, 4),
                "input_mask": ids(2, 4),
                "segment_ids": ids(2, 4),
                "masked_lm_positions": ids(2, 3),
                "masked_lm_ids": ids(2, 3),
                "masked_lm_weights": tf.ones([2, 3]),
                "next_sentence_labels": ids(2, 1),
            }
            mode = tf.estimator.ModeKeys.TRAIN if training else tf.estimator.ModeKeys.EVAL
            model_fn(features, None, mode, {})
        else:
            modeling.BertModel(bert_config, is_training=False, input_ids=ids(2, 4))
        kept = {}
        for number, variable in enumerate(tf.global_variables()):
            name, shape = variable.op.name, variable.shape.as_list()
            if variable.dtype.base_dtype.is_integer:
                value, stored = tf.constant(1234, tf.int64), tf.int64
            else:
                value, stored = _random(tf, name, shape, scale, seed + number), tf.as_dtype(dtype)
            kept[name] = tf.Variable(tf.cast(value, stored), name=f"saved/{name}")
        session.run(tf.variables_initializer(list(kept.values())))
        tf.train.Saver(kept).save(session, str(directory / "bert_model.ckpt"), write_meta_graph=False)
    if with_config:
        (directory / "bert_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (directory / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n", encoding="utf-8")


def _random(tf: Any, name: str, shape: list[int], scale: float, seed: int) -> Any:
    """Scales around 1, all else around 0."""
    return tf.random_normal(shape, 1.0 if name.endswith("gamma") else 0.0, scale, seed=seed)
