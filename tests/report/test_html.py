"""The page as text: what it says, what it leaves out, and that nobody's name becomes markup."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from porting.compare import Comparison
from porting.report import write_reports
from porting.report.html import render_page
from porting.report.html.heat import Colours
from porting.report.html.markup import code, join, tag, trusted
from porting.report.html.stacks import OTHERS, stacks
from porting.report.html.svg import LogScale
from tests import pages
from tests.conftest import REPOSITORY
from tests.traces import T, TraceMaker


@pytest.fixture
def content(traces: TraceMaker) -> dict[str, Any]:
    return pages.content(pages.diverged(traces))


class Reader(HTMLParser):
    """Counts tags, keeps ids and addresses, and sees whether what is opened is closed."""

    VOID = frozenset({"meta", "link", "input", "br", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.targets += [found[name] or "" for name in ("href", "src") if name in found]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(page: str) -> str:
    """What there is to read, however it is laid out."""
    page = re.sub(r"<script>.*</script>|<style>.*?</style>", " ", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page.replace("<wbr>", ""))).split())


def test_whatever_is_not_markup_is_escaped() -> None:
    assert tag("p", "a < b", title='"x"') == '<p title="&quot;x&quot;">a &lt; b</p>'
    assert tag("p", trusted("<b>"), None, ["&", 1], hidden=True, id=None) == "<p hidden><b>&amp;1</p>"
    assert join(["<", tag("i")], between=", ") == "&lt;, <i></i>"
    assert code("a.b/c_<") == "<code>a.<wbr>b/<wbr>c_<wbr>&lt;</code>"


@pytest.mark.parametrize("kind", ["match", "diverged"])
def test_a_page_is_well_formed_and_asks_for_nothing(traces: TraceMaker, kind: str) -> None:
    page = render_page(pages.content(getattr(pages, kind)(traces, names=pages.HOSTILE)))
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {target[1:] for target in reader.targets if target.startswith("#")} <= set(reader.ids)
    assert not [target for target in reader.targets if "//" in target or target.startswith("javascript")]
    assert "@import" not in page and "url(" not in page


def test_the_sections_stand_in_their_order(content: dict[str, Any]) -> None:
    sections = re.findall(r'<section id="([a-z]+)"', render_page(content))
    expected = "divergence depth local heat cause tensors gradients generation search again"
    assert sections == expected.split()


def test_what_was_not_asked_for_is_not_there(traces: TraceMaker) -> None:
    reference = [T("a", [[1.0, 2.0]]), T("only", 1)]
    page = render_page(pages.content(traces.compare(reference, [T("a", [[1.0, 2.0]])])))
    assert {"missing", "depth", "tensors", "again"} <= set(Reader(page).ids)
    assert not {"local", "cause", "gradients", "generation", "search"} & set(Reader(page).ids)
    assert "Only in the original only" in text_of(page)


def test_it_says_what_diverged_why_and_what_was_asked_for(content: dict[str, Any]) -> None:
    said = text_of(render_page(content))
    first, largest = content["first_divergence"], content["pictures"]["largest"]
    for expected in (
        content["summary"]["verdict"].split(": ", 1)[1][1:],
        f"Largest at batch {first['index'][0]}, heads {first['index'][1]}",
        f"{first['reference']:.9g}",
        f"{first['port']:.9g}",
        "along memory_length 0 1 2",
        f"{largest['along'][0]['reference'][0]:.6g}",
        "verified encoder.block.0.q.weight is transposed",
        "no cause could be verified",
        "Tried scale, sum",
        "bucket",
        "First, from the loss",
        "3 5 1",
        "bucket edges",
        "no tokens",
        "reports/toy_reproduce_test.py",
        "compare-outputs checkpoint model",
        "2.21.0",
        "ab" * 32,
    ):
        assert expected in said, expected


def test_a_page_is_drawn_again_from_its_json_alone(traces: TraceMaker, tmp_path: Path) -> None:
    written = write_reports(pages.diverged(traces), tmp_path, "x")
    content = json.loads(Path(written.reports["json"]).read_text())
    assert render_page(content) == Path(written.reports["html"]).read_text()


def test_ids_are_complete_however_many_there_are(content: dict[str, Any]) -> None:
    ids = {"inputs": [list(range(3000))], "targets": [[7, 1]]}
    content["provenance"]["inputs"]["ids"] = ids
    assert json.dumps(ids).replace('"', "&quot;") in render_page(content)


def test_what_is_no_number_is_said_to_be_none(traces: TraceMaker) -> None:
    comparison = traces.compare([T("a.b", [[1.0, 2.0]])], [T("a.b", [[1.0, float("nan")]])])
    page = render_page(pages.content(comparison))
    assert "not a number, or infinite" in text_of(page) and "\N{INFINITY}" in page
    assert ">nan<" not in page.lower()


@pytest.mark.parametrize("status", ["incomplete", "invalid", "match", "diverged"])
def test_every_status_has_a_page(traces: TraceMaker, status: str) -> None:
    made: dict[str, Comparison] = {
        "incomplete": traces.compare([T("a", 1), T("b", 1)], [T("a", 1)]),
        "invalid": traces.compare([T("a", float("nan"))], [T("a", 1)]),
        "match": traces.compare([T("a", 1)], [T("a", 1)], atol=0.0),
        "diverged": traces.compare([T("a", [1.0, 2.0])], [T("a", [[1.0]])], atol=0.0),
    }
    page = render_page(pages.content(made[status]))
    assert Reader(page).open == [] and f'<span class="stamp">{status}</span>' in page


def test_nothing_compared_still_makes_a_page(traces: TraceMaker) -> None:
    assert Reader(render_page(pages.content(traces.compare([], [])))).open == []


def test_the_demonstrations_page_is_drawn_from_its_json_and_small() -> None:
    reports = REPOSITORY / "reports"
    page = (reports / "demo-t5.html").read_text()
    assert page == render_page(json.loads((reports / "demo-t5.json").read_text())), (
        "run: python -m porting.report reports"
    )
    assert len(page) < 1_000_000
    assert {"divergence", "depth", "local", "heat", "cause", "tensors", "again"} <= set(Reader(page).ids)


def rows(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


def test_stacks_are_told_by_the_first_component_whatever_it_is() -> None:
    names = ["bert.embeddings", "bert.layer.0.a", "bert.layer.1.a", "head.a", "head.b", "head.c", "logits"]
    assert [(stack.name, len(stack.rows)) for stack in stacks(rows(*names))] == [
        ("bert", 3),
        ("head", 3),
        (OTHERS, 1),
    ]
    assert [label for label, *_ in stacks(rows(*names))[0].blocks()] == ["", "layer 0", "layer 1"]
    merged = stacks(rows("a.x", "b.x", "logits"))
    assert [(stack.name, [i for i, _ in stack.rows]) for stack in merged] == [(OTHERS, [0, 1, 2])]
    many = stacks(rows(*(f"dense_{i}.{part}" for i in range(9) for part in "abc")))
    assert [(stack.name, len(stack.rows)) for stack in many] == [("all tensors", 27)]


def test_the_scale_is_logarithmic_with_lanes_for_zero_and_infinity() -> None:
    scale = LogScale.over([1e-6, 0.0, 5.0, None], 10.0, 210.0)
    decades = [scale.y(10.0**exponent) for exponent in range(-6, 1)]
    steps = {round(a - b, 6) for a, b in pairwise(decades)}
    assert len(steps) == 1 and steps.pop() > 0
    assert scale.y(None) < scale.y(5.0) < scale.y(1e-6) < scale.y(0.0) <= 210.0


def test_colours_tell_on_which_side_of_the_tolerance_a_cell_is() -> None:
    colours = Colours.of([[1e-6, 1e-3, 0.5], [None, 0.0, 2e-3]], atol=1e-3)
    cells = [colours.cls(value) for value in (1e-6, 1e-3, 2e-3, 0.5, 0.0, None)]
    assert [cell.split(" ")[0] for cell in cells] == ["cool", "cool", "hot", "hot", "h-zero", "h-infinite"]
    assert cells[0].endswith("h1") and cells[3].endswith("h8")
