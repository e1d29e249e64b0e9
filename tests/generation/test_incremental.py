"""Step by step against all at once, on a module that gives what it is given."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from porting.generation.comparison import IncrementalComparison
from porting.generation.decoding import Sequences
from porting.generation.incremental import compare_incremental
from porting.tap import Tap

SAID: Sequences = ((5, 6, 1), (7, 1))  # the second row ends a step before the first
HIDDEN = "batch length d_model"


class Echo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.first, self.second = nn.Identity(), nn.Identity()


def whole(seed: int = 0, size: int = 4) -> np.ndarray:
    """float32 [2, 3, size]"""
    return np.random.default_rng(seed).standard_normal((2, 3, size)).astype(np.float32)


def compare(
    steps: dict[str, list[np.ndarray]], full: dict[str, np.ndarray], *taps: Tap, bfloat16: bool = False
) -> IncrementalComparison:
    """What the modules give at each step, and what they give in one run over all."""

    def generate(module: nn.Module) -> Sequences:
        for step in range(3):
            for name, arrays in steps.items():
                if step < len(arrays):
                    module.get_submodule(name)(torch.from_numpy(arrays[step]))
        return SAID

    def forced(module: nn.Module, said: Sequences) -> None:
        assert said == SAID
        for name, array in full.items():
            module.get_submodule(name)(torch.from_numpy(array))

    module = Echo().to(torch.bfloat16 if bfloat16 else torch.float32)
    return compare_incremental(module, taps, generate, forced)


def positions(array: np.ndarray) -> list[np.ndarray]:
    return [array[:, step : step + 1].copy() for step in range(3)]


def test_every_step_and_tap_is_compared() -> None:
    steps = {"first": positions(whole()), "second": positions(whole(1))}
    steps["second"][2][0, 0, 1] *= 1 + 1e-5
    taps = Tap("first", HIDDEN), Tap("second", HIDDEN), Tap("absent", HIDDEN)
    found = compare(steps, {"first": whole(), "second": whole(1)}, *taps)
    assert (found.status, found.steps, found.taps) == ("match", 3, 2)
    assert found.largest and (found.largest.name, found.largest.step) == ("second", 2)
    assert found.first_divergence is None and found.to_json()["first_divergence"] is None


def test_the_first_step_goes_before_the_first_tap() -> None:
    steps = {"first": positions(whole()), "second": positions(whole(1))}
    steps["first"][2] += 1
    steps["second"][1][1, 0, 3] += 1
    found = compare(
        steps, {"first": whole(), "second": whole(1)}, Tap("first", HIDDEN), Tap("second", HIDDEN)
    )
    first = found.first_divergence
    assert found.status == "diverged" and first
    assert (first.name, first.step, first.index) == ("second", 1, (1, 0, 3))
    assert first.max_abs_diff == first.incremental - first.full > 0.9
    assert first.to_json()["step"] == 1 and first.to_json()["dims"] == HIDDEN.split()


def test_what_a_row_does_behind_its_end_means_nothing() -> None:
    steps = positions(whole())
    steps[2][1] += 9
    assert compare({"first": steps}, {"first": whole()}, Tap("first", HIDDEN)).status == "match"
    steps[2][0] += 9
    assert compare({"first": steps}, {"first": whole()}, Tap("first", HIDDEN)).status == "diverged"


def test_hidden_scores_are_equal_and_one_hidden_score_is_not() -> None:
    """Positions of the memory grow with the steps; a hidden one is around -1e9."""
    tap = Tap("first", "batch length memory_length", hidden_below=-1e8)
    full = whole(size=3)
    full[0, 2, 1] = -1e9
    steps = [full[:, step : step + 1, : step + 1].copy() for step in range(3)]
    steps[2][0, 0, 1] = -1e9 + 640
    assert compare({"first": steps}, {"first": full}, tap).status == "match"
    steps[2][0, 0, 1] = full[0, 2, 1] = -0.5
    steps[2][0, 0, 0] = full[0, 2, 0] = -2e8
    assert compare({"first": steps}, {"first": full}, tap).status == "match"
    full[0, 2, 2] = -0.9e8  # visible, and so large that the difference is small beside it
    steps[2][0, 0, 2] = -1.0001e8
    found = compare({"first": steps}, {"first": full}, tap)
    assert found.first_divergence and found.first_divergence.to_json()["max_abs_diff"] is None


def test_what_is_computed_once_is_compared_once() -> None:
    tap = Tap("first", "batch encoder_length d_model")
    assert compare({"first": [whole()]}, {"first": whole()}, tap).status == "match"
    found = compare({"first": [whole(1)]}, {"first": whole()}, tap)
    assert found.first_divergence and found.first_divergence.step == 0


def test_not_a_number_is_a_difference() -> None:
    steps = positions(whole())
    steps[1][0, 0, 0] = np.nan
    assert compare({"first": steps}, {"first": whole()}, Tap("first", HIDDEN)).status == "diverged"


def test_coarser_types_round_more() -> None:
    steps = positions(whole())
    steps[1] *= 1.01
    one, other = (
        compare({"first": steps}, {"first": whole()}, Tap("first", HIDDEN), bfloat16=low)
        for low in (False, True)
    )
    assert (one.status, other.status) == ("diverged", "match")
    assert one.rtol == 1e-4 and 0.01 < other.rtol < 0.1
