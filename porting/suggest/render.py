"""A suggestion -> a Python file to edit, and lines for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from porting.mapping import Drop, Rule
from porting.ops import Op
from porting.suggest.leftovers import Leftover
from porting.suggest.shapes import text
from porting.suggest.suggest import SURE, Suggestion

_WIDTH = 110
_INDENT = "    "
_SHOWN = 60  # leftovers, at most; all of them are in the JSON


def python_file(suggestion: Suggestion, source: str, module: str) -> str:
    """The rule table as a module of its own, with a confidence and reasons above each rule.

    Importing it gives `RULES`, and `rules(config, names)`, which a Port takes. It is a plan once nothing is
    left to do at its end.
    """
    body = "".join(f"{line}\n" for line in _table(suggestion))
    ops = sorted({type(op).__name__ for op in _ops(suggestion)})
    header = [
        *textwrap.wrap(f'"""Suggested rules: {source} -> {module}. A starting file to edit.', _WIDTH),
        "",
        *textwrap.wrap(
            "Nothing has applied these rules. Each has a confidence from 0 to 1, and what it rests on: read"
            f" every rule below {SURE}, marked CHECK, beside the original's code. Then delete the comments.",
            _WIDTH,
        ),
        '"""',
        "",
        "from porting.mapping import Drop, Rule",
        *([f"from porting.ops import {', '.join(ops)}"] if ops else []),
        "",
        "RULES: tuple[Rule | Drop, ...] = (",
    ]
    footer = [
        ")",
        "",
        "",
        "def rules(_config: object, _names: object) -> tuple[Rule | Drop, ...]:",
        '    """The table, as a Port takes it."""',
        "    return RULES",
        *_todo(suggestion),
    ]
    return "\n".join(header) + "\n" + body + "\n".join(footer) + "\n"


def summary_lines(suggestion: Suggestion, written: str | None) -> list[str]:
    """How much is proposed, how sure it is, and what is left."""
    sure = sum(found.confidence >= SURE for found in suggestion.rules)
    claimed = sum(len(found.sources) for found in suggestion.rules)
    dropped = sum(len(found.names) for found in suggestion.drops)
    filled = sum(len(found.targets) for found in suggestion.rules)
    lines = [
        f"{_count(len(suggestion.rules), 'rule')} for {_count(claimed, 'variable')} and {filled} of"
        f" {_count(len(suggestion.targets), 'parameter')}; {_count(dropped, 'variable')} dropped.",
        f"Confidence of at least {SURE}: {_count(sure, 'rule')}; to check: {len(suggestion.rules) - sure}.",
    ]
    if suggestion.unclaimed or suggestion.unfilled:
        lines.append(
            f"Left over: {_count(len(suggestion.unclaimed), 'variable')} without a rule,"
            f" {_count(len(suggestion.unfilled), 'parameter')} without a variable."
        )
    lines += suggestion.notes
    lines.append("Nothing was converted: these are proposals.")
    return [*lines, f"Wrote {written}"] if written else lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _table(suggestion: Suggestion) -> Iterator[str]:
    for drop in suggestion.drops:
        yield from _comment(drop.confidence, drop.reasons, len(drop.names))
        yield f"{_INDENT}Drop({_string(drop.rule.pattern)}, {_string(drop.rule.reason)}),"
    for found in suggestion.rules:
        yield from _comment(found.confidence, found.reasons, len(found.sources))
        yield from _rule(found.rule)


def _comment(confidence: float, reasons: Sequence[str], count: int) -> Iterator[str]:
    check = "" if confidence >= SURE else "CHECK "
    several = (f"{count} variables",) if count > 1 else ()
    line = f"{check}{confidence:.2f}: {'; '.join((*reasons, *several))}"
    yield from _wrapped(line, f"{_INDENT}# ", f"{_INDENT}# ")


def _wrapped(line: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        line,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _rule(rule: Rule) -> Iterator[str]:
    fields = [_string(rule.pattern), _string(rule.target)]
    if rule.ops:
        fields.append(_tuple([repr(op) for op in rule.ops]))
    if rule.also:
        also = [f"({_string(target)}, {_tuple([repr(op) for op in ops])})" for target, ops in rule.also]
        fields.append(f"also={_tuple(also)}")
    if rule.stack:
        fields.append(f"stack={_tuple([_string(part) for part in rule.stack])}")
    line = f"{_INDENT}Rule({', '.join(fields)}),"
    if len(line) <= _WIDTH:
        yield line
        return
    yield f"{_INDENT}Rule("
    for entry in fields:
        yield f"{_INDENT * 2}{entry},"
    yield f"{_INDENT}),"


def _tuple(parts: Sequence[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _string(value: str) -> str:
    """A literal, raw where there is a backslash in it."""
    plain = '"' not in value and not value.endswith("\\") and value.isprintable()
    if "\\" in value and plain:
        return f'r"{value}"'
    return f'"{value}"' if plain else repr(value)


def _ops(suggestion: Suggestion) -> Iterator[Op]:
    for rule in suggestion.table:
        if not isinstance(rule, Drop):
            yield from rule.ops
            for _, ops in rule.also:
                yield from ops


def _todo(suggestion: Suggestion) -> Iterator[str]:
    if suggestion.notes:
        yield from ("", "")
        for note in suggestion.notes:
            yield from _wrapped(note, "# ", "# ")
    for title, left in (
        ("TODO variables that no rule claims: give each a Rule or a Drop.", suggestion.unclaimed),
        ("TODO parameters that no rule fills.", suggestion.unfilled),
    ):
        if left:
            yield from ("", "", f"# {title}")
            for item in left[:_SHOWN]:
                yield from _wrapped(_leftover(item), "# TODO ", "#     ")
            if len(left) > _SHOWN:
                yield f"# TODO and {len(left) - _SHOWN} more: see --format json"


def _leftover(left: Leftover) -> str:
    nearest = [
        f"{name} {text(shape)}{' (taken)' if taken else ''}" for name, shape, _score, taken in left.nearest
    ]
    return f"{left.name} {text(left.shape)}; nearest: {', '.join(nearest) or 'none'}"
