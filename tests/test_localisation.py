"""The corpus is what it says: names, places and pairs fit each other; the figures count what they should."""

from __future__ import annotations

from pathlib import Path

from benchmarks.corpus import FAULTS, PAIRS, SMALL, SMALL_PAIRS
from benchmarks.corpus.long_right import LONG_REFACTORINGS, long_right_runs
from benchmarks.corpus.long_variants import LONG_INPUTS, LONG_VARIANTS, at_hand
from benchmarks.corpus.measure import Outcome, RightRun
from benchmarks.corpus.right import COMPILED, REFACTORINGS, right_runs
from benchmarks.corpus.variants import INPUTS, VARIANTS
from benchmarks.localisation import summary


def test_there_are_enough_faults_and_every_one_says_where() -> None:
    assert len(FAULTS) >= 90
    for fault in FAULTS.values():
        assert fault.variants and set(fault.variants) <= {*VARIANTS, *LONG_VARIANTS}, fault.name
        assert all(fault.where(variant) for variant in fault.variants)
        assert fault.inputs in INPUTS
    assert {fault.family for fault in FAULTS.values()} == {"weights", "config", "code"}


def test_pairs_are_of_faults_that_the_variant_has_at_different_places() -> None:
    assert len(PAIRS) >= 24
    for variant, one, other in (*PAIRS, *SMALL_PAIRS):
        pair = FAULTS[one], FAULTS[other]
        assert all(variant in fault.variants for fault in pair), (variant, one, other)
        assert pair[0].where(variant) != pair[1].where(variant)
        assert pair[0].inputs == pair[1].inputs
    assert all(variant in FAULTS[name].variants for variant, name in SMALL)


def test_right_runs_meet_every_refactoring_variant_and_input() -> None:
    runs = right_runs(200, list(VARIANTS), compiled=True)
    assert len(runs) == len(set(runs)) == 200 + len(COMPILED)
    assert {run.variant for run in runs} == set(VARIANTS)
    assert {run.inputs for run in runs} == set(INPUTS)
    assert {run.refactoring for run in runs} == {change.__name__ for change in (*REFACTORINGS, *COMPILED)}


def test_right_long_t5s_meet_every_refactoring_and_input() -> None:
    live = [name for name, variant in LONG_VARIANTS.items() if variant.recorded is None]
    runs = long_right_runs(60, live)
    assert len(runs) == 60
    assert {run.refactoring for run in runs} >= {change.__name__ for change in LONG_REFACTORINGS}
    assert {run.inputs for run in runs} == set(LONG_INPUTS)
    assert {run.variant for run in runs} == set(live)
    assert not long_right_runs(5, [])


def test_a_recorded_run_has_one_set_of_inputs_and_is_left_out_where_it_is_not_there() -> None:
    recorded = [name for name, variant in LONG_VARIANTS.items() if variant.recorded]
    assert {run.inputs for run in long_right_runs(9, recorded)} == {"standard"}
    there = [name for name in recorded if (LONG_VARIANTS[name].recorded or Path()).is_dir()]
    assert at_hand() == [name for name in LONG_VARIANTS if name not in recorded or name in there]


def _outcome(*faults: str, located: bool = True, cause: bool = True, visible: bool = True) -> Outcome:
    return Outcome(
        faults, "t5.1.1", ("logits",), (), located, cause, () if cause else ("x",), (), visible, 1.0
    )


def test_the_summary_counts_misses() -> None:
    singles = [_outcome("a"), _outcome("b", located=False), _outcome("c", cause=False)]
    singles.append(_outcome("d", located=False, visible=False))
    rights = [
        RightRun("as_it_is", "t5.1.1", "standard"),
        RightRun("x", "t5.1.1", "packed", ("status diverged",)),
    ]
    figures = summary([*singles, _outcome("a", "b", located=False)], rights)
    assert figures["single_runs"] == 3
    assert figures["located"] == figures["cause_right"] == 2 / 3
    assert figures["pairs_located"] == 0
    assert figures["wrong_causes"] == figures["false_alarms"] == figures["invisible"] == 1
