"""What is computed of one tensor for the pictures: against plain loops over small arrays."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from porting.pictures import pictures_of
from porting.pictures.maps import MOST_CELLS, bucket_map, maps_of
from porting.pictures.roles import queries_and_memory, role
from porting.pictures.window import window_of
from tests.traces import T, TraceMaker

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        ("length", "position"),
        ("memory_length", "position"),
        ("query_heads", "head"),
        ("batch_unsplit", "batch"),
        ("d_kv", "feature"),
        ("vocab", "feature"),
        ("from_seq", "position"),
    ],
)
def test_an_axis_says_by_its_name_what_it_is(dim: str, expected: str) -> None:
    assert role(dim) == expected


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (("batch", "length", "heads", "memory_length"), (1, 3)),
        (("memory_length", "length", "heads"), (1, 0)),
        (("batch", "heads", "from_length", "to_length"), (2, 3)),
        (("batch", "length", "d_model"), None),
    ],
)
def test_of_attention_the_axes_of_queries_and_memory_are_told_apart(
    dims: tuple[str, ...], expected: tuple[int, int] | None
) -> None:
    assert queries_and_memory(dims) == expected


def test_a_map_shows_the_largest_difference_of_each_pair_of_places() -> None:
    apart = RANDOM.random((2, 5, 3, 4))
    shown = {(m["rows"], m["columns"]): m for m in maps_of(apart, ("batch", "length", "heads", "d_kv"))}
    assert list(shown) == [("length", "heads"), ("length", "d_kv"), ("batch", "length")]
    for length, head in itertools.product(range(5), range(3)):
        expected = apart[:, length, head, :].max()
        assert shown["length", "heads"]["values"][length][head] == pytest.approx(expected, rel=5e-3)
    assert shown["length", "heads"]["over"] == ["batch", "d_kv"]
    assert shown["batch", "length"]["values"][1][4] == pytest.approx(apart[1, 4].max(), rel=5e-3)


def test_large_maps_are_pooled_and_lose_no_largest_value() -> None:
    apart = RANDOM.random((1000, 130))
    (shown,) = maps_of(apart, ("length", "d_model"))
    values = np.array(shown["values"])
    assert max(values.shape) <= MOST_CELLS
    assert (shown["row_count"], shown["column_count"]) == (1000, 130)
    for i, j in itertools.product(range(values.shape[0]), range(values.shape[1])):
        rows, columns = (
            slice(k * shown[s], (k + 1) * shown[s]) for k, s in ((i, "row_step"), (j, "column_step"))
        )
        assert values[i, j] == pytest.approx(apart[rows, columns].max(), rel=5e-3)


@pytest.mark.parametrize(
    ("shape", "dims", "expected"),
    [
        ((5,), ("d_model",), [("", "d_model")]),
        ((4, 2, 3), ("experts", "capacity", "d_model"), [("experts", "d_model")]),
        ((2, 3), ("batch", "length"), [("batch", "length")]),
        ((1, 3), ("batch", "length"), [("batch", "length")]),
        ((3, 4, 2), ("memory_length", "length", "heads"), [("length", "heads"), ("length", "memory_length")]),
        ((), (), []),
        ((0, 3), ("length", "d_model"), []),
    ],
)
def test_named_dimensions_decide_which_maps_there_are(
    shape: tuple[int, ...], dims: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    shown = maps_of(RANDOM.random(shape), dims)
    assert [(m["rows"], m["columns"]) for m in shown] == expected
    assert all(np.array(m["values"]).shape == (m["row_count"], m["column_count"]) for m in shown)


def test_what_is_no_number_is_null_and_wins() -> None:
    (shown,) = maps_of(np.array([[1.0, np.inf], [0.0, 2.0]]), ("length", "d_model"))
    assert shown["values"] == [[1.0, None], [0.0, 2.0]]


@pytest.mark.parametrize(
    "dims", [("batch", "heads", "length", "memory_length"), ("memory_length", "length", "heads")]
)
def test_buckets_hold_the_largest_difference_of_their_pairs(dims: tuple[str, ...]) -> None:
    sizes = {"batch": 2, "heads": 3, "length": 4, "memory_length": 6}
    apart = RANDOM.random([sizes[dim] for dim in dims])
    offsets = np.arange(6)[None, :] - np.arange(4)[:, None]
    numbers = np.where(offsets < -1, 7, np.where(offsets <= 1, 0, 4))
    shown = bucket_map(apart, dims, numbers)
    assert shown is not None and shown["heads"] == "heads"
    assert [b["number"] for b in shown["buckets"]] == [7, 0, 4], "from far behind to far ahead"
    assert [(b["from"], b["to"]) for b in shown["buckets"]] == [(-3, -2), (-1, 1), (2, 5)]
    assert sum(b["pairs"] for b in shown["buckets"]) == numbers.size
    table = np.moveaxis(apart, [dims.index(d) for d in ("heads", "length", "memory_length")], [-3, -2, -1])
    table = table.reshape(-1, 3, 4, 6).max(axis=0)
    for head, (column, number) in itertools.product(range(3), enumerate([7, 0, 4])):
        assert shown["values"][head][column] == pytest.approx(table[head][numbers == number].max(), rel=5e-3)


def test_buckets_of_other_sizes_are_left_out() -> None:
    assert bucket_map(np.zeros((3, 4)), ("length", "memory_length"), np.zeros((4, 3), int)) is None
    assert bucket_map(np.zeros((3, 4)), ("length", "d_model"), np.zeros((3, 4), int)) is None


def test_a_window_runs_along_every_axis_and_stops_at_its_ends() -> None:
    expected = np.arange(2 * 9 * 1 * 5, dtype=np.float32).reshape(2, 9, 1, 5)
    window = window_of(expected, expected + 1, ("batch", "length", "one", "d_kv"), (1, 7, 0, 2))
    assert window["reference"] == expected[1, 7, 0, 2] and window["port"] == expected[1, 7, 0, 2] + 1
    strips = {strip["dim"]: strip for strip in window["along"]}
    assert list(strips) == ["batch", "length", "d_kv"], "an axis of one index has no neighbours"
    assert strips["length"]["start"] == 4
    assert strips["length"]["reference"] == expected[1, 4:9, 0, 2].tolist()
    assert strips["d_kv"]["port"] == (expected[1, 7, 0] + 1).tolist()


def test_a_divergence_is_looked_at_where_it_is_first_and_where_it_is_largest(traces: TraceMaker) -> None:
    right = np.zeros((2, 3, 4), np.float32)
    wrong = right.copy()
    wrong[0, 2, 1], wrong[1, 1, 3] = 0.5, -2.0
    tensors = [T("fine", right), T("bad", right), T("worse", right)]
    reference, port = traces(tensors), traces([T("fine", right), T("bad", wrong), T("worse", wrong * 9)])
    comparison = traces.compare(tensors, [T("fine", right), T("bad", wrong), T("worse", wrong * 9)])
    pictures = pictures_of(comparison, reference, port)
    assert pictures is not None
    assert (pictures["tensor"], pictures["why"]) == ("bad", "first divergence")
    assert (pictures["elements"], pictures["beyond"]) == (24, 2)
    assert pictures["largest"]["index"] == [1, 1, 3] and pictures["largest"]["port"] == -2.0
    assert pictures["first"]["index"] == [0, 2, 1] and pictures["first"]["port"] == 0.5


def test_without_a_divergence_the_largest_difference_is_looked_at(traces: TraceMaker) -> None:
    reference, port = (
        [T("a", [[1.0, 2.0]]), T("b", [[1.0, 2.0]])],
        [T("a", [[1.0, 2.0]]), T("b", [[1.0, 2.0001]])],
    )
    pictures = pictures_of(traces.compare(reference, port), traces(reference), traces(port))
    assert pictures is not None
    assert (pictures["tensor"], pictures["why"], pictures["beyond"]) == ("b", "largest difference", 0)
    assert pictures["first"] is None


def test_axes_in_another_order_and_values_that_are_no_numbers(traces: TraceMaker) -> None:
    values = RANDOM.random((3, 4)).astype(np.float32)
    broken = values.copy()
    broken[1, 2] = np.nan
    reference, port = [T("a", values, "length d_model")], [T("a", broken.T, "d_model length")]
    pictures = pictures_of(traces.compare(reference, port), traces(reference), traces(port))
    assert pictures is not None
    assert pictures["largest"]["index"] == [1, 2] and pictures["largest"]["port"] is None
    assert pictures["maps"][0]["values"][1][2] is None

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(json.dumps(pictures), parse_constant=refuse)


def test_hidden_positions_of_attention_are_no_difference(traces: TraceMaker) -> None:
    reference = [T("s", [[0.0, -1e9]], "length memory_length", hidden_below=-1e8)]
    port = [T("s", [[0.5, -2e9]], "length memory_length")]
    pictures = pictures_of(traces.compare(reference, port), traces(reference), traces(port))
    assert pictures is not None and pictures["maps"][0]["values"] == [[0.5, 0.0]]


@pytest.mark.parametrize(
    ("reference", "port"),
    [
        ([], []),
        ([T("loss", 1.0)], [T("loss", 2.0)]),
        ([T("a", np.zeros((2, 3)))], [T("a", np.zeros((2, 4)))]),
        ([T("a", np.zeros((0, 3)))], [T("a", np.zeros((0, 3)))]),
    ],
)
def test_where_nothing_can_be_drawn_there_are_no_pictures(
    traces: TraceMaker, reference: list[T], port: list[T]
) -> None:
    assert pictures_of(traces.compare(reference, port), traces(reference), traces(port)) is None
