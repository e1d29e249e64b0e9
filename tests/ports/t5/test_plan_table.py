"""The printed plan of published models, read back."""

from __future__ import annotations

import pytest

from porting.mapping import make_plan
from porting.plan_table import plan_lines
from porting.ports.t5.port import PORT
from porting.ports.t5.presets import preset
from porting.ports.t5.variables import variables
from porting.source import parameter_shapes
from tests.test_fold import unfold

PUBLISHED = ["t5.1.0.base", "t5.1.1.large", "byt5-small", "ul2", "t5-efficient-base-sh-skv", "switch-base-8"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_printed_plan_says_every_row_of_the_plan_and_no_other(name: str) -> None:
    config = preset(name)
    weights = variables(config)
    slots = {f"{variable}_slot_v": shape for variable, shape in weights.items()}
    shapes = {**weights, **slots, "global_step": ()}
    plan = make_plan(PORT.rules(config, list(shapes)), shapes, parameter_shapes(PORT, config))
    lines = [*plan_lines(plan, bytes_read=1, bytes_written=1, bytes_ignored={})]
    end = lines.index("")
    rows, total = set(), 0
    for first, second in zip(lines[2:end:2], lines[3:end:2], strict=True):
        count, variable, shape = first.split()
        arrow, parameter, target_shape, *ops = second.split(maxsplit=3)
        assert arrow == "->"
        unfolded = unfold((variable, shape, parameter, target_shape, *ops))
        assert len(unfolded) == int(count)
        total += len(unfolded)
        rows |= {(*row[:4], row[4] if ops else "") for row in unfolded}
    assert total == len(rows) == len(plan.entries)
    assert rows == {
        (
            *(entry.sources[0], "x".join(map(str, entry.source_shapes[0]))),
            *(entry.target, "x".join(map(str, entry.target_shape)), ", ".join(map(str, entry.ops))),
        )
        for entry in plan.entries
    }
    assert end <= 64
    left_out = lines[lines.index("Left out:") + 1 : -2]
    names = [row[0] for line in left_out if line.startswith(" " * 9) for row in unfold((line.strip(),))]
    assert sorted(names) == sorted([*slots, "global_step"])
