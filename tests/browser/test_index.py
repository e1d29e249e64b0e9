"""The list of reports in a real browser."""

from __future__ import annotations

from pathlib import Path

from porting.report import write_reports
from tests import pages
from tests.browser.conftest import Browser
from tests.traces import TraceMaker


def test_reports_are_listed_sorted_filtered_and_opened(
    chromium: Browser, traces: TraceMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "reports & more"
    write_reports(pages.match(traces), folder, "a right one")
    written = write_reports(pages.diverged(traces), folder, "a wrong one?")
    index = Path(written.reports["index"])
    chromium.open(index, 390)
    assert chromium.complaints() == []
    assert [url for url in chromium.requests() if not url.startswith("data:")] == [index.as_uri()]
    assert chromium.ask("document.documentElement.scrollWidth") == 390
    assert sorted(chromium.texts("#reports-table .badge")) == ["diverged", "match"]
    chromium.find("#reports-table th:nth-child(6) button").click()
    assert chromium.texts("#reports-table .badge") == ["diverged", "match"]
    chromium.find(".filter-status").send_keys("diverged")
    assert chromium.texts("#reports-table .badge") == ["diverged"]
    assert chromium.texts(".count") == ["1 of 2 reports"]
    chromium.find("#reports-table tr:not([hidden]) th a").click()
    assert chromium.ask("document.title") == "toy: diverged"
    chromium.find(".bar a").click()
    assert chromium.ask("document.title") == "Comparison reports"
