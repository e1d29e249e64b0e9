from __future__ import annotations

import pytest
import torch

from tests.faulty import Bench, Toy


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def combine(function: object) -> object:
    return lambda model: setattr(model, "combine", function)


@pytest.mark.parametrize(
    ("function", "subject"),
    [
        (lambda _x, y: y.clone(), "embed"),
        (lambda x, _y: x.clone(), "down"),
        (lambda x, y: 2 * x + y, "embed"),
        (lambda x, y: x + 0.5 * y, "down"),
    ],
)
def test_a_tensor_that_is_left_out_or_counted_otherwise_is_named(
    bench: Bench, function: object, subject: str
) -> None:
    cause = bench.cause(combine(function), "added")
    assert cause.kind == "sum"
    assert subject in cause.words


def test_what_is_left_out_and_what_is_twice_there_is_said(bench: Bench) -> None:
    words = bench.cause(combine(lambda x, y: x + x + y), "added").words
    assert words == "the port adds embed once too often"
    words = bench.cause(combine(lambda x, y: x + 0.25 * y), "added").words
    assert words == "the port adds 0.75 times down too little"


def test_another_tensor_in_its_place_is_named(bench: Bench) -> None:
    def change(model: Toy) -> None:
        model.combine = lambda x, y: model.norm(x) + y  # type: ignore[method-assign]

    model = bench.faulty(change)
    (fault,) = bench.faults(model)
    assert fault.name == "added" and fault.cause is not None
    assert fault.cause.kind == "sum" and "norm" in fault.cause.words and "embed" in fault.cause.words


def test_a_sum_with_what_is_nowhere_is_not_explained(bench: Bench) -> None:
    noise = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    (fault,) = bench.faults(bench.faulty(combine(lambda x, y: x + y + 0.1 * noise.to(x))))
    assert fault.cause is None and "sum" in fault.tried
