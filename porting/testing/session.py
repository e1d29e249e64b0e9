"""What one test run has set up. Outside of pytest there is none, and nothing is kept or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from porting.testing.cache import ContentCache

if TYPE_CHECKING:
    from porting.testing.reference import ReferenceTraces


@dataclass
class Session:
    """One run of pytest.

    Attributes:
        cache_directory: where what is kept lies; asked for when something is.
        reports: where assertions write their reports; None writes none.
        test: the id of the test that runs.
    """

    cache_directory: Callable[[], Path]
    reports: Path | None = None
    test: str = ""
    _reported: Counter[str] = field(default_factory=Counter)

    @cached_property
    def cache(self) -> ContentCache:
        """What is kept between runs."""
        return ContentCache(self.cache_directory())

    @cached_property
    def reference_trace(self) -> ReferenceTraces:
        """Traces of originals."""
        from porting.testing.reference import ReferenceTraces

        return ReferenceTraces(self.cache)

    def report_name(self) -> str:
        """A name for the next report: the test's, numbered from its second on."""
        name = self.test or "assertion"
        self._reported[name] += 1
        number = self._reported[name]
        return name if number == 1 else f"{name}-{number}"


# A stack: pytest's own tests run pytest within pytest.
_sessions: list[Session] = []


def begin(session: Session) -> None:
    """This session is the current one until it ends."""
    _sessions.append(session)


def end(session: Session) -> None:
    """Back to the one before."""
    _sessions.remove(session)


def current() -> Session | None:
    """The session that runs, if there is one."""
    return _sessions[-1] if _sessions else None
