"""Plans are made from names and shapes alone: no tensor is at hand in this file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting.errors import MappingError, Problem
from porting.mapping import Drop, Plan, Rule, Shape, make_plan
from porting.ops import Transpose

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
