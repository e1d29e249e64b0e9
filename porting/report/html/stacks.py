"""The tensors by stack, in order of depth, as the pictures by depth share them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from porting.report.html.markup import Html, tag
from porting.report.html.svg import LogScale, line, picture, px, rect, scrolling, text

Row = Mapping[str, Any]
_SMALL, _MOST = 3, 6
_LEFT, _RIGHT, _TOP, _PLOT, _FOOT = 42.0, 8.0, 12.0, 214.0, 22.0
# The widest picture that a page has room for, and how near to each other tensors may stand.
_PAGE, _GAP, _NEAR, _FAR, _NEAREST = 1120.0, 20.0, 5.0, 14.0, 2.4
_ROOM_FOR_LABEL = 240.0
OTHERS = "outputs"


@dataclass(frozen=True)
class Stack:
    """Tensors whose names begin alike.

    Attributes:
        name: the first component of their names.
        rows: each with its number among all tensors.
    """

    name: str
    rows: tuple[tuple[int, Row], ...]

    def blocks(self) -> Iterator[tuple[str, int, int]]:
        """Label, first and last place of each run of tensors in one numbered block."""
        start, current = 0, _block(self.rows[0][1]["name"])
        for place, (_, row) in enumerate(self.rows):
            block = _block(row["name"])
            if block != current:
                yield current, start, place - 1
                start, current = place, block
        yield current, start, len(self.rows) - 1


def stacks(rows: Sequence[Row]) -> list[Stack]:
    """By the first component of the name; lone names such as `logits` together, as outputs."""
    groups: dict[str, list[tuple[int, Row]]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row["name"].split(".")[0], []).append((number, row))
    for name in [name for name, members in groups.items() if len(members) < _SMALL and name != OTHERS]:
        groups.setdefault(OTHERS, []).extend(groups.pop(name))
    if len(groups) > _MOST:
        groups = {"all tensors": list(enumerate(rows))}
    if OTHERS in groups:  # behind everything else
        groups[OTHERS] = sorted(groups.pop(OTHERS), key=lambda item: item[0])
    return [Stack(name, tuple(members)) for name, members in groups.items()]


def _block(name: str) -> str:
    """`block 3` of `encoder.block.3.layer.0`; empty where no component is a number."""
    parts = name.split(".")
    for before, part in pairwise(parts):
        if part.isdigit():
            return f"{before} {part}"
    return ""


Draw = Callable[[Stack, LogScale, Callable[[int], float]], Iterable[Html]]


def panels(rows: Sequence[Row], scale_of: Iterable[float | None], title: str, draw: Draw) -> Html:
    """A panel for each stack, all on one scale; beside each other where there is room.

    Args:
        rows: of the comparison's `tensors`.
        scale_of: every value that must have room on the scale.
        title: what is shown.
        draw: gives the marks of one stack, from the scale and the x of each place.
    """
    scale = LogScale.over(scale_of, _TOP, _TOP + _PLOT)
    shown = stacks(rows)
    margins = len(shown) * (_LEFT + _RIGHT + _GAP)
    step = (_PAGE - margins - 60.0) / len(rows)
    drawn = [_panel(stack, scale, title, draw, min(step, _FAR)) for stack in shown]
    return tag("div", *drawn, cls="panels")


def _panel(stack: Stack, scale: LogScale, title: str, draw: Draw, step: float) -> Html:
    places = len(stack.rows)
    if step < _NEAR:  # one below the other, each as wide as the page
        step = max(_NEAREST, min(_FAR, (_PAGE - _LEFT - _RIGHT) / places))
    step = max(step, 88.0 / places)
    width = _LEFT + places * step + _RIGHT
    right = width - _RIGHT

    def x(place: int) -> float:
        return _LEFT + (place + 0.5) * step

    bands, labels, last_end = [], [], 0.0
    for i, (label, first, last) in enumerate(stack.blocks()):
        begin, end = x(first) - step / 2, x(last) + step / 2
        if label and i % 2:
            bands.append(rect(begin, _TOP, end - begin, _PLOT, "band"))
        short = label if end - begin > 6.5 * len(label) else label.split(" ")[-1]
        middle, half = (begin + end) / 2, 3.5 * len(short)
        if label and middle - half > last_end:
            labels.append(text(middle, _TOP + _PLOT + 16, short, "tick", "middle"))
            last_end = middle + half
    if not labels and step > 28.0:  # few, and none in a block: their names
        labels = [
            text(
                x(i),
                _TOP + _PLOT + 16,
                _short(row["name"].removeprefix(f"{stack.name}."), step),
                "tick",
                "middle",
            )
            for i, (_, row) in enumerate(stack.rows)
        ]
    drawing = picture(
        width,
        _TOP + _PLOT + _FOOT,
        f"{title}: {stack.name}",
        f"{places} tensors in the order of the original, on a log scale.",
        bands,
        list(scale.axis(_LEFT, right)),
        labels,
        list(draw(stack, scale, x)),
        cls="by-depth",
    )
    return tag("div", tag("h3", stack.name), scrolling(f"{title}: {stack.name}", drawing), cls="panel")


def _short(name: str, room: float) -> str:
    most = max(3, int(room / 6.5))
    return name if len(name) <= most else name[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def across(
    scale: LogScale, value: float, stack: Stack, x: Callable[[int], float], label: str
) -> Iterator[Html]:
    """A dashed line at one value, and what it is where there is room to say so."""
    half = (x(1) - x(0)) / 2
    right = x(len(stack.rows) - 1) + half
    yield line(x(0) - half, scale.y(value), right, scale.y(value), "tolerance")
    if right > _ROOM_FOR_LABEL:
        yield text(right - 2, scale.y(value) - 5, label, "tick strong", "end")


def area(stack: Stack, scale: LogScale, x: Callable[[int], float], key: str) -> Html:
    """What lies below a figure of each tensor, in steps."""
    places = range(len(stack.rows))
    half = (x(1) - x(0)) / 2
    bottom = scale.bottom
    d = f"M{px(x(0) - half)} {px(bottom)}"
    for place in places:
        value = stack.rows[place][1].get(key)
        y = bottom if not value else scale.y(value)
        d += f"V{px(y)}H{px(x(place) + half)}"
    return tag("path", d=f"{d}V{px(bottom)}z", cls="floor")
