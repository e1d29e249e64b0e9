"""What was not compared: tensors that the original cannot be heard at, positions where it means nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porting.report.html.markup import Html, breakable, code, tag
from porting.report.text import folded_names, left_out


def unheard_section(content: Mapping[str, Any]) -> Html | None:
    """None where everything was compared."""
    unheard, said = content.get("unheard") or (), left_out(content)
    if not unheard and not said:
        return None
    return tag(
        "section",
        tag("h2", "Not compared"),
        tag("p", "Positions: ", breakable(said), ".") if said else None,
        tag(
            "p",
            "Tensors of the port in places where this original cannot be listened to. What they are computed"
            " from and what is computed from them is compared.",
            cls="lead",
        )
        if unheard
        else None,
        tag("ul", *(tag("li", code(name)) for name in folded_names(unheard)), cls="names")
        if unheard
        else None,
        id="unheard",
    )
