"""The picture of where differences are made: what each tensor adds, beside what came in with its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from porting.report.html.depth import mark_of, status_of
from porting.report.html.markup import Html, join, number, tag
from porting.report.html.stacks import Row, Stack, area, panels
from porting.report.html.svg import LogScale, figure, legend, line, point

_LOCAL, _PASSED_ON = "local_max_abs_diff", "passed_on_max_abs_diff"


def local_section(content: Mapping[str, Any]) -> Html | None:
    """None where no analysis was made."""
    rows = content["tensors"]
    if not any(_LOCAL in row for row in rows):
        return None
    values = [row[key] for row in rows for key in (_LOCAL, _PASSED_ON) if row.get(key)]
    values += [row["local_noise_floor"] for row in rows if row.get("local_noise_floor")]

    def draw(stack: Stack, scale: LogScale, x: Callable[[int], float]) -> Iterator[Html]:
        yield area(stack, scale, x, "local_noise_floor")
        for place, (i, row) in sorted(enumerate(stack.rows), key=lambda item: mark_of(item[1][1]) != "match"):
            local, passed_on = row.get(_LOCAL), row.get(_PASSED_ON)
            own = mark_of(row) == "own"
            if passed_on:
                yield point(x(place), scale.y(passed_on), "passed", _said(row), f"#tensor-{i}")
            if local:
                cls = "stem own" if own else "stem"
                yield line(x(place), scale.bottom, x(place), scale.y(local), cls)
                yield point(x(place), scale.y(local), "own" if own else "made", _said(row), f"#tensor-{i}")

    own = [("own", "made here, and more than rounding")] if any(map(_is_own, rows)) else []
    return tag(
        "section",
        tag("h2", "Made here, or inherited"),
        tag(
            "p",
            "Each tensor computed once more from the original's inputs. What it"
            " still gets wrong is its own; the rest came in with its inputs and was passed on.",
            cls="lead",
        ),
        figure(
            None,
            panels(rows, values, "Made here, or inherited", draw),
            legend(
                ("made", "made here"),
                *own,
                ("passed", "inherited, passed on"),
                ("floor", "rounding of this step alone"),
            ),
        ),
        id="local",
    )


def _is_own(row: Row) -> bool:
    return mark_of(row) == "own"


def _said(row: Row) -> Html:
    times = row.get("times_noise_floor")
    noise = f", {number(times)} times what rounding explains" if times is not None else ""
    made = f"made here {number(row.get(_LOCAL), 'not known')}{noise}"
    return join(
        [
            row["name"],
            f"\n{made}",
            f"\npassed on {number(row.get(_PASSED_ON), 'not known')}",
            f"\n{status_of(row)}",
        ]
    )
