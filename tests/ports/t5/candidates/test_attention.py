from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from porting.ports.t5.context import Visibility
from tests.faulty import Bench
from tests.ports.t5.candidates.conftest import cause_at

MEMORY = "decoder.block.0.layer.1.EncDecAttention"
OWN = "decoder.block.0.layer.0.SelfAttention"
ENCODER = "encoder.block.0.layer.0.SelfAttention"
NAN, INF = float("nan"), float("inf")


def at(path: str, function: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
    """What a tap hands on, changed."""

    def change(model: Any) -> None:
        model.get_submodule(path).forward = function

    return change


def masks(function: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
    """Another bias of the decoder's visibility."""

    def change(model: Any) -> None:
        right = model.decoder._context

        def context(*args: Any) -> Any:
            made = right(*args)
            made.visibility = Visibility(function(made.visibility.bias.clone()))
            return made

        model.decoder._context = context

    return change


def visible(query: Tensor, key: Tensor) -> Callable[[Tensor], Tensor]:
    def function(bias: Tensor) -> Tensor:
        bias[:, :, query, key] = 0.0
        return bias

    return function


def test_scaled_queries_are_named_by_the_size_of_a_head(t5: Bench) -> None:
    def change(model: Any) -> None:
        attention = model.get_submodule(OWN)
        right = attention._explicit
        attention._explicit = lambda q, k, v, bias: right(q * 0.5, k, v, bias)

    cause = cause_at(t5, change, f"{OWN}.scores")
    assert cause.kind == "scale"
    assert "the port's q k is 0.5 times the original's (d_kv**-0.5, with d_kv 4)" in cause.words


@pytest.mark.parametrize(("share", "words"), [(0.0, "no position bias"), (2.0, "2 times")])
def test_a_position_bias_left_out_or_doubled_is_named(t5: Bench, share: float, words: str) -> None:
    def change(model: Any) -> None:
        attention = model.get_submodule(OWN)
        right = attention.score_bias
        tapped = attention.position_bias

        def score_bias(position_bias: Tensor, context: Any) -> Tensor:
            both = right(position_bias, context)
            return both + (share - 1) * tapped.last

        def remember(x: Tensor) -> Tensor:
            tapped.last = x
            return x

        tapped.forward = remember
        attention.score_bias = score_bias

    cause = cause_at(t5, change, f"{OWN}.scores")
    assert cause.kind == "bias"
    assert words in cause.words and f"the original {OWN}.position_bias" in cause.words


def test_a_mask_that_shows_the_future_is_named(t5: Bench) -> None:
    steps = torch.arange(5)
    cause = cause_at(t5, masks(visible(steps, steps + 1)), f"{OWN}.scores")
    assert cause.kind == "mask"


def test_masks_are_named_by_who_sees_whom(t5: Bench) -> None:
    def everyone(bias: Tensor) -> Tensor:
        hidden = torch.ones(6, 6).triu(1) * -1e9
        return hidden.expand_as(bias).clone()

    cause = cause_at(t5, masks(everyone), f"{OWN}.scores")
    assert cause.words == (
        "in the port a position sees all positions, up to itself; in the original"
        " its own sequence (padding sees padding), up to itself"
    )


def test_a_mask_that_hides_too_little_is_named_by_its_level(t5: Bench) -> None:
    cause = cause_at(t5, masks(lambda bias: bias.clamp(min=-100.0)), f"{OWN}.scores")
    assert cause.kind == "mask" and "the port's mask adds -100 to hidden scores" in cause.words


def test_a_mask_is_named_though_numbers_beside_it_are_rounded_otherwise(t5: Bench) -> None:
    steps = torch.arange(5)

    def change(model: Any) -> None:
        masks(visible(steps, steps + 1))(model)
        at(f"{OWN}.scores", lambda x: x * (1 + 2.0**-23))(model)

    assert cause_at(t5, change, f"{OWN}.scores").kind == "mask"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x / x.sum(-1, keepdim=True), "weights sum to 1 where all is hidden"),
        (lambda x: x.sqrt() / x.sqrt().sum(-1, keepdim=True), "the softmax multiplied by 0.5"),
    ],
)
def test_another_softmax_is_named(t5: Bench, function: Callable[[Tensor], Tensor], words: str) -> None:
    name = f"{MEMORY}.weights" if "hidden" in words else f"{OWN}.weights"
    assert words in cause_at(t5, at(name, function), name).words


@pytest.mark.parametrize("leaf", ["scores", "weights", "position_bias", "attended"])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_what_is_no_number_is_a_fault_and_explained_by_nothing(t5: Bench, leaf: str, bad: float) -> None:
    def broken(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., 0, 0] = bad
        return x

    fault = t5.explained(at(f"{ENCODER}.{leaf}", broken), f"{ENCODER}.{leaf}")
    assert fault.cause is None and fault.tried


def test_a_change_that_no_candidate_knows_is_not_explained(t5: Bench) -> None:
    def odd(x: Tensor) -> Tensor:
        return torch.where(x > -1e8, x + 0.1 * x.sin(), x)

    assert t5.explained(at(f"{ENCODER}.scores", odd), f"{ENCODER}.scores").cause is None


def test_a_right_port_has_no_fault(t5: Bench) -> None:
    assert t5.faults(t5.faulty(lambda _model: None)) == ()
