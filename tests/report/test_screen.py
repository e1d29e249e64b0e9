"""What the terminal shows fits 80 columns, and says the same as without a margin."""

from __future__ import annotations

from pathlib import Path

import pytest

from porting.report import write_reports
from porting.report.terminal import screen_lines, summary_lines
from tests import pages
from tests.traces import T, TraceMaker

LONG = "decoder.block.11.layer.1.EncDecAttention.position_bias.shared"


@pytest.mark.parametrize("kind", ["match", "diverged"])
@pytest.mark.parametrize("width", [80, 60, 200])
def test_no_line_is_wider_than_the_terminal(
    traces: TraceMaker, tmp_path: Path, kind: str, width: int
) -> None:
    written = write_reports(getattr(pages, kind)(traces, names=(LONG,)), tmp_path, "x")
    lines = screen_lines(written, width)
    for line in lines:
        assert len(line) <= width or " " not in line.strip(), line
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(summary_lines(written)).split())


def test_a_long_line_breaks_at_the_end_of_a_clause(traces: TraceMaker) -> None:
    comparison = traces.compare([T(LONG, [[1.0, 2.0]])], [T(LONG, [[1.0, 3.0]])])
    assert screen_lines(comparison, 80)[1:] == [
        f"First divergence: {LONG}",
        f"  (original: tf/{LONG})",
        "  at [batch 0, length 1]: original 2, port 3, difference 1",
    ]


def test_without_a_terminal_there_are_80_columns(traces: TraceMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = pages.diverged(traces, names=(LONG,))
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, screen_lines(comparison))) <= 80
    monkeypatch.setenv("COLUMNS", "200")
    assert screen_lines(comparison) == screen_lines(comparison, 200)
