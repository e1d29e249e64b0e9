"""Faults in what is embedded, in the logits and in the loss."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmarks.corpus.fault import T5_LIKE, in_code
from benchmarks.corpus.layers import forward

TIED = ("t5.1.0", "bias of each layer", "shared kv", "learned positions", "language model")
UNTIED = ("t5.1.1", "grouped heads", "talking heads")
_START = "decoder.embed_tokens"


# --- what is embedded


def _decoder_reads(model: Any, ids: Any) -> None:
    right = model.forward

    def run(input_ids: Tensor, labels: Tensor, **others: Any) -> Any:
        return right(input_ids, labels, decoder_input_ids=ids(labels), **others)

    model.forward = run


@in_code(_START, "tokens", "not shifted", variants=(*T5_LIKE, "grouped heads", "learned positions"))
def decoder_inputs_not_shifted(model: Any) -> None:
    _decoder_reads(model, lambda labels: labels)


@in_code(_START, "tokens", "by two", variants=(*T5_LIKE, "talking heads"))
def decoder_inputs_shifted_by_two(model: Any) -> None:
    _decoder_reads(model, lambda labels: F.pad(labels[:, :-2], (2, 0)))


@in_code(_START, "tokens", "end token", variants=T5_LIKE)
def decoder_begins_with_the_end_token(model: Any) -> None:
    _decoder_reads(model, lambda labels: F.pad(labels[:, :-1], (1, 0), value=1))


@in_code(_START, "tokens", "shifted right", inputs="packed", variants=(*T5_LIKE, "bias of each layer"))
def decoder_inputs_not_begun_anew_in_packed_examples(model: Any) -> None:
    _decoder_reads(model, lambda labels: F.pad(labels[:, :-1], (1, 0)))


@in_code("encoder.embed_tokens", "tokens", "too large", variants=(*T5_LIKE, "switch"))
def ids_of_the_encoder_one_too_large(model: Any) -> None:
    right = model.embed
    calls: list[int] = []

    def embed(ids: Tensor) -> Any:
        calls.append(1)
        return right(ids + 1 if len(calls) % 2 else ids)

    model.embed = embed


@in_code(
    "encoder.embed_tokens",
    "scale tokens",
    "d_model",
    also=r"decoder\.embed_tokens",
    variants=(*T5_LIKE, "switch"),
)
def embeddings_scaled_by_sqrt_d_model(model: Any) -> None:
    right = model.shared.forward
    forward(model.shared, lambda ids: right(ids) * 24**0.5)


@in_code("encoder.embed_tokens", "padding tokens", variants=T5_LIKE)
def padding_embedded_as_zero(model: Any) -> None:
    """padding_idx=0: shows only at padded positions."""
    right = model.shared.forward
    calls: list[int] = []

    def embed(ids: Tensor) -> Any:
        calls.append(1)
        return right(ids) * (ids != 0)[..., None] if len(calls) % 2 else right(ids)

    forward(model.shared, embed)


@in_code(_START, "rounding", "bfloat16", variants=T5_LIKE)
def decoder_embeddings_rounded_to_bfloat16(model: Any) -> None:
    right = model.decoder.embed_tokens.forward
    forward(model.decoder.embed_tokens, lambda x: right(x).bfloat16().float())


@in_code("encoder.block.0.layer.0", "sum", variants=T5_LIKE)
def dropout_scaling_left_in_the_embeddings(model: Any) -> None:
    stack = model.encoder
    calls: list[int] = []

    def dropout(x: Tensor) -> Tensor:
        calls.append(1)
        return x / 0.9 if len(calls) % 2 else x

    forward(stack.dropout, dropout)


# --- logits


@in_code("logits", "scale", "d_model", variants=TIED)
def tied_logits_not_scaled(model: Any) -> None:
    model.project = lambda hidden: model.logits(F.linear(hidden, model.shared.weight))


@in_code("logits", "scale", "d_model", variants=UNTIED)
def untied_logits_scaled(model: Any) -> None:
    model.project = lambda hidden: model.logits(model.lm_head(hidden * hidden.shape[-1] ** -0.5))


@in_code("logits", "rounding", "bfloat16", variants=T5_LIKE)
def logits_rounded_to_bfloat16(model: Any) -> None:
    forward(model.logits, lambda x: x.bfloat16().float())


@in_code("logits", "weight source", variants=UNTIED[:2])
def logits_with_the_embedding_in_place_of_the_head(model: Any) -> None:
    model.project = lambda hidden: model.logits(F.linear(hidden, model.shared.weight))


@in_code("logits", "source", variants=("t5.1.1", "language model"))
def logits_of_what_was_not_normed(model: Any) -> None:
    kept: list[Tensor] = []
    model.decoder.final_layer_norm.register_forward_pre_hook(
        lambda _m, args: kept.__setitem__(slice(None), [args[0]])
    )
    right = model.project
    model.project = lambda _hidden: right(kept[0])


# --- loss


def _each(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")


@in_code("loss", "loss", "mean over real targets", variants=(*T5_LIKE, "language model"))
def loss_averaged_over_real_targets(model: Any) -> None:
    model.loss = lambda logits, labels: _each(logits, labels)[labels.flatten() > 0].mean()


@in_code("loss", "loss", "padding included", variants=(*T5_LIKE, "grouped heads"))
def loss_of_padding_counted(model: Any) -> None:
    model.loss = lambda logits, labels: _each(logits, labels).mean()


@in_code("loss", "loss", "divided by all positions", variants=T5_LIKE)
def loss_denominator_forgotten(model: Any) -> None:
    model.loss = lambda logits, labels: (
        (_each(logits, labels) * (labels.flatten() > 0)).sum() / labels.numel()
    )


@in_code("loss", "loss", "z-loss", variants=("talking heads", "language model"))
def z_loss_added_at_evaluation(model: Any) -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        z = 1e-4 * logits.flatten(0, 1).logsumexp(-1).square()
        return ((_each(logits, labels) + z) * (labels.flatten() > 0)).sum() / labels.numel()

    model.loss = loss


@in_code("loss", "loss", "smoothing 0.1", variants=("talking heads", "language model", "learned positions"))
def label_smoothing_left_on(model: Any) -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=0.1)
        return (each * (labels.flatten() > 0)).sum() / labels.numel()

    model.loss = loss


@in_code("loss", "loss", variants=T5_LIKE)
def loss_of_logits_one_position_early(model: Any) -> None:
    """As where labels are shifted once more, as a language model's loss does it."""
    right = model.loss
    model.loss = lambda logits, labels: right(logits[:, :-1].contiguous(), labels[:, 1:].contiguous())


@in_code("loss", "rounding loss", variants=T5_LIKE)
def loss_in_bfloat16(model: Any) -> None:
    right = model.loss
    model.loss = lambda logits, labels: right(logits, labels).bfloat16().float()
