"""Gradients beside a trace, and what becomes of an original's variables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from porting.errors import InputError
from porting.gradients.traces import gradients_of, map_variables
from porting.mapping import Plan, PlanEntry, Rule, make_plan
from porting.ops import Part, Reshape, Transpose
from porting.trace import GRADIENTS, Trace, TraceWriter, read_trace
from tests.traces import INPUTS

GENERATOR = np.random.default_rng(0)
Q = GENERATOR.standard_normal((4, 3, 2)).astype(np.float32)
EXPERTS = GENERATOR.standard_normal((3, 4, 5)).astype(np.float32)
TIED = GENERATOR.standard_normal((7, 4)).astype(np.float32)
TAPPED = GENERATOR.standard_normal((1, 2, 4)).astype(np.float32)


@pytest.fixture
def raw(tmp_path: Path) -> Trace:
    writer = TraceWriter(tmp_path / "raw", INPUTS)
    writer.add("encoder", TAPPED, ("batch", "length", "d_model"), original_name="encoder/output")
    writer.add("a/wi", EXPERTS, ("experts", "d_model", "d_ff"))
    writer.add("a/q", Q, ("d_model", "heads", "d_kv"))
    writer.add("embedding", TIED, ("vocab", "d_model"))
    return writer.close(
        {"variables": ["a/wi", "a/q", "embedding"], "without_gradient": ["a/q"], "deterministic": True}
    )


RULES = [
    Rule("a/q", "a.q.weight", (Reshape((4, 3, 2), (4, 6)), Transpose())),
    Rule("a/wi", "a.expert_{part}.weight", (Transpose(),), parts=3),
    Rule("embedding", "shared.weight"),
]


def plan_of(raw: Trace) -> Plan:
    shapes = {tensor.name: values.shape for tensor, values in raw.items() if tensor.name != "encoder"}
    targets = {
        "shared.weight": (7, 4),
        "a.q.weight": (6, 4),
        **{f"a.expert_{i}.weight": (5, 4) for i in range(3)},
    }
    return make_plan(RULES, shapes, targets)


def test_gradients_of_variables_go_the_way_of_the_weights(raw: Trace, tmp_path: Path) -> None:
    mapped = map_variables(raw, plan_of(raw), tmp_path / "mapped")
    experts = [f"a.expert_{i}.weight" for i in range(3)]
    # In the place of the variable, several where it fills several.
    assert mapped.names() == ["encoder", *experts, "a.q.weight", "shared.weight"]
    np.testing.assert_array_equal(mapped["encoder"], TAPPED)
    np.testing.assert_array_equal(mapped["a.q.weight"], Q.reshape(4, 6).T)
    np.testing.assert_array_equal(mapped["shared.weight"], TIED)
    for i, name in enumerate(experts):
        np.testing.assert_array_equal(mapped[name], EXPERTS[i].T)
    entry = mapped.tensors[4]
    assert (entry.dims, entry.original_name) == (("axis_0", "axis_1"), "a/q")
    assert mapped.tensors[0].dims == ("batch", "length", "d_model")
    assert mapped.metadata == {
        "parameters": [*experts, "a.q.weight", "shared.weight"],
        "without_gradient": ["a.q.weight"],
        "deterministic": True,
    }


def test_a_variable_that_the_plan_has_no_place_for_keeps_its_name(raw: Trace, tmp_path: Path) -> None:
    mapped = map_variables(raw, Plan(plan_of(raw).entries[1:]), tmp_path / "mapped")
    assert mapped.names()[-1] == "embedding"
    assert "embedding" not in mapped.metadata["parameters"]


@dataclass(frozen=True)
class Double:
    """An op of some other port's, which changes numbers: its gradient goes another way than its weight."""

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def apply(self, array: np.ndarray) -> np.ndarray:
        return array * 2

    def inverse(self, shape: tuple[int, ...]) -> Double:
        raise NotImplementedError


def test_no_gradient_is_made_up_behind_an_op_that_changes_numbers(raw: Trace, tmp_path: Path) -> None:
    entry = PlanEntry(("embedding",), "shared.weight", (Double(),), ((7, 4),), (7, 4))
    mapped = map_variables(raw, Plan((entry,)), tmp_path / "mapped")
    assert "shared.weight" not in mapped.names()
    assert "embedding" in mapped.names()


def test_a_part_is_not_taken_for_the_whole(raw: Trace, tmp_path: Path) -> None:
    entry = PlanEntry(("a/wi",), "one.weight", (Part(1, 3),), ((3, 4, 5),), (4, 5))
    np.testing.assert_array_equal(
        map_variables(raw, Plan((entry,)), tmp_path / "mapped")["one.weight"], EXPERTS[1]
    )


def test_gradients_lie_in_the_trace(raw: Trace, tmp_path: Path) -> None:
    forward = TraceWriter(tmp_path / "trace", INPUTS).close({})
    with pytest.raises(InputError, match=r"without gradients.*\n.*--backward"):
        gradients_of(forward)
    map_variables(raw, plan_of(raw), tmp_path / "trace" / GRADIENTS)
    assert gradients_of(read_trace(tmp_path / "trace")).names()[0] == "encoder"


def test_gradients_of_an_earlier_run_are_not_those_of_a_new_one(raw: Trace, tmp_path: Path) -> None:
    TraceWriter(tmp_path / "trace", INPUTS).close({})
    map_variables(raw, plan_of(raw), tmp_path / "trace" / GRADIENTS)
    again = TraceWriter(tmp_path / "trace", INPUTS).close({})
    with pytest.raises(InputError, match="without gradients"):
        gradients_of(again)


def test_gradients_outlive_a_temporary_trace_that_nobody_holds(raw: Trace) -> None:
    forward = TraceWriter(None, INPUTS).close({})
    map_variables(raw, plan_of(raw), forward.path / GRADIENTS)
    gradients = gradients_of(forward)
    del forward
    np.testing.assert_array_equal(gradients["encoder"], TAPPED)


def test_a_damaged_index_of_gradients_is_said(raw: Trace, tmp_path: Path) -> None:
    forward = TraceWriter(tmp_path / "trace", INPUTS).close({})
    map_variables(raw, plan_of(raw), forward.path / GRADIENTS)
    (forward.path / GRADIENTS / "trace.json").write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(InputError, match="not the index of a trace"):
        gradients_of(forward)


def test_gradients_of_stacked_variables_are_stacked_too(tmp_path: Path) -> None:
    values = {name: GENERATOR.standard_normal((4, 6)).astype(np.float32) for name in ("a/k", "a/q", "a/v")}
    writer = TraceWriter(tmp_path / "raw", INPUTS)
    for name, array in values.items():
        writer.add(name, array, ("in", "out"))
    raw = writer.close({"variables": list(values), "without_gradient": [], "deterministic": True})
    rule = Rule("a/(?P<stack>q|k|v)", "a.in_proj_weight", (Transpose(),), stack=("q", "k", "v"))
    plan = make_plan([rule], dict.fromkeys(values, (4, 6)), {"a.in_proj_weight": (18, 4)})
    mapped = map_variables(raw, plan, tmp_path / "mapped")
    expected = np.concatenate([values[name].T for name in ("a/q", "a/k", "a/v")])
    assert mapped.names() == ["a.in_proj_weight"]
    np.testing.assert_array_equal(mapped["a.in_proj_weight"], expected)
