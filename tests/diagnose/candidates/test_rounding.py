from __future__ import annotations

import pytest
import torch

from tests.faulty import Bench, Toy


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_results_of_a_narrow_dtype_are_rounding(bench: Bench, dtype: torch.dtype) -> None:
    def change(model: Toy) -> None:
        right = model.act.forward
        model.act.forward = lambda x: right(x).to(dtype).to(x.dtype)  # type: ignore[method-assign]

    cause = bench.cause(change, "act")
    name = str(dtype).removeprefix("torch.")
    assert cause.kind == "rounding" and name in cause.words


def test_narrow_numbers_that_are_wrong_are_not_rounding(bench: Bench) -> None:
    def change(model: Toy) -> None:
        right = model.act.forward
        model.act.forward = lambda x: (right(x) * (1 + 0.3 * x.cos())).bfloat16().to(x.dtype)  # type: ignore[method-assign]

    (fault,) = bench.faults(bench.faulty(change))
    assert fault.name == "act" and fault.cause is None
