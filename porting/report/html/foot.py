"""What the verdict rests on: command, versions, hashes and input IDs, so that anyone can run it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from porting.report.html.markup import Html, breakable, code, tag
from porting.report.html.svg import scrolling


def foot_section(content: Mapping[str, Any]) -> Html:
    """Everything in the key `provenance`, the input IDs folded in and complete."""
    provenance = dict(content["provenance"])
    inputs = dict(provenance.pop("inputs", {}))
    ids = inputs.pop("ids", None)
    command = provenance.pop("command", "")
    if inputs:
        provenance["inputs"] = inputs
    config = None
    if isinstance(provenance.get("reference"), Mapping):
        reference = dict(provenance["reference"])
        config = reference.pop("config", None)
        provenance["reference"] = reference
    rows = [
        tag("tr", tag("th", breakable(name), scope="row"), tag("td", tag("code", breakable(value))))
        for name, value in _facts(provenance)
    ]
    return tag(
        "section",
        tag("h2", "Run it again"),
        tag("pre", command, cls="wrap") if command else None,
        _ids(ids) if ids else None,
        scrolling("What this rests on", tag("table", tag("tbody", *rows), cls="provenance"))
        if rows
        else None,
        _folded("The original's config", json.dumps(config, indent=1)) if config else None,
        id="again",
    )


def _ids(ids: Mapping[str, Any]) -> Html:
    shapes = ", ".join(f"{name} {_shape(values)}" for name, values in ids.items())
    return tag(
        "details",
        tag("summary", f"Input IDs: {shapes}"),
        tag("p", "Saved as a file, these are what ", code("--inputs FILE.json"), " reads.", cls="note"),
        tag("pre", json.dumps(ids), cls="wrap ids"),
    )


def _folded(title: str, text: str) -> Html:
    return tag("details", tag("summary", title), tag("pre", text, cls="wrap"))


def _shape(values: Any) -> str:
    sizes = []
    while isinstance(values, list):
        sizes.append(str(len(values)))
        values = values[0] if values else None
    return "x".join(sizes)


def _facts(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{key}: ")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value not in (None, ""):
            yield f"{prefix}{key}", str(value)
