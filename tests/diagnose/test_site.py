from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from porting.diagnose.lab import Lab, Recorded
from porting.diagnose.site import Site
from porting.tap import Tap
from tests.faulty import TAPS, Bench, Toy

FLOOR = 1e-3


@pytest.fixture(scope="module")
def lab() -> Lab:
    bench = Bench(Toy())
    return bench.lab(bench.right)


def site(lab: Lab, original: Tensor, port: Tensor, *, hidden_below: float | None = None) -> Site:
    return Site(
        tap=Tap("layer.scores", "batch length", hidden_below=hidden_below),
        original=original.double(),
        port=port.double(),
        floor=torch.full(original.shape, FLOOR, dtype=torch.float64),
        times=4.0,
        recorded=Recorded(),
        lab=lab,
    )


ORIGINAL = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(3, 4)


def test_names_are_taken_apart(lab: Lab) -> None:
    here = site(lab, ORIGINAL, ORIGINAL)
    assert (here.name, here.parent, here.leaf) == ("layer.scores", "layer", "scores")
    assert here.dims == ("batch", "length")
    assert here.module is None and here.sibling("q") is None
    assert here.inputs is lab.inputs


def test_parity_is_agreement_within_a_few_floors(lab: Lab) -> None:
    here = site(lab, ORIGINAL, ORIGINAL + 1)
    assert here.agrees(ORIGINAL) and here.agrees(ORIGINAL + 3.9 * FLOOR / 1.2)
    off = ORIGINAL.clone()
    off[1, 2] += 6 * FLOOR
    assert not here.agrees(off), "one element is enough"
    assert not here.agrees(None)
    assert not here.agrees(ORIGINAL[:2]) and not here.agrees(ORIGINAL.T)
    assert not here.agrees(ORIGINAL * math.nan)


def test_what_the_port_is_may_be_off_by_as_much(lab: Lab) -> None:
    here = site(lab, ORIGINAL, ORIGINAL + 1)
    assert here.is_port(ORIGINAL + 1) and here.is_port(ORIGINAL + 1 + 3.9 * FLOOR)
    assert not here.is_port(ORIGINAL + 1 + 4.1 * FLOOR)
    assert not here.is_port(ORIGINAL) and not here.is_port(None) and not here.is_port(ORIGINAL[0])


def test_the_tolerance_is_for_numbers_of_the_originals_size(lab: Lab) -> None:
    """Floors were measured on the port's numbers, which a fault may have made ten times as large."""
    here = site(lab, ORIGINAL, ORIGINAL * 10)
    assert here.agrees(ORIGINAL + 0.3 * FLOOR)
    assert not here.agrees(ORIGINAL + 0.5 * FLOOR)
    small = site(lab, ORIGINAL, ORIGINAL / 10)
    assert small.agrees(ORIGINAL + 30 * FLOOR)
    assert not small.agrees(ORIGINAL + 50 * FLOOR)


def test_a_small_fault_must_be_gone_and_not_only_within_the_tolerance(lab: Lab) -> None:
    here = site(lab, ORIGINAL, ORIGINAL + 3.5 * FLOOR)
    assert not here.agrees(ORIGINAL + 3 * FLOOR)
    assert here.agrees(ORIGINAL + 0.5 * FLOOR)


def test_hidden_positions_agree_with_hidden_ones_only(lab: Lab) -> None:
    original = ORIGINAL.clone()
    original[0, 1] = -1e9
    here = site(lab, original, ORIGINAL + 1, hidden_below=-1e8)
    mended = ORIGINAL.clone()
    assert not here.agrees(mended)
    mended[0, 1] = -5e8
    assert here.agrees(mended)
    mended[2, 2] = -1e9
    assert not here.agrees(mended)
    assert here.shown.sum() == 11


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_beside_what_is_none_may_have_been_right_already(lab: Lab, bad: float) -> None:
    """The rest differs by rounding alone, which no mending makes smaller."""
    port = ORIGINAL + 0.5 * FLOOR
    port[1, 1] = bad
    here = site(lab, ORIGINAL, port)
    assert here.agrees(ORIGINAL + 0.5 * FLOOR)
    assert not here.agrees(port) and not here.agrees(ORIGINAL + 1)
    assert not here.shown[1, 1] and here.shown.sum() == 11


def test_a_port_without_a_single_number_can_be_mended(lab: Lab) -> None:
    here = site(lab, ORIGINAL, ORIGINAL * math.nan)
    assert here.agrees(ORIGINAL) and not here.agrees(ORIGINAL * math.nan)


def test_infinities_of_the_original_agree_with_themselves(lab: Lab) -> None:
    original = ORIGINAL.clone()
    original[0, 0] = math.inf
    port = original.clone()
    port[1, 1] += 1
    here = site(lab, original, port)
    assert here.agrees(original) and here.is_port(port)
    assert not here.agrees(ORIGINAL)


def test_others_are_of_one_shape_and_the_nearest_come_first() -> None:
    bench = Bench(Toy())
    here = bench.site(bench.right, "down")
    assert [name for name, _ in here.others()] == ["added", "norm", "embed"]
    assert all(tensor.dtype == torch.float64 for _, tensor in here.others())
    assert [name for name, _ in bench.site(bench.right, "act").others()] == []


def test_parameters_are_those_that_it_was_computed_with() -> None:
    bench = Bench(Toy())
    here = bench.site(bench.right, "up")
    assert set(here.parameters()) == {"up.weight", "up.bias"}
    assert not any(value.requires_grad for value in here.parameters().values())
    assert here.module is bench.right.up
    zero = here.with_parameters({"up.bias": torch.zeros(12)})
    assert zero is not None
    expected = torch.tensor(bench.reference["up"]).double() - bench.right.up.bias.detach().reshape(3, 4)
    torch.testing.assert_close(zero, expected, rtol=0, atol=1e-5)
    assert len(TAPS) == len(here.lab.by_name)
