from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porting.analysis.noise import NARROW_TIMES, TIMES, UNITS, floor_of, times_for, times_the_floor

INF, NAN = float("inf"), float("nan")
UNIT = UNITS["float32"]
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
values = st.floats(-1e6, 1e6, width=32) | st.sampled_from([-1e9, INF, -INF, NAN])
changes = st.floats(0, 1e3) | st.sampled_from([INF, NAN])


@pytest.mark.parametrize("name", UNITS)
def test_units_are_the_distance_to_the_next_number(name: str) -> None:
    torch = pytest.importorskip("torch")
    assert UNITS[name] == torch.finfo(getattr(torch, name)).eps


def test_narrow_dtypes_are_allowed_fewer_floors() -> None:
    allowed = {name: times_for(unit) for name, unit in UNITS.items()}
    assert allowed == {"float64": TIMES, "float32": TIMES, "float16": NARROW_TIMES, "bfloat16": NARROW_TIMES}
    assert NARROW_TIMES < TIMES


@given(st.data())
def test_a_floor_is_finite_and_no_lower_than_what_it_is_made_of(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    value = data.draw(hnp.arrays(np.float64, shape, elements=values))
    drawn = data.draw(st.lists(hnp.arrays(np.float64, shape, elements=changes), max_size=2))
    below = data.draw(st.sampled_from([None, -1e8]))
    floor = floor_of(drawn, value, UNIT, below)
    assert floor.shape == shape and floor.dtype == np.float64
    assert np.isfinite(floor).all() and (floor >= 0).all()
    counts = np.isfinite(value) & (True if below is None else value > below)
    for change in drawn:
        counted = counts & np.isfinite(change)
        assert (floor[counted] >= change[counted]).all()
    assert (floor[counts] >= np.abs(value[counts]) * UNIT / 2).all()
    more = floor_of([*drawn, np.ones(shape)], value, UNIT, below)
    assert (more >= floor).all()


def test_a_lucky_element_has_the_floor_of_its_row_and_of_no_other() -> None:
    floor = floor_of([np.array([[3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])], np.zeros((2, 4)), UNIT)
    np.testing.assert_allclose(floor, [[3.0, 1.5, 1.5, 1.5], [0, 0, 0, 0]])


def test_masks_and_infinities_neither_have_a_floor_nor_lower_their_rows() -> None:
    value = np.array([[-1e9, INF, 4.0, 4.0]])
    floor = floor_of([np.array([[64.0, 1.0, 2.0, 2.0]])], value, UNIT, -1e8)
    np.testing.assert_allclose(floor, [[2.0, 2.0, 2.0, 2.0]])
    assert floor_of([], np.array([[-1e9, -1e9]]), UNIT, -1e8).tolist() == [[0.0, 0.0]]


def test_a_scalar_has_half_a_unit() -> None:
    assert float(floor_of([], np.float64(8.0), UNIT)) == 4 * UNIT
    assert float(floor_of([np.float64(1.0)], np.float64(8.0), UNIT)) == 1.0


@given(st.data())
def test_times_the_floor_goes_with_the_difference_and_against_the_floor(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    finite = st.floats(-1e3, 1e3, width=32)
    one = data.draw(hnp.arrays(np.float64, shape, elements=finite))
    other = data.draw(hnp.arrays(np.float64, shape, elements=finite))
    floor = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(2.0**-20, 1.0, width=32)))
    times = times_the_floor(one, other, floor)
    assert 0 <= times < INF
    assert times_the_floor(one, other, floor / 2) == times * 2
    assert times_the_floor(one, one, floor) == 0
    if one.size:
        assert (np.abs(one - other) <= floor * times * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("expected", "value", "floor", "below", "times"),
    [
        ([1.0, 2.0], [1.5, 2.0], [0.25, 0.0], None, 2.0),
        ([1.0, 2.0], [1.0, 2.5], [0.25, 0.0], None, INF),
        ([0.0], [0.0], [0.0], None, 0.0),
        ([1.0], [NAN], [1.0], None, INF),
        ([INF], [INF], [0.0], None, 0.0),
        ([-1e9, 1.0], [-2e9, 1.0], [0.0, 1.0], -1e8, 0.0),
        ([-1e9, 1.0], [0.0, 1.0], [0.0, 1.0], -1e8, INF),
        ([], [], [], None, 0.0),
    ],
)
def test_times_the_floor_element_by_element(
    expected: list, value: list, floor: list, below: float | None, times: float
) -> None:
    arrays = (np.array(x, np.float64) for x in (expected, value, floor))
    assert times_the_floor(*arrays, below) == times
