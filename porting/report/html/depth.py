"""The picture of how the difference grows with depth, beside the tolerance and what rounding explains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from porting.report.html.markup import Html, join, number, tag
from porting.report.html.stacks import Row, Stack, across, area, panels
from porting.report.html.svg import LogScale, figure, legend, point


def depth_section(content: Mapping[str, Any]) -> Html | None:
    """Every tensor's largest difference, stack by stack."""
    rows, atol = content["tensors"], content["atol"]
    if not rows:
        return None
    floors = [row["noise_floor"] for row in rows if row.get("noise_floor")]
    values = [*(row["max_abs_diff"] for row in rows), *floors, *([atol] if atol else [])]

    def draw(stack: Stack, scale: LogScale, x: Callable[[int], float]) -> Iterator[Html]:
        if floors:
            yield area(stack, scale, x, "noise_floor")
        if atol:
            yield from across(scale, atol, stack, x, f"tolerance {atol:g}")
        for place, (i, row) in sorted(enumerate(stack.rows), key=lambda item: mark_of(item[1][1]) != "match"):
            yield point(x(place), scale.y(row["max_abs_diff"]), mark_of(row), _said(row), f"#tensor-{i}")

    known = {mark_of(row) for row in rows}
    marks = [
        ("match", "within the tolerance"),
        ("diverged", "beyond it, inherited" if floors else "beyond it"),
        ("own", "wrong by itself"),
    ]
    items = [(mark, said) for mark, said in marks if mark in known]
    items += [("tolerance", "tolerance")] if atol else []
    items += [("floor", "noise floor: what rounding explains")] if floors else []
    return tag(
        "section",
        tag("h2", "Difference by depth"),
        tag(
            "p",
            "The largest absolute difference of each tensor, both sides running freely, in the order in which"
            " the original computes them. The scale is logarithmic; equal tensors lie on 0.",
            cls="lead",
        ),
        figure(None, panels(rows, values, "Difference by depth", draw), legend(*items)),
        id="depth",
    )


def mark_of(row: Row) -> str:
    """How a tensor is drawn: `match`, `diverged`, or `own`."""
    return "own" if row.get("origin") == "own" else "match" if row["status"] == "match" else "diverged"


def _said(row: Row) -> Html:
    floor = row.get("noise_floor")
    noise = f", noise floor {number(floor)}" if floor is not None else ""
    return join([row["name"], f"\ndifference {number(row['max_abs_diff'])}{noise}", f"\n{status_of(row)}"])


def status_of(row: Row) -> str:
    """The verdict on one tensor, in words."""
    return f"{row['status']}, {row['origin']}" if row.get("origin") else str(row["status"])
