"""Plans are made from names and shapes alone: no tensor is at hand in this file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting.errors import MappingError, Problem
from porting.mapping import Copy, Drop, Plan, Rule, Shape, make_plan
from porting.ops import Part, Split, Transpose

RULES = [
    Rule(r"shared/embedding", "shared.weight"),
    Rule(r"block_(?P<i>\d+)/(?P<kind>wi|wo)/kernel", "block.{i}.{kind}.weight", (Transpose(),)),
    Rule(r"block_(?P<i>\d+)/scale", "block.{i}.norm.weight"),
    Drop(r".*_slot_v", "optimizer state"),
    Drop(r"global_step", "global step"),
]
BLOCKS = 3


def sources() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"shared/embedding": (7, 4)}
    for i in range(BLOCKS):
        shapes |= {
            f"block_{i:03d}/wi/kernel": (4, 6),
            f"block_{i:03d}/wo/kernel": (6, 4),
            f"block_{i:03d}/scale": (4,),
            f"block_{i:03d}/scale_slot_v": (4,),
        }
    return {**shapes, "global_step": ()}


def targets() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"shared.weight": (7, 4)}
    for i in range(BLOCKS):
        shapes |= {
            f"block.{i}.norm.weight": (4,),
            f"block.{i}.wi.weight": (6, 4),
            f"block.{i}.wo.weight": (4, 6),
        }
    return shapes


def problems(**changes: dict[str, Shape]) -> dict[str, Problem]:
    """Problems by key of a plan from `sources=` to `targets=`, by `rules=`."""
    arguments = {"rules": RULES, "sources": sources(), "targets": targets(), **changes}
    with pytest.raises(MappingError) as caught:
        make_plan(arguments["rules"], arguments["sources"], arguments["targets"])
    error = caught.value
    found = {problem.key: problem for problem in error.problems}
    assert len(found) == len(error.problems)
    assert f"{len(found)} thing" in error.message
    assert all(str(problem) in str(error) for problem in error.problems)
    return found


def test_every_parameter_is_filled_in_the_order_of_the_model() -> None:
    plan = make_plan(RULES, sources(), targets())
    assert [entry.target for entry in plan.entries] == list(targets())
    claimed = [name for entry in plan.entries for name in entry.sources]
    dropped = [name for names in plan.ignored.values() for name in names]
    assert sorted(claimed + dropped) == sorted(sources())


def test_an_entry_says_what_is_done_to_the_variable() -> None:
    plan = make_plan(RULES, sources(), targets())
    entry = next(entry for entry in plan.entries if entry.target == "block.1.wi.weight")
    assert entry.to_json() == {
        "sources": ["block_001/wi/kernel"],
        "target": "block.1.wi.weight",
        "ops": ["transpose"],
        "source_shapes": [[4, 6]],
        "target_shape": [6, 4],
    }


def test_what_is_dropped_is_counted_by_its_reason() -> None:
    plan = make_plan(RULES, sources(), targets())
    assert plan.ignored_counts() == {"optimizer state": BLOCKS, "global step": 1}
    assert Plan(entries=()).ignored_counts() == {}


@pytest.mark.parametrize(("digits", "number"), [("007", 7), ("000", 0), ("7", 7), ("110", 110)])
def test_block_numbers_lose_their_leading_zeros(digits: str, number: int) -> None:
    plan = make_plan(RULES, {f"block_{digits}/scale": (4,)}, {f"block.{number}.norm.weight": (4,)})
    assert plan.entries[0].sources == (f"block_{digits}/scale",)


def test_a_pattern_must_match_the_whole_name() -> None:
    found = problems(sources={**sources(), "old/shared/embedding": (7, 4), "shared/embedding_2": (7, 4)})
    assert set(found) == {"old/shared/embedding", "shared/embedding_2"}


def test_a_variable_that_no_rule_claims() -> None:
    found = problems(sources={**sources(), "block_001/wi/kernal": (4, 6)})
    problem = found["block_001/wi/kernal"]
    assert problem.expected == "a rule that claims it"
    assert problem.found == "none of 5 (shape (4, 6))"
    assert "nearest variable that has one: block_001/wi/kernel" in problem.remedy


def test_a_parameter_that_nothing_fills() -> None:
    without = sources()
    del without["block_002/wo/kernel"]
    problem = problems(sources=without)["block.2.wo.weight"]
    assert problem.expected == "a variable such as block_002/wo/kernel"
    assert problem.found == "none in the checkpoint"
    assert problem.remedy.startswith("nearest variable: block_00")


def test_a_parameter_that_no_rule_could_fill() -> None:
    problem = problems(targets={**targets(), "lm_head.weight": (7, 4)})["lm_head.weight"]
    assert problem.expected == "a rule that fills it"
    assert problem.found == "none in the checkpoint"


def test_a_variable_for_a_parameter_that_the_model_lacks() -> None:
    problem = problems(sources={**sources(), "block_003/scale": (4,)})["block_003/scale"]
    assert problem.expected == "a parameter block.3.norm.weight in the model"
    assert "no such parameter" in problem.found


def test_a_renamed_variable_points_at_the_parameter_left_empty_and_back() -> None:
    renamed = sources()
    renamed["block_001/wi/kernels"] = renamed.pop("block_001/wi/kernel")
    found = problems(sources=renamed)
    assert set(found) == {"block_001/wi/kernels", "block.1.wi.weight"}
    assert "block_001/wi/kernels" in found["block.1.wi.weight"].remedy


def test_a_deeper_block_than_the_model_has_names_the_nearest_empty_parameter() -> None:
    moved = sources()
    moved["block_003/scale"] = moved.pop("block_002/scale")
    problem = problems(sources=moved)["block_003/scale"]
    assert problem.remedy == "nearest parameter without a source: block.2.norm.weight"


def test_two_variables_for_one_parameter() -> None:
    problem = problems(sources={**sources(), "block_1/scale": (4,)})["block.1.norm.weight"]
    assert problem.expected == "one source variable"
    assert problem.found == "2: block_001/scale, block_1/scale"


def test_two_rules_for_one_variable() -> None:
    rules = [*RULES, Drop(r"global_.*", "counters")]
    problem = problems(rules=rules)["global_step"]
    assert problem.expected == "one rule that claims it"
    assert problem.found == "2: global_step, global_.*"


def test_a_wrong_shape_is_shown_before_and_after_the_ops() -> None:
    problem = problems(sources={**sources(), "block_000/wi/kernel": (6, 4)})["block_000/wi/kernel"]
    assert problem.expected == "shape (6, 4) of block.0.wi.weight"
    assert problem.found == "(4, 6) (transpose, from (6, 4) in the checkpoint)"


def test_a_wrong_shape_that_is_copied() -> None:
    problem = problems(sources={**sources(), "shared/embedding": (8, 4)})["shared/embedding"]
    assert problem.found == "(8, 4) (copied as it is, from (8, 4) in the checkpoint)"


def test_a_wrong_rank_is_not_a_crash() -> None:
    problem = problems(sources={**sources(), "block_000/wi/kernel": (4, 2, 3)})["block_000/wi/kernel"]
    assert problem.expected == "a shape that fits block.0.wi.weight"
    assert "(4, 2, 3)" in problem.found


def test_everything_wrong_is_reported_at_once() -> None:
    broken = sources()
    broken["novel/kernel"] = (3,)  # unclaimed
    del broken["shared/embedding"]  # its parameter is left empty
    broken["block_009/scale"] = (4,)  # homeless
    broken["block_1/scale"] = (4,)  # a second source
    broken["block_000/wi/kernel"] = (9, 9)  # wrong shape
    broken["block_000/wo/kernel"] = (9,)  # wrong rank
    found = problems(rules=[*RULES, Drop("global_step", "again")], sources=broken)
    assert set(found) == {
        "novel/kernel",
        "shared.weight",
        "block_009/scale",
        "block.1.norm.weight",
        "block_000/wi/kernel",
        "block_000/wo/kernel",
        "global_step",
    }
    assert all(problem.expected and problem.found for problem in found.values())


def test_nothing_to_map_is_a_plan_of_nothing() -> None:
    assert make_plan(RULES, {}, {}).entries == ()


def test_hundreds_of_misfits_are_all_reported() -> None:
    strange = {f"tower_{i:03d}/branch_{i % 7}/dense/kernel": (4, 4) for i in range(300)}
    wanted = {f"block.{i}.wi.weight": (6, 4) for i in range(300)}
    with pytest.raises(MappingError) as caught:
        make_plan(RULES, strange, wanted)
    assert len(caught.value.problems) == 600


@given(
    name=st.sampled_from(sorted(name for name in sources() if "slot" not in name and name != "global_step")),
    new=st.from_regex(r"[a-z]{1,8}(/[a-z_0-9]{1,12}){0,3}", fullmatch=True),
)
def test_a_renamed_variable_is_always_reported_by_both_names(name: str, new: str) -> None:
    if any(rule.regex.fullmatch(new) for rule in RULES):
        return
    renamed = sources()
    shape = renamed.pop(name)
    target = next(e.target for e in make_plan(RULES, sources(), targets()).entries if e.sources == (name,))
    assert set(problems(sources={**renamed, new: shape})) == {new, target}


@given(st.data())
def test_dropped_and_added_variables_are_always_reported(data: st.DataObject) -> None:
    plan = make_plan(RULES, sources(), targets())
    home = {entry.sources[0]: entry.target for entry in plan.entries}
    gone = data.draw(st.sets(st.sampled_from(sorted(home)), min_size=1))
    added = data.draw(st.sets(st.from_regex(r"extra_[a-z]{1,6}", fullmatch=True)))
    left = {name: shape for name, shape in sources().items() if name not in gone}
    found = problems(sources={**left, **dict.fromkeys(added, (1,))})
    assert set(found) == {home[name] for name in gone} | added


# --- variables taken apart ---

EXPERTS = [
    Rule(r"block_(?P<i>\d+)/wi", "block.{i}.expert_{part}.wi.weight", (Transpose(),), parts=3),
]


def expert_targets(count: int) -> dict[str, Shape]:
    return {f"block.4.expert_{i}.wi.weight": (6, 5) for i in range(count)}


def test_every_part_fills_a_parameter_of_its_own() -> None:
    plan = make_plan(EXPERTS, {"block_004/wi": (3, 5, 6)}, expert_targets(3))
    assert [entry.target for entry in plan.entries] == list(expert_targets(3))
    for i, entry in enumerate(plan.entries):
        assert entry.sources == ("block_004/wi",)
        assert entry.ops == (Part(i, 3), Transpose())
        assert (entry.source_shapes, entry.target_shape) == (((3, 5, 6),), (6, 5))


def test_a_parameter_beyond_the_parts_is_reported() -> None:
    found = problems(rules=EXPERTS, sources={"block_004/wi": (3, 5, 6)}, targets=expert_targets(5))
    assert set(found) == {"block.4.expert_3.wi.weight", "block.4.expert_4.wi.weight"}
    assert {problem.expected for problem in found.values()} == {"a variable such as block_004/wi"}


def test_a_part_without_a_parameter_is_reported_by_its_variable() -> None:
    problem = problems(rules=EXPERTS, sources={"block_004/wi": (3, 5, 6)}, targets=expert_targets(2))[
        "block_004/wi"
    ]
    assert problem.expected == "a parameter block.4.expert_2.wi.weight in the model"


def test_a_variable_of_another_number_of_parts_fits_none_of_its_parameters() -> None:
    with pytest.raises(MappingError) as caught:
        make_plan(EXPERTS, {"block_004/wi": (4, 5, 6)}, expert_targets(3))
    assert [problem.key for problem in caught.value.problems] == ["block_004/wi"] * 3
    assert all("needs 3 parts" in problem.found for problem in caught.value.problems)


# --- numbers that are computed ---

PAIRS = [
    Rule(r"block_(?P<i>\d+)/first", "block.{i*2}.weight"),
    Rule(r"block_(?P<i>\d+)/second", "block.{i*2+1}.weight"),
    Rule(r"late_(?P<i>\d+)", "late.{i+11}.weight"),
]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("block_000/first", "block.0.weight"),
        ("block_000/second", "block.1.weight"),
        ("block_007/first", "block.14.weight"),
        ("block_007/second", "block.15.weight"),
        ("block_013/second", "block.27.weight"),
        ("late_2", "late.13.weight"),
    ],
)
def test_block_numbers_are_multiplied_and_added_to(source: str, target: str) -> None:
    (entry,) = make_plan(PAIRS, {source: (4,)}, {target: (4,)}).entries
    assert (entry.sources, entry.target) == ((source,), target)


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("block.14.weight", "block_007/first"),
        ("block.15.weight", "block_007/second"),
        ("late.13.weight", "late_002"),
    ],
)
def test_an_empty_parameter_names_the_variable_of_the_number_computed_back(target: str, source: str) -> None:
    problem = problems(rules=PAIRS, sources={}, targets={target: (4,)})[target]
    assert problem.expected == f"a variable such as {source}"


@pytest.mark.parametrize("target", ["late.10.weight", "late.x.weight", "block.x.weight"])
def test_a_number_that_no_block_gives_has_no_variable_to_name(target: str) -> None:
    rules = [*PAIRS[1:], Rule(r"block_(?P<i>\d+)/third", "block.{i*3}.weight")]
    problem = problems(rules=rules, sources={}, targets={target: (4,)})[target]
    assert problem.expected == "a rule that fills it"


QKV = Rule(
    r"layer_(?P<i>\d+)/(?P<stack>query|key|value)/kernel",
    "layers.{i}.in_proj_weight",
    (Transpose(),),
    stack=("query", "key", "value"),
)


def test_several_variables_make_one_parameter_in_the_order_of_the_rule() -> None:
    # The checkpoint lists them in another order, as checkpoints do: by the alphabet.
    sources = {f"layer_0/{name}/kernel": (4, 6) for name in ("key", "query", "value")}
    entry = make_plan([QKV], sources, {"layers.0.in_proj_weight": (18, 4)}).entries[0]
    assert entry.sources == tuple(f"layer_0/{name}/kernel" for name in QKV.stack)
    values = {name: np.full((4, 6), i) for i, name in enumerate(entry.sources)}
    assert entry.make(values.__getitem__)[:, 0].tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_a_variable_missing_from_a_stack_is_a_problem() -> None:
    sources = {f"layer_0/{name}/kernel": (4, 6) for name in ("key", "query")}
    with pytest.raises(MappingError) as caught:
        make_plan([QKV], sources, {"layers.0.in_proj_weight": (18, 4)})
    assert [p.expected for p in caught.value.problems] == ["one each of query, key, value"]


def test_a_stack_of_another_size_is_a_problem() -> None:
    sources = {f"layer_0/{name}/kernel": (4, 6) for name in ("key", "query", "value")}
    with pytest.raises(MappingError, match=r"shape \(17, 4\)"):
        make_plan([QKV], sources, {"layers.0.in_proj_weight": (17, 4)})


def test_one_variable_fills_several_parameters_each_with_ops_of_its_own() -> None:
    halves = tuple((Split(1, number, 2), Transpose()) for number in range(2))
    rule = Rule(r"h(?P<i>\d+)/kv/w", "h.{i}.k.weight", halves[0], also=(("h.{i}.v.weight", halves[1]),))
    plan = make_plan([rule], {"h0/kv/w": (4, 6)}, {"h.0.k.weight": (3, 4), "h.0.v.weight": (3, 4)})
    values = np.arange(24).reshape(4, 6)
    k, v = (entry.make(lambda _name: values) for entry in plan.entries)
    assert np.array_equal(np.concatenate([k, v]).T, values)


def test_a_copy_names_its_original() -> None:
    table = [Rule(r"x\.(?P<i>\d+)", "y.{i}"), Copy(r"z\.(?P<i>\d+)", "x.{i}")]
    shapes: dict[str, Shape] = {f"{kind}.{i}": (2,) for kind in "xz" for i in range(2)}
    plan = make_plan(table, shapes, {"y.0": (2,), "y.1": (2,)})
    assert plan.copies == {"z.0": "x.0", "z.1": "x.1"}
    assert [entry.sources for entry in plan.entries] == [("x.0",), ("x.1",)]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"x": (2,), "z": (3,)}, "expected shape (2,) of x, found (3,)"),
        ({"x": (2,), "w": (2,)}, "expected a tensor v, whose copy it is, found none in the checkpoint"),
        ({"x": (2,), "u": (2,), "dropped": (2,)}, "found none that is read"),
    ],
)
def test_a_copy_of_what_is_not_there_or_of_another_shape_is_an_error(
    shapes: dict[str, Shape], said: str
) -> None:
    table = [
        Rule("x", "y"),
        Copy("z", "x"),
        Copy("w", "v"),
        Copy("u", "dropped"),
        Drop("dropped", "of no use"),
    ]
    with pytest.raises(MappingError) as caught:
        make_plan(table, shapes, {"y": (2,)})
    assert said in str(caught.value)
