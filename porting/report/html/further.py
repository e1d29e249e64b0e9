"""What was asked for beside the tensors: gradients, generation, the search for inputs that reveal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from porting.report.html.divergence import exact, facts_list, place
from porting.report.html.markup import Html, breakable, code, join, number, tag
from porting.report.html.svg import scrolling
from porting.report.html.tensors import MAX_ABS, MAX_REL, NAME, SHAPE, STATUS, Column, figure_column, sortable


def gradient_section(content: Mapping[str, Any]) -> Html | None:
    """None where no gradients were compared."""
    backward = content.get("backward")
    if not backward:
        return None
    first = backward["first_divergence"]
    facts = None
    if first:
        facts = facts_list(
            [
                ("First, from the loss", code(first["name"])),
                ("In the original", code(first["reference_name"])),
                ("Largest at", place(first["dims"], first["index"]) if first["index"] else None),
                ("Original", exact(first["reference"])),
                ("Port", exact(first["port"])),
                (
                    "Difference",
                    f"{number(first['max_abs_diff'])} absolute, {number(first['max_rel_diff'])} relative",
                ),
                ("Note", first.get("note")),
            ]
        )
    floors = ", ".join(f"{number(floor)} of a {kind}" for kind, floor in backward["floors"].items())
    columns = [
        NAME,
        STATUS,
        MAX_REL,
        MAX_ABS,
        figure_column("Size", "size", "the largest magnitude in the original's gradient"),
        Column("Of a", lambda row: row["kind"], lambda row: row["kind"]),
        SHAPE,
    ]
    return tag(
        "section",
        tag("h2", "Gradients of the loss"),
        _lines(content["summary"]["gradients"], backward["status"]),
        facts,
        missing_lists(backward["unmatched"]),
        tag(
            "p",
            f"From the loss towards the inputs. The tolerance of {backward['tolerance']:g} is for max rel,"
            " the largest difference relative to the gradient's size; absolute"
            f" differences that rounding can make count as equal: up to {floors}.",
            cls="note",
        ),
        sortable(
            "gradients", "All gradients", columns, backward["tensors"], link="gradient", word="gradient"
        ),
        id="gradients",
    )


def generation_section(content: Mapping[str, Any]) -> Html | None:
    """None where nothing was generated."""
    generation = content.get("generation")
    if not generation:
        return None
    return tag(
        "section",
        tag("h2", "What both generate"),
        _lines(content["summary"]["generation"], generation["status"]),
        _sequences(generation),
        tag(
            "p",
            "A marked token is the first at which the two part. A tie is a flip whose margin is below what"
            " rounding can move it, and no divergence.",
            cls="note",
        ),
        id="generation",
    )


def _sequences(generation: Mapping[str, Any]) -> Html:
    flips: dict[int, Mapping[str, Any]] = {}
    for flip in generation["flips"]:
        flips.setdefault(flip["row"], flip)
    rows = []
    for sequence in generation["sequences"]:
        i, theirs, ours = sequence["row"], sequence["reference"], sequence["port"]
        flip = flips.get(i)
        at = flip["step"] if flip else None
        said = "the same" if theirs == ours else "a tie" if flip and flip["below_noise"] else "differs"
        badge = "diverged" if said == "differs" else "match"
        rows.append(
            tag(
                "tr",
                tag("th", i, scope="row"),
                tag("td", tag("span", said, cls=f"badge {badge}")),
                tag("td", _tokens(theirs, at)),
                tag("td", _tokens(ours, at)),
            )
        )
    head = tag("tr", *(tag("th", said, scope="col") for said in ("Row", "", "Original", "Port")))
    table = tag("table", tag("thead", head), tag("tbody", *rows), cls="sequences")
    return scrolling("What both generate", table)


def _tokens(tokens: Sequence[int], at: int | None) -> Html:
    shown: list[Any] = [tag("mark", token) if i == at else str(token) for i, token in enumerate(tokens)]
    if at is not None and len(tokens) <= at:
        shown.append(tag("mark", "ended"))
    return tag("span", join(shown, between=" "), cls="tokens")


def search_section(content: Mapping[str, Any]) -> Html | None:
    """None where nothing was searched."""
    search = content.get("search")
    if not search:
        return None
    parts: list[Html | None] = [
        _lines(content["summary"]["search"][:1], "diverged" if search["failing"] else "match")
    ]
    if search["failing"]:
        head = tag(
            "tr", *(tag("th", said, scope="col") for said in ("Failing input", "Shapes", "First divergence"))
        )
        rows = [
            tag(
                "tr",
                tag("th", failure["label"], scope="row"),
                tag(
                    "td",
                    ", ".join(
                        f"{name} {'x'.join(map(str, shape))}" for name, shape in failure["shapes"].items()
                    ),
                ),
                tag("td", _failure(failure)),
            )
            for failure in search["failing"]
        ]
        parts.append(scrolling("Failing inputs", tag("table", tag("thead", head), tag("tbody", *rows))))
    if search["refused"]:
        parts.append(tag("p", "The original has no answer to:", cls="note"))
        refused = [(item["label"], item["message"].splitlines()) for item in search["refused"]]
        parts.append(tag("ul", *(tag("li", label, ": ", "".join(said[:1])) for label, said in refused)))
    shrunk = search["shrunk"]
    if shrunk:
        parts.append(tag("h3", "The smallest input seen to fail"))
        parts.append(tag("pre", json.dumps(shrunk["inputs"]), cls="wrap"))
        if shrunk["test_file"]:
            parts.append(tag("p", "As a test: ", tag("code", f"pytest {shrunk['test_file']}")))
    return tag("section", tag("h2", "Search for inputs that reveal"), *parts, id="search")


def _failure(failure: Mapping[str, Any]) -> Any:
    first = failure["first_divergence"]
    if first:
        return join([code(first["name"]), f", difference {number(first['max_abs_diff'])}"])
    if failure["fault"]:
        return join([code(failure["fault"]), ", beyond rounding"])
    return breakable((failure.get("error") or failure["status"]).splitlines()[0])


def _lines(lines: Sequence[str] | None, status: str) -> Html | None:
    """The terminal's words: the first with the status before it."""
    if not lines:
        return None
    cls = status if status in ("match", "diverged", "invalid") else "incomplete"
    first, *rest = lines
    said = tag("p", tag("span", status, cls=f"badge {cls}"), " ", breakable(first))
    return tag("div", said, *(tag("p", breakable(text)) for text in rest), cls="said")


def missing_lists(unmatched: Mapping[str, Sequence[str]]) -> Html | None:
    """Names that one side alone has."""
    lists = [
        join(
            [
                tag("h3", f"Only in the {side}"),
                tag("ul", *(tag("li", code(name)) for name in names), cls="names"),
            ]
        )
        for side, names in (("original", unmatched["reference"]), ("port", unmatched["port"]))
        if names
    ]
    return join(lists) if lists else None
