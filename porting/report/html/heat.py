"""Heat maps of one tensor's difference: over two of its axes, and over relative-position buckets."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from porting.report.html.markup import Html, code, join, number, tag
from porting.report.html.svg import figure, path, picture, px, rect, scrolling, text

_LEVELS = 8
_LEFT, _TOP, _FOOT, _PLOT, _TALL = 56.0, 6.0, 40.0, 430.0, 260.0
Values = Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Colours:
    """Eight steps from the least to the largest difference of a map, in another hue beyond the tolerance.

    Attributes:
        edges: where each step begins, and where the last ends; logarithmic over more than a decade.
        atol: the tolerance.
    """

    edges: tuple[float, ...]
    atol: float

    @classmethod
    def of(cls, values: Values, atol: float) -> Colours:
        """For the values of one map; five decades at most."""
        known = [v for line in values for v in line if v is not None and v > 0]
        high = max(known, default=1.0)
        low = max(min(known, default=high), high * 1e-5)
        shares = [i / _LEVELS for i in range(_LEVELS + 1)]
        if high > 10 * low:
            return cls(tuple(low * (high / low) ** share for share in shares), atol)
        return cls(tuple(low + (high - low) * share for share in shares), atol)

    def cls(self, value: float | None) -> str:
        """The class of a cell."""
        if value is None:
            return "h-infinite"
        if value <= 0:
            return "h-zero"
        level = min(max(bisect_right(self.edges, value), 1), _LEVELS)
        return f"{'hot' if value > self.atol else 'cool'} h{level}"


def heat_section(content: Mapping[str, Any]) -> Html | None:
    """Where in the tensor the difference is. None without pictures."""
    pictures = content.get("pictures")
    if not pictures or not pictures["maps"]:
        return None
    buckets = pictures["buckets"]
    tables = [shown["values"] for shown in pictures["maps"]]
    if buckets:
        tables.append(buckets["values"])
    largest = max((v for values in tables for line in values for v in line if v), default=0.0)
    infinite = any(v is None for values in tables for line in values for v in line)
    heading = tag("h2", "Where in the tensor")
    if not largest and not infinite:
        equal = tag("p", "Both sides are equal in every element of ", code(pictures["tensor"]), ".")
        return tag("section", heading, equal, id="heat")
    diverged = pictures["why"] == "first divergence"
    which = "first tensor that diverges" if diverged else "tensor that differs most"
    drawn = [_map(shown, content["atol"]) for shown in pictures["maps"]]
    if buckets:
        drawn.append(_buckets(buckets, content["atol"]))
    return tag(
        "section",
        heading,
        tag(
            "p",
            f"The largest difference in the {which}, ",
            code(pictures["tensor"]),
            ", along its own axes. Point at a cell, or move with the arrow keys, for its value. Blue is"
            " within the tolerance, orange beyond it.",
            cls="lead",
        ),
        tag("div", *drawn, cls="maps", style=f"--others: {max(1, len(drawn) - 1)}"),
        id="heat",
    )


def _map(shown: Mapping[str, Any], atol: float) -> Html:
    rows, columns = shown["rows"], shown["columns"]
    values: Values = shown["values"]
    sizes = (shown["row_count"], shown["column_count"])
    steps = (shown["row_step"], shown["column_step"])
    # The longer axis runs across, unless both are positions and a square keeps them readable.
    if len(values) > len(values[0]) * 1.5:
        values = [list(line) for line in zip(*values, strict=True)]
        rows, columns, sizes, steps = columns, rows, sizes[::-1], steps[::-1]
    labels = [
        [_span(i, step, size) for i in range(0, size, step)] for size, step in zip(sizes, steps, strict=True)
    ]
    name = f"{rows} \N{MULTIPLICATION SIGN} {columns}" if rows else columns
    over = f"the largest over {' and '.join(shown['over'])}" if shown["over"] else ""
    pooled = [f"{step} of {axis}" for step, axis in zip(steps, (rows, columns), strict=True) if step > 1]
    cell = f"a cell holds {' and '.join(pooled)}" if pooled else ""
    note = "; ".join(part for part in (over, cell) if part)
    return _grid(values, (rows, columns), labels, atol, name, note)


def _buckets(shown: Mapping[str, Any], atol: float) -> Html:
    heads = shown["heads"] or ""
    labels = [
        [str(i) for i in range(len(shown["values"]))],
        [_offsets(bucket) for bucket in shown["buckets"]],
    ]
    note = "by how far memory lies from query, far behind on the left; point at a bucket for its offsets"
    name = (
        f"{heads} \N{MULTIPLICATION SIGN} relative-position bucket" if heads else "relative-position bucket"
    )
    ticks = [str(bucket["number"]) for bucket in shown["buckets"]]
    return _grid(shown["values"], (heads, "bucket"), labels, atol, name, note, ticks, cls="buckets")


def _offsets(bucket: Mapping[str, Any]) -> str:
    ends = [f"{bucket[key]:+d}" if bucket[key] else "0" for key in ("from", "to")]
    return f"{bucket['number']} (offset {' to '.join(dict.fromkeys(ends))}, {bucket['pairs']} pairs)"


def _span(start: int, step: int, size: int) -> str:
    last = min(start + step, size) - 1
    return str(start) if last == start else f"{start} to {last}"


def _grid(
    values: Values,
    axes: tuple[str, str],
    labels: Sequence[Sequence[str]],
    atol: float,
    name: str,
    note: str,
    ticks: Sequence[str] | None = None,
    cls: str = "",
) -> Html:
    colours = Colours.of(values, atol)
    rows, columns = len(values), len(values[0])
    width = max(5.0, min(22.0, _PLOT / columns))
    height = max(width if rows > 16 else 16.0, 5.0) if rows < 40 else width
    right, bottom = _LEFT + columns * width, _TOP + rows * height
    if ticks is None:
        every = _every(columns, width)
        across = {i: labels[1][i].split(" ")[0] for i in range(0, columns, every)}
    else:
        across = {i: ticks[i] for i in range(0, columns, max(1, math.ceil(18 / width)))}
    down = {i: labels[0][i].split(" ")[0] for i in range(0, rows, _every(rows, height * 2))}
    parts = [rect(_LEFT, _TOP, columns * width, rows * height, "h-zero")]
    parts += _cells(values, colours, width, height)
    parts += [
        text(_LEFT + (i + 0.5) * width, bottom + 14, said, "tick", "middle") for i, said in across.items()
    ]
    parts += [text(_LEFT - 6, _TOP + (i + 0.5) * height + 4, said, "tick", "end") for i, said in down.items()]
    parts.append(text((_LEFT + right) / 2, bottom + 31, axes[1], "tick strong", "middle"))
    if ticks is not None:
        parts.append(text(_LEFT, bottom + 31, "\N{LEFTWARDS ARROW} behind", "tick"))
        parts.append(text(right, bottom + 31, "ahead \N{RIGHTWARDS ARROW}", "tick", "end"))
    if axes[0]:
        x, y = 14.0, (_TOP + bottom) / 2
        turn = tag(
            "text",
            axes[0],
            x=px(x),
            y=px(y),
            cls="tick strong",
            text_anchor="middle",
            transform=f"rotate(-90 {px(x)} {px(y)})",
        )
        short = rows * height < 7 * len(axes[0])
        parts.append(text(2, _TOP + 10, axes[0], "tick strong") if short and rows == 1 else turn)
    parts.append(tag("rect", cls="cursor", width=px(width), height=px(height), x="-99", y="-99"))
    data = {
        "axes": axes,
        "labels": labels,
        "values": values,
        "left": _LEFT,
        "top": _TOP,
        "width": width,
        "height": height,
    }
    place, worst = _largest(values)
    said = f"Largest {number(worst)} at {_where(axes, labels, place)}."
    drawing = picture(
        right + 12,
        max(bottom + _FOOT, _TOP + 8.0 * len(axes[0])),
        name,
        f"Heat map of the largest difference{': ' if note else ''}{note}. {said}",
        join(parts),
        cls=f"heat {cls}".strip(),
        tabindex="0",
        data_map=json.dumps(data, separators=(",", ":")),
    )
    readout = tag("output", said, cls="readout")
    parts = [tag("h3", name), scrolling(name, drawing), _scale(colours, values), readout]
    tall = rows * height > _TALL
    return tag("div", figure(note, *parts), cls="map tall" if tall else "map")


def _every(count: int, size: float) -> int:
    """Label every so many, at a round number."""
    least = max(1, math.ceil(30 / size), math.ceil(count / 20))
    return next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 1 << 30) if step >= least)


def _cells(values: Values, colours: Colours, width: float, height: float) -> list[Html]:
    """One path for each colour: equal neighbours in a row are one rectangle."""
    drawn: dict[str, list[str]] = {}
    for i, line in enumerate(values):
        start = 0
        classes = [colours.cls(value) for value in line]
        for j in range(1, len(line) + 1):
            if j == len(line) or classes[j] != classes[start]:
                if classes[start] != "h-zero":
                    x, y = px(_LEFT + start * width), px(_TOP + i * height)
                    d = f"M{x} {y}h{px((j - start) * width)}v{px(height)}H{x}z"
                    drawn.setdefault(classes[start], []).append(d)
                start = j
    return [path("".join(d), f"cell {cls}") for cls, d in drawn.items()]


def _largest(values: Values) -> tuple[tuple[int, int], float | None]:
    best = max(
        ((i, j) for i, line in enumerate(values) for j in range(len(line))),
        key=lambda at: math.inf if values[at[0]][at[1]] is None else values[at[0]][at[1]] or 0.0,
    )
    return best, values[best[0]][best[1]]


def _where(axes: Sequence[str], labels: Sequence[Sequence[str]], place: Sequence[int]) -> str:
    pairs = zip(axes, labels, place, strict=True)
    return ", ".join(f"{axis} {names[i]}" for axis, names, i in pairs if axis)


def _scale(colours: Colours, values: Values) -> Html:
    """What the colours of one map stand for."""
    steps = list(pairwise(colours.edges))
    swatches = [
        tag(
            "li",
            tag("span", cls=f"swatch {colours.cls((low + high) / 2)}"),
            tag("span", number(low)) if i % 2 == 0 else None,
        )
        for i, (low, high) in enumerate(steps)
    ]
    swatches.append(tag("li", tag("span", cls="swatch"), number(colours.edges[-1]), cls="end"))
    if any(v is None for line in values for v in line):
        swatches.append(tag("li", tag("span", cls="swatch h-infinite"), "not finite"))
    return tag("ol", *swatches, cls="scale", aria_label="Colours, from the least difference to the largest")
