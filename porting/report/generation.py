"""What was generated on both sides, in the words of the terminal and as a section in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from porting.generation.comparison import (
    DIVERGED,
    NOT_COMPARED,
    Flip,
    GenerationComparison,
    IncrementalComparison,
    StepDifference,
)
from porting.report.text import number

_AROUND = 4  # tokens shown before and behind a flip
_SHOWN_FLIPS = 8


def generation_lines(generation: GenerationComparison) -> list[str]:
    """For the terminal: a line for the tokens, one for the cache, and what is wrong with either."""
    first = generation.first_flip
    flip = [f"  first flip: {flip_text(first)}", f"  {first.note}"] if first else []
    line, *more = incremental_text(generation.incremental)
    return [f"Generation {tokens_text(generation)}", *flip, line, *(f"  {text}" for text in more)]


def tokens_text(generation: GenerationComparison) -> str:
    """How many sequences agree."""
    rows = len(generation.reference)
    agreeing = rows - len({flip.row for flip in generation.flips})
    ties = sum(flip.below_noise for flip in generation.flips)
    count = f"all {rows}" if agreeing == rows else f"{agreeing} of {rows}"
    tied = f", ties: {ties}" if ties else ""
    return f"({generation.settings}): {count} sequences agree{tied}."


def flip_text(flip: Flip) -> str:
    """Where, which tokens, and how sure the port is."""
    where = f"row {flip.row}, token {flip.step}"
    text = f"{where}: original {_token(flip.reference_token)}, port {_token(flip.port_token)}"
    if flip.margin is not None and flip.noise_floor is not None:
        text += f"; margin {number(flip.margin)}, noise floor {number(flip.noise_floor)}"
    return text


def incremental_text(incremental: IncrementalComparison) -> list[str]:
    """Whether the cache changes anything, and where first."""
    title = "Step by step against all at once:"
    if incremental.status == NOT_COMPARED:
        return [f"{title} not compared: {incremental.note}."]
    if incremental.status == DIVERGED and incremental.first_divergence:
        first = incremental.first_divergence
        return [f"{title} DIVERGED at step {first.step} in {first.name}", _what(first)]
    largest = incremental.largest
    by = f", at most {number(largest.max_rel_diff)} apart" if largest else ""
    return [f"{title} {incremental.steps} steps x {incremental.taps} taps agree{by}."]


def generation_section(generation: GenerationComparison) -> Iterator[str]:
    """The section in Markdown."""
    yield "## What both generate"
    yield ""
    yield f"- **{generation.status}** {tokens_text(generation)}"
    yield f"- {' '.join(incremental_text(generation.incremental))}"
    yield ""
    for flip in generation.flips[:_SHOWN_FLIPS]:
        yield f"### Row {flip.row}, token {flip.step}{': a tie' if flip.below_noise else ''}"
        yield ""
        yield f"{flip_text(flip)}. {flip.note}"
        yield ""
        yield "| side | tokens around it |"
        yield "|---|---|"
        yield f"| original | {_around(generation.reference[flip.row], flip.step)} |"
        yield f"| port | {_around(generation.port[flip.row], flip.step)} |"
        yield ""
    if len(generation.flips) > _SHOWN_FLIPS:
        yield f"{len(generation.flips) - _SHOWN_FLIPS} more flips are listed in the JSON."
        yield ""
    yield "| row | original | port |"
    yield "|---|---|---|"
    for row, (theirs, ours) in enumerate(zip(generation.reference, generation.port, strict=True)):
        port = "the same" if theirs == ours else " ".join(map(str, ours))
        yield f"| {row} | {' '.join(map(str, theirs))} | {port} |"
    yield ""
    yield (
        "margin: the score that the port, fed all at once, gives its own choice minus the one it gives the"
        " original's (logits, or length-penalised log-probabilities of whole sequences with beams). noise"
        " floor: how far float64 and embeddings moved by one unit in the last place move it. A flip whose"
        " margin is below it is a tie, which rounding decides, and no divergence."
    )
    yield ""


def _what(difference: StepDifference) -> str:
    if difference.note:
        return difference.note
    pairs = zip(difference.dims, difference.index, strict=True)
    place = ", ".join(f"{name} {i}" for name, i in pairs)
    values = f"{number(difference.incremental)} against {number(difference.full)}"
    return f"{values} at [{place}], {number(difference.max_rel_diff)} relative"


def _around(tokens: tuple[int, ...], step: int) -> str:
    begin = max(0, step - _AROUND)
    shown = [
        f"**{t}**" if begin + i == step else str(t) for i, t in enumerate(tokens[begin : step + _AROUND])
    ]
    if len(tokens) <= step:
        shown.append("**(ended)**")
    before = ["..."] if begin else []
    behind = ["..."] if len(tokens) > step + _AROUND else []
    return " ".join([*before, *shown, *behind])


def _token(token: int | None) -> str:
    return "has ended" if token is None else str(token)
