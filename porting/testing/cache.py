"""Directories kept by the content that they were made from, each made once.

An entry is written beside its place and renamed into it, so that half of one is never found. Of several
processes that want the same entry one makes it, and the others wait.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from porting.errors import OutputError

if sys.platform != "win32":
    import fcntl

_MAKING = "making-"


class ContentCache:
    """A directory of entries. What an entry is made from is its key; entries of one key can differ.

    Example:
        cache = ContentCache(Path(".cache"))
        folder = cache.entry("traces", {"checkpoint": "4f1c..."}, make=lambda path: write_something(path))
    """

    def __init__(self, root: Path) -> None:
        """Nothing is written before the first entry."""
        self.root = root

    def entry(
        self,
        kind: str,
        key: Mapping[str, Any],
        make: Callable[[Path], None],
        valid: Callable[[Path], bool] = lambda _path: True,
    ) -> Path:
        """The directory of an entry, made if there is none.

        Args:
            kind: a name for entries of one sort.
            key: what the entry is made from, as JSON can say it.
            make: fills an empty directory. If it raises, nothing is kept.
            valid: whether a kept entry can be used now; one that cannot is left where it is, for it may be
                right in another environment.

        Raises:
            OutputError: the cache cannot be written.
        """
        home = self.root / kind / digest_of(key)[:32]
        found = _usable(home, valid)
        if found is not None:
            return found
        try:
            home.mkdir(parents=True, exist_ok=True)
            with _locked(home / "lock"):
                return _usable(home, valid) or _make(home, make)
        except OSError as error:
            raise OutputError(
                f"The cache {self.root} cannot be written: {error}",
                remedy="Name another directory with --porting-cache DIR.",
            ) from error


def digest_of(content: Any) -> str:
    """SHA-256 of anything that JSON can say."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _usable(home: Path, valid: Callable[[Path], bool]) -> Path | None:
    entries = sorted((path for path in home.glob("[0-9]*") if path.is_dir()), reverse=True)
    return next((path for path in entries if valid(path)), None)


def _make(home: Path, make: Callable[[Path], None]) -> Path:
    making = Path(tempfile.mkdtemp(prefix=_MAKING, dir=home))
    try:
        make(making)
        return _put(making, home)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _put(made: Path, home: Path) -> Path:
    """Rename to the next free number; without locks another process may have taken it meanwhile."""
    number = len(list(home.glob("[0-9]*")))
    while True:
        place = home / f"{number:04d}"
        if not place.exists():
            try:
                return made.rename(place)
            except OSError:
                if not place.exists():
                    raise
        number += 1


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file. The system lets go of it when the process ends, however it ends."""
    with path.open("w") as file:
        if sys.platform != "win32":  # there, two processes may make the same entry, and one is used
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
