"""The first divergence: which tensor, where in it, and the values of both sides around that place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from porting.report.html.markup import Html, code, join, number, tag
from porting.report.html.svg import scrolling


def divergence_section(content: Mapping[str, Any]) -> Html | None:
    """Of the first tensor that diverges, or of the one that differs most."""
    first, pictures, atol = content["first_divergence"], content.get("pictures"), content["atol"]
    row = first or _named(content["tensors"], pictures["tensor"] if pictures else None)
    if row is None:
        return None
    share = None
    if pictures and pictures["tensor"] == row["name"] and first:
        beyond, elements = pictures["beyond"], pictures["elements"]
        share = f"{beyond:,} of {elements:,} elements ({100 * beyond / elements:.3g} %)"
    facts = [
        ("Tensor", code(row["name"])),
        ("In the original", code(row["reference_name"])),
        ("Axes", axes_of(row)),
        ("Largest at", place(row["dims"], row["index"]) if row["index"] else None),
        ("Original", exact(row["reference"]) if row["index"] or not row.get("note") else None),
        ("Port", exact(row["port"]) if row["index"] or not row.get("note") else None),
        ("Difference", f"{number(row['max_abs_diff'])} absolute, {number(row['max_rel_diff'])} relative"),
        (f"Beyond {atol:g}", share),
        ("Note", row.get("note")),
    ]
    windows = _windows(pictures, atol) if pictures and pictures["tensor"] == row["name"] else None
    title = "First divergence" if first else "Largest difference"
    lead = (
        "The first tensor, in the original's order, that differs by more than"
        " the tolerance. Everything behind it may only inherit this."
        if first
        else "No tensor is beyond the tolerance. This one differs most."
    )
    return tag(
        "section", tag("h2", title), tag("p", lead, cls="lead"), facts_list(facts), windows, id="divergence"
    )


def facts_list(facts: Sequence[tuple[str, Any]]) -> Html:
    """Names with their values; what has none is left out."""
    shown = [
        tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value not in (None, "")
    ]
    return tag("dl", *shown, cls="facts")


def axes_of(row: Mapping[str, Any]) -> str:
    """`batch 3, length 160`."""
    pairs = zip(row["dims"], row["shape"], strict=False)
    return ", ".join(f"{dim} {size}" for dim, size in pairs) or "a single number"


def place(dims: Sequence[str], index: Sequence[int]) -> str:
    """`batch 2, length 46`: where in a tensor."""
    return ", ".join(f"{dim} {i}" for dim, i in zip(dims, index, strict=False))


def exact(value: float | None) -> str:
    """As many digits as tell two float32 numbers apart."""
    return "not a number, or infinite" if value is None else f"{value:.9g}"


def _named(rows: Sequence[Mapping[str, Any]], name: str | None) -> Mapping[str, Any] | None:
    return next((row for row in rows if row["name"] == name), None)


def _windows(pictures: Mapping[str, Any], atol: float) -> Html:
    largest, first = pictures["largest"], pictures["first"]
    dims = pictures["dims"]
    parts = [tag("h3", f"Both sides around {place(dims, largest['index'])}"), _window(largest, dims, atol)]
    if first:
        at = place(dims, first["index"])
        parts.append(
            tag(
                "details",
                tag("summary", f"The first element beyond the tolerance: {at}"),
                _window(first, dims, atol),
            )
        )
    return join(parts)


def _window(window: Mapping[str, Any], dims: Sequence[str], atol: float) -> Html:
    """A table for each axis: what stands before and behind the element along it."""
    at = dict(zip(dims, window["index"], strict=True))
    strips = [_strip(strip, at[strip["dim"]], atol) for strip in window["along"]]
    return tag("div", *strips, cls="strips")


def _strip(strip: Mapping[str, Any], at: int, atol: float) -> Html:
    reference, port = strip["reference"], strip["port"]
    places = range(strip["start"], strip["start"] + len(reference))
    heads = [tag("th", i, scope="col", cls="here" if i == at else None) for i in places]
    apart = [_apart(a, b) for a, b in zip(reference, port, strict=True)]
    left_out = strip.get("left_out") or [False] * len(reference)
    rows = [
        tag("tr", tag("th", said, scope="row"), *_cells(values, places, left_out, at))
        for said, values in (("original", reference), ("port", port))
    ]
    rows.append(tag("tr", tag("th", "difference", scope="row"), *_cells(apart, places, left_out, at, atol)))
    head = tag("tr", tag("th", f"along {strip['dim']}", scope="row"), *heads)
    table = tag("table", tag("thead", head), tag("tbody", *rows), cls="strip")
    return scrolling(f"Values along {strip['dim']}", table)


def _cells(
    values: Sequence[float | None],
    places: Sequence[int],
    left_out: Sequence[bool],
    at: int,
    atol: float | None = None,
) -> Iterator[Html]:
    """Values; with a tolerance they are differences. What is left out is not compared."""
    for i, value, absent in zip(places, values, left_out, strict=True):
        if absent:
            yield tag("td", "\N{EN DASH}", title="not compared: the original's value means nothing here")
            continue
        beyond = atol is not None and (value is None or value > atol)
        classes = [name for name, holds in (("here", i == at), ("beyond", beyond)) if holds]
        shown = "not finite" if value is None else f"{value:.6g}" if atol is None else number(value)
        yield tag("td", shown, cls=" ".join(classes) or None)


def _apart(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else abs(a - b)
