"""A comparison -> what people and programs read: the terminal, JSON, Markdown, a page to look at."""

from __future__ import annotations

import json
import re
from pathlib import Path

from porting.compare import Comparison
from porting.errors import OutputError
from porting.report.html import render_page
from porting.report.index import INDEX, index_of, replace_text
from porting.report.markdown import render_markdown


def write_reports(comparison: Comparison, directory: Path, name: str) -> Comparison:
    """Write NAME.json, NAME.md, NAME.html and index.html; return the comparison with their paths.

    Raises:
        OutputError: the directory cannot be written.
    """
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "comparison"
    if f"{stem}.html".lower() == INDEX:
        stem = f"{stem}-report"
    suffixes = {"json": ".json", "markdown": ".md", "html": ".html"}
    paths = {kind: directory / f"{stem}{suffix}" for kind, suffix in suffixes.items()}
    paths["index"] = directory / INDEX
    comparison = comparison.with_reports({kind: str(path) for kind, path in paths.items()})
    content = comparison.to_json()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace_text(paths["json"], json.dumps(content, indent=1) + "\n")
        replace_text(paths["markdown"], render_markdown(comparison, name))
        replace_text(paths["html"], render_page(content))
        replace_text(paths["index"], index_of(directory))
    except OSError as error:
        raise OutputError(
            f"The report cannot be written in {directory}: {error}", remedy="Choose another --report-dir."
        ) from error
    return comparison
