"""What pytest calls: options, the marker, fixtures. Cheap to load, and idle where no model is ported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from porting.testing import session as sessions
from porting.testing.session import Session

if TYPE_CHECKING:
    from porting.scaffold.steps import PortSteps
    from porting.testing.reference import ReferenceTraces

MARKER = "porting_slow"
_SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("porting", "comparing ports with their originals")
    group.addoption(
        "--porting-cache",
        metavar="DIR",
        help="Where traces of the original are kept (default: in pytest's own cache).",
    )
    group.addoption(
        "--porting-reports", metavar="DIR", help="Write a report of every comparison that is asserted."
    )
    group.addoption("--porting-slow", action="store_true", help=f"Run tests marked {MARKER}, too.")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and begin a session."""
    config.addinivalue_line(
        "markers", f"{MARKER}: runs an original for long; only with --porting-slow (from porting)"
    )
    # Absolute, so that processes started from here (pytest-xdist's) mean the same place wherever they run.
    for name in ("porting_cache", "porting_reports"):
        given = config.getoption(name)
        if given:
            setattr(config.option, name, str(config.invocation_params.dir / given))
    reports = config.getoption("porting_reports")
    session = Session(lambda: _cache_directory(config), Path(reports) if reports else None)
    config.stash[_SESSION] = session
    sessions.begin(session)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the session."""
    session = config.stash.get(_SESSION, None)
    if session is not None:
        sessions.end(session)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is slow, unless it was asked for."""
    if config.getoption("porting_slow"):
        return
    for item in items:
        if item.get_closest_marker(MARKER):
            item.add_marker(pytest.mark.skip(reason="runs an original for long; run it with --porting-slow"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Reports are named after the test."""
    item.config.stash[_SESSION].test = item.nodeid


def _cache_directory(config: pytest.Config) -> Path:
    given = config.getoption("porting_cache")
    if given:
        return Path(given)
    if hasattr(config, "cache") and config.cache is not None:
        return config.cache.mkdir("porting")
    import tempfile  # -p no:cacheprovider: nothing is kept, and the session still runs originals once

    kept = tempfile.TemporaryDirectory(prefix="porting-cache-")
    config.add_cleanup(kept.cleanup)
    return Path(kept.name)


class StepChecker:
    """The steps of one port, for its tests: the next step fails, those behind it are skipped."""

    def __init__(self, steps: PortSteps) -> None:
        self._steps = steps

    def check(self, name: str) -> None:
        """Fail if the step is the next to do, with what to do; skip if it waits or does not apply.

        Skip, too, where what `port.toml` lists as the original's is not installed.
        """
        __tracebackhide__ = True
        from porting.errors import PortingError

        missing: list[str] = []
        try:
            missing = self._steps.settings.missing()
            result = None if missing else self._steps.result(name)
        except PortingError as error:  # the port is not installed, or port.toml cannot be read
            pytest.fail(str(error), pytrace=False)
        if result is None:
            pytest.skip(f"not installed: {', '.join(missing)}")
        if result.status == "next":
            pytest.fail(result.message, pytrace=False)
        if result.status != "done":
            pytest.skip(f"{name}: {result.message}")


@pytest.fixture(scope="session")
def port_steps(request: pytest.FixtureRequest) -> Callable[[str], StepChecker]:
    """`port_steps("NAME").check("config")`: the steps of a port that `new-port` began."""
    checkers: dict[str, StepChecker] = {}

    def checker(name: str) -> StepChecker:
        from porting.scaffold.steps import PortSteps

        if name not in checkers:
            checkers[name] = StepChecker(PortSteps(name, request.config.stash[_SESSION].cache))
        return checkers[name]

    return checker


@pytest.fixture(scope="session")
def reference_trace(request: pytest.FixtureRequest) -> ReferenceTraces:
    """`reference_trace(checkpoint, inputs=None, **options)`: the original's trace, run once and kept.

    Options are those of `porting.run_reference`: config, seed, generate, max_new_tokens, num_beams, backward.
    """
    return request.config.stash[_SESSION].reference_trace
