"""Tables of tensors that sort by every column, and filter by name and status."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from porting.report.html.depth import status_of
from porting.report.html.markup import Html, breakable, join, number, plural, tag
from porting.report.html.svg import scrolling

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: above it.
        text: what a row shows.
        key: what it sorts by; numbers sort as numbers, null behind everything.
        numeric: whether it sorts by numbers, the largest first.
        hint: what the figure is, for those who point at its title.
        words: whether a numeric column shows words, and is aligned as such.
    """

    title: str
    text: Callable[[Row], Any]
    key: Callable[[Row], Any]
    numeric: bool = False
    hint: str = ""
    words: bool = False

    @property
    def cls(self) -> str | None:
        """Of its cells."""
        return "numeric" if self.numeric and not self.words else None


def figure_column(title: str, key: str, hint: str) -> Column:
    """A number of the row, three digits shown, all of them kept."""
    return Column(title, lambda row: number(row.get(key), _absent(key)), lambda row: row.get(key), True, hint)


def _absent(key: str) -> str:
    """Of what an analysis measures null is also what it could not know."""
    return "not finite" if key in ("max_abs_diff", "mean_abs_diff", "max_rel_diff") else "\N{EN DASH}"


NAME = Column("Tensor", lambda row: _names(row), lambda row: row["name"])
STATUS = Column(
    "Status",
    lambda row: join([tag("span", row["status"], cls=f"badge {badge_of(row)}"), _origin(row)]),
    lambda row: status_of(row),
)
SHAPE = Column("Axes", lambda row: _axes(row), lambda row: _size(row), True, words=True)
MAX_ABS = figure_column(
    "Max abs", "max_abs_diff", "the largest absolute difference; the tolerance is for this"
)
MEAN_ABS = figure_column("Mean abs", "mean_abs_diff", "the mean absolute difference")
MAX_REL = figure_column("Max rel", "max_rel_diff", "max abs relative to the largest value of the original")
ANALYSED = (
    figure_column("Made here", "local_max_abs_diff", "the difference with the original's own inputs"),
    figure_column("Passed on", "passed_on_max_abs_diff", "what came in with the inputs and went through"),
    figure_column("Noise", "noise_floor", "what rounding alone explains of max abs"),
    figure_column(
        "\N{MULTIPLICATION SIGN} noise", "times_noise_floor", "made here, as a multiple of rounding"
    ),
)


def badge_of(row: Row) -> str:
    """The class of a row's status."""
    if row.get("origin") == "own":
        return "own"
    return str(row["status"]) if row["status"] in ("match", "diverged", "invalid") else "incomplete"


def _origin(row: Row) -> Html | None:
    return tag("small", row["origin"]) if row.get("origin") else None


def tensor_section(content: Mapping[str, Any]) -> Html:
    """All tensors of the comparison."""
    rows = content["tensors"]
    columns = [NAME, STATUS, MAX_ABS, MEAN_ABS, MAX_REL]
    analysed = any("local_max_abs_diff" in row for row in rows)
    columns += [*ANALYSED, SHAPE] if analysed else [SHAPE]
    return tag(
        "section",
        tag("h2", "All tensors"),
        tag(
            "p",
            "In the original's order. A column's"
            " title sorts by it; a second time turns the order around, a third puts the first one back.",
            cls="lead",
        ),
        sortable("tensors", "All tensors", columns, rows, link="tensor"),
        id="tensors",
    )


def sortable(
    name: str, caption: str, columns: Sequence[Column], rows: Sequence[Row], link: str, word: str = "tensor"
) -> Html:
    """A table with its controls. `link` begins the ids of its rows, `word` says what a row is."""
    head = tag("tr", *(_title(column) for column in columns))
    body = [_row(f"{link}-{i}", i, row, columns) for i, row in enumerate(rows)]
    table = tag(
        "table",
        tag("caption", caption),
        tag("thead", head),
        tag("tbody", *body),
        cls="sortable",
        id=f"{name}-table",
    )
    statuses = sorted({_status(row) for row in rows})
    controls = tag(
        "div",
        tag(
            "label",
            "Name contains ",
            tag("input", type="search", cls="filter-name", autocomplete="off", spellcheck="false"),
        ),
        tag(
            "label",
            "Status ",
            tag(
                "select",
                tag("option", "all", value=""),
                *(tag("option", status, value=status) for status in statuses),
                cls="filter-status",
            ),
        ),
        tag("output", plural(len(rows), word), cls="count", data_word=word),
        cls="controls",
        data_table=f"{name}-table",
    )
    return join([controls, scrolling(caption, table, cls="scroll tall")])


def _title(column: Column) -> Html:
    button = tag("button", column.title, tag("span", cls="arrow", aria_hidden="true"), type="button")
    order = "numbers" if column.numeric else "words"
    return tag("th", button, scope="col", cls=column.cls, data_order=order, title=column.hint or None)


def _row(id_: str, place: int, row: Row, columns: Sequence[Column]) -> Html:
    cells = []
    for i, column in enumerate(columns):
        key = column.key(row)
        attributes = {
            "cls": column.cls,
            "data_key": "" if key is None else key,
        }
        cells.append(
            tag("th" if i == 0 else "td", column.text(row), scope="row" if i == 0 else None, **attributes)
        )
    return tag("tr", *cells, id=id_, data_place=place, data_name=_searched(row), data_status=_status(row))


def _status(row: Row) -> str:
    return status_of(row)


def _searched(row: Row) -> str:
    return " ".join(str(row[key]) for key in ("name", "reference_name") if key in row)


def _names(row: Row) -> Html:
    note = tag("small", row["note"], cls="row-note") if row.get("note") else None
    return join(
        [
            tag("code", breakable(row["name"])),
            tag("small", tag("code", breakable(row["reference_name"]))),
            note,
        ]
    )


def _axes(row: Row) -> Html:
    sizes = "\N{MULTIPLICATION SIGN}".join(map(str, row["shape"])) or "scalar"
    return join([sizes, tag("small", " ".join(row["dims"]))])


def _size(row: Row) -> int:
    size = 1
    for extent in row["shape"]:
        size *= int(extent)
    return size
