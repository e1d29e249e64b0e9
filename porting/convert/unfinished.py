"""The directory beside the output in which a conversion is written, until it is whole and takes its name.

At any moment there is, of OUTPUT, nothing or all of it; what is being made lies in `OUTPUT.unfinished`,
which a file `UNFINISHED` explains. A failure removes it. A kill leaves it, and the next run goes on from
there.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from porting.errors import OutputError

SUFFIX = ".unfinished"
MARKER = "UNFINISHED"
_REPLACED = ".replaced"
# renameat2(2): exchange two names at once; AT_FDCWD says that paths are as usual.
_EXCHANGE, _AT_FDCWD = 2, -100
# Beside the tensors there are some small files, and a filesystem's own.
_SPARE_BYTES = 16 << 20


@dataclass(frozen=True)
class Unfinished:
    """A directory to fill.

    Attributes:
        path: where it is.
        found: whether a conversion that was killed had left something in it.
    """

    path: Path
    found: bool

    def keep_only(self, names: Sequence[str]) -> None:
        """Remove what lies in it but these files, which may lie in directories of it."""
        kept = {self.path / name for name in (*names, MARKER)}
        above = {parent for path in kept for parent in path.parents}
        _keep_only(self.path, kept, above)


def check_free(output: Path, *, force: bool, nbytes: int = 0) -> None:
    """Raise OutputError unless `output` can become a directory of `nbytes` bytes."""
    try:
        if output.is_dir():
            if any(output.iterdir()) and not force:
                raise OutputError(
                    f"The output directory {output} is not empty.",
                    remedy="Choose another, or replace the model in it with --force (other files are kept).",
                )
            if output.is_mount():
                raise OutputError(
                    f"The output {output} is where a disk is mounted, which cannot be renamed.",
                    remedy=f"Choose a directory in it, such as {output / 'model'}.",
                )
        elif output.exists() or output.is_symlink():
            raise OutputError(f"The output {output} is a file; a directory is needed.")
        parent = next(p for p in output.absolute().parents if p.exists())
        if not parent.is_dir():
            raise OutputError(f"The output {output} cannot be written: {parent} is no directory.")
        if not os.access(parent, os.W_OK):
            raise OutputError(f"The output {output} cannot be written: no permission in {parent}.")
        free = shutil.disk_usage(parent).free + _disk_usage(unfinished_path(output))
    except (OSError, ValueError) as error:
        raise OutputError(f"The output {output} cannot be written: {error}") from error
    if nbytes and free < nbytes + _SPARE_BYTES:
        raise OutputError(
            f"The output {output} needs {nbytes:,} bytes, and {free:,} are free there.",
            remedy="Make room, or choose an output directory on another disk.",
        )


def unfinished_path(output: Path) -> Path:
    """Where the conversion to `output` is written."""
    output = Path(os.path.realpath(output))  # beside the directory itself, not beside a link to it
    return output.parent / f"{output.name}{SUFFIX}"


@contextmanager
def unfinished_directory(output: Path, *, replaced: Sequence[str], about: str) -> Iterator[Unfinished]:
    """A directory to fill that becomes `output` when the block ends, and vanishes if it fails.

    Args:
        output: what it will be called.
        replaced: patterns of file names that go when there is an output already; other files of it are kept.
        about: one line for the marker: what is being made.

    Raises:
        OutputError: it cannot be written, or another process is writing it.
    """
    output = Path(os.path.realpath(output))
    made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]
    path = unfinished_path(output)
    marker: IO[str] | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        found = _take(path, output)
        marker = _lock(path, output)
        marker.truncate(0)
        marker.write(
            f"This is an unfinished conversion of {about}\nRun the same command again to go on with it, or "
            "delete this directory.\n"
        )
        marker.flush()
        yield Unfinished(path, found)
        _finish(path, output, replaced)
    except OSError as error:
        _clean(path, marker, made)
        raise OutputError(f"The output {output} cannot be written: {_reason(error)}") from error
    except BaseException:
        _clean(path, marker, made)
        raise
    finally:
        if marker is not None:
            marker.close()


def _take(path: Path, output: Path) -> bool:
    """Make the directory; whether it was there, left by a conversion that was killed."""
    if not path.exists() and not path.is_symlink():
        path.mkdir()
        return False
    if path.is_symlink() or not path.is_dir():
        raise OutputError(
            f"{path} is in the way: {output} is written there until it is whole.",
            remedy="Move it away, or choose another output directory.",
        )
    # The marker is the first file to come, and goes when all the others are there, the manifest among them.
    ours = any((path / name).exists() for name in (MARKER, _REPLACED, "porting.json"))
    if not ours and any(path.iterdir()):
        raise OutputError(
            f"{path} is in the way: {output} is written there until it is whole, and this was made by "
            "something else.",
            remedy="Move it away, or choose another output directory.",
        )
    return True


def _lock(path: Path, output: Path) -> IO[str]:
    """The marker, locked for as long as it stays open."""
    marker = (path / MARKER).open("a", encoding="utf-8")
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return marker  # a filesystem without locks
        marker.close()
        raise OutputError(
            f"Another conversion is writing {output} at this moment.",
            remedy="Wait until it ends, or choose another output directory.",
        ) from error
    return marker


def _finish(path: Path, output: Path, replaced: Sequence[str]) -> None:
    """Everything on disk, then the name: `path` becomes `output`."""
    if output.is_dir():
        _keep_others(output, path, replaced)
    (path / MARKER).unlink()
    for directory, _, names in os.walk(path):
        for name in names:
            _sync(Path(directory) / name)
        _sync(Path(directory))
    if output.is_dir():
        # What is replaced goes by our name for a moment, and must be known as ours after a kill.
        (output / _REPLACED).touch()
        _exchange(path, output)
        (path / MARKER).write_text(f"This is what was replaced in {output.name}; delete it.\n")
        for old in path.iterdir():
            if old.name != MARKER:
                _remove(old)
        shutil.rmtree(path)
    else:
        path.rename(output)
    _sync(output.parent)


def _keep_others(output: Path, path: Path, replaced: Sequence[str]) -> None:
    """Give the new directory those files of the old one that do not belong to a model."""
    for old in output.iterdir():
        new = path / old.name
        if new.exists() or any(old.match(pattern) for pattern in (*replaced, _REPLACED)):
            continue
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, new, symlinks=True, copy_function=_link)
        else:
            _link(old, new)


def _link(old: str | Path, new: str | Path) -> None:
    """The same file under another name, or, where the filesystem has no such thing, a copy."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:
        shutil.copy2(old, new, follow_symlinks=False)


def _exchange(path: Path, output: Path) -> None:
    """Exchange the two directories' names, in one step where the system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = (os.fsencode(path), os.fsencode(output))
    if hasattr(libc, "renameat2") and not libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE):
        return
    aside = output.parent / f"{output.name}.replaced"
    output.rename(aside)
    path.rename(output)
    aside.rename(path)


def _clean(path: Path, marker: IO[str] | None, made: Sequence[Path]) -> None:
    if marker is not None:
        shutil.rmtree(path, ignore_errors=True)
    for folder in made:  # innermost first
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _keep_only(directory: Path, kept: Set[Path], above: Set[Path]) -> None:
    for path in directory.iterdir():
        if path in above and path.is_dir() and not path.is_symlink():
            _keep_only(path, kept, above)
        elif path not in kept:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _disk_usage(path: Path) -> int:
    if not path.is_dir():
        return 0
    return sum(p.lstat().st_blocks * 512 for p in path.rglob("*"))


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # not every filesystem syncs directories
            raise
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space is left on the disk. What was written has been removed."
    return str(error)
