from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from porting.analysis.isolation import Originals, moved, run_isolated
from porting.tap import Tap
from porting.trace import Trace
from tests.faulty import INPUTS, TAPS, Bench, Toy, changed, run


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


class Heard(dict):
    """What was heard: port and original by name; and misfits."""

    def __init__(self) -> None:
        super().__init__()
        self.misfits: list[str] = []

    def on_tensor(self, tap: Tap, value: np.ndarray, original: np.ndarray) -> None:
        self[tap.name] = (value, original)

    def on_misfit(self, tap: Tap) -> None:
        self.misfits.append(tap.name)


def isolate(model: nn.Module, reference: Trace, **options: object) -> tuple[Heard, dict]:
    heard = Heard()
    outputs = run_isolated(
        model, INPUTS, TAPS, run, Originals(reference), heard.on_tensor, heard.on_misfit, **options
    )
    return heard, outputs


def test_every_tensor_is_computed_from_the_originals(bench: Bench) -> None:
    """Whatever the original says of a tensor, what is computed of it follows."""
    odd = changed(bench.reference, {"up": np.full(bench.reference["up"].shape, 0.5)})
    heard, _ = isolate(bench.right, odd)
    with torch.no_grad():
        expected = bench.right.act(torch.full((3, 6, 12), 0.5))
    np.testing.assert_allclose(heard["act"][0], expected, rtol=1e-6)
    np.testing.assert_array_equal(heard["up"][1], np.full((3, 6, 3, 4), 0.5, np.float32))
    np.testing.assert_allclose(heard["up"][0], bench.reference["up"], atol=1e-5)
    np.testing.assert_allclose(heard["down"][0], bench.reference["down"], atol=1e-5)  # of the original's act
    assert list(heard) == [tap.name for tap in TAPS]
    assert heard.misfits == []


def test_groups_are_taken_apart_and_axes_follow_their_names(bench: Bench) -> None:
    turned = changed(
        bench.reference,
        {"up": bench.reference["up"].transpose(2, 3, 1, 0)},
        {"up": "heads d_kv length batch"},
    )
    heard, _ = isolate(bench.right, turned)
    assert heard["up"][0].shape == (3, 6, 3, 4)
    np.testing.assert_array_equal(heard["up"][1], bench.reference["up"])
    np.testing.assert_allclose(heard["act"][0], bench.reference["act"], atol=1e-6)


def test_what_is_not_to_be_replaced_goes_on_as_it_is(bench: Bench) -> None:
    zeros = {name: np.zeros(bench.reference[name].shape) for name in ("norm", "act")}
    heard, outputs = isolate(
        bench.right, changed(bench.reference, zeros), replaced=lambda tap: tap.name == "act"
    )
    np.testing.assert_allclose(heard["up"][0], bench.reference["up"], atol=1e-5)  # of the port's own norm
    assert not heard["down"][0].any()  # of the original's act
    np.testing.assert_array_equal(outputs["loss"].numpy(), heard["loss"][0])


def test_what_is_put_in_is_moved(bench: Bench) -> None:
    heard, _ = isolate(bench.right, bench.reference, move=lambda value, _tap: value * 0)
    assert not heard["down"][0].any()
    np.testing.assert_array_equal(heard["act"][1], bench.reference["act"])  # what it is held against is not


@pytest.mark.parametrize("dims", ["batch length other d_kv", "batch length"])
def test_a_tensor_that_does_not_fit_is_left_and_said(bench: Bench, dims: str) -> None:
    values = np.zeros((3, 6, 3, 4)[: len(dims.split())])
    heard, _ = isolate(bench.right, changed(bench.reference, {"up": values}, {"up": dims}))
    assert heard.misfits == ["up"]
    assert "up" not in heard
    np.testing.assert_allclose(heard["act"][0], bench.reference["act"], atol=1e-5)


def test_a_tensor_that_the_original_lacks_is_left_and_no_misfit(bench: Bench) -> None:
    fewer = Trace(
        bench.reference.path,
        tuple(tensor for tensor in bench.reference.tensors if tensor.name != "up"),
        bench.reference.inputs,
        {},
        bench.reference._keep,
    )
    heard, _ = isolate(bench.right, fewer)
    assert heard.misfits == [] and "up" not in heard and "act" in heard
    originals = Originals(fewer)
    assert "up" not in originals and "act" in originals
    assert originals.in_dims_of(TAPS[2]) is None and originals.unfolded(TAPS[2], (3, 6, 3, 4)) is None


def test_what_is_put_in_has_the_ports_dtype(bench: Bench) -> None:
    value = torch.zeros(3, 6, 12, dtype=torch.bfloat16)
    found = Originals(bench.reference).like(TAPS[2], value)
    assert found is not None and found.dtype == torch.bfloat16 and found.shape == value.shape
    expected = torch.tensor(np.array(bench.reference["up"])).reshape(3, 6, 12).bfloat16()
    assert torch.equal(found, expected)


def test_the_trace_is_not_changed_by_what_is_put_in(bench: Bench) -> None:
    found = Originals(bench.reference).like(TAPS[0], torch.zeros(3, 6, 8))
    assert found is not None
    before = np.array(bench.reference["embed"])
    found.zero_()
    np.testing.assert_array_equal(bench.reference["embed"], before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_number_moves_by_one_unit_up_or_down(dtype: torch.dtype) -> None:
    unit = torch.finfo(dtype).eps
    value = torch.linspace(-3, 3, 100, dtype=dtype)
    found = moved(value, unit, None, seed=3)
    assert found.dtype == dtype
    change = (found.double() - value.double()).abs() / value.double().abs()
    assert float(change.min()) > 0 and float(change.max()) <= 2.001 * unit
    up = found > value
    assert 20 < int(up.sum()) < 80


def test_moves_repeat_themselves_and_differ_by_seed() -> None:
    value = torch.ones(64)
    assert torch.equal(moved(value, 1e-6, None, 1), moved(value, 1e-6, None, 1))
    assert not torch.equal(moved(value, 1e-6, None, 1), moved(value, 1e-6, None, 2))


def test_masks_zeros_and_empty_tensors_do_not_move() -> None:
    found = moved(torch.tensor([-1e9, -1e8, 5.0, 0.0]), 1e-3, -1e8, 0)
    assert found[:2].tolist() == [-1e9, -1e8] and found[2] != 5 and found[3] == 0
    assert moved(torch.zeros(0, 3), 1e-3, None, 0).shape == (0, 3)
    assert moved(torch.tensor(2.0), 0.5, None, 0).item() in (1.0, 3.0)
