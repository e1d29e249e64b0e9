"""A small run of the corpus of faults: located at the right tensor, for the right reason; right ports pass.

All of it: `python benchmarks/localisation.py`.
"""

from __future__ import annotations

import pytest

from benchmarks.corpus import FAULTS, SMALL, SMALL_PAIRS
from benchmarks.corpus.measure import judge, judge_right
from benchmarks.corpus.right import Run
from benchmarks.corpus.variants import Ported
from benchmarks.corpus.variants import ported as make

VARIANT = "t5.1.1"


@pytest.fixture(scope="module")
def ported(tmp_path_factory: pytest.TempPathFactory) -> Ported:
    return make(VARIANT, tmp_path_factory.mktemp("localisation"))


# Each other input costs a run of the original.
SINGLES = sorted(name for _, name in SMALL if FAULTS[name].inputs == "standard")


@pytest.mark.parametrize("name", SINGLES)
def test_a_fault_is_located_and_explained(ported: Ported, name: str) -> None:
    outcome = judge(ported, [FAULTS[name]])
    assert outcome.located, outcome
    assert outcome.cause, outcome
    assert not outcome.wrong_causes


@pytest.mark.parametrize(("one", "other"), [pair[1:] for pair in SMALL_PAIRS])
def test_two_faults_at_once_are_both_located(ported: Ported, one: str, other: str) -> None:
    outcome = judge(ported, [FAULTS[one], FAULTS[other]])
    assert outcome.located, outcome
    assert not outcome.wrong_causes


@pytest.mark.parametrize(
    "refactoring",
    ["qkv_in_one_matmul", "attention_in_one_kernel", "attention_with_online_softmax", "everything_at_once"],
)
def test_a_right_port_written_otherwise_passes(ported: Ported, refactoring: str) -> None:
    model = Run(refactoring, VARIANT, "standard").build(ported)
    assert not judge_right(ported, model, refactoring, "standard").alarms
