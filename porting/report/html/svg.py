"""What every picture of a report is drawn with: a log scale, its axis, and the frame around a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from porting.report.html.markup import Html, join, tag

_MOST_TICKS = 8


@dataclass(frozen=True)
class LogScale:
    """Differences on a vertical log scale, with a lane below for zero and one above for what is not finite.

    Attributes:
        low, high: exponents of ten at the bottom and the top of the scale.
        top, bottom: pixels between which the scale lies.
        infinite: whether there is a lane for values that are not finite.
    """

    low: int
    high: int
    top: float
    bottom: float
    infinite: bool = False

    ZERO_LANE = 24.0

    @classmethod
    def over(cls, values: Iterable[float | None], top: float, bottom: float) -> LogScale:
        """Over all values that are finite and above zero, in whole decades."""
        values = list(values)
        known = [math.log10(value) for value in values if value is not None and value > 0]
        low = math.floor(min(known, default=-8.0))
        high = max(math.ceil(max(known, default=0.0) + 0.15), low + 1)
        infinite = None in values
        return cls(low, high, top + (16.0 if infinite else 0.0), bottom - cls.ZERO_LANE, infinite)

    @property
    def zero(self) -> float:
        """Where zero is drawn, which a log scale does not have."""
        return self.bottom + self.ZERO_LANE - 8.0

    def y(self, value: float | None) -> float:
        """Pixels from the top; None is not finite."""
        if value is None:
            return self.top - 12.0
        if value <= 0:
            return self.zero
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - self.top)

    def axis(self, left: float, right: float) -> Iterator[Html]:
        """Lines across, and what they stand for."""
        step = max(1, math.ceil((self.high - self.low) / _MOST_TICKS))
        for exponent in range(self.low, self.high + 1, step):
            y = self.y(10.0**exponent)
            yield line(left, y, right, y, "grid")
            yield text(left - 8, y + 4, f"1e{exponent}", "tick", "end")
        yield line(left, self.bottom, right, self.bottom, "axis")
        yield text(left - 8, self.zero + 4, "0", "tick", "end")
        if self.infinite:
            yield text(left - 8, self.y(None) + 4, "\N{INFINITY}", "tick", "end")


def px(value: float) -> str:
    """A tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> Html:
    """A straight line."""
    return tag("line", x1=px(x1), y1=px(y1), x2=px(x2), y2=px(y2), cls=cls)


def rect(x: float, y: float, width: float, height: float, cls: str) -> Html:
    """A filled rectangle."""
    return tag("rect", x=px(x), y=px(y), width=px(width), height=px(height), cls=cls)


def text(x: float, y: float, content: str, cls: str = "tick", anchor: str = "start") -> Html:
    """A label."""
    return tag("text", content, x=px(x), y=px(y), cls=cls, text_anchor=anchor)


def path(d: str, cls: str) -> Html:
    """A path."""
    return tag("path", d=d, cls=cls)


def picture(
    width: float, height: float, title: str, description: str, *parts: Any, cls: str = "", **more: Any
) -> Html:
    """An `svg` element that tells its title and description to those who do not see it."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        join(parts),
        viewBox=f"0 0 {px(width)} {px(height)}",
        role="img",
        aria_label=f"{title}. {description}",
        cls=f"picture {cls}".strip(),
        style=f"--width:{px(width)}px",
        **more,
    )


def scrolling(label: str, *children: Any, cls: str = "scroll") -> Html:
    """A box of its own to scroll in, by keyboard too."""
    return tag("div", *children, cls=cls, tabindex="0", role="region", aria_label=label)


def figure(caption: Any, *children: Any) -> Html:
    """A picture and what there is to say of it."""
    return tag("figure", *children, tag("figcaption", caption) if caption else None)


def legend(*items: tuple[str, str]) -> Html:
    """Marks and their meanings: each item is the mark's class and a text."""
    return tag("ul", *(tag("li", _swatch(mark), label) for mark, label in items), cls="legend")


def _swatch(mark: str) -> Html:
    if mark in ("tolerance", "limit"):
        drawn = line(1, 8, 19, 8, mark)
    elif mark == "floor":
        drawn = rect(1, 3, 18, 10, mark)
    elif mark.startswith("stem"):
        drawn = join([line(10, 1, 10, 15, mark)])
    else:
        drawn = point(10, 8, mark)
    return tag("svg", drawn, viewBox="0 0 20 16", width="20", height="16", aria_hidden="true", cls="mark")


def point(x: float, y: float, mark: str, title: str | None = None, href: str | None = None) -> Html:
    """One tensor: a disc, or a diamond for what is wrong by itself, so that colour is not all that tells."""
    inner = tag("title", title) if title else None
    if mark == "own":
        d = f"M{px(x)} {px(y - 5.5)}l5.5 5.5-5.5 5.5-5.5-5.5z"
        shape = tag("path", inner, d=d, cls="point own")
    else:
        radius = {"match": 2.6, "diverged": 3.4}.get(mark, 2.8)
        shape = tag("circle", inner, cx=px(x), cy=px(y), r=px(radius), cls=f"point {mark}")
    return tag("a", shape, href=href, tabindex="-1") if href else shape
