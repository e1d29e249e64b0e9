"""Opening files so that whatever is wrong with them comes out as a CheckpointError that names them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from porting.errors import CheckpointError, Problem

_LFS_POINTER = b"version https://git-lfs"


@contextmanager
def named_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block (permissions, is a directory) into a CheckpointError on `path`."""
    try:
        yield
    # ValueError: a path with a null byte.
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        problem = Problem(str(path), "a file that can be read", reason)
        raise CheckpointError(f"{path} cannot be read: {reason}", problems=[problem]) from error


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a whole small file.

    Raises:
        CheckpointError: it is missing, unreadable, not a regular file, or longer than `max_bytes`.
    """
    with named_os_errors(path), open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        problem = Problem(str(path), f"at most {max_bytes} bytes", "a longer file")
        raise CheckpointError(f"{path} is too large to be what its name says", problems=[problem])
    return content


def lfs_remedy(content: bytes) -> str:
    """What to do if the file is only Git LFS's stand-in for the real one; empty if it is not."""
    if content.startswith(_LFS_POINTER):
        return "This is a Git LFS pointer, not the file itself: run `git lfs pull` where you cloned it."
    return ""


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it. Raises OSError if it is missing or no regular file."""
    # Opening a named pipe would wait for ever, so look before opening.
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(0, "it is a directory")
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is not a regular file")
    return path.open("rb")
