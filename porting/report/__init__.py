"""A comparison -> what people and programs read: the terminal, JSON, Markdown."""

from __future__ import annotations

import json
import re
from pathlib import Path

from porting.compare import Comparison
from porting.errors import OutputError
from porting.report.markdown import render_markdown


def write_reports(comparison: Comparison, directory: Path, name: str) -> Comparison:
    """Write NAME.json and NAME.md, and return the comparison with their paths.

    Raises:
        OutputError: the directory cannot be written.
    """
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "comparison"
    paths = {"json": directory / f"{stem}.json", "markdown": directory / f"{stem}.md"}
    comparison = comparison.with_reports({kind: str(path) for kind, path in paths.items()})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(paths["json"], json.dumps(comparison.to_json(), indent=1) + "\n")
        _replace(paths["markdown"], render_markdown(comparison, name))
    except OSError as error:
        raise OutputError(
            f"The report cannot be written in {directory}: {error}", remedy="Choose another --report-dir."
        ) from error
    return comparison


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
