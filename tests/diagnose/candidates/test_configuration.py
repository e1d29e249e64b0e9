from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from porting.diagnose.lab import Variants
from porting.errors import ConfigError
from tests.faulty import TAPS, Bench, Toy

FIELDS = {"epsilon": (1e-2, 1e-6), "size": (4, 3)}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def wrong_epsilon(model: Toy) -> None:
    model.norm.epsilon = 1e-2


def variants(bench: Bench, asked: list[Sequence[str]], base: Any = wrong_epsilon) -> Variants:
    """A model built anew: `epsilon` sets the epsilon right, and `size` alone makes no model."""

    def build(fields: Sequence[str]) -> Any:
        asked.append(tuple(fields))
        if list(fields) == ["size"]:
            raise ConfigError("This is not the configuration of a toy.")
        if "size" in fields:
            raise RuntimeError("size mismatch")
        model = bench.faulty(base)
        if "epsilon" in fields:
            model.norm.epsilon = 1e-6
        return model, TAPS

    return Variants(FIELDS, build)


def test_the_field_that_brings_parity_back_is_named(bench: Bench) -> None:
    asked: list[Sequence[str]] = []
    cause = bench.cause(wrong_epsilon, "norm", variants=variants(bench, asked))
    assert (cause.kind, cause.subject) == ("config", "epsilon")
    assert cause.words == "in the port's config epsilon is 0.01; the original has 1e-06"


def test_a_fault_of_the_live_module_alone_is_not_blamed_on_the_config(bench: Bench) -> None:
    """Built anew with its own config, the model is right: it is the code that is not."""
    made = variants(bench, [], base=lambda _model: None)
    (fault,) = bench.faults(bench.faulty(wrong_epsilon), variants=made)
    assert fault.cause is not None and fault.cause.kind == "epsilon"


def test_configs_that_make_no_model_are_passed_over(bench: Bench) -> None:
    asked: list[Sequence[str]] = []

    def other(model: Toy) -> None:
        model.combine = lambda x, y: x + y * (1 + 0.01 * x.cos())  # type: ignore[method-assign]

    (fault,) = bench.faults(bench.faulty(other), variants=variants(bench, asked, base=other))
    assert fault.cause is None and "config" in fault.tried
    assert ("size",) in asked and ("epsilon", "size") in asked


def test_equal_configs_are_no_candidate(bench: Bench) -> None:
    (fault,) = bench.faults(bench.faulty(lambda model: model.down.weight.zero_()), variants=Variants())
    assert "config" not in fault.tried
