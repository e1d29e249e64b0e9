"""The error of a function that is still to be written."""

from __future__ import annotations

import sys
from pathlib import Path

from porting.errors import PortingError

WRITTEN_IN = "To be written in "


class UnfinishedError(PortingError):
    """Raised in place of what is to be written; the message says what that is.

    Attributes:
        where: `path:line` of the `raise`, which is where to write it.
    """

    def __init__(self, message: str) -> None:
        frame = sys._getframe(1)
        self.where = f"{shown(Path(frame.f_code.co_filename))}:{frame.f_lineno}"
        super().__init__(message, remedy=f"{WRITTEN_IN}{self.where}")


def shown(path: Path) -> str:
    """A path as people read it: below the current directory without it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
