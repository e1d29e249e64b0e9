from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.faulty import Bench, Toy


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def with_act(function: object) -> object:
    class Act(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)  # type: ignore[operator]

    return lambda model: setattr(model, "act", Act())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (nn.functional.gelu, "gelu (exact)"),
        (nn.functional.relu, "relu"),
        (nn.functional.silu, "silu"),
        (lambda x: x * torch.sigmoid(1.702 * x), "gelu (quick, x * sigmoid(1.702 x))"),
        (lambda x: x.clone(), "the identity"),
        (lambda x: nn.functional.relu(x).square(), "squared relu"),
    ],
)
def test_both_functions_are_named(bench: Bench, function: object, words: str) -> None:
    cause = bench.cause(with_act(function), "act")
    assert cause.kind == "activation"
    assert cause.words == f"the port computes {words}, the original gelu (tanh approximation, gelu_new)"


def test_a_function_that_is_not_known_is_not_called_one_that_is(bench: Bench) -> None:
    (fault,) = bench.faults(bench.faulty(with_act(lambda x: torch.sin(3 * x))))
    assert fault.name == "act" and fault.cause is None


def test_what_has_parameters_is_no_activation(bench: Bench) -> None:
    (fault,) = bench.faults(bench.faulty(lambda model: model.up.bias.add_(1)), checkpoint=False)
    assert "activation" not in fault.tried
