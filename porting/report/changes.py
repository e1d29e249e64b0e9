"""Two reports of the same comparison -> what got better, and what got worse.

Works on the JSON that compare-outputs writes, and on nothing else: docs/reports-compared.md says what counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from porting.compare import DIVERGED, INCOMPLETE, INVALID, MATCH
from porting.errors import InputError, Problem
from porting.report.likeness import notes_on, unlike_things

FACTOR = 2.0
BETTER, WORSE, CHANGED, SAME = "better", "worse", "changed", "same"
_RANK = {MATCH: 0, INCOMPLETE: 1, DIVERGED: 2, INVALID: 3}
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """One thing that is otherwise.

    Attributes:
        direction: "better", "worse" or "changed" (neither).
        kind: one word for programs: "verdict", "rounding", "first divergence", "status", "difference",
            "tensor", "unmatched", "fault", "cause", "report".
        section: "" for the tensors, "gradients", "generation" or "search".
        name: the tensor, where it is about one.
        old, new: as they were and are, in words; "" where there was or is nothing.
        factor: how many times larger a difference is; None where it is not about one.
    """

    direction: str
    kind: str
    section: str = ""
    name: str = ""
    old: str = ""
    new: str = ""
    factor: float | None = None

    def to_json(self) -> dict[str, Any]:
        """An entry of `better`, `worse` or `changed`."""
        factor = self.factor if self.factor is not None and math.isfinite(self.factor) else None
        return {
            "kind": self.kind,
            "section": self.section or None,
            "name": self.name or None,
            "old": self.old or None,
            "new": self.new or None,
            "factor": factor,
        }


@dataclass(frozen=True)
class Changes:
    """Everything that two reports have otherwise.

    Attributes:
        changes: in the order in which a report tells things.
        unlike: what makes the reports two comparisons of different things, and what that means.
        notes: what else is otherwise and decides nothing: versions, the port's weights.
    """

    changes: tuple[Change, ...]
    unlike: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def of(self, direction: str) -> tuple[Change, ...]:
        """Those of one direction."""
        return tuple(change for change in self.changes if change.direction == direction)

    @property
    def status(self) -> str:
        """ "worse" if anything is, else "better" if anything is, else "same"."""
        return next((d for d in (WORSE, BETTER) if self.of(d)), SAME)

    def to_json(self) -> dict[str, Any]:
        """An entry of `reports` in the JSON of compare-reports."""
        return {
            "status": self.status,
            "unlike": [vars(problem) for problem in self.unlike],
            "notes": list(self.notes),
            **{d: [change.to_json() for change in self.of(d)] for d in (BETTER, WORSE, CHANGED)},
        }


def changes(old: Report, new: Report, *, factor: float = FACTOR, unlike: bool = False) -> Changes:
    """What got better and what got worse from one report to the next.

    Example:
        changes(json.loads(before), json.loads(after)).of("worse")

    Args:
        old, new: as compare-outputs writes them (`Comparison.to_json()`).
        factor: a difference that grew or shrank by more than this counts, if the larger one is above its
            noise floor. At least 1.
        unlike: compare even if the reports are of different checkpoints, inputs or tolerances.

    Raises:
        InputError: one is no report, or they are of different things and `unlike` is not set.
    """
    if not (factor >= 1 and math.isfinite(factor)):
        raise InputError(f"The factor must be a number of at least 1, not {factor}.")
    for which, report in (("old", old), ("new", new)):
        if not is_report(report):
            raise InputError(f"The {which} one is not a report of compare-outputs (schema_version 1).")
    different = unlike_things(old, new)
    if different and not unlike:
        raise InputError(
            "The two reports are of different things.",
            problems=different,
            remedy="Make both with the same original, inputs and tolerances; or use --unlike to compare them"
            " all the same.",
        )
    return Changes(tuple(_changes(old, new, factor)), tuple(different), tuple(notes_on(old, new)))


def is_report(content: object) -> bool:
    """Whether this is what compare-outputs writes."""
    return (
        isinstance(content, Mapping)
        and content.get("schema_version") == 1
        and content.get("status") in _RANK
        and isinstance(content.get("tensors"), list)
    )


def _changes(old: Report, new: Report, factor: float) -> Iterator[Change]:
    yield from _ranked("verdict", "", old["status"], new["status"])
    was, now = (str((report.get("noise") or {}).get("verdict") or "") for report in (old, new))
    if was and now and was != now:
        yield Change(WORSE if now == "beyond" else BETTER, "rounding", old=was, new=now)
    yield from _section("", old, new, factor, _difference)
    yield from _faults(old.get("faults") or (), new.get("faults") or ())
    before, after = old.get("backward"), new.get("backward")
    yield from _presence("gradients", before, after)
    if before and after:
        yield from _ranked("verdict", "gradients", before["status"], after["status"])
        yield from _section("gradients", before, after, factor, _relative(before, after))
    yield from _generation(old.get("generation"), new.get("generation"))
    yield from _search(old.get("search"), new.get("search"))


def _ranked(kind: str, section: str, old: str, new: str, name: str = "") -> Iterator[Change]:
    if old != new:
        direction = WORSE if _RANK.get(new, 3) > _RANK.get(old, 3) else BETTER
        yield Change(direction, kind, section, name, old, new)


def _presence(section: str, old: Any, new: Any) -> Iterator[Change]:
    """What one report has and the other has not: less that is shown is worse."""
    if old and not new:
        yield Change(WORSE, "report", section, old=old.get("status", "there"), new="not compared")
    elif new and not old:
        fine = new.get("status", MATCH) == MATCH
        yield Change(
            BETTER if fine else WORSE, "report", section, old="not compared", new=new.get("status", "")
        )


# Of a row and its counterpart: how large the difference is, and up to where it is rounding.
_Measure = Callable[[Report], tuple[float, float]]


def _difference(row: Report) -> tuple[float, float]:
    return _number(row.get("max_abs_diff")), float(row.get("noise_floor") or 0.0)


def _relative(old: Report, new: Report) -> _Measure:
    """Gradients are judged relative to their size, above the floor of their kind."""
    floors = {
        kind: max(float(side.get("floors", {}).get(kind) or 0.0) for side in (old, new))
        for kind in ("tap", "parameter")
    }

    def measure(row: Report) -> tuple[float, float]:
        size = float(row.get("size") or 0.0)
        return _number(row.get("max_rel_diff")), floors.get(
            str(row.get("kind")), 0.0
        ) / size if size else math.inf

    return measure


def _number(value: Any) -> float:
    """A difference; what JSON could not say was infinite or no number."""
    return math.inf if value is None else float(value)


def _section(section: str, old: Report, new: Report, factor: float, measure: _Measure) -> Iterator[Change]:
    """First divergence, what is on one side only, and every tensor."""
    before, after = ({row["name"]: row for row in side["tensors"]} for side in (old, new))
    yield from _first(section, old, new, [*after] if after else [*before])
    for side in ("reference", "port"):
        names = [set((report.get("unmatched") or {}).get(side, ())) for report in (old, new)]
        for name in sorted(names[1] - names[0]):
            yield Change(WORSE, "unmatched", section, name, "", f"only in the {_SIDES[side]}")
        for name in sorted(names[0] - names[1]):
            yield Change(BETTER, "unmatched", section, name, f"only in the {_SIDES[side]}", "")
    for name, row in after.items():
        if name in before:
            yield from _row(section, before[name], row, factor, measure)
        else:
            fine = row["status"] == MATCH
            yield Change(BETTER if fine else WORSE, "tensor", section, name, "", row["status"])
    for name, row in before.items():
        if name not in after:
            yield Change(WORSE, "tensor", section, name, row["status"], "not compared")


_SIDES = {"reference": "original", "port": "port"}


def _first(section: str, old: Report, new: Report, order: Sequence[str]) -> Iterator[Change]:
    names = [(report.get("first_divergence") or {}).get("name", "") for report in (old, new)]
    if names[0] == names[1]:
        return
    places = [order.index(name) if name in order else len(order) for name in names]
    direction = BETTER if places[1] > places[0] else WORSE
    yield Change(direction, "first divergence", section, old=names[0] or "none", new=names[1] or "none")


def _row(section: str, old: Report, new: Report, factor: float, measure: _Measure) -> Iterator[Change]:
    name = new["name"]
    (before, floor_before), (after, floor_after) = measure(old), measure(new)
    if old["status"] != new["status"]:
        for change in _ranked("status", section, old["status"], new["status"], name):
            was, now = (f"{row['status']} ({_short(n)})" for row, n in ((old, before), (new, after)))
            yield Change(change.direction, "status", section, name, was, now)
        return
    smaller, larger = sorted((before, after))
    if larger == smaller or larger <= max(floor_before, floor_after) or larger <= factor * smaller:
        return
    ratio = after / before if before and math.isfinite(after) and math.isfinite(before) else None
    direction = WORSE if after > before else BETTER
    yield Change(direction, "difference", section, name, _short(before), _short(after), ratio)


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def _faults(old: Sequence[Report], new: Sequence[Report]) -> Iterator[Change]:
    before, after = ({fault["name"]: fault for fault in faults} for faults in (old, new))
    for name, fault in after.items():
        if name not in before:
            yield Change(WORSE, "fault", name=name, new=_cause(fault))
        elif _cause(fault) != _cause(before[name]):
            yield Change(CHANGED, "cause", name=name, old=_cause(before[name]), new=_cause(fault))
    for name, fault in before.items():
        if name not in after:
            yield Change(BETTER, "fault", name=name, old=_cause(fault))


def _cause(fault: Report) -> str:
    cause = fault.get("cause")
    return str(cause["text"]) if cause else "unexplained"


def _generation(old: Report | None, new: Report | None) -> Iterator[Change]:
    yield from _presence("generation", old, new)
    if not (old and new):
        return
    yield from _ranked("verdict", "generation", old["status"], new["status"])
    flips = [sum(not flip["below_noise"] for flip in side.get("flips", ())) for side in (old, new)]
    if flips[0] != flips[1]:
        was, now = (f"{count} rows part" for count in flips)
        yield Change(WORSE if flips[1] > flips[0] else BETTER, "difference", "generation", "", was, now)


def _search(old: Report | None, new: Report | None) -> Iterator[Change]:
    # What a search finds depends on its time: one without it is not worse.
    if not (old and new):
        return
    found = [len(side.get("failing", ())) for side in (old, new)]
    if found[0] != found[1]:
        was, now = (f"{n} of {side['tried']} inputs fail" for n, side in zip(found, (old, new), strict=True))
        yield Change(WORSE if found[1] > found[0] else BETTER, "difference", "search", "", was, now)
