"""The rule table: the original's variable names -> state-dict keys, total in both directions.

    bert/embeddings/word_embeddings          [vocab, d_model]   bert.embeddings.word_embeddings.weight
    bert/embeddings/{position,token_type}_embeddings            the same way
    bert/.../LayerNorm/{gamma,beta}                             bert.(...).LayerNorm.{weight,bias}
    bert/encoder/layer_0/attention/self/query/{kernel,bias}     bert.encoder.layer.0.attention.self.query...
    .../{attention/output,intermediate,output}/dense/kernel     ....dense.weight
    bert/pooler/dense/kernel                                    bert.pooler.dense.weight
    cls/predictions/transform/{dense,LayerNorm}/...             cls.predictions.transform...
    cls/predictions/output_bias              [vocab]            cls.predictions.bias
    cls/seq_relationship/output_weights      [2, d_model]       cls.seq_relationship.weight

Without the pre-training heads the keys have no `bert.` in front, as in transformers' BertModel. Kernels are
transposed, for TensorFlow keeps [in, out] and torch.nn.Linear [out, in]; most of them are square, so that no
shape check would notice. `output_weights` is [out, in] already: the original multiplies with `transpose_b`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from porting.mapping import Drop, Rule, Shape
from porting.ops import Transpose

from .config import Config

_TRANSPOSE = (Transpose(),)
_LAYER = r"encoder/layer_(?P<i>\d+)"
_PLACES = "attention/output|intermediate|output"

DROPS = (
    # AdamWeightDecayOptimizer's of optimization.py, LAMB's (the same two), tf.train.AdamOptimizer's.
    Drop(r".*/(?:adam_[mv]|lamb_[mv]|Adam(?:_1)?)|beta[12]_power", "optimizer state"),
    Drop(r"(?:current_|)loss_scale|good_steps", "optimizer state of mixed precision"),
    Drop(r"global_step", "global step"),
    # run_classifier.py and run_squad.py put one more layer on top, which no BertModel has.
    Drop(
        r"output_weights|output_bias|cls/squad/output_(?:weights|bias)", "output layer of a fine-tuned task"
    ),
)


def recognises(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are the variables of the original's BertModel, heads or not.

    ALBERT shares `bert/embeddings`, but groups its layers; ELECTRA has another scope.
    """
    return "bert/embeddings/word_embeddings" in shapes and any(
        name.startswith("bert/encoder/layer_0/attention/self/") for name in shapes
    )


def rules(config: Config, names: Sequence[str]) -> list[Rule | Drop]:
    """One Rule, or one Drop with a reason, for every variable. A pattern must match the whole name.

    Args:
        config: the model.
        names: not needed; every BERT is called alike.
    """
    del names
    encoder = config.prefix
    table: list[Rule | Drop] = [
        *DROPS,
        Rule(
            "bert/embeddings/(?P<table>word|position|token_type)_embeddings",
            f"{encoder}embeddings.{{table}}_embeddings.weight",
        ),
        *_layer_norm("bert/embeddings", f"{encoder}embeddings"),
        *_dense(
            f"bert/{_LAYER}/attention/self/(?P<name>query|key|value)",
            f"{encoder}encoder.layer.{{i}}.attention.self.{{name}}",
        ),
        *_dense("bert/pooler/dense", f"{encoder}pooler.dense"),
    ]
    for place in _PLACES.split("|"):
        source, target = f"bert/{_LAYER}/{place}", f"{encoder}encoder.layer.{{i}}.{place.replace('/', '.')}"
        table += _dense(f"{source}/dense", f"{target}.dense")
        if place != "intermediate":
            table += _layer_norm(source, target)
    if config.heads:
        table += [
            *_dense("cls/predictions/transform/dense", "cls.predictions.transform.dense"),
            *_layer_norm("cls/predictions/transform", "cls.predictions.transform"),
            Rule("cls/predictions/output_bias", "cls.predictions.bias"),
            Rule("cls/seq_relationship/output_weights", "cls.seq_relationship.weight"),
            Rule("cls/seq_relationship/output_bias", "cls.seq_relationship.bias"),
        ]
    return table


def _dense(source: str, target: str) -> list[Rule | Drop]:
    return [
        Rule(f"{source}/kernel", f"{target}.weight", _TRANSPOSE),
        Rule(f"{source}/bias", f"{target}.bias"),
    ]


def _layer_norm(source: str, target: str) -> list[Rule | Drop]:
    return [
        Rule(f"{source}/LayerNorm/gamma", f"{target}.LayerNorm.weight"),
        Rule(f"{source}/LayerNorm/beta", f"{target}.LayerNorm.bias"),
    ]
