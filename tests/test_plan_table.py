from __future__ import annotations

import re

from porting.mapping import Drop, Plan, PlanEntry, Rule, make_plan
from porting.ops import Transpose
from porting.plan_table import WIDTH, plan_lines

LAYERS = range(12)
VARIABLES = {
    "shared/embedding": (32128, 768),
    **{
        f"encoder/block_{i:03d}/layer_000/SelfAttention/{word}": (768, 768) for i in LAYERS for word in "koqv"
    },
    **{f"encoder/block_{i:03d}/layer_001/DenseReluDense/wi/kernel": (768, 3072) for i in LAYERS},
    **{
        f"encoder/block_{i:03d}/layer_000/SelfAttention/{word}_slot_{slot}": (768,)
        for i in LAYERS
        for word in "koqv"
        for slot in ("vc", "vr")
    },
    "global_step": (),
}
RULES = [
    Rule(r"shared/embedding", "shared.weight"),
    Rule(
        r"encoder/block_(?P<i>\d+)/layer_000/SelfAttention/(?P<k>[qkvo])",
        "encoder.block.{i}.layer.0.SelfAttention.{k}.weight",
        (Transpose(),),
    ),
    Rule(
        r"encoder/block_(?P<i>\d+)/layer_001/DenseReluDense/wi/kernel",
        "encoder.block.{i}.layer.1.DenseReluDense.wi.weight",
        (Transpose(),),
    ),
    Drop(r".*_slot_v[cr]", "optimizer state"),
    Drop(r"global_step", "global step"),
]
PARAMETERS = {
    "shared.weight": (32128, 768),
    **{
        name: shape
        for i in LAYERS
        for name, shape in (
            *((f"encoder.block.{i}.layer.0.SelfAttention.{word}.weight", (768, 768)) for word in "qkvo"),
            (f"encoder.block.{i}.layer.1.DenseReluDense.wi.weight", (3072, 768)),
        )
    },
}
EXPECTED = """\
       variable                                                        shape
       -> parameter                                                    shape      ops
    1  shared/embedding                                                32128x768
       -> shared.weight                                                32128x768
   48  encoder/block_{000..011}/layer_000/SelfAttention/{q,k,v,o}      768x768
       -> encoder.block.{0..11}.layer.0.SelfAttention.{q,k,v,o}.weight 768x768    transpose
   12  encoder/block_{000..011}/layer_001/DenseReluDense/wi/kernel     768x3072
       -> encoder.block.{0..11}.layer.1.DenseReluDense.wi.weight       3072x768   transpose

Left out:
   96  optimizer state, 294.9 kB
         encoder/block_{000..011}/layer_000/SelfAttention/{k,o,q,v}_slot_{vc,vr}
    1  global step, 8 B
         global_step

To read: 61 variables, 325.3 MB. To write: 61 parameters, 325.3 MB.
"""


def squeezed(text: str) -> str:
    """Columns may be wider apart."""
    return re.sub(r"(?<=\S) +", " ", text)


def lines_of(plan: Plan, read: int = 0, written: int = 0, **ignored: int) -> list[str]:
    return [*plan_lines(plan, bytes_read=read, bytes_written=written, bytes_ignored=ignored)]


def test_layers_are_folded_and_what_is_left_out_has_its_reason_count_and_bytes() -> None:
    plan = make_plan(RULES, VARIABLES, PARAMETERS)
    ignored = {"optimizer state": 294_912, "global step": 8}
    lines = [*plan_lines(plan, bytes_read=325_300_000, bytes_written=325_300_000, bytes_ignored=ignored)]
    assert squeezed("\n".join(lines) + "\n") == squeezed(EXPECTED)
    assert max(map(len, lines)) <= WIDTH


def test_columns_are_aligned() -> None:
    lines = lines_of(make_plan(RULES, VARIABLES, PARAMETERS))
    column = lines[0].index("shape")
    rows = lines[: lines.index("")]
    assert {line[column - 2 : column] for line in rows} == {"  "}
    assert all(line[column] != " " for line in rows)


def test_long_names_push_the_columns_out_and_are_not_cut() -> None:
    name = "a" * 120
    entry = PlanEntry((name,), "b", (), ((1, 2),), (1, 2))
    lines = lines_of(Plan((entry,)))
    assert any(line.endswith(f"{name}  1x2") for line in lines)


def test_several_variables_of_one_parameter_and_copies() -> None:
    sources = tuple(f"a.expert_{i}.wi" for i in range(8))
    joined = PlanEntry(sources, "a/wi", (Transpose(),), ((4, 3),) * 8, (24, 4), 0)
    lines = lines_of(Plan((joined,), {}, {"decoder.embed.weight": "shared.weight"}))
    text = squeezed("\n".join(lines))
    assert " 8 a.expert_{0..7}.wi 4x3\n" in text
    assert "-> a/wi 24x4 transpose, 8 joined on axis 0\n" in text
    assert " 1 decoder.embed.weight of shared.weight\n" in text
    assert "Left out: nothing" in text
    assert "To read: 9 variables, 0 B. To write: 1 parameters, 0 B." in text


def test_ignored_layers_are_in_the_order_of_their_numbers() -> None:
    names = tuple(sorted(f"layer_{i}/m" for i in range(12)))
    lines = lines_of(Plan((), {"slot": names}), slot=12)
    assert "         layer_{0..11}/m" in lines
