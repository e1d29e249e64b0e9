"""The page that lists the reports of a directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from porting.report.html.markup import Html, breakable, join, number, plural, tag
from porting.report.html.page import model_name, sentence, status_class, worst_of
from porting.report.html.shell import document
from porting.report.html.tensors import Column, Row, sortable


@dataclass(frozen=True)
class Listed:
    """A report in the directory.

    Attributes:
        content: what its JSON holds.
        files: names of the files that lie there, by kind: html, markdown, json.
    """

    content: Mapping[str, Any]
    files: Mapping[str, str]


def render_index(reports: Sequence[Listed]) -> str:
    """Newest first."""
    rows = sorted((_row(report) for report in reports), key=lambda row: row["made"], reverse=True)
    columns = [
        Column("Model", lambda row: _model(row), lambda row: row["name"]),
        Column(
            "Status",
            lambda row: tag("span", row["status"], cls=f"badge {row['class']}"),
            lambda row: row["status"],
        ),
        Column("Verdict", lambda row: breakable(row["verdict"]), lambda row: row["verdict"]),
        Column("Made", lambda row: _date(row["made"]), lambda row: row["made"]),
        Column("Worst tensor", lambda row: _worst(row), lambda row: row["worst"]),
        Column("Difference", lambda row: row["shown"], lambda row: row["difference"], True),
    ]
    statuses = [row["status"] for row in rows]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return document(
        "Comparison reports",
        tag(
            "header",
            tag("p", "Ports against their originals", cls="kicker"),
            tag("h1", "Comparison reports"),
            tag("p", f"{plural(len(rows), 'report')}{': ' + counts if counts else ' yet'}.", cls="sentence"),
        ),
        tag("main", tag("section", _table(columns, rows) if rows else None, id="reports")),
    )


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> Html:
    return sortable("reports", "All reports", columns, rows, link="report", word="report")


def _row(report: Listed) -> Row:
    content = report.content
    worst = worst_of(content)
    difference = worst["max_abs_diff"] if worst else None
    return {
        "name": model_name(content),
        "status": content["status"],
        "class": status_class(content),
        "verdict": sentence(content),
        "made": str(content["provenance"].get("made") or ""),
        "worst": worst["name"] if worst else "",
        "difference": difference,
        "shown": number(difference) if worst else "\N{EN DASH}",
        "files": report.files,
    }


def _model(row: Row) -> Html:
    files = row["files"]
    first, *others = [kind for kind in ("html", "markdown", "json") if kind in files]
    more = [tag("a", kind, href=quote(files[kind])) for kind in others]
    return join(
        [
            tag("a", breakable(row["name"]), href=quote(files[first])),
            tag("small", join(more, between=" \N{MIDDLE DOT} ")),
        ]
    )


def _date(made: str) -> Html | None:
    return tag("time", made[:16].replace("T", "\N{NO-BREAK SPACE}"), datetime=made) if made else None


def _worst(row: Row) -> Html:
    return tag("code", breakable(row["worst"]))
