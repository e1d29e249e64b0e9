"""What became of reports, in lines of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from porting.report.changes import BETTER, CHANGED, SAME, WORSE, Change, Changes
from porting.report.reports_beside import ReportChanges

WIDTH = 80
_SHOWN = 12
_TITLES = {WORSE: "Worse", BETTER: "Better", CHANGED: "Otherwise"}


def change_lines(found: ReportChanges) -> list[str]:
    """The verdict, then every report with what got worse, what better, and what to know of it."""
    lines = [_verdict(found)]
    for name, changes in found.reports.items():
        if len(found.reports) > 1:
            lines += ["", f"{_fit(name, WIDTH - 12)}: {changes.status}"]
        lines += _report_lines(changes)
    for title, names in (("Gone", found.gone), ("New", found.added)):
        if names:
            lines += _wrapped(f"{title}: {', '.join(names)}", "", "  ")
    return lines


def _verdict(found: ReportChanges) -> str:
    worse, better = (sum(len(c.of(d)) for c in found.reports.values()) for d in (WORSE, BETTER))
    worse += len(found.gone)
    if found.status == SAME:
        return "SAME: nothing got better or worse."
    return f"{found.status.upper()}: {worse} {_things(worse)} got worse, {better} got better."


def _things(count: int) -> str:
    return "thing" if count == 1 else "things"


def _report_lines(changes: Changes) -> Iterator[str]:
    for problem in changes.unlike:
        text = f"UNLIKE {problem.key}: {problem.expected} -> {problem.found}: {problem.remedy}."
        yield from _wrapped(text, "", "  ")
    for direction in (WORSE, BETTER, CHANGED):
        of_it = changes.of(direction)
        if of_it:
            yield f"{_TITLES[direction]}:"
        for change in of_it[:_SHOWN]:
            yield from _change(change)
        if len(of_it) > _SHOWN:
            yield f"  and {len(of_it) - _SHOWN} more: see --format json"
    for note in changes.notes:
        yield from _wrapped(f"Note: {note}", "", "  ")


def _change(change: Change) -> Iterator[str]:
    what = f"{change.section}: {change.kind}" if change.section else change.kind
    times = ""
    if change.factor:
        ratio = max(change.factor, 1 / change.factor)
        times = f" ({ratio:.3g} times {'more' if change.factor > 1 else 'less'})"
    values = f"{change.old or 'none'} -> {change.new or 'none'}{times}"
    if not change.name:
        yield from _wrapped(f"{what}: {values}", "  ", "    ")
        return
    line = f"  {change.name}: {what}: {values}"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"  {_fit(change.name, WIDTH - 2)}"
    yield from _wrapped(f"{what}: {values}", "    ", "      ")


def _wrapped(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def _fit(name: str, width: int) -> str:
    """A name that is too long loses its middle: its ends say most."""
    if len(name) <= width:
        return name
    head = (width - 3) // 2
    return f"{name[:head]}...{name[len(name) - (width - 3 - head) :]}"
