from __future__ import annotations

import pytest
import torch

from tests.faulty import Bench, Toy


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def test_one_vector_at_all_positions_is_a_bias(bench: Bench) -> None:
    def change(model: Toy) -> None:
        right, vector = model.down.forward, torch.linspace(-1, 1, 8)
        model.down.forward = lambda x: right(x) + vector.to(x)  # type: ignore[method-assign]

    assert bench.cause(change, "down").kind == "bias"


def test_a_bias_that_is_left_out_is_a_bias(bench: Bench) -> None:
    def change(model: Toy) -> None:
        model.up.forward = lambda x: x @ model.up.weight.T  # type: ignore[method-assign]

    assert bench.cause(change, "up").kind == "bias"


def test_another_vector_at_one_position_is_none(bench: Bench) -> None:
    def change(model: Toy) -> None:
        right = model.down.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            y = right(x)
            y[1, 2] += torch.linspace(-1, 1, 8).to(y)
            return y

        model.down.forward = forward  # type: ignore[method-assign]

    (fault,) = bench.faults(bench.faulty(change))
    assert fault.name == "down" and fault.cause is None and "bias" in fault.tried
