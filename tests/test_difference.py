from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porting.difference import align, difference_of, distance

NAN, INF = float("nan"), float("inf")
NAMES = ("batch", "length", "heads", "d_kv")

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=3)
numbers = st.floats(-1e6, 1e6, width=32) | st.just(-1e9)
anything = numbers | st.sampled_from([NAN, INF, -INF])


def arrays(shape: tuple[int, ...], elements: st.SearchStrategy[float] = anything) -> st.SearchStrategy:
    return hnp.arrays(np.float32, shape, elements=elements)


@given(st.data())
def test_axes_come_back_in_whatever_order_they_were_given(data: st.DataObject) -> None:
    value = data.draw(shapes.flatmap(lambda shape: arrays(shape, numbers)))
    dims = NAMES[: value.ndim]
    order = data.draw(st.permutations(range(value.ndim)))
    moved, moved_dims = value.transpose(order), [dims[i] for i in order]
    aligned, note = align(dims, value.shape, moved_dims, moved)
    assert note == ""
    np.testing.assert_array_equal(aligned, value)


@given(st.data())
def test_axes_of_one_come_and_go(data: st.DataObject) -> None:
    value = data.draw(shapes.flatmap(lambda shape: arrays(shape, numbers)))
    dims = NAMES[: value.ndim]
    ones = [axis for axis, size in enumerate(value.shape) if size == 1]
    dropped = set(data.draw(st.lists(st.sampled_from(ones)))) if ones else set()
    fewer = value.squeeze(tuple(dropped))
    fewer_dims = tuple(name for axis, name in enumerate(dims) if axis not in dropped)
    for expected, names, found, found_names in (
        (value, dims, fewer, fewer_dims),
        (fewer, fewer_dims, value, dims),
    ):
        aligned, note = align(names, expected.shape, found_names, found)
        assert note == ""
        assert aligned is not None and aligned.shape == expected.shape
        np.testing.assert_array_equal(aligned, expected)


@pytest.mark.parametrize(
    ("found_dims", "shape", "note"),
    [
        ("batch d_kv", (2, 3), "dimensions batch length against batch d_kv"),
        ("batch length", (2, 4), "shape [2, 3] (batch length) against [2, 4]"),
        ("batch length", (3, 2), "shape [2, 3] (batch length) against [3, 2]"),
        ("batch", (2,), "dimensions batch length against batch"),
        ("batch length heads", (2, 3, 5), "dimensions batch length against batch length heads"),
    ],
)
def test_what_does_not_fit_is_said(found_dims: str, shape: tuple[int, ...], note: str) -> None:
    assert align(("batch", "length"), (2, 3), found_dims.split(), np.zeros(shape)) == (None, note)


@given(st.data())
def test_distance_is_a_number_of_at_least_zero_alike_from_both_sides(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    one, other = data.draw(arrays(shape)), data.draw(arrays(shape))
    below = data.draw(st.sampled_from([None, -1e8]))
    apart = distance(one, other, below)
    assert apart.dtype == np.result_type(one, other, np.float32) and apart.shape == shape
    assert not np.isnan(apart).any() and (apart >= 0).all()
    np.testing.assert_array_equal(apart, distance(other, one, below))
    same = distance(one, one, below)
    np.testing.assert_array_equal(same, np.where(np.isnan(one), INF, 0.0))


@pytest.mark.parametrize(
    ("expected", "value", "below", "apart"),
    [
        (1.0, 1.5, None, 0.5),
        (1e9, 1e9 + 64, None, 64.0),
        (INF, INF, None, 0.0),
        (INF, -INF, None, INF),
        (1.0, INF, None, INF),
        (1.0, NAN, None, INF),
        (NAN, NAN, None, INF),
        (-1e9, -2e9, -1e8, 0.0),
        (-1e9, -INF, -1e8, 0.0),
        (-1e9, 3.0, -1e8, INF),
        (3.0, -1e9, -1e8, INF),
        (-1e8, -1e8 - 64, -1e8, 0.0),
        (-1e9, NAN, -1e8, INF),
        (3.0, 3.5, -1e8, 0.5),
    ],
)
def test_distance_of_masks_and_what_is_no_number(
    expected: float, value: float, below: float | None, apart: float
) -> None:
    assert float(distance(np.float64(expected), np.float64(value), below)) == apart


def test_small_differences_of_large_float32_numbers_are_not_lost() -> None:
    one, other = np.float32(16777216.0), np.float32(16777218.0)
    assert float(distance(one, other)) == 2.0
    assert float(distance(np.float32(1.0), np.float32(1.0 + 2.0**-23))) == 2.0**-23


def test_the_largest_difference_is_where_it_is() -> None:
    expected = np.array([[1.0, -4.0], [2.0, 0.0]])
    value = np.array([[1.5, -4.0], [2.0, -1.0]])
    found = difference_of(expected, value)
    assert (found.largest, found.mean, found.index) == (1.0, 0.375, (1, 1))
    assert (found.reference, found.port) == (0.0, -1.0)
    assert found.relative == 0.25


def test_masks_do_not_make_the_scale_of_a_relative_difference() -> None:
    found = difference_of(np.array([-1e9, 2.0]), np.array([-1e9, 2.5]), -1e8)
    assert found.relative == 0.25
    assert difference_of(np.array([-1e9]), np.array([-2e9]), -1e8).relative == 0


def test_scalars_zeros_and_nothing_at_all() -> None:
    scalar = difference_of(np.float32(2.0), np.float32(3.0))
    assert (scalar.largest, scalar.index, scalar.reference, scalar.port) == (1.0, (), 2.0, 3.0)
    assert difference_of(np.zeros(3), np.zeros(3)).relative == 0
    assert difference_of(np.zeros(3), np.ones(3)).relative == INF
    empty = difference_of(np.zeros((2, 0)), np.zeros((2, 0)))
    assert (empty.largest, empty.mean, empty.relative, empty.index) == (0, 0, 0, ())
    assert math.isnan(empty.reference) and math.isnan(empty.port)
