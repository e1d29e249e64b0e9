"""The only module that prints. Data goes to stdout; progress, hints and errors go to stderr.

Three formats: human (text), json (one object on stdout, an error too), quiet (errors only).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from porting.errors import PortingError

if TYPE_CHECKING:
    from porting.compare import TensorComparison
    from porting.live import LiveView

FORMATS = ("human", "json", "quiet")


class Output:
    """One sink for everything a command has to say."""

    def __init__(self, style: str) -> None:
        self.style = style

    def result(self, content: Mapping[str, Any], lines: Iterable[str]) -> None:
        """What the command found out: JSON or lines of text, on stdout."""
        if self.style == "json":
            sys.stdout.write(json.dumps(content) + "\n")
        elif self.style == "human":
            sys.stdout.writelines(line + "\n" for line in lines)
        sys.stdout.flush()

    def hint(self, text: str) -> None:
        """Something worth knowing, on stderr."""
        if self.style == "human":
            sys.stderr.write(text + "\n")

    def error(self, error: PortingError) -> None:
        """What went wrong and what to do, on stderr; in json also as an object on stdout."""
        sys.stderr.write(f"Error: {error}\n")
        if self.style == "json":
            content = {
                "schema_version": 1,
                "status": "error",
                "error": {
                    "kind": type(error).__name__,
                    "message": error.message,
                    "problems": [vars(problem) for problem in error.problems],
                    "remedy": error.remedy,
                },
            }
            sys.stdout.write(json.dumps(content) + "\n")

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """What is going on, on stderr, where that is a terminal and the format is human; else nothing."""
        if self.style != "human" or not sys.stderr.isatty():
            yield Progress(None)
            return
        from rich.console import Console
        from rich.live import Live

        from porting.live import LiveView

        view = LiveView()
        # What is written to stderr meanwhile, a warning, comes to stand above; stdout is left alone.
        with Live(
            view,
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=8,
            redirect_stdout=False,
            vertical_overflow="crop",
        ) as live:
            yield Progress(view, live.refresh)


class Progress:
    """Stages of a long run, and how far each is. Does nothing without a terminal."""

    def __init__(self, view: LiveView | None, refresh: Callable[[], None] = lambda: None) -> None:
        self._view, self._refresh = view, refresh

    def stage(self, description: str, total: int | None = None) -> None:
        """Begin a stage; the one before it is over."""
        if self._view is not None:
            self._view.stage(description, total)
            self._refresh()

    def advance(self, amount: int = 1) -> None:
        """So much more is done."""
        if self._view is not None:
            self._view.advance(amount)

    def tensor(self, name: str, total: int) -> None:
        """This tensor is reached, of so many in the stage."""
        if self._view is not None:
            self._view.tensor(name, total)

    def row(self, row: TensorComparison) -> None:
        """A tensor was compared."""
        if self._view is not None:
            self._view.compared(row.name, row.max_abs_diff)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a plain, aligned table."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    pad: Callable[[list[str]], str] = lambda row: "  ".join(  # noqa: E731
        cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    return [pad(row) for row in cells]


def file_size(nbytes: int) -> str:
    """`1.3 MB`: decimal units, as file managers show them."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
