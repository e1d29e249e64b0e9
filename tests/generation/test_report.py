from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from porting.compare import Comparison
from porting.generation.comparison import Flip, GenerationComparison, IncrementalComparison, StepDifference
from porting.generation.decoding import GenerationSettings
from porting.report.generation import generation_lines
from porting.report.markdown import render_markdown
from porting.report.terminal import summary_lines
from tests.traces import T, TraceMaker

AGREES = IncrementalComparison(
    "match", largest=StepDifference("decoder.block.0", 3, 1e-6, 2.5e-7), steps=4, taps=60
)
ROWS = ((5, 6, 7, 8, 9, 10, 11, 12, 13, 1), (5, 1))
OTHER = ((5, 6, 7, 8, 9, 20, 21, 1), (5, 1))
FLIP = Flip(0, 5, 10, 20, 7.5, 8.25, 4e-5, "look at its tensors")


@pytest.fixture
def agreeing() -> GenerationComparison:
    return GenerationComparison(GenerationSettings("greedy", 16), ROWS, ROWS, (), AGREES)


@pytest.fixture
def flipped(agreeing: GenerationComparison) -> GenerationComparison:
    return replace(agreeing, settings=GenerationSettings("beam", 16, 4), port=OTHER, flips=(FLIP,))


@pytest.fixture
def match(traces: TraceMaker) -> Comparison:
    return traces.compare([T("a", 1.0)], [T("a", 1.0)])


def test_what_agrees_takes_two_lines(agreeing: GenerationComparison) -> None:
    assert generation_lines(agreeing) == [
        "Generation (greedy, at most 16 tokens): all 2 sequences agree.",
        "Step by step against all at once: 4 steps x 60 taps agree, at most 2.5e-07 apart.",
    ]


def test_a_flip_is_shown_with_its_margin(flipped: GenerationComparison) -> None:
    assert generation_lines(flipped)[:3] == [
        "Generation (beam, 4 beams, at most 16 tokens): 1 of 2 sequences agree.",
        "  first flip: row 0, token 5: original 10, port 20; margin 0.75, noise floor 4e-05",
        "  look at its tensors",
    ]


def test_ties_are_counted_apart(flipped: GenerationComparison) -> None:
    tied = replace(flipped, flips=(replace(FLIP, port_score=7.50001),))
    assert tied.status == "match"
    assert "1 of 2 sequences agree, ties: 1." in generation_lines(tied)[0]


def test_a_fault_of_the_cache_is_shown_with_its_step(agreeing: GenerationComparison) -> None:
    first = StepDifference(
        "decoder.block.0", 2, 0.5, 0.25, (1, 0, 7), ("batch", "length", "d_model"), 1.5, 1.0
    )
    broken = replace(agreeing, incremental=replace(AGREES, status="diverged", first_divergence=first))
    assert broken.status == "diverged"
    assert generation_lines(broken)[1:] == [
        "Step by step against all at once: DIVERGED at step 2 in decoder.block.0",
        "  1 against 1.5 at [batch 1, length 0, d_model 7], 0.25 relative",
    ]
    shapes = StepDifference("decoder.block.0", 2, math.inf, math.inf, note="shape [1] against [2]")
    broken = replace(agreeing, incremental=replace(AGREES, status="diverged", first_divergence=shapes))
    assert generation_lines(broken)[2] == "  shape [1] against [2]"
    json.dumps(broken.to_json(), allow_nan=False)


def test_what_was_not_compared_is_said(agreeing: GenerationComparison) -> None:
    without = replace(agreeing, incremental=IncrementalComparison("not compared", note="it keeps no cache"))
    assert without.status == "match"
    assert generation_lines(without)[1].endswith("not compared: it keeps no cache.")


def test_a_comparison_diverges_with_its_generation(match: Comparison, flipped: GenerationComparison) -> None:
    assert match.status == "match" and match.to_json()["generation"] is None
    diverged = match.with_generation(flipped)
    assert (diverged.status, diverged.exit_code, diverged.first_divergence) == ("diverged", 1, None)
    lines = summary_lines(diverged)
    assert lines[0] == "DIVERGED: all 1 tensors agree within 0.001, and generation does not."
    assert any(line.startswith("Generation (beam") for line in lines)
    assert diverged.to_json()["generation"]["first_flip"]["port_token"] == 20


def test_a_comparison_that_agrees_stays_what_it_is(
    match: Comparison, agreeing: GenerationComparison, traces: TraceMaker, flipped: GenerationComparison
) -> None:
    assert match.with_generation(agreeing).status == "match"
    incomplete = traces.compare([T("a", 1.0), T("b", 1.0)], [T("a", 1.0)])
    assert incomplete.with_generation(agreeing).status == "incomplete"
    assert incomplete.with_generation(flipped).status == "diverged"
    invalid = traces.compare([T("a", math.nan)], [T("a", 1.0)])
    assert invalid.with_generation(flipped).status == "invalid"


def test_the_page_shows_the_tokens_around_a_flip(match: Comparison, flipped: GenerationComparison) -> None:
    page = render_markdown(match.with_generation(flipped), "x")
    assert "## What both generate" in page
    assert "### Row 0, token 5\n" in page
    assert "| original | ... 6 7 8 9 **10** 11 12 13 ... |" in page
    assert "| port | ... 6 7 8 9 **20** 21 1 |" in page
    assert "| 1 | 5 1 | the same |" in page
    assert "## What both generate" not in render_markdown(match, "x")


def test_an_end_is_shown_as_one(match: Comparison, flipped: GenerationComparison) -> None:
    ended = replace(flipped, port=((5, 6), (5, 1)), flips=(Flip(0, 2, 7, None, note="ends"),))
    page = render_markdown(match.with_generation(ended), "x")
    assert "row 0, token 2: original 7, port has ended. ends" in page
    assert "| port | 5 6 **(ended)** |" in page
