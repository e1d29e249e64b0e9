"""Plans turned round give back every variable, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest

from porting.errors import MappingError
from porting.inverse import invert_plan
from porting.mapping import Claim, Drop, Plan, PlanEntry, Rule, Shape, make_plan
from porting.ops import Op, Part, Reshape, Slice, Split, Transpose
from porting.ports.t5.parameters import parameter_shapes
from porting.ports.t5.rules import rules
from tests.ports.t5.mesh_variables import SMALL, V1_1, mesh_shapes

DTYPES = ("float32", "float16", "bfloat16")
QKV = ("query", "key", "value")
INITIALS = ("q", "k", "v")


def arrays(shapes: Mapping[str, Shape], dtype: str) -> dict[str, np.ndarray]:
    """Any bits: NaNs with a payload, infinities, subnormals."""
    generator = np.random.default_rng(0)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    made = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        made[name] = np.frombuffer(generator.bytes(size), kind).reshape(shape)
    return made


def made(plan: Plan, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {entry.target: entry.make(values.__getitem__) for entry in plan.entries}


def assert_there_and_back(plan: Plan, shapes: Mapping[str, Shape], dtype: str) -> Plan:
    variables = arrays(shapes, dtype)
    back = invert_plan(plan)
    assert all(entry.made_shape() == entry.target_shape for entry in back.entries)
    parameters = made(plan, variables)
    again = made(back, parameters)
    assert set(again) == set(variables)
    for name, values in again.items():
        assert (values.dtype, values.shape) == (variables[name].dtype, variables[name].shape)
        assert values.tobytes() == variables[name].tobytes(), name
    for copy, original in back.copies.items():
        assert parameters[copy].tobytes() == parameters[original].tobytes()
    return back


def planned(sources: Mapping[str, Shape], targets: Mapping[str, Shape], *table: Claim) -> Plan:
    return make_plan(table, sources, targets)


def fused(*before: Op, axis: int = 1) -> tuple[Rule, ...]:
    """One variable that becomes three parameters, transposed."""
    ops = [(*before, Split(axis, i, 3), Transpose()) for i in range(3)]
    return (Rule("qkv", "query", ops[0], also=(("key", ops[1]), ("value", ops[2]))),)


ONE = {
    "copied": (planned({"a": (3, 4)}, {"x": (3, 4)}, Rule("a", "x")), {"a": (3, 4)}),
    "transposed": (planned({"a": (3, 4)}, {"x": (4, 3)}, Rule("a", "x", (Transpose(),))), {"a": (3, 4)}),
    "reshaped, then transposed": (
        planned({"a": (3, 2, 4)}, {"x": (8, 3)}, Rule("a", "x", (Reshape((3, 2, 4), (3, 8)), Transpose()))),
        {"a": (3, 2, 4)},
    ),
    "experts": (
        planned(
            {"wi": (5, 3, 4)},
            {f"expert_{i}.wi": (4, 3) for i in range(5)},
            Rule("wi", "expert_{part}.wi", (Transpose(),), parts=5),
        ),
        {"wi": (5, 3, 4)},
    ),
    "biases of experts": (
        planned({"b": (5, 3)}, {f"e.{i}": (3,) for i in range(5)}, Rule("b", "e.{part}", parts=5)),
        {"b": (5, 3)},
    ),
    "split": (planned({"qkv": (4, 6)}, dict.fromkeys(QKV, (2, 4)), *fused()), {"qkv": (4, 6)}),
    "transposed, then split": (
        planned({"qkv": (6, 4)}, dict.fromkeys(QKV, (2, 4)), *fused(Transpose())),
        {"qkv": (6, 4)},
    ),
    "reshaped, then split": (
        planned({"qkv": (4, 3, 2)}, dict.fromkeys(QKV, (2, 4)), *fused(Reshape((4, 3, 2), (4, 6)))),
        {"qkv": (4, 3, 2)},
    ),
    "stacked": (
        planned(
            {f"block_000/{name}": (4, 3) for name in "qkv"},
            {"block.0.qkv": (9, 4)},
            Rule(r"block_(?P<i>\d+)/(?P<stack>[qkv])", "block.{i}.qkv", (Transpose(),), stack=INITIALS),
        ),
        {f"block_000/{name}": (4, 3) for name in "qkv"},
    ),
    "stacked, of different sizes": (
        planned(
            {"q": (4, 6), "k": (4, 2), "v": (4, 2)},
            {"qkv": (10, 4)},
            Rule("(?P<stack>q|k|v)", "qkv", (Transpose(),), stack=("q", "k", "v")),
        ),
        {"q": (4, 6), "k": (4, 2), "v": (4, 2)},
    ),
    "slices of different sizes": (
        planned(
            {"a": (7, 3)},
            {"x": (2, 3), "y": (5, 3)},
            Rule("a", "x", (Slice(0, 0, 2, 7),), also=(("y", (Slice(0, 2, 7, 7),)),)),
        ),
        {"a": (7, 3)},
    ),
    "kept twice": (
        planned(
            {"a": (3, 4)},
            {"x": (4, 3), "y": (4, 3)},
            Rule("a", "x", (Transpose(),), also=(("y", (Transpose(),)),)),
        ),
        {"a": (3, 4)},
    ),
    "the only part": (
        planned({"a": (4, 3)}, {"x": (3, 4)}, Rule("a", "x", (Transpose(), Split(0, 0, 1)))),
        {"a": (4, 3)},
    ),
    "finished after joining": (
        Plan((PlanEntry(("a", "b"), "x", (Transpose(),), ((4, 3), (4, 2)), (4, 5), 0, (Transpose(),)),)),
        {"a": (4, 3), "b": (4, 2)},
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ONE)
def test_what_an_op_did_is_undone(name: str, dtype: str) -> None:
    assert_there_and_back(*ONE[name], dtype)


@pytest.mark.parametrize("name", ONE)
def test_an_inverse_can_be_inverted(name: str) -> None:
    plan, _ = ONE[name]
    copies = invert_plan(plan).copies
    kept = Plan(tuple(entry for entry in plan.entries if entry.target not in copies))
    shapes = {entry.target: entry.target_shape for entry in kept.entries}
    assert_there_and_back(invert_plan(kept), shapes, "float32")


def test_of_a_table_that_is_kept_twice_one_is_read() -> None:
    back = invert_plan(ONE["kept twice"][0])
    assert [entry.sources for entry in back.entries] == [("x",)]
    assert back.copies == {"y": "x"}


def test_where_nothing_is_joined_nothing_is_left_for_afterwards() -> None:
    (entry,) = invert_plan(ONE["the only part"][0]).entries
    assert (entry.ops, entry.finish) == ((Transpose(),), ())


def test_an_inverse_says_how_parts_are_joined() -> None:
    (entry,) = invert_plan(ONE["transposed, then split"][0]).entries
    said = entry.to_json()
    assert (said["sources"], said["join_axis"], said["finish"]) == ([*QKV], 1, ["transpose"])


@pytest.mark.parametrize("config", [SMALL, V1_1], ids=["1.0", "1.1"])
def test_a_whole_t5_there_and_back(config: object) -> None:
    shapes = mesh_shapes(config, slots=True)  # type: ignore[arg-type]
    plan = make_plan(rules(config, list(shapes)), shapes, parameter_shapes(config))  # type: ignore[arg-type]
    weights = {name for entry in plan.entries for name in entry.sources}
    kept = {name: shape for name, shape in shapes.items() if name in weights}
    back = assert_there_and_back(plan, kept, "bfloat16")
    assert [entry.target for entry in back.entries] == sorted(kept)


PIECES = {"x": (2, 3), "y": (2, 3)}


@pytest.mark.parametrize(
    ("table", "targets", "said"),
    [
        ([Rule("a", "x", (Split(0, 0, 3),), also=(("y", (Split(0, 1, 3),)),))], PIECES, "4 to 6 of 6"),
        ([Rule("a", "x", (Split(0, 0, 3),), also=(("y", (Split(0, 2, 3),)),))], PIECES, "2 to 4 of 6"),
        ([Rule("a", "x", (Split(0, 1, 3),), also=(("y", (Split(0, 2, 3),)),))], PIECES, "0 to 2 of 6"),
        (
            [Rule("a", "x", (), also=(("y", (Split(0, 2, 3),)),))],
            {"x": (6, 3), "y": (2, 3)},
            "of some the whole",
        ),
        (
            [Rule("a", "x", (Split(0, 0, 2),), also=(("y", (Split(0, 1, 2), Transpose())),))],
            {"x": (3, 3), "y": (3, 3)},
            "made unlike",
        ),
        ([Rule("a", "x", (), also=(("y", (Transpose(),)),))], {"x": (6, 3), "y": (3, 6)}, "not alike"),
        ([Rule("a", "x", (Split(0, 0, 2), Split(0, 0, 3)))], {"x": (1, 3)}, "taken apart twice"),
        (
            [Rule("a", "x", (Part(0, 6),), also=(("y", (Part(1, 6),)),))],
            {"x": (3,), "y": (3,)},
            "2 to 6 of 6",
        ),
    ],
)
def test_what_cannot_be_had_back_is_said(table: list[Rule], targets: dict[str, Shape], said: str) -> None:
    plan = make_plan([*table, Drop("step", "global step")], {"a": (6, 3), "step": ()}, targets)
    with pytest.raises(MappingError, match=said) as caught:
        invert_plan(plan)
    assert [problem.key for problem in caught.value.problems] == ["a"]


def test_all_that_cannot_be_had_back_is_listed_together() -> None:
    table = [Rule(name, f"{name}.x", (Split(0, 0, 2),)) for name in "abc"]
    plan = make_plan(table, dict.fromkeys("abc", (4,)), {f"{name}.x": (2,) for name in "abc"})
    with pytest.raises(MappingError) as caught:
        invert_plan(plan)
    assert [problem.key for problem in caught.value.problems] == ["a", "b", "c"]


def test_parts_of_another_axis_are_joined_along_it() -> None:
    rule = Rule("all", "layer.{part}", (Transpose(),), parts=3, axis=1)
    plan = make_plan([rule], {"all": (2, 3, 5)}, {f"layer.{i}": (5, 2) for i in range(3)})
    (entry,) = invert_plan(plan).entries
    assert (entry.join_axis, entry.made_shape()) == (1, (2, 3, 5))
    array = np.arange(30).reshape(2, 3, 5)
    state = {made.target: made.make(lambda _: array) for made in plan.entries}
    np.testing.assert_array_equal(entry.make(state.__getitem__), array)
