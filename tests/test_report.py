from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from porting.compare import Comparison
from porting.errors import OutputError
from porting.findings import Cause, Fault, Findings, Remainder, TapFigures
from porting.report import write_reports
from porting.report.html import render_page
from porting.report.markdown import render_markdown
from porting.report.terminal import summary_lines
from tests.traces import T, TraceMaker

NAN = float("nan")


@pytest.fixture
def match(traces: TraceMaker) -> Comparison:
    tensors = [T("encoder", [[1.0, 2.0]]), T("loss", 1)]
    return traces.compare(tensors, tensors, provenance={"command": "compare-outputs a b", "empty": ""})


@pytest.fixture
def diverged(traces: TraceMaker) -> Comparison:
    reference = [T("encoder.a", [[1.0, 2.0]]), T("encoder.b", [[1.0, 2.0]]), T("c", 3), T("only", 1)]
    port = [T("encoder.a", [[1.0, 2.0]]), T("encoder.b", [[1.0, 2.5]]), T("c", 13)]
    return traces.compare(reference, port, provenance={"versions": {"torch": "2.13.0"}, "seed": 0})


@pytest.fixture
def incomplete(traces: TraceMaker) -> Comparison:
    return traces.compare([T("a", 1), *(T(f"missing.{i}", 1) for i in range(40))], [T("a", 1)])


@pytest.fixture
def invalid(traces: TraceMaker) -> Comparison:
    return traces.compare([T("a", NAN), T("b", 1)], [T("a", 1), T("b", NAN)])


@pytest.fixture(params=["match", "diverged", "incomplete", "invalid"])
def each(request: pytest.FixtureRequest) -> Comparison:
    comparison = request.getfixturevalue(request.param)
    assert comparison.status == request.param
    return comparison


def test_json_and_markdown_are_written_and_named(each: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "reports"
    written = write_reports(each, folder, "t5-small")
    assert written.reports == {
        "json": str(folder / "t5-small.json"),
        "markdown": str(folder / "t5-small.md"),
        "html": str(folder / "t5-small.html"),
        "index": str(folder / "index.html"),
    }
    assert json.loads((folder / "t5-small.json").read_text()) == json.loads(json.dumps(written.to_json()))
    assert (folder / "t5-small.md").read_text() == render_markdown(written, "t5-small")
    assert (folder / "t5-small.html").read_text() == render_page(written.to_json())
    names = ["index.html", "t5-small.html", "t5-small.json", "t5-small.md"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_json_is_strict(each: Comparison, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    write_reports(each, tmp_path, "x")
    json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)


def test_a_report_replaces_the_one_before(match: Comparison, diverged: Comparison, tmp_path: Path) -> None:
    write_reports(diverged, tmp_path, "x")
    write_reports(match, tmp_path, "x")
    assert json.loads((tmp_path / "x.json").read_text())["status"] == "match"
    assert "MATCH" in (tmp_path / "x.md").read_text()


def test_a_report_appears_whole_or_not_at_all(
    match: Comparison, diverged: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_reports(match, tmp_path, "x")
    before = (tmp_path / "x.json").read_text()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="disk full"):
        write_reports(diverged, tmp_path, "x")
    assert (tmp_path / "x.json").read_text() == before


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/b", "a-b"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "comparison"),
        (".", "comparison"),
        ("", "comparison"),
        ("a b\n c", "a-b-c"),
        (".hidden", "hidden"),
        ("größe", "größe"),
        ("v1.1", "v1.1"),
        ("nul\x00byte", "nul-byte"),
    ],
)
def test_names_that_are_no_file_names_are_made_into_some(
    match: Comparison, tmp_path: Path, name: str, stem: str
) -> None:
    folder = tmp_path / "reports"
    written = write_reports(match, folder, name)
    assert Path(written.reports["json"]) == folder / f"{stem}.json"
    files = [f"{stem}.json", f"{stem}.md", f"{stem}.html", "index.html"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)


def test_where_nothing_can_be_written_is_said(match: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_reports(match, tmp_path / "file" / "reports", "x")
    assert "--report-dir" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_said(match: Comparison, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write_reports(match, tmp_path, "x")
    finally:
        tmp_path.chmod(0o700)


def test_the_first_screen_is_short(each: Comparison, tmp_path: Path) -> None:
    lines = summary_lines(write_reports(each, tmp_path, "x"))
    assert 2 <= len(lines) <= 8
    assert not any("\n" in line for line in lines)
    assert lines[0].startswith(f"{each.status.upper()}: ")
    assert lines[-1] == f"Report: {tmp_path / 'x.html'}"


def test_the_first_screen_of_a_match(match: Comparison) -> None:
    assert summary_lines(match)[0] == "MATCH: all 2 tensors agree within 0.001."


def test_the_first_screen_of_a_divergence(diverged: Comparison) -> None:
    lines = summary_lines(diverged)
    assert lines[0] == "DIVERGED: 2 of 3 tensors differ by more than 0.001."
    assert lines[1:] == [
        "First divergence: encoder.b (original: tf/encoder.b)",
        "  at [batch 0, length 1]: original 2, port 2.5, difference 0.5",
        "Only in the original: only",
    ]


def test_long_lists_of_missing_tensors_are_cut_on_the_screen_only(incomplete: Comparison) -> None:
    lines = summary_lines(incomplete)
    assert lines[0] == "INCOMPLETE: 1 tensors agree, 40 are there on one side only."
    assert lines[-1].endswith("missing.5 and 34 more")
    assert "- `missing.39`" in render_markdown(incomplete, "x")


def test_the_first_screen_says_why_nothing_can_be_trusted(invalid: Comparison) -> None:
    assert "tf/a: 1 of 1 values of the original are NaN" in summary_lines(invalid)[0]


def test_a_divergence_of_shapes_is_explained(traces: TraceMaker) -> None:
    comparison = traces.compare([T("x", np.zeros((2, 3)))], [T("x", np.zeros((2, 4)))])
    assert "shape [2, 3] (batch length) against [2, 4]" in "\n".join(summary_lines(comparison))
    assert "- note: shape [2, 3] (batch length) against [2, 4]" in render_markdown(comparison, "x")


def test_the_page_has_the_verdict_every_row_and_what_it_rests_on(diverged: Comparison) -> None:
    page = render_markdown(diverged, "t5-small")
    assert page.startswith("# t5-small against the original\n")
    assert "**DIVERGED: 2 of 3 tensors differ by more than 0.001.**" in page
    assert "- largest at [batch 0, length 1]: original 2, port 2.5" in page
    assert "A tolerance of 10 would have passed; 0.001 was asked for." in page
    assert "## Only in the original\n\n- `only`" in page
    assert "| diverged | `encoder.b` | `tf/encoder.b` | batch length | 1x2 | 0.5 | 0.25 | 0.25 |" in page
    assert "| diverged | `c` | `tf/c` |  | scalar |" in page
    assert "- versions: torch: `2.13.0`" in page
    assert "- seed: `0`" in page


def test_facts_without_a_value_are_left_away(match: Comparison) -> None:
    page = render_markdown(match, "x")
    assert "- command: `compare-outputs a b`" in page
    assert "empty" not in page


def examined(comparison: Comparison, *faults: Fault, notes: tuple[str, ...] = ()) -> Comparison:
    figures = {row.name: TapFigures(0.25, 0.125, 1e-7, 1e-6, 7.5) for row in comparison.tensors}
    remainder = Remainder("c", 1e-6, 0.5) if faults else None
    return comparison.with_findings(Findings(figures, faults, 32.0, 2.0**-23, remainder, notes))


TRANSPOSED = Fault(
    "encoder.b", "tf/b", 0.5, 1e6, Cause("weight", "encoder.b.weight is transposed", "b.weight"), ("c",)
)
UNEXPLAINED = Fault("c", "tf/c", 0.5, 1e6, None, (), ("scale", "sum"))


def test_the_first_screen_names_the_cause_of_one_fault(diverged: Comparison) -> None:
    lines = summary_lines(examined(diverged, TRANSPOSED))
    assert lines[0] == "DIVERGED: 2 of 3 tensors differ by more than 0.001; 2 are wrong by themselves."
    assert lines[3] == "Cause: weight is transposed (verified)"
    assert len(lines) == 5


def test_the_first_screen_names_two_faults_and_counts_the_rest(diverged: Comparison) -> None:
    more = Fault("encoder.a", "tf/a", 0.5, 1e6)
    lines = summary_lines(examined(diverged, TRANSPOSED, UNEXPLAINED, more))
    assert lines[3:5] == [
        "Fault 1 of 3: encoder.b: weight is transposed (verified)",
        "Fault 2 of 3: c: unexplained (tried: scale, sum)",
    ]
    assert not any("Fault 3" in line for line in lines)


def test_a_match_that_rounding_does_not_explain_is_said_to_be_one(match: Comparison) -> None:
    lines = summary_lines(examined(match, Fault("encoder", "tf/encoder", 1e-5, 99.0)))
    assert lines[0] == "MATCH: all 2 tensors agree within 0.001, but rounding does not explain 1 of them."
    assert lines[1] == "Fault 1 of 1: encoder: unexplained (tried: nothing fits such a tensor)"


def test_both_verdicts_of_a_right_port(match: Comparison) -> None:
    lines = summary_lines(examined(match))
    assert lines[0] == "MATCH: all 2 tensors agree within 0.001, and rounding explains the rest."
    assert lines[1].endswith("times its noise floor") and len(lines) == 2


def test_a_divergence_that_rounding_explains_is_said_to_be_one(diverged: Comparison) -> None:
    lines = summary_lines(examined(diverged))
    assert lines[0].endswith("; 0 are wrong by themselves.")
    assert "No tensor is wrong by itself: rounding (unit 1.2e-07) explains every difference." in lines


def test_the_page_has_faults_figures_and_what_remains(diverged: Comparison) -> None:
    page = render_markdown(examined(diverged, TRANSPOSED, UNEXPLAINED, notes=("no float64",)), "x")
    assert "1. `encoder.b` (in the original `tf/b`)\n   - cause: weight is transposed (verified)" in page
    assert "2. `c` (in the original `tf/c`)\n   - no cause verified: unexplained (tried: scale, sum)" in page
    assert "   - for the same reason: `c`" in page
    assert "what remains is 1e-06, 0.5 times the noise floor, in `c`." in page
    assert "Note: no float64." in page
    assert "| diverged, own | `encoder.b` | `tf/encoder.b` | batch length | 1x2 | 0.5 | 0.25 | 0.25 |" in page
    assert " 0.25 | 0.125 | 1e-06 | 7.5 |" in page
    assert "allows 32." in page


def test_the_page_of_a_right_port_says_how_near_it_came(match: Comparison) -> None:
    page = render_markdown(examined(match), "x")
    assert "each stays within 32 times its noise floor (the most: 7.5, `encoder`)" in page
    assert "## What is wrong by itself" not in page
    header, rule = (line for line in page.splitlines() if line.startswith(("| | tensor", "|---")))
    assert header.count("|") == rule.count("|")
