"""What every fuzz target has in common: bytes in, and nothing out but a PortingError, soon, from one folder.

A target is a function of bytes, so that Hypothesis (test_fuzz.py) and a coverage-guided fuzzer (run.py) drive
the same ones. It runs inside `guarded`, which turns what must not happen into a Finding.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from porting.errors import PortingError

SECONDS = 5
REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "demo" / "checkpoint"
MTF_TINY = REPOSITORY.parent / "shared" / "data" / "mtf_tiny_t5"


class Finding(AssertionError):  # noqa: N818
    """Something that no input may bring about."""


class TooSlowError(BaseException):
    """Not an Exception, so that nothing under test catches it."""


@dataclass(frozen=True)
class Target:
    """One entry of the program for bytes that others made.

    Attributes:
        name: for the command line and reports.
        run: reads them; see `guarded`.
        seeds: inputs from which others are mutated, sound ones among them.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


class Choices:
    """Decisions read off bytes, the same ones each time; when they are used up, each first choice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        if n > 256:
            return (self.below(256) * 256 + self.below(256)) % n
        value = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return value % n

    def of(self, values: Sequence[Any]) -> Any:
        """One of them."""
        return values[self.below(len(values))]

    def rest(self) -> bytes:
        """What was not used."""
        return self._data[self._at :]


# How many inputs were read, and how many refused.
OUTCOMES: Counter[str] = Counter()

_watched: list[Path] = []
_opened: list[str] = []
# Python itself: modules, and what it reads of the system.
_OWN = (sys.prefix, sys.base_prefix, "/proc/", "/sys/", "/dev/null", "/dev/urandom", *filter(None, sys.path))


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], str):
        _opened.append(arguments[0])


@cache
def _install_hook() -> None:
    sys.addaudithook(_hear)


@cache
def sandbox() -> Path:
    """A folder for files of this process, one level below a folder of files that must not be opened."""
    tempfile.gettempdir()  # tries folders out when it is asked first
    memory = "/dev/shm"
    folder = (
        Path(tempfile.mkdtemp(prefix="porting-fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
        / "inside"
    )
    folder.mkdir()
    return folder


@contextmanager
def guarded(seconds: int = SECONDS) -> Iterator[None]:
    """Swallow a PortingError whose text can be shown; anything else that goes wrong goes on.

    Raises:
        Finding: it took too long, a file outside of the sandbox was opened, or the error cannot be shown.
    """
    _install_hook()
    _opened.clear()
    _watched.append(sandbox())

    def stop(_signal: int, _frame: Any) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
        OUTCOMES["read"] += 1
    except PortingError as error:
        OUTCOMES["refused"] += 1
        check_shown(error)
    except TooSlowError as error:
        raise Finding(f"more than {seconds} s") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        _watched.pop()
    for path in _opened:
        if not Path(path).resolve().is_relative_to(sandbox()) and not path.startswith(_OWN):
            raise Finding(f"{path} was opened")


def check_shown(error: PortingError) -> None:
    """Raise Finding unless an error's text can be printed, and is not a book."""
    try:
        text = str(error).encode("utf-8")
    except UnicodeEncodeError as problem:
        raise Finding(f"the error cannot be printed: {problem}") from error
    if len(text) > 1 << 20:
        raise Finding(f"an error of {len(text)} bytes")
