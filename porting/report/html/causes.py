"""What is wrong by itself, why, and how that was verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from porting.report.html.divergence import facts_list
from porting.report.html.markup import Html, breakable, code, join, number, tag

_VERIFIED = """\
Fed with the original's inputs and with this mended, the port gives the \
original's values again, up to rounding. A formula counts only if with \
the fault it gives the port's values, too."""


def cause_section(content: Mapping[str, Any]) -> Html | None:
    """None where no analysis was made."""
    if "faults" not in content:
        return None
    return tag("section", tag("h2", "Cause"), *_parts(content), id="cause")


def _parts(content: Mapping[str, Any]) -> Iterator[Html]:
    faults, remaining, noise = content["faults"], content["remaining"], content["noise"]
    if len(faults) == 1:
        yield tag("p", "One thing is wrong by itself; every other difference is inherited.", cls="lead")
    elif faults:
        yield tag(
            "p",
            f"{len(faults)} things are wrong by themselves, independently of each other, in the order of the"
            " original.",
            cls="lead",
        )
    if faults:
        yield tag("ol", *(_fault(fault) for fault in faults), cls="faults")
    else:
        most = join([" (the most: ", number(noise["largest"]), ", ", code(noise["largest_in"]), ")"])
        yield tag(
            "p",
            "No tensor is wrong by itself: fed with the original's inputs, each"
            f" stays within {noise['times']:g} times its noise floor",
            most if noise["largest_in"] else None,
            ".",
            cls="lead",
        )
    if remaining:
        yield tag(
            "p",
            "With the original's tensors in the place of what is wrong, what"
            f" remains of all differences is {number(remaining['max_abs_diff'])},"
            f" {number(remaining['times_noise_floor'], 'an unknown number of')} times the noise floor, in ",
            code(remaining["name"]),
            ".",
        )
    for note in content.get("notes", ()):
        yield tag("p", f"Note: {note}.", cls="note")


def _fault(fault: Mapping[str, Any]) -> Html:
    cause, tried = fault["cause"], fault["tried"]
    evidence = f"off by {number(fault['local_max_abs_diff'])} with the original's inputs"
    if fault["times_noise_floor"] is not None:
        evidence += f", {number(fault['times_noise_floor'])} times what rounding explains"
    if cause:
        badge = tag("span", "verified", cls="badge match")
        head = tag("p", badge, " ", tag("strong", breakable(cause["text"])), cls="finding")
    else:
        badge = tag("span", "unexplained", cls="badge incomplete")
        head = tag("p", badge, " ", tag("strong", "no cause could be verified"), cls="finding")
    facts = [
        ("Tensor", code(fault["name"])),
        ("In the original", code(fault["reference_name"])),
        ("Kind", cause["kind"] if cause else None),
        ("About", code(cause["subject"]) if cause and cause["subject"] else None),
        ("Evidence", evidence),
        ("Verified by", _VERIFIED if cause else None),
        ("Tried", ", ".join(tried) if tried else None if cause else "nothing fits such a tensor"),
        ("For the same reason", join([code(name) for name in fault["also"]], between=", ") or None),
    ]
    return tag("li", head, facts_list(facts))
