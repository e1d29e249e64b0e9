from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porting.ops import Transpose


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
