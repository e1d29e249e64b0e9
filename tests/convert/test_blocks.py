"""Copies and comparisons by tiles give what NumPy's give, for any shape and strides."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting.convert.blocks import KEPT_BYTES, copy_into, same_bits, scratch, strips

KINDS = [np.dtype(kind) for kind in ("u1", "f2", "f4", "f8", ml_dtypes.bfloat16)]


@given(st.integers(0, 700), st.integers(0, 600), st.sampled_from(KINDS), st.integers(1, 3))
def test_a_transposed_matrix_is_copied_right(rows: int, columns: int, kind: np.dtype, step: int) -> None:
    """Tiles are 256 wide: below, above, and no multiple of it."""
    bits = np.arange(rows * columns * step, dtype=np.uint64) * 2654435761
    matrix = bits.astype(f"u{kind.itemsize}").view(kind).reshape(rows, columns * step)[:, :columns]
    target = np.empty((columns, rows), kind)
    copy_into(target, matrix.T)
    assert target.tobytes() == np.ascontiguousarray(matrix.T).tobytes()


@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 5)])
def test_other_shapes_are_copied_too(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape).T
    target = np.empty(values.shape, values.dtype)
    copy_into(target, values)
    np.testing.assert_array_equal(target, values)


@pytest.mark.parametrize("shape", [(1,), (1000, 3000), (3, 2_000_000), (0, 5), (70_000, 20)])
def test_strips_are_all_of_it_in_order(shape: tuple[int, ...]) -> None:
    array = np.empty(shape, np.float32)
    parts = list(strips(array))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(len(array)))


def test_every_bit_counts() -> None:
    values = np.array([[0.0, np.nan], [1.0, -0.0]], np.float32)
    assert same_bits(values, values.copy())
    assert same_bits(values.T, np.ascontiguousarray(values.T))
    assert not same_bits(values, -values)  # the sign of a NaN, and of 0
    assert not same_bits(values, values.T)
    assert not same_bits(values, values.astype(np.float64))
    assert not same_bits(values, values[:1])
    assert same_bits(np.float32(2).reshape(()), np.float32(2).reshape(()))
    large = np.zeros((3000, 1000), np.float32)
    other = large.copy()
    other[2999, 999] = np.float32(1e-45)
    assert not same_bits(large, other)
    assert not same_bits(large.T, np.ascontiguousarray(other.T))


def test_scratch_memory_is_kept_unless_it_is_large() -> None:
    kind = np.dtype(np.float32)
    first = scratch("test", (100, 10), kind)
    assert np.shares_memory(first, scratch("test", (7, 3), kind))
    assert not np.shares_memory(first, scratch("another", (7, 3), kind))
    large = (KEPT_BYTES // 4 + 1,)
    assert not np.shares_memory(scratch("test", large, kind), scratch("test", large, kind))
    with ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(first, pool.submit(scratch, "test", (7, 3), kind).result())
