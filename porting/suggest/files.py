"""Writing the file, whole or not at all, and never over another by accident."""

from __future__ import annotations

from pathlib import Path

from porting.errors import OutputError


def check_writable(path: Path, *, force: bool) -> None:
    """Raise OutputError, before any work is done, if the file is there already or cannot be written."""
    if path.is_dir():
        raise OutputError(f"{path} is a directory.", remedy="Name a file, such as rules.py.")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no directory {path.parent}.")
    if path.exists() and not force:
        raise OutputError(
            f"{path} is there already, and may have been edited.",
            remedy="Name another file, or use --force to replace it.",
        )


def write_text(path: Path, text: str, *, force: bool) -> None:
    """Write a file in one step.

    Raises:
        OutputError: it is there already (without `force`), or cannot be written.
    """
    check_writable(path, force=force)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}") from error
