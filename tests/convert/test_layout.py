"""Where tensors will lie: which file, which byte."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting.convert.layout import (
    TensorSpec,
    bundle_layout,
    parse_size,
    safetensors_layout,
    weights_index,
)
from porting.errors import InputError
from porting.model_dir import WEIGHTS


def specs_of(*sizes: int) -> list[TensorSpec]:
    return [TensorSpec(f"t{i}", (size,), np.dtype(np.float16)) for i, size in enumerate(sizes)]


def shards_of(specs: list[TensorSpec], limit: int) -> dict[str, list[TensorSpec]]:
    return {file.name: list(file.specs) for file in safetensors_layout(specs, limit)}


def test_what_fits_goes_into_one_file() -> None:
    specs = specs_of(10, 20, 30)
    assert shards_of(specs, 120) == {WEIGHTS: specs}
    assert shards_of([], 1) == {WEIGHTS: []}


def test_a_byte_more_makes_a_second_file() -> None:
    specs = specs_of(10, 20, 30)
    assert shards_of(specs, 119) == {
        "model-00001-of-00002.safetensors": specs[:2],
        "model-00002-of-00002.safetensors": specs[2:],
    }


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 150))
def test_shards_hold_every_tensor_in_order_and_are_full(sizes: list[int], limit: int) -> None:
    specs = specs_of(*sizes)
    shards = list(shards_of(specs, limit).values())
    assert list(itertools.chain(*shards)) == specs
    totals = [sum(spec.nbytes for spec in shard) for shard in shards]
    assert all(total <= limit or len(shard) == 1 for total, shard in zip(totals, shards, strict=True))
    for total, following in zip(totals, shards[1:], strict=False):
        assert total + following[0].nbytes > limit


def test_the_index_says_where_each_tensor_lies() -> None:
    layout = safetensors_layout(specs_of(10, 20, 30), 60)
    first, second = (file.name for file in layout)
    assert weights_index(layout) == {
        "metadata": {"total_size": 120},
        "weight_map": {"t0": first, "t1": first, "t2": second},
    }


def test_a_bundles_files_hold_nothing_but_values() -> None:
    layout = bundle_layout(specs_of(10, 20, 30), "model.ckpt-7", 60)
    names = ["model.ckpt-7.data-00000-of-00002", "model.ckpt-7.data-00001-of-00002"]
    assert [file.name for file in layout] == names
    assert [(file.nbytes, file.offsets()) for file in layout] == [(60, [0, 20]), (60, [0])]


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("5GB", 5 * 10**9),
        ("300MB", 3 * 10**8),
        ("2GiB", 2 * 2**30),
        ("1.5kb", 1500),
        (" 7 B ", 7),
        ("12", 12),
        (12, 12),
        ("0.1B", 1),
    ],
)
def test_sizes(text: str | int, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "GB", "-5GB", "0", "0GB", "5XB", "5 G i B", "1e3", "5GBs", "nan", 0, -1]
)
def test_what_is_no_size_is_shown(text: str | int) -> None:
    with pytest.raises(InputError, match="such as 5GB, 300MB or 2GiB"):
        parse_size(text)
