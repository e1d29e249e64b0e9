from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porting.compare import EXIT_CODES, Comparison, TensorComparison
from porting.findings import Fault, Findings, TapFigures
from tests.traces import T, TraceMaker

NAN, INF = float("nan"), float("inf")
MASKED = -1e8


def only(comparison: Comparison) -> TensorComparison:
    assert len(comparison.tensors) == 1
    return comparison.tensors[0]


def strict_json(comparison: Comparison) -> dict:
    """As every JSON reader takes it: no NaN, no Infinity."""
    return json.loads(json.dumps(comparison.to_json(), allow_nan=False))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_equal_traces_match(traces: TraceMaker) -> None:
    tensors = [T("encoder", random(2, 3, 4)), T("loss", 2.5)]
    comparison = traces.compare(tensors, tensors)
    assert (comparison.status, comparison.exit_code) == ("match", 0)
    assert comparison.first_divergence is None
    content = strict_json(comparison)
    assert content["first_divergence"] is None
    assert content["tolerance_needed"] == 0
    assert content["unmatched"] == {"reference": [], "port": []}
    assert [row["status"] for row in content["tensors"]] == ["match", "match"]
    assert [row["shape"] for row in content["tensors"]] == [[2, 3, 4], []]


def test_the_first_tensor_beyond_the_tolerance_is_named_with_its_place(traces: TraceMaker) -> None:
    right = random(2, 3, 4)
    wrong, worse = right.copy(), right + 100
    wrong[1, 0, 2] += 0.5
    wrong[0, 1, 1] += 0.25
    comparison = traces.compare(
        [T("a", right), T("b", right), T("c", right)], [T("c", worse), T("a", right), T("b", wrong)]
    )
    assert (comparison.status, comparison.exit_code) == ("diverged", 1)
    first = comparison.first_divergence
    assert first is not None
    assert (first.name, first.reference_name) == ("b", "tf/b")
    assert first.index == (1, 0, 2)
    assert first.dims == ("batch", "length", "d_model")
    assert first.reference == pytest.approx(right[1, 0, 2])
    assert first.port == pytest.approx(right[1, 0, 2] + 0.5)
    assert first.max_abs_diff == pytest.approx(0.5)
    assert first.max_rel_diff == pytest.approx(0.5 / np.abs(right).max())
    assert comparison.worst is not None
    assert comparison.worst.name == "c"
    row = comparison.tensors[1]
    assert row.mean_abs_diff == pytest.approx(0.75 / 24)
    assert strict_json(comparison)["first_divergence"]["index"] == [1, 0, 2]
    assert strict_json(comparison)["tolerance_needed"] == pytest.approx(100, rel=1e-3)


def test_rows_stand_in_the_order_of_the_original(traces: TraceMaker) -> None:
    seen: list[str] = []
    reference = [T("z", 1), T("a", 1), T("m", 1)]
    comparison = traces.compare(
        reference, sorted(reference, key=lambda t: t.name), on_row=lambda row: seen.append(row.name)
    )
    assert [row.name for row in comparison.tensors] == seen == ["z", "a", "m"]


@pytest.mark.parametrize("dims", ["length d_model batch", "d_model length batch", "batch d_model length"])
def test_axes_are_aligned_by_their_names(traces: TraceMaker, dims: str) -> None:
    right = random(2, 3, 4)
    axes = [("batch", "length", "d_model").index(name) for name in dims.split()]
    moved = right.transpose(axes).copy()
    assert traces.compare([T("x", right)], [T("x", moved, dims)]).status == "match"
    moved[(0,) * 3] += 1
    moved[tuple(size - 1 for size in moved.shape)] += 2
    comparison = traces.compare([T("x", right)], [T("x", moved, dims)])
    assert only(comparison).index == (1, 2, 3), "in the original's order of axes"
    assert only(comparison).shape == (2, 3, 4)


def test_a_square_tensor_with_its_axes_exchanged_is_aligned_by_name_only(traces: TraceMaker) -> None:
    right = random(3, 3)
    exchanged = T("x", right.T.copy(), "length batch")
    assert traces.compare([T("x", right)], [exchanged]).status == "match"
    assert traces.compare([T("x", right)], [T("x", right.T.copy())]).status == "diverged"


def test_axes_of_size_one_may_be_absent_on_either_side(traces: TraceMaker) -> None:
    full, bare = T("x", random(1, 3, 4)), T("x", random(1, 3, 4)[0], "length d_model")
    assert traces.compare([full], [bare]).status == "match"
    assert traces.compare([bare], [full]).status == "match"
    wide = T("x", random(2, 3, 4))
    comparison = traces.compare([wide], [bare])
    assert comparison.status == "diverged"
    assert only(comparison).note == "dimensions batch length d_model against length d_model"


@pytest.mark.parametrize(
    ("dims", "shape", "note"),
    [
        ("batch length d_ff", (2, 3, 4), "dimensions batch length d_model against batch length d_ff"),
        ("batch length d_model", (2, 3, 5), "shape [2, 3, 4] (batch length d_model) against [2, 3, 5]"),
        ("batch length d_model", (3, 2, 4), "shape [2, 3, 4] (batch length d_model) against [3, 2, 4]"),
        ("length d_model", (3, 4), "dimensions batch length d_model against length d_model"),
    ],
)
def test_other_dimensions_are_a_divergence_that_says_so(
    traces: TraceMaker, dims: str, shape: tuple[int, ...], note: str
) -> None:
    comparison = traces.compare([T("x", random(2, 3, 4))], [T("x", random(*shape), dims)])
    assert comparison.status == "diverged"
    assert only(comparison).note == note
    assert strict_json(comparison)["first_divergence"]["note"] == note
    assert strict_json(comparison)["first_divergence"]["max_abs_diff"] is None


def test_a_tensor_on_one_side_only_makes_a_match_incomplete(traces: TraceMaker) -> None:
    a, b, c = T("a", 1), T("b", 2), T("c", 3)
    comparison = traces.compare([a, b], [a, c])
    assert (comparison.status, comparison.exit_code) == ("incomplete", 3)
    assert strict_json(comparison)["unmatched"] == {"reference": ["b"], "port": ["c"]}
    assert traces.compare([a, b], [a]).status == "incomplete"
    assert traces.compare([a], [a, b]).status == "incomplete"


def test_traces_with_nothing_in_common_do_not_match(traces: TraceMaker) -> None:
    assert traces.compare([], []).status == "incomplete"
    assert traces.compare([T("a", 1)], [T("b", 1)]).status == "incomplete"
    assert strict_json(traces.compare([], []))["tolerance_needed"] is None


def test_a_divergence_counts_where_tensors_are_missing_too(traces: TraceMaker) -> None:
    comparison = traces.compare([T("a", 1), T("b", 2)], [T("a", 5)])
    assert comparison.status == "diverged"
    assert comparison.unmatched_reference == ("b",)


def test_nan_in_the_original_is_no_verdict(traces: TraceMaker) -> None:
    values = random(2, 3)
    values[1, 2] = NAN
    comparison = traces.compare([T("a", 1), T("x", values)], [T("a", 9), T("x", values)])
    assert (comparison.status, comparison.exit_code) == ("invalid", 3)
    assert comparison.reasons == ("tf/x: 1 of 6 values of the original are NaN",)
    assert strict_json(comparison)["tensors"][1]["status"] == "invalid"


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_in_the_port_is_a_divergence(traces: TraceMaker, bad: float) -> None:
    right = random(2, 3)
    wrong = right.copy()
    wrong[1, 1] = bad
    comparison = traces.compare([T("x", right)], [T("x", wrong)], atol=1e30)
    assert comparison.status == "diverged"
    assert only(comparison).index == (1, 1)
    assert only(comparison).max_abs_diff == INF
    first = strict_json(comparison)["first_divergence"]
    assert (first["port"], first["max_abs_diff"]) == (None, None)
    assert ("1 of 6 values of the port are NaN" in only(comparison).note) == np.isnan(bad)


def test_infinities_of_one_sign_are_equal(traces: TraceMaker) -> None:
    comparison = traces.compare([T("x", [1.0, INF, -INF])], [T("x", [1.0, INF, -INF])])
    assert comparison.status == "match"
    strict_json(comparison)
    assert traces.compare([T("x", [INF])], [T("x", [-INF])]).status == "diverged"


@pytest.mark.parametrize("sides", [(MASKED, MASKED), (MASKED, None), (None, MASKED)])
def test_hidden_scores_are_equal_whatever_their_value(traces: TraceMaker, sides: tuple) -> None:
    reference = T("x", [0.5, -1e9, -2e9], hidden_below=sides[0])
    port = T("x", [0.5, -1e9 - 64, -INF], hidden_below=sides[1])
    comparison = traces.compare([reference], [port])
    assert comparison.status == "match"
    assert only(comparison).max_abs_diff == 0


def test_without_a_mask_large_scores_are_numbers(traces: TraceMaker) -> None:
    assert traces.compare([T("x", [-1e9])], [T("x", [-1e9 - 64])]).status == "diverged"


@pytest.mark.parametrize(("reference", "port"), [(-1e9, 0.5), (0.5, -1e9), (-1e9, -9e7), (-1e9, NAN)])
def test_a_position_hidden_on_one_side_only_is_a_divergence(
    traces: TraceMaker, reference: float, port: float
) -> None:
    comparison = traces.compare(
        [T("x", [1.0, reference], hidden_below=MASKED)],
        [T("x", [1.0, port], hidden_below=MASKED)],
        atol=1e10,
    )
    assert comparison.status == "diverged"
    assert only(comparison).index == (1,)
    strict_json(comparison)


def test_hidden_scores_do_not_widen_the_relative_difference(traces: TraceMaker) -> None:
    comparison = traces.compare(
        [T("x", [2.0, -1e9], hidden_below=MASKED)], [T("x", [2.5, -1e9], hidden_below=MASKED)]
    )
    assert only(comparison).max_rel_diff == pytest.approx(0.25)


@pytest.mark.parametrize("side", ["the original", "the port"])
def test_a_run_that_does_not_repeat_itself_is_no_verdict(traces: TraceMaker, side: str) -> None:
    key = "reference_metadata" if side == "the original" else "port_metadata"
    tensors = [T("a", 1)]
    comparison = traces.compare(tensors, tensors, **{key: {"deterministic": False}})
    assert (comparison.status, comparison.exit_code) == ("invalid", 3)
    assert len(comparison.reasons) == 1
    assert f"{side} gave another output" in comparison.reasons[0]
    assert traces.compare(tensors, tensors, **{key: {"deterministic": True}}).status == "match"


def test_the_tolerance_itself_is_within_it(traces: TraceMaker) -> None:
    reference, port = [T("x", np.array([1.0]))], [T("x", np.array([1.5]))]
    assert traces.compare(reference, port, atol=0.5).status == "match"
    assert traces.compare(reference, port, atol=np.nextafter(0.5, 0)).status == "diverged"


def test_a_tolerance_of_zero_wants_equal_bits(traces: TraceMaker) -> None:
    value = np.array([1.0])
    assert traces.compare([T("x", value)], [T("x", value)], atol=0).status == "match"
    assert traces.compare([T("x", value)], [T("x", np.nextafter(value, 2))], atol=0).status == "diverged"


def test_differences_are_taken_in_double_precision(traces: TraceMaker) -> None:
    reference = T("x", np.array([16777216.0], np.float32))
    assert traces.compare([reference], [T("x", np.array([16777217.0]))]).status == "diverged"


def test_a_difference_from_zeros_is_infinite_relatively(traces: TraceMaker) -> None:
    comparison = traces.compare([T("x", [0.0])], [T("x", [1.0])])
    assert only(comparison).max_rel_diff == INF
    assert strict_json(comparison)["tensors"][0]["max_rel_diff"] is None
    assert only(traces.compare([T("x", [0.0])], [T("x", [0.0])])).max_rel_diff == 0


def test_empty_tensors_are_equal(traces: TraceMaker) -> None:
    assert traces.compare([T("x", np.zeros((2, 0)))], [T("x", np.zeros((2, 0)))]).status == "match"


def test_provenance_is_taken_along(traces: TraceMaker) -> None:
    comparison = traces.compare([T("a", 1)], [T("a", 1)], provenance={"command": "compare"})
    assert strict_json(comparison)["provenance"] == {"command": "compare"}


def test_every_status_has_its_exit_code() -> None:
    assert EXIT_CODES == {"match": 0, "diverged": 1, "incomplete": 3, "invalid": 3}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), axis=st.integers(0, 2), change=st.sampled_from(["reverse", "roll", "one"])
)
def test_values_out_of_place_are_caught(traces: TraceMaker, seed: int, axis: int, change: str) -> None:
    """A tensor with its values in another order has the same mean, norm and histogram."""
    right = random(3, 4, 5, seed=seed)
    wrong = {"reverse": np.flip(right, axis), "roll": np.roll(right, 1, axis), "one": right.copy()}[change]
    if change == "one":
        wrong[(seed % 3, seed % 4, seed % 5)] += 0.01
    comparison = traces.compare([T("x", right)], [T("x", wrong.copy())])
    assert comparison.status == "diverged"
    row = only(comparison)
    distance = np.abs(right.astype(np.float64) - wrong)
    assert row.max_abs_diff == distance.max()
    assert distance[row.index] == distance.max()
    assert (row.reference, row.port) == (right[row.index], wrong[row.index])


def test_findings_say_of_each_row_where_its_difference_comes_from(traces: TraceMaker) -> None:
    names = ("own", "also", "heir", "quiet heir", "right", "unknown")
    port = [1.5, 1.5, 1.5, 1.0005, 1.0, 1.5]
    comparison = traces.compare(
        [T(n, 1.0) for n in names], [T(n, x) for n, x in zip(names, port, strict=True)]
    )
    assert {row.origin for row in comparison.tensors} == {None}
    assert "local_max_abs_diff" not in comparison.tensors[0].to_json()
    figures = {name: TapFigures(floor=1e-6) for name in names if name != "unknown"}
    found = Findings(figures, (Fault("own", "tf/own", 0.5, 99.0, None, ("also",)),), 32.0, 1e-7)
    examined = comparison.with_findings(found)
    assert [row.origin for row in examined.tensors] == ["own", "own", "inherited", "inherited", None, None]
    assert examined.tensors[3].status == "match", "below the tolerance, and not of itself"
    assert examined.tensors[0].to_json()["origin"] == "own"
    assert (examined.status, examined.exit_code) == ("diverged", 1)
    assert examined.faults == found.faults and comparison.faults == ()
    assert strict_json(examined)["noise"]["verdict"] == "beyond"


def test_what_an_analysis_distrusts_is_no_verdict(traces: TraceMaker) -> None:
    comparison = traces.compare([T("a", 1.0)], [T("a", 1.0)])
    found = Findings({}, (), 32.0, 1e-7)
    assert comparison.with_findings(found).status == "match"
    distrusted = comparison.with_findings(found, ("it changes when it is heard",))
    assert (distrusted.status, distrusted.exit_code) == ("invalid", 3)
    assert distrusted.reasons == ("it changes when it is heard",)


def test_dropout_is_named_where_eval_mode_repeats_itself(traces: TraceMaker) -> None:
    tensors = [T("a", 1.0)]
    for in_eval, words in ((True, "call model.eval() first"), (False, "something in it is random")):
        metadata = {"deterministic": False, "deterministic_in_eval": in_eval}
        (reason,) = traces.compare(tensors, tensors, port_metadata=metadata).reasons
        assert words in reason
