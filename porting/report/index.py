"""`index.html` of a directory of reports: read from the JSON files that lie there, whoever wrote them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from porting.compare import SCHEMA_VERSION
from porting.report.html import Listed, render_index, render_page

INDEX = "index.html"
_SUFFIXES = {"html": ".html", "markdown": ".md", "json": ".json"}


def index_of(directory: Path) -> str:
    """The page that lists every report in a directory. JSON that is no report of ours is passed over."""
    listed = []
    for path in sorted(directory.glob("*.json")):
        content = read_report(path)
        if content is not None:
            beside = {kind: path.with_suffix(suffix) for kind, suffix in _SUFFIXES.items()}
            listed.append(
                Listed(content, {kind: file.name for kind, file in beside.items() if file.is_file()})
            )
    return render_index(listed)


def read_report(path: Path) -> dict[str, Any] | None:
    """A report's JSON, with a verdict where it is of a release that wrote none; None if it is no report."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not _ours(content):
        return None
    summary = content.get("summary")
    if not isinstance(summary, dict) or not isinstance(summary.get("verdict"), str):
        content["summary"] = {"verdict": f"{content['status'].upper()}: {_counts(content)}."}
    return content


def _ours(content: Mapping[str, Any]) -> bool:
    rows = content.get("tensors")
    return (
        content.get("schema_version") == SCHEMA_VERSION
        and isinstance(content.get("status"), str)
        and isinstance(content.get("provenance"), dict)
        and isinstance(content.get("reports"), dict)
        and isinstance(content.get("atol"), float | int)
        and isinstance(rows, list)
        and all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows)
        and all(isinstance(row.get("max_abs_diff", ""), float | int | None) for row in rows)
    )


def _counts(content: Mapping[str, Any]) -> str:
    rows = content["tensors"]
    bad = sum(row.get("status") == "diverged" for row in rows)
    return f"{bad} of {len(rows)} tensors differ by more than {content['atol']:g}"


def redraw(directory: Path) -> list[Path]:
    """Draw every page of a directory again, from its JSON alone, and the index; say which were written.

    Reports of a release that drew no pages are left as they are.
    """
    drawn = {}
    for path in sorted(directory.glob("*.json")):
        content = read_report(path)
        if content is not None and "pictures" in content:
            drawn[path.with_suffix(".html")] = render_page(content)
    for path, page in drawn.items():
        replace_text(path, page)
    replace_text(directory / INDEX, index_of(directory))
    return [*drawn, directory / INDEX]


def replace_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    # Several comparisons may write into one directory at once, and all of them write its index.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
