"""The page of one comparison, drawn from its JSON and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from porting.report.html.causes import cause_section
from porting.report.html.depth import depth_section
from porting.report.html.divergence import divergence_section
from porting.report.html.foot import foot_section
from porting.report.html.further import (
    generation_section,
    gradient_section,
    missing_lists,
    search_section,
)
from porting.report.html.heat import heat_section
from porting.report.html.local import local_section
from porting.report.html.markup import Html, breakable, code, join, number, plural, tag
from porting.report.html.shell import document
from porting.report.html.tensors import tensor_section
from porting.report.html.unheard import unheard_section

# The id of each section, its title in the list of sections, and what draws it.
_SECTIONS = (
    ("divergence", "Divergence", divergence_section),
    ("depth", "Depth", depth_section),
    ("local", "Made or inherited", local_section),
    ("heat", "Where in it", heat_section),
    ("cause", "Cause", cause_section),
    ("tensors", "All tensors", tensor_section),
    ("unheard", "Not compared", unheard_section),
    ("gradients", "Gradients", gradient_section),
    ("generation", "Generation", generation_section),
    ("search", "Search", search_section),
    ("again", "Run it again", foot_section),
)
STATUS_CLASSES = ("match", "diverged", "incomplete", "invalid")


def render_page(content: Mapping[str, Any]) -> str:
    """The page of a comparison.

    Args:
        content: `Comparison.to_json()`, or what a report's JSON file holds.

    Returns:
        One HTML file: no request to anywhere, all pictures inside.
    """
    name = model_name(content)
    drawn = [(id_, title, made) for id_, title, make in _SECTIONS if (made := make(content)) is not None]
    return document(
        f"{name}: {content['status']}",
        tag("a", "Skip to the verdict", href="#verdict", cls="skip"),
        tag(
            "header",
            _bar(content),
            tag("p", "A port against its original", cls="kicker"),
            tag("h1", breakable(name)),
            _verdict(content),
        ),
        tag("nav", *(tag("a", title, href=f"#{id_}") for id_, title, _ in drawn), aria_label="On this page"),
        tag("main", _missing(content), *(made for *_, made in drawn)),
    )


def model_name(content: Mapping[str, Any]) -> str:
    """The model's directory or class; where that is not known, the report's own name."""
    port = content["provenance"].get("port")
    model = port.get("model") if isinstance(port, Mapping) else None
    known = model if isinstance(model, Mapping) else {}
    report = PurePath(str(content["reports"].get("json", ""))).stem
    return str(known.get("directory") or known.get("class") or report or "comparison")


def worst_of(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row with the largest difference; one that is not finite is larger than all."""

    def size(row: Mapping[str, Any]) -> float:
        return math.inf if row["max_abs_diff"] is None else float(row["max_abs_diff"])

    return max(content["tensors"], key=size, default=None)


def sentence(content: Mapping[str, Any]) -> str:
    """The verdict without the status before it, which stands there as a badge."""
    said = str(content["summary"]["verdict"]).removeprefix(f"{content['status'].upper()}: ")
    return said[:1].upper() + said[1:]


def status_class(content: Mapping[str, Any]) -> str:
    """A class of our own for a status."""
    return str(content["status"]) if content["status"] in STATUS_CLASSES else "invalid"


def _bar(content: Mapping[str, Any]) -> Html:
    """Links to the same in other forms, which lie beside the page."""
    kinds = (("index", "All reports"), ("markdown", "Markdown"), ("json", "JSON"))
    paths = {kind: PurePath(str(path)).name for kind, path in content["reports"].items()}
    links = [tag("a", said, href=quote(paths[kind])) for kind, said in kinds if paths.get(kind)]
    return tag("div", *links, cls="bar")


def _verdict(content: Mapping[str, Any]) -> Html:
    status = status_class(content)
    return tag(
        "div",
        tag(
            "p",
            tag("span", content["status"], cls="stamp"),
            " ",
            breakable(sentence(content)),
            cls="sentence",
        ),
        tag("dl", *_figures(content), cls="figures"),
        _made(content),
        cls=f"verdict {status}",
        id="verdict",
    )


def _figures(content: Mapping[str, Any]) -> Iterator[Html]:
    rows, worst, noise = content["tensors"], worst_of(content), content.get("noise")
    bad = sum(row["status"] == "diverged" for row in rows)
    yield _figure("Tensors", f"{len(rows)}", f"{bad} beyond the tolerance")
    if worst:
        yield _figure("Largest difference", number(worst["max_abs_diff"]), code(worst["name"]))
    needed = content.get("tolerance_needed")
    yield _figure(
        "Tolerance", f"{content['atol']:g}", f"{number(needed)} would be needed" if bad else "absolute"
    )
    if noise:
        own = sum(row.get("origin") == "own" for row in rows)
        said = f"at most, of {noise['times']:g} allowed" if noise["largest_in"] else "not known"
        yield _figure("\N{MULTIPLICATION SIGN} noise floor", number(noise["largest"], "\N{EN DASH}"), said)
        said = f"{plural(own, 'tensor')} wrong by {'itself' if own == 1 else 'themselves'}"
        yield _figure("Faults", len(content["faults"]), said)


def _figure(name: str, value: Any, more: Any) -> Html:
    return tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", more)))


def _made(content: Mapping[str, Any]) -> Html | None:
    """When, and on what."""
    made = str(content["provenance"].get("made") or "")
    origin = (content["provenance"].get("inputs") or {}).get("origin")
    parts = [
        join(["Made ", tag("time", made.replace("T", " ").replace("+00:00", " UTC"), datetime=made)])
        if made
        else None,
        join(["input IDs: ", breakable(origin)]) if origin else None,
    ]
    known = [part for part in parts if part]
    return tag("p", join(known, between=" \N{MIDDLE DOT} "), cls="note made-on") if known else None


def _missing(content: Mapping[str, Any]) -> Html | None:
    lists = missing_lists(content["unmatched"])
    if not lists and not content["reasons"]:
        return None
    reasons = [tag("li", breakable(reason)) for reason in content["reasons"]]
    return tag(
        "section",
        tag("h2", "Why this cannot be relied on" if reasons else "On one side only"),
        tag("ul", *reasons) if reasons else None,
        lists,
        id="missing",
    )
