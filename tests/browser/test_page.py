"""The page of a comparison as people meet it: from disk, on a phone, in the dark, on paper, by keyboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from porting.report.html import render_page
from tests import pages
from tests.browser.conftest import Browser, WritePage
from tests.conftest import REPOSITORY
from tests.traces import TraceMaker

ROWS = "#tensors-table tbody tr"
NAMES = f"{ROWS} th > code"
# The contrast of an element's text against what lies behind it, as WCAG 2 defines it.
CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll(arguments[0])].map((e) => {
  const style = getComputedStyle(e);
  const svg = e instanceof SVGElement;
  const a = light(rgb(svg ? style.fill : style.color));
  const b = light(behind(svg ? e.closest("svg").parentElement : e));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
});
"""
TEXTS = (
    "h1", "h2", "h3", ".lead", ".note", ".sentence", ".stamp", ".figures dt", ".figures dd span", "nav a",
    ".facts dt", ".facts dd", ".badge", ".legend li", "svg .tick", "figcaption", ".sortable thead button",
    ".sortable tbody td", ".sortable small", ".controls label", ".count", ".beyond", "summary", "pre",
    ".provenance th", "mark",
)  # fmt: skip


@pytest.fixture
def content(traces: TraceMaker) -> dict[str, Any]:
    return pages.content(pages.diverged(traces))


@pytest.fixture
def page(content: dict[str, Any], write_page: WritePage) -> Path:
    return write_page(render_page(content))


@pytest.fixture(params=["match", "diverged", "demonstration"])
def each_page(request: pytest.FixtureRequest, traces: TraceMaker, write_page: WritePage) -> Path:
    if request.param == "demonstration":
        return REPOSITORY / "reports" / "demo-t5.html"
    comparison = getattr(pages, request.param)(traces)
    return write_page(render_page(pages.content(comparison)))


def test_it_opens_from_disk_without_a_complaint_and_without_the_network(
    chromium: Browser, each_page: Path
) -> None:
    chromium.open(each_page)
    assert chromium.complaints() == []
    assert [url for url in chromium.requests() if not url.startswith("data:")] == [each_page.as_uri()]
    assert chromium.texts("h1")
    assert chromium.ask("document.querySelectorAll('svg.picture').length") >= 4


def test_numbers_are_those_of_the_json(chromium: Browser, page: Path, content: dict[str, Any]) -> None:
    chromium.open(page)
    shown = [row.split("\t") for row in chromium.texts(ROWS)]
    assert chromium.texts(NAMES) == [row["name"] for row in content["tensors"]]
    for cells, row in zip(shown, content["tensors"], strict=True):
        figures = ("max_abs_diff", "mean_abs_diff", "max_rel_diff", "local_max_abs_diff")
        assert [float(cell) for cell in cells[2:6]] == pytest.approx([row[key] for key in figures], rel=5e-3)
    exact = f"[...document.querySelectorAll('{ROWS}')].map(row => Number(row.cells[2].dataset.key))"
    assert chromium.ask(exact) == [row["max_abs_diff"] for row in content["tensors"]]


def test_the_demonstration_says_what_its_json_says(chromium: Browser) -> None:
    reports = REPOSITORY / "reports"
    content = json.loads((reports / "demo-t5.json").read_text())
    chromium.open(reports / "demo-t5.html")
    assert chromium.texts(NAMES) == [row["name"] for row in content["tensors"]]
    assert f"{content['tolerance_needed']:.3g}" in chromium.texts(".figures b")
    said = content["summary"]["verdict"].replace(":", "", 1).lower()
    assert chromium.texts(".sentence")[0].lower() == said


def test_a_title_sorts_both_ways_and_back(chromium: Browser, page: Path, content: dict[str, Any]) -> None:
    chromium.open(page)
    given = [row["name"] for row in content["tensors"]]
    falling = [row["name"] for row in sorted(content["tensors"], key=lambda row: -row["max_abs_diff"])]
    button = chromium.find("#tensors-table th:nth-child(3) button")
    button.click()
    assert chromium.texts(NAMES) == falling != given
    assert chromium.ask("document.querySelector('#tensors-table th[aria-sort]').innerText") == "Max abs"
    button.click()
    rising = sorted(content["tensors"], key=lambda row: row["max_abs_diff"])
    assert chromium.texts(NAMES) == [row["name"] for row in rising]
    button.click()
    assert chromium.texts(NAMES) == given
    assert chromium.ask("document.querySelectorAll('#tensors-table th[aria-sort]').length") == 0


def test_every_column_sorts(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    columns = chromium.ask("document.querySelectorAll('#tensors-table thead th').length")
    for column in range(1, columns + 1):
        title = f"#tensors-table th:nth-child({column})"
        chromium.find(f"{title} button").click()
        direction = chromium.ask(f"document.querySelector('{title}').getAttribute('aria-sort')")
        numeric = chromium.ask(f"document.querySelector('{title}').dataset.order") == "numbers"
        keys = chromium.ask(
            f"[...document.querySelectorAll('{ROWS}')].map(row => row.cells[{column - 1}].dataset.key)"
        )
        keys = [float(key) if numeric else key for key in keys if key]
        assert keys == sorted(keys, reverse=direction == "descending"), column


def test_what_is_not_known_sorts_last_either_way(
    chromium: Browser, content: dict[str, Any], write_page: WritePage
) -> None:
    content["tensors"][2]["max_abs_diff"] = None
    chromium.open(write_page(render_page(content)))
    button = chromium.find("#tensors-table th:nth-child(3) button")
    for _ in range(2):
        button.click()
        assert chromium.texts(NAMES)[-1] == content["tensors"][2]["name"]


def test_names_and_status_filter_together(chromium: Browser, page: Path, content: dict[str, Any]) -> None:
    chromium.open(page)
    chromium.find(".filter-name").send_keys("DECODER.block")
    inside = [row["name"] for row in content["tensors"] if row["name"].startswith("decoder.block")]
    assert chromium.texts(NAMES) == inside
    assert chromium.texts(".count")[0] == f"{len(inside)} of {len(content['tensors'])} tensors"
    chromium.find(".filter-status").send_keys("match")
    matching = [
        row["name"] for row in content["tensors"] if row["name"] in inside and row["status"] == "match"
    ]
    assert chromium.texts(NAMES) == matching != inside
    chromium.find(".filter-name").clear()
    chromium.find(".filter-name").send_keys("tf/logits")  # the original's name counts as well
    chromium.find(".filter-status").send_keys("all")
    assert chromium.texts(NAMES) == ["logits"]


def test_the_keyboard_alone_is_enough(chromium: Browser, page: Path, content: dict[str, Any]) -> None:
    from selenium.webdriver import ActionChains, Keys

    chromium.open(page)
    keys = lambda *pressed: ActionChains(chromium.driver).send_keys(*pressed).perform()  # noqa: E731
    keys(Keys.TAB)
    assert chromium.ask("document.activeElement.className") == "skip"
    for _ in range(80):
        if chromium.ask("document.activeElement.className") == "filter-name":
            break
        keys(Keys.TAB)
    keys("logits", Keys.TAB)
    assert chromium.texts(NAMES) == ["logits"]
    assert chromium.ask("document.activeElement.className") == "filter-status"
    for _ in range(5):
        if chromium.ask("document.activeElement.innerText").strip() == "Max abs":
            break
        keys(Keys.TAB)
    keys(Keys.ENTER)
    assert chromium.ask("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
    keys(Keys.SPACE)
    assert chromium.ask("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    heat = chromium.find("svg.heat")
    chromium.ask("arguments[0].focus()", heat)
    keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    shown = content["pictures"]["maps"][0]
    assert float(chromium.texts(".readout")[0].rsplit(": ", 1)[1]) in [
        v for line in shown["values"] for v in line
    ]


def test_a_point_names_its_tensor_and_leads_to_its_row(chromium: Browser, page: Path) -> None:
    from selenium.webdriver import ActionChains

    chromium.open(page)
    point = chromium.find("#depth .point.own")
    chromium.ask("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    ActionChains(chromium.driver).move_to_element(point).perform()
    assert "encoder.block.1.layer.0.SelfAttention.weights" in chromium.texts(".tip")[0]
    ActionChains(chromium.driver).click(point).perform()
    row = chromium.ask("document.querySelector(':target').dataset.name")
    assert row.startswith("encoder.block.1.layer.0.SelfAttention.weights")


def test_without_a_script_points_still_have_titles(chromium: Browser, page: Path) -> None:
    chromium.open(page, script=False)
    titles = chromium.command("DOM.getDocument", depth=0)["root"]["nodeId"]
    found = chromium.command("DOM.querySelectorAll", nodeId=titles, selector="#depth .point title")
    assert len(found["nodeIds"]) == 15
    chromium.command("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("width", [390, 320, 768, 1200])
def test_nothing_makes_the_page_scroll_sideways(chromium: Browser, each_page: Path, width: int) -> None:
    chromium.open(each_page, width)
    assert chromium.ask("innerWidth") == width
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    right = "section => section.getBoundingClientRect().right"
    assert max(chromium.ask(f"[...document.querySelectorAll('main > section')].map({right})")) <= width


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_legible(chromium: Browser, page: Path, dark: bool) -> None:
    chromium.open(page, dark=dark)
    background = chromium.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == dark
    for selector in TEXTS:
        contrasts = chromium.driver.execute_script(CONTRAST, selector)
        assert contrasts, f"there is no {selector}"
        assert min(contrasts) >= 4.5, (selector, min(contrasts))


@pytest.mark.parametrize("dark", [False, True])
def test_paper_shows_everything_dark_on_white(
    chromium: Browser, page: Path, content: dict[str, Any], dark: bool
) -> None:
    chromium.open(page, 760, dark=dark, media="print")
    assert chromium.driver.execute_script(CONTRAST, "body") >= [12.0]
    for selector in (".lead", ".stamp", ".badge", "svg .tick", "figcaption", ".beyond"):
        assert min(chromium.driver.execute_script(CONTRAST, selector)) >= 4.5, selector
    assert chromium.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert json.loads(chromium.texts("pre.ids")[0]) == content["provenance"]["inputs"]["ids"]
    assert not chromium.texts("nav") and not chromium.texts(".controls")
    clipped = "[...document.querySelectorAll('.scroll, pre')].filter(e => e.scrollHeight > e.clientHeight + 1"
    hidden = "getComputedStyle(e).overflowY !== 'visible')"
    assert chromium.ask(f"{clipped} && {hidden}.map(e => e.className)") == []
    assert len(chromium.texts(ROWS)) == len(content["tensors"])
    right = "element => element.getBoundingClientRect().right"
    assert max(chromium.ask(f"[...document.querySelectorAll('table, svg.picture')].map({right})")) <= 761
    assert chromium.command("Page.printToPDF")["data"]


def test_printing_unfolds_what_is_folded_and_folds_it_again(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    folded = "document.querySelectorAll('details:not([open])').length"
    before = chromium.ask(folded)
    assert before
    chromium.ask("dispatchEvent(new Event('beforeprint'))")
    assert chromium.ask(folded) == 0
    chromium.ask("dispatchEvent(new Event('afterprint'))")
    assert chromium.ask(folded) == before


def test_hostile_names_stay_text(chromium: Browser, traces: TraceMaker, write_page: WritePage) -> None:
    content = pages.content(pages.diverged(traces, names=pages.HOSTILE))
    first = content["tensors"][1]
    content["first_divergence"] = {**first, "name": pages.HOSTILE[2], "note": pages.HOSTILE[1]}
    content["pictures"]["tensor"] = pages.HOSTILE[2]
    content["pictures"]["maps"][0]["columns"] = pages.HOSTILE[1]
    content["faults"][0]["cause"]["text"] = pages.HOSTILE[0]
    content["reasons"] = list(pages.HOSTILE)
    content["unmatched"]["port"] = list(pages.HOSTILE)
    content["provenance"]["command"] = f"compare-outputs {pages.HOSTILE[0]}"
    content["provenance"]["port"]["model"]["directory"] = pages.HOSTILE[2]
    content["provenance"][pages.HOSTILE[1]] = pages.HOSTILE[1]
    content["provenance"]["inputs"]["origin"] = pages.HOSTILE[1]
    content["search"]["failing"][0]["label"] = pages.HOSTILE[0]
    content["reports"] = {"html": "a.html", "json": 'x" onclick="document.title=1.json', "index": "<b>.html"}
    chromium.open(write_page(render_page(content)))
    assert chromium.complaints() == []
    assert len(chromium.requests()) <= 2
    assert chromium.ask("document.title") == f"{pages.HOSTILE[2]}: diverged"
    assert chromium.texts("h1") == [pages.HOSTILE[2]]
    assert [name for name in chromium.texts(NAMES) if name in pages.HOSTILE] == list(pages.HOSTILE)
    assert chromium.ask("document.querySelectorAll('script').length") == 1
    assert chromium.ask("document.querySelectorAll('img, #injected, [onclick], [onerror]').length") == 0
