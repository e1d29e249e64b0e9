from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.faulty import Bench, Toy, randomise


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def epsilon(value: float) -> object:
    return lambda model: setattr(model.norm, "epsilon", value)


def norm_as(forward: object) -> object:
    return lambda model: setattr(model.norm, "forward", lambda x: forward(x, model.norm.weight))  # type: ignore[operator]


@pytest.mark.parametrize("value", [1e-2, 1e-3, 0.037])
def test_another_epsilon_is_named_or_estimated(bench: Bench, value: float) -> None:
    cause = bench.cause(epsilon(value), "norm")
    assert (cause.kind, cause.words) == (
        "epsilon",
        f"epsilon is {value:.3g} in the port, 1e-06 in the original",
    )


def rms(x: torch.Tensor) -> torch.Tensor:
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda x, w: nn.functional.layer_norm(x, (8,), w, eps=1e-6), "takes off the mean (layer norm)"),
        (lambda x, w: x * w, "does not normalise, and multiplies by its weight"),
        (lambda x, _w: x.clone(), "does nothing"),
        (lambda x, _w: x * rms(x), "leaves out its weight"),
        (lambda x, w: x * rms(x) * (1 + w), "multiplies by 1 + weight"),
    ],
)
def test_another_form_is_named(bench: Bench, forward: object, words: str) -> None:
    cause = bench.cause(norm_as(forward), "norm")
    assert (cause.kind, cause.words) == (
        "norm",
        f"the port's norm {words}; the original's divides by the root mean square",
    )


def test_a_form_that_is_not_known_is_not_called_one_that_is(bench: Bench) -> None:
    def unknown(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x * rms(x) ** 1.5 * w

    (fault,) = bench.faults(bench.faulty(norm_as(unknown)))
    assert fault.name == "norm" and fault.cause is None


class WithBias(Toy):
    """The same with PyTorch's layer norm, as BERT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8, eps=1e-12)
        randomise(self)


@pytest.fixture(scope="module")
def biased() -> Bench:
    return Bench(WithBias())


@pytest.mark.parametrize("value", [1e-2, 1e-3, 0.037])
def test_another_epsilon_of_a_layer_norm_is_named(biased: Bench, value: float) -> None:
    cause = biased.cause(lambda model: setattr(model.norm, "eps", value), "norm")
    assert cause.kind == "epsilon" and f"epsilon is {value:.3g} in the port" in cause.words


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda x, w, b: x * rms(x) * w + b, "divides by the root mean square"),
        (
            lambda x, w, _b: nn.functional.layer_norm(x, (8,), w, eps=1e-12),
            "takes off the mean (layer norm), without its bias",
        ),
        (
            lambda x, _w, b: nn.functional.layer_norm(x, (8,), eps=1e-12) + b,
            "takes off the mean, and leaves out its weight",
        ),
    ],
)
def test_another_form_of_a_layer_norm_is_named(biased: Bench, forward: object, words: str) -> None:
    def change(model: Toy) -> None:
        norm = model.norm
        norm.forward = lambda x: forward(x, norm.weight, norm.bias)  # type: ignore[operator]

    cause = biased.cause(change, "norm")
    assert (cause.kind, cause.words) == (
        "norm",
        f"the port's norm {words}; the original's takes off the mean (layer norm)",
    )


def test_of_epsilons_that_explain_alike_the_usual_one_is_named(biased: Bench) -> None:
    cause = biased.cause(lambda model: setattr(model.norm, "eps", 1e-3), "norm")
    assert cause.words == "epsilon is 0.001 in the port, 1e-12 in the original"
