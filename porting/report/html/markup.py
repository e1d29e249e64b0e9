"""HTML and SVG in plain Python: whatever is not markup already is escaped, so that no name can become any.

Example:
    tag("p", "5 < 6 in ", tag("code", name), cls="note")    # <p class="note">5 &lt; 6 in <code>...</code></p>
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = {"meta", "link", "input", "br", "hr", "col"}


class Html(str):
    """Text that is markup already. Only `tag`, `join` and `trusted` make it."""

    __slots__ = ()


def trusted(text: str) -> Html:
    """Markup of our own: never anything that came from a user or a file of theirs."""
    return Html(text)


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Markup of several parts, each escaped unless it is markup; None is nothing."""
    return Html(between.join(part if isinstance(part, Html) else escape(str(part)) for part in _flat(parts)))


def _flat(parts: Iterable[Any]) -> Iterable[Any]:
    for part in parts:
        if part is None:
            continue
        if isinstance(part, list | tuple):
            yield from _flat(part)
        else:
            yield part


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. Attributes: `cls` is class, `_` is `-`, True a bare name; None and False are left out."""
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(children)}</{name}>")


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    key = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{escape(str(value))}"'


def number(value: float | None, none: str = "not finite") -> str:
    """Three digits, as in every other report; null is what JSON cannot say."""
    if value is None:
        return none
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def code(text: Any) -> Html:
    """A name, as code."""
    return tag("code", breakable(text))


def breakable(text: Any) -> Html:
    """Text with places to break it: long module paths must not widen a page."""
    pieces = str(text)
    for mark in (".", "/", "_"):
        pieces = pieces.replace(mark, f"{mark}\x00")
    return join(pieces.split("\x00"), between="<wbr>")


def plural(count: int, word: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{count} {word}{'' if count == 1 else 's'}"
