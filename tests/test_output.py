from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from porting.errors import CheckpointError, Problem
from porting.live import LiveView
from porting.output import FORMATS, Output, Progress, file_size, table

ERROR = CheckpointError(
    "The checkpoint is damaged.",
    problems=[Problem("a/kernel", "a shape", "none", "look again"), Problem("b", "x", "y")],
    remedy="Copy it again.",
)


@dataclass
class Said:
    """A sink and what it has written so far."""

    style: str
    sink: Output
    capture: pytest.CaptureFixture[str]

    @property
    def streams(self) -> tuple[str, str]:
        """stdout and stderr."""
        captured = self.capture.readouterr()
        return captured.out, captured.err


@pytest.fixture(params=FORMATS)
def said(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(request.param, Output(request.param), capsys)


def test_results_go_to_stdout_and_nowhere_else(said: Said) -> None:
    said.sink.result({"status": "match", "n": None}, ["MATCH", "two"])
    expected = {"human": "MATCH\ntwo\n", "json": '{"status": "match", "n": null}\n', "quiet": ""}
    assert said.streams == (expected[said.style], "")


def test_json_is_one_object_on_one_line(said: Said) -> None:
    said.sink.result({"lines": ["a\nb"], "größe": 1}, [])
    out, _ = said.streams
    if said.style == "json":
        assert out.count("\n") == 1
        assert json.loads(out) == {"lines": ["a\nb"], "größe": 1}
    else:
        assert out == ""


def test_hints_are_for_people(said: Said) -> None:
    said.sink.hint("by the way")
    assert said.streams == ("", "by the way\n" if said.style == "human" else "")


def test_errors_go_to_stderr_and_in_json_to_stdout_too(said: Said) -> None:
    said.sink.error(ERROR)
    out, err = said.streams
    assert err == (
        "Error: The checkpoint is damaged.\n"
        "  - a/kernel: expected a shape, found none; look again\n"
        "  - b: expected x, found y\n"
        "Copy it again.\n"
    )
    if said.style != "json":
        assert out == ""
        return
    assert json.loads(out) == {
        "schema_version": 1,
        "status": "error",
        "error": {
            "kind": "CheckpointError",
            "message": "The checkpoint is damaged.",
            "problems": [
                {"key": "a/kernel", "expected": "a shape", "found": "none", "remedy": "look again"},
                {"key": "b", "expected": "x", "found": "y", "remedy": ""},
            ],
            "remedy": "Copy it again.",
        },
    }


def test_progress_without_a_terminal_says_nothing(said: Said) -> None:
    with said.sink.progress() as progress:
        progress.stage("converting", 10)
        progress.advance(3)
        progress.stage("comparing")
        progress.advance()
    assert said.streams == ("", "")


def test_progress_on_a_terminal_stays_off_stdout(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with said.sink.progress() as progress:
        progress.stage("converting", 10)
        progress.advance(3)
        progress.stage("comparing")
    out, err = said.streams
    assert out == ""
    if said.style != "human":
        assert err == ""


def test_progress_hands_on_what_happens() -> None:
    view = LiveView()
    progress = Progress(view)
    progress.advance(1)
    progress.stage("converting", 10)
    progress.advance(4)
    assert view.lines(40) == ["converting   40%  0:00"]
    progress.stage("comparing")
    progress.tensor("logits", 2)
    assert view.lines(40) == ["comparing   50%  0:00", "1 of 2: logits"]


def test_tables_are_aligned_without_trailing_blanks() -> None:
    assert table(("name", "n"), [("a", "100"), ("longer", "2")]) == ["name    n", "a       100", "longer  2"]
    assert table(("name", "n"), []) == ["name  n"]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_340_000, "1.3 MB"),
        (5 * 10**9, "5.0 GB"),
        (2 * 10**12, "2.0 TB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes_in_decimal_units(nbytes: int, text: str) -> None:
    assert file_size(nbytes) == text
