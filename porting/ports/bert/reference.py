"""The original: built by its own code, tapped, and run, in the reference process.

Nothing of it is written again here. The pre-training model is what run_pretraining.py's own model_fn builds,
heads and both losses included; without heads it is modeling.py's BertModel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from porting.errors import ReferenceRunError
from porting.references.original_tap import OriginalTap
from porting.references.tf1_graph import BuiltGraph, reference

from .config import Config, config_from_json, google_config
from .taps import MASKED_BELOW

_HIDDEN = "batch length d_model"
_INNER = "batch length d_ff"
_PREDICTED = "(batch predictions) d_model"
_NORMED = "LayerNorm/batchnorm/add_1"
# The last operation of an activation; "linear" has none.
_ACTIVATED = {"gelu": "mul_3", "relu": "Relu", "tanh": "Tanh"}


def build(tf: Any, request: Mapping[str, Any], inputs: Mapping[str, Any]) -> BuiltGraph:
    """Build the original's graph, and say which of its tensors are which taps.

    Args:
        tf: tensorflow.compat.v1, as old code needs it.
        request: `config` (config.json's contents) and `checkpoint` (its path).
        inputs: int32 placeholders by the names of the input arrays.
    """
    config = config_from_json(request["config"])
    google = google_config(config)
    try:
        from bert import modeling, run_pretraining
    except ImportError as error:
        raise ReferenceRunError(
            f"Google's BERT is not installed here ({error}).",
            remedy="Install it with: pip install 'porting[bert]' and pip install --no-deps tf-keras.",
        ) from error

    settings, features = modeling.BertConfig.from_dict(google), dict(inputs)
    act = _ACTIVATED.get(google["hidden_act"], "")
    if not config.heads:
        modeling.BertModel(
            settings,
            is_training=False,
            input_ids=features["input_ids"],
            input_mask=features.get("input_mask"),
            token_type_ids=features.get("segment_ids"),
        )
        return BuiltGraph(list(_encoder(config, act)))
    # As BertModel does by itself; model_fn wants all of them there.
    features.setdefault("input_mask", tf.ones_like(features["input_ids"]))
    features.setdefault("segment_ids", tf.zeros_like(features["input_ids"]))
    features["masked_lm_weights"] = tf.cast(features["masked_lm_weights"], tf.float32)
    model_fn = run_pretraining.model_fn_builder(
        settings,
        init_checkpoint=None,
        learning_rate=0.0,
        num_train_steps=0,
        num_warmup_steps=0,
        use_tpu=False,
        use_one_hot_embeddings=False,
    )
    loss = model_fn(features, None, tf.estimator.ModeKeys.EVAL, {}).loss
    taps = [*_encoder(config, act), *_heads(act), OriginalTap("loss", loss.name, "")]
    return BuiltGraph(taps, loss=loss.name, sizes={"batch": inputs["input_ids"].shape[0]})


def _encoder(config: Config, act: str) -> Iterator[OriginalTap]:
    port, original = f"{config.prefix}embeddings", "bert/embeddings"
    yield OriginalTap(f"{port}.word_embeddings", f"{original}/Reshape", _HIDDEN)
    yield OriginalTap(f"{port}.token_type_embeddings", f"{original}/Reshape_2", _HIDDEN)
    yield OriginalTap(f"{port}.position_embeddings", f"{original}/Slice", "length d_model")
    yield OriginalTap(f"{port}.summed", f"{original}/add_1", _HIDDEN)
    yield OriginalTap(f"{port}.LayerNorm", f"{original}/{_NORMED}", _HIDDEN)
    for i in range(config.num_hidden_layers):
        yield from _layer(f"{config.prefix}encoder.layer.{i}", f"bert/encoder/layer_{i}", act)
    port, original = f"{config.prefix}pooler", "bert/pooler/dense"
    yield OriginalTap(f"{port}.dense", f"{original}/BiasAdd", "batch d_model")
    yield OriginalTap(f"{port}.activation", f"{original}/Tanh", "batch d_model")


def _layer(port: str, original: str, act: str) -> Iterator[OriginalTap]:
    attention, source = f"{port}.attention.self", f"{original}/attention/self"
    pairs = "batch heads length memory_length"
    yield OriginalTap(f"{attention}.query", f"{source}/query/add", "batch length heads d_kv")
    for name in ("key", "value"):
        yield OriginalTap(f"{attention}.{name}", f"{source}/{name}/add", "batch memory_length heads d_kv")
    yield OriginalTap(f"{attention}.scores", f"{source}/add", pairs, hidden_below=MASKED_BELOW)
    yield OriginalTap(f"{attention}.weights", f"{source}/Softmax", pairs)
    yield OriginalTap(f"{attention}.attended", f"{source}/einsum_1/Einsum", "batch length heads d_kv")
    yield from _output(f"{port}.attention.output", f"{original}/attention/output")
    inner = f"{original}/intermediate"
    yield OriginalTap(f"{port}.intermediate.dense", f"{inner}/add", _INNER)
    if act:
        yield OriginalTap(f"{port}.intermediate.act", f"{inner}/{act}", _INNER)
    yield from _output(f"{port}.output", f"{original}/output")


def _output(port: str, original: str) -> Iterator[OriginalTap]:
    yield OriginalTap(f"{port}.dense", f"{original}/add", _HIDDEN)
    yield OriginalTap(f"{port}.residual", f"{original}/add_1", _HIDDEN)
    yield OriginalTap(f"{port}.LayerNorm", f"{original}/{_NORMED}", _HIDDEN)


def _heads(act: str) -> Iterator[OriginalTap]:
    port, original = "cls.predictions", "cls/predictions"
    # gather_indexes opens no scope of its own.
    yield OriginalTap(f"{port}.gathered", "GatherV2", _PREDICTED)
    dense = f"{original}/transform/dense"
    yield OriginalTap(f"{port}.transform.dense", f"{dense}/BiasAdd", _PREDICTED)
    if act:
        yield OriginalTap(f"{port}.transform.act", f"{dense}/{act}", _PREDICTED)
    yield OriginalTap(f"{port}.transform.LayerNorm", f"{original}/transform/{_NORMED}", _PREDICTED)
    words, each = "(batch predictions) vocab", "(batch predictions)"
    yield OriginalTap(f"{port}.logits", f"{original}/BiasAdd", words)
    yield OriginalTap("masked_lm_loss.log_probs", f"{original}/LogSoftmax", words)
    yield OriginalTap("masked_lm_loss.example_loss", f"{original}/Neg", each)
    yield OriginalTap("masked_lm_loss", f"{original}/truediv", "")
    original = "cls/seq_relationship"
    yield OriginalTap("cls.seq_relationship", f"{original}/BiasAdd", "batch relations")
    yield OriginalTap("next_sentence_loss.log_probs", f"{original}/LogSoftmax", "batch relations")
    yield OriginalTap("next_sentence_loss.example_loss", f"{original}/Neg", "batch")
    yield OriginalTap("next_sentence_loss", f"{original}/Mean", "")


run = reference(build, implementation="Google's BERT (TensorFlow 1)", packages=("bert-tensorflow",))
