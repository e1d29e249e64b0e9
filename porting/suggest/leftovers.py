"""What no rule reaches, each with the nearest candidates of the other side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from porting.mapping import Shape
from porting.suggest.items import Item
from porting.suggest.names import Family, families
from porting.suggest.similarity import Similarity

_SHOWN = 3


@dataclass(frozen=True)
class Leftover:
    """A name that no rule has, and names of the other side that it might belong to.

    Attributes:
        name, shape: of the variable or the parameter.
        nearest: (name, shape, how alike the names are, whether another rule has it), the likeliest first.
    """

    name: str
    shape: Shape
    nearest: tuple[tuple[str, Shape, float, bool], ...]

    def to_json(self) -> dict[str, Any]:
        """An entry of `unclaimed` or `unfilled`."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "nearest": [
                {"name": name, "shape": list(shape), "names": round(score, 2), "taken": taken}
                for name, shape, score, taken in self.nearest
            ],
        }


def leftovers(left: Sequence[Item], others: Sequence[Item], taken: Collection[str]) -> tuple[Leftover, ...]:
    """Each of `left` with those of `others` that are named most alike, free ones of its size first."""
    ours, theirs = _families(left), _families(others)
    similarity = Similarity(ours, theirs)
    shapes = {item.name: item.shape for item in (*others, *left)}
    sizes = {item.name: item.size for item in (*others, *left)}
    found = {}
    for family in ours:
        for numbers, name in family.members.items():
            candidates = []
            for other in theirs:
                score = similarity.of(family, other, len(shapes[name]))
                best = other.members.get(numbers, next(iter(other.members.values())))
                free, fits = best not in taken, sizes[best] == sizes[name]
                if score <= 0 and not fits:
                    continue
                candidates.append((free + 2 * fits, score, best))
            candidates.sort(key=lambda c: (-c[0] - 2 * c[1], c[2]))
            shown = [(best, shapes[best], score, best in taken) for _, score, best in candidates[:_SHOWN]]
            found[name] = Leftover(name, shapes[name], tuple(shown))
    return tuple(found[item.name] for item in left)


def _families(items: Sequence[Item]) -> list[Family]:
    return families({item.name: item.owner for item in items})
