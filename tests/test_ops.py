from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porting.ops import Part, Reshape, Split, Transpose


def test_a_part_may_lie_on_another_axis() -> None:
    array = np.arange(30).reshape(2, 3, 5)
    for number in range(3):
        part = Part(number, 3, axis=1)
        assert part.output_shape(array.shape) == part.apply(array).shape == (2, 5)
        np.testing.assert_array_equal(part.apply(array), array[:, number])
    assert str(Part(2, 3, axis=1)) == "part 2 of 3 on axis 1"
    with pytest.raises(ValueError, match="3 parts on axis 1, not shape"):
        Part(0, 3, axis=1).output_shape((3, 2))


def test_transpose_exchanges_the_axes_and_the_elements() -> None:
    array = np.arange(6).reshape(2, 3)
    moved = Transpose().apply(array)
    assert moved.shape == (3, 2)
    assert moved.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_transpose_is_a_view() -> None:
    array = np.zeros((2, 3))
    assert np.shares_memory(Transpose().apply(array), array)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-9, 9, width=32)))
def test_output_shape_and_inverse_agree_with_apply(array: np.ndarray) -> None:
    op = Transpose()
    moved = op.apply(array)
    assert moved.shape == op.output_shape(array.shape)
    back = op.inverse(array.shape)
    assert back.output_shape(moved.shape) == array.shape
    np.testing.assert_array_equal(back.apply(moved), array)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs a matrix, not shape"):
        Transpose().output_shape(shape)
    with pytest.raises(ValueError, match="matrix"):
        Transpose().apply(np.zeros(shape))


def test_it_says_what_it_is() -> None:
    assert str(Transpose()) == "transpose"


# --- reshape ---


def test_reshape_keeps_the_order_of_the_elements() -> None:
    array = np.arange(30).reshape(2, 3, 5)
    flat = Reshape((2, 3, 5), (2, 15)).apply(array)
    assert flat.shape == (2, 15)
    assert flat.ravel().tolist() == list(range(30))
    assert np.shares_memory(flat, array)


@pytest.mark.parametrize("shape", [(), (30,), (2, 15), (3, 2, 5), (5, 3, 2), (2, 3, 5, 1)])
def test_reshape_refuses_every_shape_but_the_stated_one(shape: tuple[int, ...]) -> None:
    op = Reshape((2, 3, 5), (6, 5))
    with pytest.raises(ValueError, match=r"reshape needs \(2, 3, 5\), not "):
        op.output_shape(shape)
    with pytest.raises(ValueError, match="reshape needs"):
        op.apply(np.zeros(shape))


def test_the_inverse_of_a_reshape_asserts_what_it_made() -> None:
    op = Reshape((2, 3, 5), (6, 5))
    array = np.arange(30).reshape(2, 3, 5)
    back = op.inverse(array.shape)
    assert back == Reshape((6, 5), (2, 3, 5))
    np.testing.assert_array_equal(back.apply(op.apply(array)), array)
    with pytest.raises(ValueError, match=r"reshape needs \(6, 5\)"):
        back.output_shape((2, 3, 5))


def test_a_reshape_says_both_shapes() -> None:
    assert str(Reshape((2, 3, 5), (6, 5))) == "reshape [2, 3, 5] to [6, 5]"


# --- part ---


def test_a_part_is_a_view_of_one_slice_of_the_first_axis() -> None:
    array = np.arange(30).reshape(3, 2, 5)
    for number in range(3):
        part = Part(number, 3).apply(array)
        assert part.shape == Part(number, 3).output_shape(array.shape) == (2, 5)
        assert part.tolist() == array[number].tolist()
        assert np.shares_memory(part, array)


@pytest.mark.parametrize("shape", [(), (2, 5), (4, 2, 5), (2, 3, 5)])
def test_another_number_of_parts_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs 3 parts on the first axis, not shape"):
        Part(1, 3).output_shape(shape)
    with pytest.raises(ValueError, match="needs 3 parts"):
        Part(1, 3).apply(np.zeros(shape))


def test_one_part_does_not_give_the_whole_back() -> None:
    with pytest.raises(ValueError, match=r"one part of \(3, 2, 5\)"):
        Part(1, 3).inverse((3, 2, 5))


def test_a_part_says_which_one_it_is() -> None:
    assert str(Part(2, 7)) == "part 2 of 7"


def test_splitting_takes_a_slice_and_keeps_the_axis() -> None:
    array = np.arange(24).reshape(2, 12)
    parts = [Split(1, number, 3).apply(array) for number in range(3)]
    assert all(part.shape == Split(1, 0, 3).output_shape(array.shape) == (2, 4) for part in parts)
    assert np.array_equal(np.concatenate(parts, axis=1), array)
    assert str(Split(1, 2, 3)) == "slice 2 of 3 on axis 1"


@pytest.mark.parametrize("op", [Split(1, 0, 5), Split(2, 0, 2)])
def test_splitting_asserts_equal_parts(op: Split) -> None:
    with pytest.raises(ValueError, match=r"a split needs \d equal parts on axis \d, not \(2, 12\)"):
        op.output_shape((2, 12))
    with pytest.raises(ValueError, match="does not give the whole"):
        op.inverse((2, 12))
