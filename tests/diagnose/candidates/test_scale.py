from __future__ import annotations

import pytest
import torch

from tests.faulty import Bench, Toy


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def scale_down(factor: float) -> object:
    def change(model: Toy) -> None:
        right = model.down.forward
        model.down.forward = lambda x: right(x) * factor  # type: ignore[method-assign]

    return change


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (3.0, "3 times"),
        (0.125, "0.125 times the original's (d_model**-1, with d_model 8)"),
        (-1.0, "-1 times"),
    ],
)
def test_the_factor_is_named_and_so_is_a_power_of_a_size(
    bench: Bench, factor: float, words: str, checkpoint: bool
) -> None:
    cause = bench.cause(scale_down(factor), "down", checkpoint=checkpoint)
    assert cause.kind == "scale"
    assert cause.words.startswith(f"the port's values are {words}")


def test_a_factor_of_some_elements_is_none(bench: Bench) -> None:
    def change(model: Toy) -> None:
        right = model.down.forward
        factor = torch.ones(8)
        factor[3] = 2
        model.down.forward = lambda x: right(x) * factor  # type: ignore[method-assign]

    (fault,) = bench.faults(bench.faulty(change))
    assert fault.cause is None or fault.cause.kind != "scale"


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_what_no_factor_undoes_is_not_called_scaled(bench: Bench, factor: float) -> None:
    (fault,) = bench.faults(bench.faulty(scale_down(factor)))
    assert fault.cause is None
