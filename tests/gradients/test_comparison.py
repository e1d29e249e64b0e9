"""Gradients are judged by their own size, and never below what rounding makes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from porting.compare import Comparison
from porting.gradients.comparison import GradientComparison, compare_gradients
from porting.report.markdown import render_markdown
from porting.report.terminal import summary_lines
from tests.traces import T, TraceMaker

NAN, INF = math.nan, math.inf
WEIGHT = "axis_0"
Compare = Callable[..., GradientComparison]


@pytest.fixture
def compare(traces: TraceMaker) -> Compare:
    def compare(
        reference: list[T],
        port: list[T],
        tolerance: float = 1e-3,
        missing: tuple[list[str], list[str]] = ([], []),
        deterministic: bool = True,
    ) -> GradientComparison:
        metadata = {
            "parameters": [tensor.name for tensor in reference if tensor.dims == WEIGHT],
            "deterministic": deterministic,
        }
        return compare_gradients(
            traces(reference, {**metadata, "without_gradient": missing[0]}, prefix="tf/"),
            traces(port, {"without_gradient": missing[1]}),
            tolerance,
        )

    return compare


def statuses(comparison: GradientComparison) -> dict[str, str]:
    return {row.name: row.status for row in comparison.tensors}


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_the_tolerance_is_relative_to_the_largest_magnitude(compare: Compare, size: float) -> None:
    def tensors(error: float) -> list[T]:
        return [T("a", np.array([[size, error * size]]))]

    assert compare(tensors(0), tensors(0.9e-3)).status == "match"
    beyond = compare(tensors(0), tensors(1.1e-3))
    assert beyond.status == "diverged"
    assert beyond.first_divergence is not None
    assert beyond.first_divergence.index == (0, 1)
    assert beyond.to_json()["tolerance_needed"] == pytest.approx(1.1e-3, rel=1e-3)
    assert compare(tensors(0), tensors(1.1e-3), tolerance=1e-2).status == "match"


def test_noise_around_zero_is_no_divergence_and_a_lost_gradient_is_one(compare: Compare) -> None:
    largest = T("a", [[4.0, 1.0]])
    noise = compare([largest, T("b", [[0.0, 1e-9]])], [largest, T("b", [[3e-6, 0.0]])])
    assert noise.floors == {"tap": pytest.approx(4e-6), "parameter": 0.0}
    assert noise.status == "match"
    assert noise.worst is not None
    assert noise.worst.name == "a"  # not what is noise beside noise
    assert compare([largest, T("b", [[0.0, 0.0]])], [largest, T("b", [[5e-6, 0.0]])]).status == "diverged"
    assert compare([largest, T("b", [[5e-6, 0.0]])], [largest, T("b", [[0.0, 0.0]])]).status == "diverged"


def test_taps_and_parameters_have_floors_of_their_own_and_the_loss_sets_none(compare: Compare) -> None:
    tensors = [
        T("loss", 1),
        T("tap", [[1e-3, 0.0]]),
        T("weight", [1e3], WEIGHT),
        T("small", [[1e-6]]),
        T("small.weight", [1e-4], WEIGHT),
    ]
    comparison = compare(tensors, [*tensors[:3], T("small", [[0.0]]), T("small.weight", [0.0], WEIGHT)])
    assert comparison.floors == {"tap": pytest.approx(1e-9), "parameter": pytest.approx(1e-3)}
    assert statuses(comparison)["small"] == "diverged"
    assert statuses(comparison)["small.weight"] == "match"
    kinds = {row["name"]: row["kind"] for row in comparison.to_json()["tensors"]}
    assert (kinds["tap"], kinds["small.weight"]) == ("tap", "parameter")


def test_the_first_divergence_is_the_nearest_to_the_loss(compare: Compare) -> None:
    reference = [T("logits", [[1.0]]), T("decoder", [[1.0]]), T("encoder", [[1.0]])]
    port = [T("encoder", [[9.0]]), T("decoder", [[2.0]]), T("logits", [[1.0]])]
    comparison = compare(reference, port)
    assert [row.name for row in comparison.tensors] == ["logits", "decoder", "encoder"]
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.name == "decoder"
    assert comparison.first_divergence.reference_name == "tf/decoder"


def test_a_gradient_that_reaches_nothing_is_said(compare: Compare) -> None:
    reference = [T("a", [[1.0]]), T("b", [[1.0]]), T("c", [[0.0]])]
    port = [T("a", [[1.0]]), T("b", [[0.0]]), T("c", [[0.0]])]
    comparison = compare(reference, port, missing=(["c"], ["b", "c"]))
    notes = {row.name: row.note for row in comparison.tensors}
    assert notes["a"] == ""
    assert notes["b"] == "no gradient reaches it in the port"
    assert notes["c"] == "no gradient reaches it in the original and in the port"
    assert statuses(comparison) == {"a": "match", "b": "diverged", "c": "match"}


def test_what_one_side_lacks_is_incomplete(compare: Compare) -> None:
    comparison = compare([T("a", [[1.0]]), T("b", [[1.0]])], [T("a", [[1.0]]), T("d", [[1.0]])])
    assert comparison.status == "incomplete"
    assert comparison.unmatched_reference == ("b",)
    assert comparison.unmatched_port == ("d",)
    assert compare([T("a", [[1.0]])], [T("b", [[1.0]])]).status == "incomplete"


@pytest.mark.parametrize("value", [NAN, INF])
def test_an_original_without_numbers_is_no_verdict(compare: Compare, value: float) -> None:
    tensors = [T("a", [[1.0]]), T("b", [[value, 2.0]])]
    comparison = compare(tensors, [T("a", [[1.0]]), T("b", [[1.0, 2.0]])])
    assert comparison.status == "invalid"
    assert len(comparison.reasons) == 1
    assert comparison.reasons[0].startswith("tf/b: ")
    assert comparison.floors["tap"] == pytest.approx(1e-6 if value == INF else 2e-6)


def test_a_port_without_numbers_diverges(compare: Compare) -> None:
    comparison = compare([T("a", [[1.0, 2.0]])], [T("a", [[NAN, 2.0]])])
    assert comparison.status == "diverged"
    assert comparison.tensors[0].note == "1 of 2 values of the port are NaN"
    json.loads(json.dumps(comparison.to_json(), allow_nan=False))


def test_another_shape_diverges(compare: Compare) -> None:
    comparison = compare([T("a", [[1.0, 2.0]])], [T("a", [[1.0]])])
    assert comparison.status == "diverged"
    assert "shape" in comparison.tensors[0].note


def test_an_original_that_does_not_repeat_itself_is_no_verdict(compare: Compare) -> None:
    assert compare([T("a", [[1.0]])], [T("a", [[1.0]])], deterministic=False).status == "invalid"


@pytest.fixture
def forward(traces: TraceMaker) -> Comparison:
    return traces.compare([T("a", [[1.0]])], [T("a", [[1.0]])])


@pytest.mark.parametrize(
    ("port", "status", "code", "words"),
    [
        ([T("a", [[1.0]]), T("b", [[1.0]])], "match", 0, "MATCH"),
        ([T("a", [[2.0]]), T("b", [[1.0]])], "diverged", 1, "DIVERGED: all 1 tensors agree within 0.001"),
        ([T("a", [[1.0]])], "incomplete", 3, "INCOMPLETE: all 1 tensors agree within 0.001"),
    ],
)
def test_the_verdict_counts_both_ways(
    compare: Compare, forward: Comparison, port: list[T], status: str, code: int, words: str
) -> None:
    gradients = compare([T("a", [[1.0]]), T("b", [[1.0]])], port)
    comparison = forward.with_backward(gradients)
    assert (comparison.status, comparison.exit_code) == (status, code)
    content = comparison.to_json()
    assert content["backward"]["status"] == gradients.status == status
    assert content["first_divergence"] is None
    lines = summary_lines(comparison)
    assert lines[0].startswith(words)
    assert any(line.startswith("Gradients: ") for line in lines)
    assert ("First diverging gradient, from the loss: a" in "\n".join(lines)) == (status == "diverged")
    page = render_markdown(comparison, "toy")
    assert "## Gradients of the loss" in page
    assert "| `tf/b` |" in page or status == "incomplete"


def test_gradients_that_cannot_be_trusted_give_the_reason(compare: Compare, forward: Comparison) -> None:
    comparison = forward.with_backward(compare([T("a", [[NAN]])], [T("a", [[1.0]])]))
    assert comparison.exit_code == 3
    assert comparison.reasons == ("gradients: tf/a: 1 of 1 values of the original are NaN",)
    assert summary_lines(comparison)[0].startswith("INVALID: ")


def test_a_forward_divergence_stays_the_first_thing_said(compare: Compare, traces: TraceMaker) -> None:
    bad = traces.compare([T("a", [[1.0]])], [T("a", [[2.0]])])
    comparison = bad.with_backward(compare([T("a", [[1.0]])], [T("a", [[1.0]])]))
    assert comparison.status == "diverged"
    assert summary_lines(comparison)[0].startswith("DIVERGED: 1 of 1 tensors differ")


def test_without_gradients_the_section_is_null(forward: Comparison) -> None:
    assert forward.to_json()["backward"] is None
    assert "Gradients" not in "\n".join(summary_lines(forward)) + render_markdown(forward, "toy")
