from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from porting.report import write_reports
from porting.report.index import index_of
from tests import pages
from tests.conftest import REPOSITORY
from tests.traces import T, TraceMaker


def listed(page: str) -> list[str]:
    """Addresses of the pages that an index leads to."""
    return [unquote(found) for found in re.findall(r'<th scope="row"[^>]*><a href="([^"]*)"', page)]


def test_every_report_written_is_listed_the_newest_first(traces: TraceMaker, tmp_path: Path) -> None:
    write_reports(pages.match(traces), tmp_path, "first")
    write_reports(pages.diverged(traces), tmp_path, "second")
    newest = json.loads((tmp_path / "first.json").read_text())
    newest["provenance"]["made"] = "2027-01-01T00:00:00+00:00"
    (tmp_path / "first.json").write_text(json.dumps(newest))
    page = index_of(tmp_path)
    assert listed(page) == ["first.html", "second.html"]
    assert "2 reports: 1 match, 1 diverged." in page
    assert "2027-01-01\N{NO-BREAK SPACE}00:00" in page
    worst = max(newest["tensors"], key=lambda row: row["max_abs_diff"])
    assert f'data-key="{worst["name"]}"' in page and f'data-key="{worst["max_abs_diff"]}"' in page


def report(**changes: object) -> str:
    """The least that is a report, and what is wrong with it."""
    right = {
        "schema_version": 1,
        "status": "match",
        "tensors": [],
        "provenance": {},
        "reports": {},
        "atol": 1,
    }
    return json.dumps({**right, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "null",
        '"text"',
        "{}",
        report(tensors=[1]),
        report(tensors=[{"name": "a"}]),
        report(schema_version=2),
        report(status=3),
        report(atol="1"),
        "[" * 100_000,
    ],
)
def test_json_that_is_not_ours_is_passed_over(traces: TraceMaker, tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    write_reports(pages.match(traces), tmp_path, "ours")
    assert listed((tmp_path / "index.html").read_text()) == ["ours.html"]


def test_a_report_of_before_there_were_pages_leads_to_its_markdown(
    traces: TraceMaker, tmp_path: Path
) -> None:
    write_reports(pages.diverged(traces), tmp_path, "old")
    (tmp_path / "old.html").unlink()
    content = json.loads((tmp_path / "old.json").read_text())
    del content["summary"], content["pictures"], content["provenance"]["made"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    page = index_of(tmp_path)
    assert listed(page) == ["old.md"]
    assert "tensors differ by more than 0.001." in page


def test_hostile_reports_stay_text(traces: TraceMaker, tmp_path: Path) -> None:
    written = write_reports(pages.match(traces, names=pages.HOSTILE), tmp_path, 'a "b" <c>&#d')
    content = json.loads(Path(written.reports["json"]).read_text())
    content["status"] = pages.HOSTILE[1]
    content["provenance"]["port"]["model"]["directory"] = pages.HOSTILE[0]
    content["summary"]["verdict"] = pages.HOSTILE[2]
    (tmp_path / "x'#?.json").write_text(json.dumps(content))
    page = index_of(tmp_path)
    assert page.count("<script>") == 1 and "<img" not in page and "<h1 id" not in page
    assert "x'#?.json" in listed(page)


def test_an_empty_folder_has_an_index(tmp_path: Path) -> None:
    assert "0 reports yet." in index_of(tmp_path)


@pytest.mark.parametrize("name", ["index", "INDEX"])
def test_a_model_called_index_does_not_lose_its_page(traces: TraceMaker, tmp_path: Path, name: str) -> None:
    written = write_reports(traces.compare([T("a", 1)], [T("a", 1)]), tmp_path, name)
    assert written.reports["html"] == str(tmp_path / f"{name}-report.html")
    assert listed((tmp_path / "index.html").read_text()) == [f"{name}-report.html"]


def test_the_repositorys_own_index_is_up_to_date() -> None:
    reports = REPOSITORY / "reports"
    assert (reports / "index.html").read_text() == index_of(reports), "run: python -m porting.report reports"
    assert "demo-t5.html" in listed(index_of(reports))
