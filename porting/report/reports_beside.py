"""Reports read from files or directories, paired by name, and what became of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porting.errors import EXIT_DIVERGED, EXIT_OK, InputError, Problem
from porting.report.changes import BETTER, FACTOR, SAME, WORSE, Changes, changes, is_report

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ReportChanges:
    """Changes of every report that both sides have.

    Attributes:
        old, new: paths as given.
        reports: by the file's name.
        gone, added: names that one side alone has; a report that is gone is worse.
    """

    old: str
    new: str
    reports: Mapping[str, Changes]
    gone: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """ "worse" if anything is, else "better" if anything is, else "same"."""
        statuses = {found.status for found in self.reports.values()} | ({WORSE} if self.gone else set())
        return next((status for status in (WORSE, BETTER) if status in statuses), SAME)

    @property
    def exit_code(self) -> int:
        """Of the command: 1 if anything got worse."""
        return EXIT_DIVERGED if self.status == WORSE else EXIT_OK

    def to_json(self) -> dict[str, Any]:
        """As `compare-reports --format json` prints it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "old": self.old,
            "new": self.new,
            "reports": [{"name": name, **found.to_json()} for name, found in self.reports.items()],
            "gone": list(self.gone),
            "added": list(self.added),
        }


def compare_reports(
    old: str | Path, new: str | Path, *, factor: float = FACTOR, unlike: bool = False
) -> ReportChanges:
    """What became of a report, or of all reports of the same name in two directories.

    Args:
        old, new: two JSON files of compare-outputs, or two directories of them.
        factor, unlike: see `porting.report.changes.changes`.

    Raises:
        InputError: something cannot be read, is no report, or is of other things; lists all that is.
    """
    paths = Path(old), Path(new)
    if paths[0].is_dir() != paths[1].is_dir():
        raise InputError("Give two reports, or two directories of reports.")
    if not paths[0].is_dir():
        reports = {paths[1].name: changes(_read(paths[0]), _read(paths[1]), factor=factor, unlike=unlike)}
        return ReportChanges(str(old), str(new), reports)
    before, after = (dict(_reports_in(path)) for path in paths)
    if not before or not after:
        empty = paths[0] if not before else paths[1]
        raise InputError(f"There is no report of compare-outputs in {empty}.")
    both = [name for name in after if name in before]
    found, problems = {}, []
    for name in both:
        try:
            found[name] = changes(before[name], after[name], factor=factor, unlike=unlike)
        except InputError as error:
            # All of them at once, each with the report that it is about.
            problems += [
                Problem(f"{name}: {p.key}", p.expected, p.found, p.remedy) for p in error.problems
            ] or [Problem(name, "a report", error.message)]
            remedy = error.remedy
    if problems:
        raise InputError(
            "Reports of the same name are of different things.", problems=problems, remedy=remedy
        )
    return ReportChanges(
        str(old),
        str(new),
        found,
        tuple(name for name in before if name not in after),
        tuple(name for name in after if name not in before),
    )


def _reports_in(directory: Path) -> Iterator[tuple[str, Any]]:
    """Files that are reports; others lie there too, such as an index."""
    for path in sorted(directory.glob("*.json")):
        content = _read(path)
        if is_report(content):
            yield path.name, content


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
