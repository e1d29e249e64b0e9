from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting.fold import FoldedRow, fold, natural_order

BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def listed(text: str) -> tuple[str, list[str]]:
    """Label and values of the inside of braces."""
    label, values = re.fullmatch(r"(?:([a-z]):)?(.*)", text).groups()  # type: ignore[union-attr]
    out: list[str] = []
    for value in values.split(","):
        run = re.fullmatch(r"([0-9]+)\.\.([0-9]+)(?:\.\.([0-9]+))?", value)
        if run:
            numbers = range(int(run[1]), int(run[2]) + 1, int(run[3] or 1))
            out += [f"{n:0{len(run[1])}d}" for n in numbers]
        else:
            out.append(value)
    return label or "", out


def unfold(cells: Sequence[str]) -> list[tuple[str, ...]]:
    """Read a folded row as its docstring says, from the text alone."""
    axes: dict[object, int] = {}

    def axis(inside: str) -> object:
        label, values = listed(inside)
        key = label or tuple(int(value) if value.isdigit() else value for value in values)
        assert axes.setdefault(key, len(values)) == len(values)
        return key

    found = [axis(match[1]) for cell in cells for match in BRACES.finditer(cell) if match[1] is not None]
    assert set(found) == set(axes)
    rows = []
    for places in itertools.product(*(range(count) for count in axes.values())):
        at = dict(zip(axes, places, strict=True))

        def value(match: re.Match[str], at: dict[object, int] = at) -> str:
            return match[0][0] if match[1] is None else listed(match[1])[1][at[axis(match[1])]]

        rows.append(tuple(BRACES.sub(value, cell) for cell in cells))
    return rows


def unfolded(rows: Sequence[FoldedRow]) -> list[tuple[str, ...]]:
    return [row for folded in rows for row in unfold(folded.cells)]


def cells(*rows: tuple[str, ...]) -> list[tuple[str, ...]]:
    folded = fold(rows)
    assert sorted(unfolded(folded)) == sorted(rows)
    for row in folded:
        assert sorted(unfold(row.cells)) == sorted(rows[at] for at in row.members)
    return [row.cells for row in folded]


def test_layers_become_one_row_with_their_numbers_as_each_side_spells_them() -> None:
    rows = [
        (
            f"encoder/block_{i:03d}/layer_000/SelfAttention/q",
            f"encoder.block.{i}.layer.0.SelfAttention.q.weight",
        )
        for i in range(12)
    ]
    assert cells(*rows) == [
        (
            "encoder/block_{000..011}/layer_000/SelfAttention/q",
            "encoder.block.{0..11}.layer.0.SelfAttention.q.weight",
        )
    ]
    assert fold(rows)[0].members == (*range(12),)


def test_numbers_that_are_not_a_whole_range_are_listed() -> None:
    assert cells(*((f"a{i}",) for i in (0, 2, 5))) == [("a{0,2,5}",)]
    assert cells(*((f"a{i}",) for i in (0, 1))) == [("a{0,1}",)]
    assert cells(*((f"a{i}",) for i in (0, 1, 2, 3, 5, 7, 8, 9))) == [("a{0..3,5,7..9}",)]


def test_steps_of_a_range() -> None:
    assert cells(*((f"a{i}",) for i in (1, 3, 5))) == [("a{1,3,5}",)]
    assert cells(*((f"a{i:02d}",) for i in range(0, 24, 2))) == [("a{00..22..2}",)]
    assert cells(*((f"a{i}",) for i in (0, 2, 3, 4, 9, 11, 13, 15))) == [("a{0,2..4,9..15..2}",)]


def test_ranges_keep_leading_zeros_and_do_not_make_them_up() -> None:
    assert cells(*((f"a{i}",) for i in range(8, 12))) == [("a{8..11}",)]
    assert cells(*((f"a{i:02d}",) for i in range(8, 12))) == [("a{08..11}",)]
    assert cells(*((f"a{i}",) for i in ("8", "9", "010", "11"))) == [("a{8,9,010,11}",)]


def test_order_is_kept_because_parts_are_joined_in_it() -> None:
    assert cells(("a_2", "b"), ("a_0", "b"), ("a_1", "b")) == [("a_{2,0,1}", "b")]


def test_two_running_numbers_fold_where_all_combinations_are_there() -> None:
    rows = [(f"block_{i}/expert_{j}", f"b.{i}.e.{j}") for i in (1, 3) for j in range(8)]
    assert cells(*rows) == [("block_{1,3}/expert_{0..7}", "b.{1,3}.e.{0..7}")]


def test_where_a_combination_is_missing_there_are_more_rows() -> None:
    rows = [(f"block_{i}/expert_{j}",) for i in range(3) for j in range(8) if (i, j) != (2, 7)]
    assert cells(*rows) == [("block_{0..2}/expert_{0..6}",), ("block_{0,1}/expert_7",)]


@pytest.mark.parametrize("crossed", [False, True])
def test_equal_ranges_are_told_apart(crossed: bool) -> None:
    rows = [
        (f"block_{i}/expert_{j}", f"b.{j if crossed else i}.e.{i if crossed else j}")
        for i in range(4)
        for j in range(4)
    ]
    target = "b.{j:0..3}.e.{i:0..3}" if crossed else "b.{i:0..3}.e.{j:0..3}"
    assert cells(*rows) == [("block_{i:0..3}/expert_{j:0..3}", target)]


def test_numbers_that_are_computed_run_together_by_a_letter() -> None:
    rows = [(f"block_{i}", f"b.{2 * i + 1}") for i in range(4)]
    assert cells(*rows) == [("block_{i:0..3}", "b.{i:1..7..2}")]


def test_a_number_that_a_name_has_twice_does_not_look_like_a_product() -> None:
    assert cells(*((f"layer_{i}/norm_{i}",) for i in range(3))) == [("layer_{i:0..2}/norm_{i:0..2}",)]


def test_words_fold_but_for_the_first_segment() -> None:
    rows = [(f"encoder/{word}/kernel", f"encoder.{word}.weight") for word in "qkvo"]
    assert cells(*rows) == [("encoder/{q,k,v,o}/kernel", "encoder.{q,k,v,o}.weight")]
    assert len(cells(("encoder/a", "encoder.a"), ("decoder/a", "decoder.a"))) == 2


def test_words_with_other_words_on_the_other_side_stay_apart() -> None:
    assert len(cells(("norm/beta", "norm.bias"), ("norm/gamma", "norm.weight"))) == 2


def test_words_and_numbers_fold_together_and_other_shapes_stay_apart() -> None:
    rows = [
        (f"block_{i}/{word}_slot_{slot}", "4" if word == "o" else "6")
        for i in range(3)
        for word in "qko"
        for slot in ("vr", "vc")
    ]
    assert cells(*rows) == [
        ("block_{0..2}/{q,k}_slot_{vr,vc}", "6"),
        ("block_{0..2}/o_slot_{vr,vc}", "4"),
    ]


def test_a_word_that_a_name_has_twice_folds_at_either_place() -> None:
    assert cells(("a/k_slot_v",), ("a/q_slot_v",), ("a/v_slot_v",)) == [("a/{k,q,v}_slot_v",)]
    assert cells(("a/v_slot_v",), ("a/v_slot_m",)) == [("a/v_slot_{v,m}",)]
    assert cells(("a/k_k",), ("a/q_q",)) == [("a/{k,q}_{k,q}",)]


def test_words_that_vary_independently_are_not_listed_alike() -> None:
    rows = [("x/k/v",), ("x/v/v",), ("x/k/k",), ("x/v/k",)]
    assert cells(*rows) == [("x/{k,v}/v",), ("x/{k,v}/k",)]


def test_several_sources_of_one_target() -> None:
    assert cells(("a/q", "a.qkv"), ("a/k", "a.qkv"), ("a/v", "a.qkv")) == [("a/{q,k,v}", "a.qkv")]


def test_braces_of_a_name_are_doubled() -> None:
    assert cells(("a{0}/1",), ("a{0}/2",)) == [("a{{0}}/{1,2}",)]


def test_rows_come_in_the_order_of_their_first() -> None:
    assert cells(("z_0",), ("a",), ("z_1",)) == [("z_{0,1}",), ("a",)]


def test_nothing_folds_to_nothing() -> None:
    assert fold([]) == []


def test_natural_order() -> None:
    assert sorted(["l_10/a", "l_2/b", "l_2/a", "k_11"], key=natural_order) == [
        "k_11",
        "l_2/a",
        "l_2/b",
        "l_10/a",
    ]


NUMBERS = st.integers(0, 12).flatmap(lambda n: st.sampled_from([str(n), f"{n:02d}", f"{n:03d}"]))
TOKENS = st.one_of(NUMBERS, st.sampled_from(["a", "q", "k", "v", "block", "{", "}", "x,y", "i:", "..", " "]))
NAMES = st.lists(st.tuples(TOKENS, st.sampled_from(["/", ".", "_", ""])), max_size=5).map(
    lambda parts: "".join(itertools.chain(*parts))
)


@given(st.lists(st.tuples(NAMES, NAMES), unique=True, max_size=30))
def test_any_rows_come_back_from_the_text(rows: list[tuple[str, str]]) -> None:
    cells(*rows)


PLACES = st.sampled_from(["{i}", "{j}", "{i:03d}", "{j:02d}", "{w}", "{m}", "7", "{i}/{j}"])
PATTERNS = st.lists(PLACES, min_size=1, max_size=4).map(lambda parts: "x/" + "/".join(parts))


@given(
    st.lists(st.tuples(PATTERNS, PATTERNS), min_size=1, max_size=4),
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from("qkv")), min_size=1),
)
def test_any_layers_come_back_from_the_text(
    patterns: list[tuple[str, str]], places: set[tuple[int, int, str]]
) -> None:
    rows = {
        tuple(pattern.format(i=i, j=j, w=w, m=2 * i + 1) for pattern in pair)
        for i, j, w in places
        for pair in patterns
    }
    cells(*sorted(rows))  # type: ignore[arg-type]
