"""Whether a checkpoint holds what an original builds: every variable, in its shape."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from porting.errors import Problem, ReferenceRunError


def require_fit(
    built: Mapping[str, Sequence[int]],
    held: Mapping[str, Sequence[int]],
    *,
    all_used: bool = False,
    remedy: str = "The config used here does not belong to this checkpoint.",
) -> None:
    """Raise unless the checkpoint holds all that the original builds, in the same shapes.

    Args:
        built: shapes of the original's variables by name.
        held: shapes of what the checkpoint holds, by the same names.
        all_used: whether the original must also have a place for all that the checkpoint holds.
        remedy: what to do.

    Raises:
        ReferenceRunError: all that does not fit, missing names with the nearest there are.
    """
    problems = []
    for name, shape in sorted(built.items()):
        if name not in held:
            near = difflib.get_close_matches(name, held, n=2)
            nearest = f"the nearest in the checkpoint: {', '.join(near)}" if near else ""
            problems.append(Problem(name, f"shape {list(shape)}", "none in the checkpoint", nearest))
        elif list(held[name]) != list(shape):
            problems.append(Problem(name, f"shape {list(shape)}", f"{list(held[name])}"))
    if all_used:
        problems += [
            Problem(name, "a place for it in the original", "none")
            for name in sorted(held.keys() - built.keys())
        ]
    if problems:
        raise ReferenceRunError(
            f"The original and the checkpoint do not fit: {len(problems)} of the original's variables are"
            " missing, of another shape or left over.",
            problems=problems,
            remedy=remedy,
        )
