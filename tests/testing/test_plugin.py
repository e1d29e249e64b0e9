"""The plugin in projects of its own: pytest runs within pytest. The original is not run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunPython

pytest_plugins = ["pytester"]

# A comparison made by hand stands for what compare_outputs found.
COMPARED = """
    from pathlib import Path
    import numpy as np
    import pytest
    import porting.workbench
    from porting.compare import compare_traces
    from porting.inputs import Inputs
    from porting.testing import PortMismatchError, assert_port_matches
    from porting.trace import TraceWriter

    IDS = Inputs.from_arrays({"inputs": [[5, 6, 1]], "targets": [[7, 1]]})

    def trace(path, value):
        writer = TraceWriter(Path(path), IDS)
        writer.add("encoder.norm", np.float32([1.0, 2.0]), ("d_model",), original_name="encoder/rms_norm")
        writer.add("logits", np.float32([1.0, value]), ("vocab",))
        return writer.close({})

    @pytest.fixture
    def reference(tmp_path, monkeypatch):
        def compare(reference, model, inputs=None, atol=1e-3, **options):
            return compare_traces(reference, model, atol)
        monkeypatch.setattr(porting.workbench, "compare_outputs", compare)
        return trace(tmp_path / "reference", 3.0)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(
        test_port=COMPARED
        + """
    def test_right(reference, tmp_path):
        found = assert_port_matches(reference, trace(tmp_path / "port", 3.0))
        assert found.status == "match"

    def test_wrong(reference, tmp_path):
        assert_port_matches(reference, trace(tmp_path / "port", 3.5))

    def test_twice(reference, tmp_path):
        assert_port_matches(reference, trace(tmp_path / "port", 3.0))
        with pytest.raises(PortMismatchError) as error:
            assert_port_matches(reference, trace(tmp_path / "other", 4.0))
        assert error.value.comparison.first_divergence.name == "logits"
    """
    )
    return pytester


def test_a_failure_shows_the_reports_first_screen_and_the_tests_own_line(project: pytest.Pytester) -> None:
    result = project.runpytest()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            '*assert_port_matches(reference, trace(tmp_path / "port", 3.5))',
            "E *DIVERGED: 1 of 2 tensors differ by more than 0.001.",
            "E *First divergence: logits (original: logits)",
            "E *at [[]vocab 1[]]: original 3, port 3.5, difference 0.5",
        ]
    )
    result.stdout.no_fnmatch_line("*matching.py*")


def test_reports_are_written_for_every_assertion_where_they_are_asked_for(project: pytest.Pytester) -> None:
    result = project.runpytest("--porting-reports", "found")
    assert {path.name for path in (project.path / "found").glob("*.json")} == {
        f"test_port.py-{name}.json" for name in ("test_right", "test_twice", "test_twice-2", "test_wrong")
    }
    result.stdout.fnmatch_lines(["E *Report: *test_wrong.html"])


def test_no_report_is_written_unasked(project: pytest.Pytester) -> None:
    project.runpytest()
    assert not list(project.path.rglob("test_port*.md"))


def test_slow_cases_run_only_when_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.porting_slow
        def test_of_hours(): ...

        @pytest.mark.slow
        def test_that_the_project_calls_slow_itself(): ...
        """
    )
    pytester.makeini("[pytest]\nmarkers = slow: the project's own\naddopts = --strict-markers")
    result = pytester.runpytest("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*run it with --porting-slow*"])
    pytester.runpytest("--porting-slow").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "options", [(), ("-p", "no:cacheprovider"), ("-n", "2"), ("--strict-config",), ("-W", "error")], ids=str
)
def test_a_project_that_ports_nothing_is_left_alone(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_heavy_came_along():
            assert not {"torch", "tensorflow", "numpy", "porting.compare"} & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    assert not (pytester.path / ".pytest_cache" / "d" / "porting").exists()


def test_the_plugin_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): ...")
    pytester.runpytest_subprocess("-p", "no:porting").assert_outcomes(passed=1)


SHOWS_THE_CACHE = """
    def test_where(reference_trace):
        from pathlib import Path
        Path("where").write_text(str(reference_trace._cache.root))
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), ".pytest_cache/d/porting"), (("--porting-cache", "kept"), "kept")],
    ids=["default", "given"],
)
def test_what_is_kept_lies_in_pytests_cache_or_where_it_is_told(
    pytester: pytest.Pytester, options: tuple[str, ...], expected: str
) -> None:
    pytester.makepyfile(SHOWS_THE_CACHE)
    pytester.runpytest(*options).assert_outcomes(passed=1)
    assert Path((pytester.path / "where").read_text()) == pytester.path / expected


def test_without_pytests_cache_nothing_is_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SHOWS_THE_CACHE)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    assert not Path((pytester.path / "where").read_text()).exists()


def test_outside_of_pytest_the_assertion_works_too(run_python: RunPython) -> None:
    code = (
        "import sys; import porting.testing; assert 'torch' not in sys.modules;"
        " from porting.testing.session import current; assert current() is None;"
        " from porting.testing import assert_port_matches"
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
