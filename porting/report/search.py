"""What the search for revealing inputs found, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from porting.report.text import number
from porting.search.search import BUDGET, Failure, SearchResult


def search_lines(result: SearchResult) -> Iterator[str]:
    """A few lines for the terminal."""
    yield f"Search: {_summary(result)}"
    for failure in result.failing[:3]:
        yield f"  {failure.label}: {_where(failure)}"
    if len(result.failing) > 3:
        yield f"  and {len(result.failing) - 3} more, in the report"
    if result.shrunk:
        yield f"Smallest that fails: {result.shrunk.failure.inputs.shapes()}: {_where(result.shrunk.failure)}"
        if result.shrunk.test_file:
            yield f"Reproduce it: pytest {result.shrunk.test_file}"


def search_section(result: SearchResult) -> Iterator[str]:
    """A section of the Markdown report."""
    yield "## Search for inputs that reveal"
    yield ""
    yield f"{_summary(result)[0].upper()}{_summary(result)[1:]}"
    yield ""
    if result.failing:
        yield "| failing input | shapes | first divergence |"
        yield "|---|---|---|"
        for failure in result.failing:
            yield f"| {failure.label} | {failure.inputs.shapes()} | {_where(failure)} |"
        yield ""
    for label, message in result.refused:
        yield f"- the original has no answer: {label}: {message.splitlines()[0]}"
    if result.refused:
        yield ""
    if result.shrunk:
        failure = result.shrunk.failure
        yield f"The smallest input seen to fail, after {result.shrunk.runs} runs ({_where(failure)}):"
        yield ""
        for name, array in failure.inputs.arrays().items():
            yield f"- {name}: `{array.tolist()}`"
        if result.shrunk.test_file:
            yield f"- as a test: `pytest {result.shrunk.test_file}`"
        yield ""


def _summary(result: SearchResult) -> str:
    text = f"{len(result.failing)} of {result.tried} more inputs fail."
    if result.ended == BUDGET:
        text += f" The budget ended it (--search-budget {result.budget:g} seconds)."
    if result.refused:
        text += f" The original has no answer to {len(result.refused)}."
    return text


def _where(failure: Failure) -> str:
    first = failure.first_divergence
    if first:
        return f"{first.name}, difference {number(first.max_abs_diff)}"
    if failure.fault:
        return f"{failure.fault}, beyond rounding"
    return (failure.error or failure.status).splitlines()[0]
