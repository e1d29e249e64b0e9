"""Whether two reports are of the same thing: the same original, the same inputs, judged alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from porting.errors import Problem

Report = Mapping[str, Any]

_THE_ORIGINALS = "a change may be the original's, not the port's"
_IDENTITY: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("checkpoint", ("reference", "checkpoint", "sha256"), "a change may be the checkpoint's, not the port's"),
    ("config of the original", ("reference", "config"), _THE_ORIGINALS),
    ("inputs", ("inputs", "sha256"), "other values pass through the model: every difference is another"),
    ("original", ("reference", "implementation"), _THE_ORIGINALS),
)
_NOTED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("version of porting", ("porting",)),
    ("versions of the original", ("reference", "versions")),
    ("versions of the port", ("port", "versions")),
    ("platform", ("platform",)),
)


def unlike_things(old: Report, new: Report) -> list[Problem]:
    """What makes two reports two comparisons of different things, each with what that means."""
    found = []
    for key, path, meaning in (
        (
            "checkpoint",
            ("reference", "checkpoint", "sha256"),
            "a change may be the checkpoint's, not the port's",
        ),
        ("config of the original", ("reference", "config"), "a change may be the original's, not the port's"),
        (
            "inputs",
            ("inputs", "sha256"),
            "other values pass through the model, so every difference is another",
        ),
        ("original", ("reference", "implementation"), "a change may be the original's, not the port's"),
    ):
        before, after = (_at(report.get("provenance"), path) for report in (old, new))
        if before is not None and after is not None and before != after:
            found.append(Problem(key, *_words(before, after), meaning))
    for key, section in (("tolerance", ""), ("tolerance of gradients", "backward")):
        name = "tolerance" if section else "atol"
        sides = [(report.get(section) or {}) if section else report for report in (old, new)]
        before, after = (side.get(name) for side in sides)
        if before is not None and after is not None and before != after:
            meaning = "a verdict or a status may change and no value with it"
            found.append(Problem(key, f"{before:g}", f"{after:g}", meaning))
    return found


def notes_on(old: Report, new: Report) -> Iterator[str]:
    """What else is otherwise, and what cannot be known."""
    for words, path, _meaning in _IDENTITY[::2]:
        if any(_at(report.get("provenance"), path) is None for report in (old, new)):
            yield f"A report does not say which {words} it is of: whether they are the same is not known."
    for words, path in _NOTED:
        before, after = (_at(report.get("provenance"), path) for report in (old, new))
        if before is not None and after is not None and before != after:
            yield f"{words.capitalize()}: {' -> '.join(_words(before, after))}"
    before, after = (_at(report.get("provenance"), ("port", "model", "sha256")) for report in (old, new))
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before != after:
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        yield f"The model directory is another: {', '.join(names)}"


def _at(content: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _words(before: Any, after: Any) -> tuple[str, str]:
    """Both, of mappings only what differs, hashes cut short."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        return tuple(  # type: ignore[return-value]
            ", ".join(f"{name} {_cut(side[name])}" for name in names if name in side) or "none"
            for side in (before, after)
        )
    return _cut(before), _cut(after)


def _cut(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 and text.isalnum() else text
