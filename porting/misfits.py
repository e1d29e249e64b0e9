"""What to say of variables, parameters and copies that a rule table leaves over, or claims wrongly."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from porting.errors import Problem

if TYPE_CHECKING:
    from porting.mapping import Claim, Rule, Shape

# A group in the target of a rule: {block}, {block*2+1}.
PLACEHOLDER = re.compile(r"\{(?P<name>\w+)(?:\*(?P<times>\d+))?(?:\+(?P<plus>\d+))?\}")
# How many of the likeliest names are compared letter by letter to find the nearest.
_SHORTLIST = 12


def homeless(name: str, target: str, unfilled: Sequence[str]) -> Problem:
    """A variable whose parameter the model lacks."""
    return Problem(
        name,
        f"a parameter {target} in the model",
        "none: the model that the config describes has no such parameter",
        _nearest("nearest parameter without a source", target, unfilled),
    )


def unclaimed_problems(
    unclaimed: Sequence[str], sources: Mapping[str, Shape], rules: Sequence[Claim]
) -> list[Problem]:
    """Variables that no rule claims."""
    claimed = sorted(set(sources) - set(unclaimed))
    return [
        Problem(
            name,
            "a rule that claims it",
            f"none of {len(rules)} (shape {sources[name]})",
            _nearest("nearest variable that has one", name, claimed),
        )
        for name in unclaimed
    ]


def unfilled_problems(
    unfilled: Sequence[str],
    sources: Mapping[str, Shape],
    rules: Sequence[Rule],
    unclaimed: Sequence[str],
) -> list[Problem]:
    """Parameters that no variable fills, each with the variable that would."""
    wanted = {target: _source_names(target, rules) for target in unfilled}
    candidates = list(unclaimed) or list(sources)
    return [
        Problem(
            target,
            f"a variable such as {names[0]}" if names else "a rule that fills it",
            "none in the checkpoint",
            _nearest("nearest variable", names[0] if names else target, candidates),
        )
        for target, names in wanted.items()
    ]


def copy_problems(
    copies: Mapping[str, str], ignored: Mapping[str, Sequence[str]], shapes: Mapping[str, Shape]
) -> list[Problem]:
    """Copies of what is not there, is not read, or has another shape."""
    unread = {*copies, *(name for names in ignored.values() for name in names)}
    problems = []
    for name, original in copies.items():
        if original not in shapes or original in unread:
            why = "none that is read" if original in shapes else "none in the checkpoint"
            problems.append(Problem(name, f"a tensor {original}, whose copy it is", why))
        elif shapes[original] != shapes[name]:
            problems.append(Problem(name, f"shape {shapes[original]} of {original}", f"{shapes[name]}"))
    return problems


def _source_names(target: str, rules: Iterable[Rule]) -> list[str]:
    """Source patterns that would fill `target`, its block numbers put in: for messages only."""
    found = []
    for rule in rules:
        if PLACEHOLDER.fullmatch(rule.target):  # tensors that are called as the parameters are
            found.append(target)
            continue
        groups = _groups_of(target, rule)
        if groups is not None:
            found.append(_fill_pattern(rule.pattern, groups))
    return found


def _groups_of(target: str, rule: Rule) -> dict[str, str] | None:
    """What a rule's groups would have to be to give this target; None if it never does."""
    regex, end = "", 0
    placeholders = list(PLACEHOLDER.finditer(rule.target))
    seen: set[str] = set()
    for place in placeholders:
        regex += re.escape(rule.target[end : place.start()])
        name, end = place["name"], place.end()
        regex += f"(?P={name})" if name in seen else f"(?P<{name}>[^.]+)"
        seen.add(name)
    match = re.fullmatch(regex + re.escape(rule.target[end:]), target)
    if not match:
        return None
    groups = match.groupdict()
    for place in placeholders:
        if place["times"] or place["plus"]:
            number = groups[place["name"]]
            times, plus = int(place["times"] or 1), int(place["plus"] or 0)
            if not number.isdigit() or int(number) < plus or (int(number) - plus) % times:
                return None
            groups[place["name"]] = str((int(number) - plus) // times)
    return groups


def _fill_pattern(pattern: str, groups: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, inner = match.group("name"), match.group("inner")
        filled = groups.get(name, inner)
        # Mesh numbers its scopes with three digits: block_007.
        return f"{int(filled):03d}" if filled.isdigit() and "\\d" in inner else filled

    return re.sub(r"\(\?P<(?P<name>\w+)>(?P<inner>[^()]*)\)", value, pattern)


def _nearest(label: str, name: str, candidates: Sequence[str]) -> str:
    # Comparing every name with every other takes half a minute for a thousand of them: first a shortlist.
    wanted = _trigrams(name)
    likely = heapq.nlargest(_SHORTLIST, candidates, key=lambda other: len(wanted & _trigrams(other)))
    close = difflib.get_close_matches(name, likely, n=1, cutoff=0.6)
    return f"{label}: {close[0]}" if close else ""


@lru_cache(maxsize=1 << 14)
def _trigrams(name: str) -> frozenset[str]:
    return frozenset(name[i : i + 3] for i in range(len(name) - 2))
