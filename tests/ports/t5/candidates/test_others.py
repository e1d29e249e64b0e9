"""Loss, padding, tokens, positions and buckets: one fault of each, and what must not be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor

from porting.ports.t5.layers import RMSNorm
from tests.faulty import Bench
from tests.ports.t5.candidates.conftest import cause_at


def loss(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any], None]:
    return lambda model: setattr(model, "loss", function)


def flat(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), **options)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, y: flat(x, y, ignore_index=0), "the mean over real targets;"),
        (lambda x, y: flat(x, y), "the mean over all positions, padding included"),
        (lambda x, y: flat(x, y, ignore_index=0, reduction="sum"), "the sum over real targets;"),
        (lambda x, y: flat(x, y, ignore_index=0, reduction="sum") / 3, "divided by the batch size"),
    ],
)
def test_how_a_loss_is_averaged_is_named(t5: Bench, function: Callable, words: str) -> None:
    cause = cause_at(t5, loss(function), "loss")
    assert cause.kind == "loss" and words in cause.words
    assert "the original's the sum over real targets, divided by all positions" in cause.words


def test_a_loss_of_its_own_is_not_explained(t5: Bench) -> None:
    assert t5.explained(loss(lambda x, y: flat(x, y) * 1.0123 + 0.1), "loss").cause is None


def test_padding_that_is_not_zeroed_is_named_once_for_all_layers(t5: Bench) -> None:
    def change(model: Any) -> None:
        for name, module in model.named_modules():
            if name.startswith("encoder.block") and name.endswith("mask_padding"):
                module.forward = lambda x, _ids: x

    cause = cause_at(t5, change, "encoder.block.0.layer.0.mask_padding")
    assert cause.kind == "padding"
    assert cause.words == "the port leaves padded positions as they are; the original zeroes padded positions"


def targets_of(model: Any, function: Callable[[Tensor], Tensor]) -> None:
    """The decoder reads other ids."""
    right = model.forward

    def forward(input_ids: Tensor, labels: Tensor, **more: Tensor) -> Any:
        return right(input_ids, labels=labels, decoder_input_ids=function(labels), **more)

    model.forward = forward


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y: y, "the targets, not shifted"),
        (lambda y: F.pad(y, (1, -1)), "the targets shifted right;"),
        (lambda y: F.pad(y, (1, -1), value=1), "the targets shifted right from the end token"),
    ],
)
def test_how_targets_are_read_is_named(t5: Bench, function: Callable, words: str) -> None:
    def change(model: Any) -> None:
        targets_of(model, function)

    name = "decoder.embed_tokens"
    cause = cause_at(t5, change, name)
    assert cause.kind == "tokens" and f"the port embeds {words}" in cause.words
    assert "the original the targets shifted right, anew in each sequence" in cause.words


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("bidirectional", False, "bidirectional is False in the port, True in the original"),
        ("distance", 128, "max_distance is 128 in the port, 16 in the original"),
    ],
)
def test_how_distances_are_counted_is_named(t5: Bench, field: str, value: Any, words: str) -> None:
    def change(model: Any) -> None:
        attention = model.get_submodule("encoder.block.0.layer.0.SelfAttention")
        table = attention.relative_attention_bias
        if field == "bidirectional":
            table.bidirectional = value
        else:
            from dataclasses import replace

            table.spec = replace(table.spec, relative_attention_max_distance=value)

    cause = cause_at(t5, change, "encoder.block.0.layer.0.SelfAttention.position_bias")
    assert (cause.kind, cause.words) == ("buckets", words)


@pytest.mark.parametrize(("offset", "words"), [(1, "from 1 on"), (None, "no positions")])
def test_absolute_positions_are_named(learned: Bench, offset: int | None, words: str) -> None:
    def change(model: Any) -> None:
        positions = model.encoder.embed_positions
        right = positions.forward
        positions.forward = (
            (lambda x, _start: x.clone()) if offset is None else (lambda x, start: right(x, start + offset))
        )

    cause = cause_at(learned, change, "encoder.embed_positions")
    assert cause.kind == "positions" and words in cause.words


def test_an_epsilon_in_every_norm_is_one_fault(t5: Bench) -> None:
    def change(model: Any) -> None:
        for module in model.modules():
            if isinstance(module, RMSNorm):
                module.epsilon = 1e-3

    (fault,) = t5.faults(t5.faulty(change))
    assert fault.name == "encoder.block.0.layer.0.layer_norm" and len(fault.also) == 6
    assert fault.cause is not None and fault.cause.kind == "epsilon"
    assert fault.cause.words == "epsilon is 0.001 in the port, 1e-06 in the original"


def test_two_faults_far_apart_are_both_explained(t5: Bench) -> None:
    def change(model: Any) -> None:
        weight = model.get_submodule("encoder.block.0.layer.1.DenseReluDense.wi").weight
        weight.copy_(weight.T.reshape(weight.shape).clone())
        model.get_submodule("decoder.block.0.layer.1.EncDecAttention.o").weight.mul_(1.001)

    first, second = t5.faults(t5.faulty(change))
    assert first.name == "encoder.block.0.layer.1.DenseReluDense.wi"
    assert second.name == "decoder.block.0.layer.1.EncDecAttention.o"
    assert first.cause is not None and first.cause.words.endswith("wi.weight is transposed")
    assert second.cause is not None and "1.001 times what the checkpoint holds" in second.cause.words
