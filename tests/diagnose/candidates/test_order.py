from __future__ import annotations

import pytest
import torch

from tests.faulty import Bench, Toy


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def of_down(function: object) -> object:
    def change(model: Toy) -> None:
        right = model.down.forward
        model.down.forward = lambda x: function(right(x))  # type: ignore[method-assign, operator]

    return change


ORDER = [3, 1, 2, 0, 4, 5, 7, 6]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y: y[..., ORDER], "d_model are in another order"),
        (lambda y: y.flip(1), "length are in another order"),
        (lambda y: y[[1, 0, 2]], "batch are in another order"),
        (
            lambda y: torch.cat([y[:, 1:], torch.zeros_like(y[:, :1])], 1),
            "everything stands 1 too far to the left along length",
        ),
        (
            lambda y: torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1),
            "everything stands 1 too far to the right along length",
        ),
        (lambda y: y.transpose(1, 2).reshape(y.shape), "length and d_model are interleaved"),
    ],
)
def test_right_numbers_in_wrong_places(bench: Bench, function: object, words: str) -> None:
    cause = bench.cause(of_down(function), "down")
    assert cause.kind == "order" and words in cause.words


def test_a_permutation_says_how_many_stand_elsewhere(bench: Bench) -> None:
    words = bench.cause(of_down(lambda y: y[..., ORDER]), "down").words
    assert words.startswith("4 of 8 d_model are in another order")


def test_some_rows_twice_are_no_order(bench: Bench) -> None:
    (fault,) = bench.faults(bench.faulty(of_down(lambda y: y[..., [0, 0, 2, 3, 4, 5, 6, 7]])))
    assert fault.cause is None
