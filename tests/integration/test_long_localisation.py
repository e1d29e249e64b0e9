"""Faults of LongT5 located and explained against originals that this project did not write.

transformers' LongT5 runs here; Google's recorded runs lie beside the repository, where they do. All of the
corpus: `python benchmarks/localisation.py --variants 'LongT5 tglobal' ...`.
"""

from __future__ import annotations

import pytest

from benchmarks.corpus import FAULTS
from benchmarks.corpus.long_right import LONG_REFACTORINGS
from benchmarks.corpus.long_variants import LongPorted, at_hand, long_ported
from benchmarks.corpus.measure import judge, judge_right
from benchmarks.corpus.right import Run

LIVE, RECORDED = "LongT5 tglobal", "LongT5 tglobal, recorded"
needs_recordings = pytest.mark.skipif(RECORDED not in at_hand(), reason="shared/data/longt5 is not there")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LongPorted:
    pytest.importorskip("transformers")
    return long_ported(LIVE, tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> LongPorted:
    return long_ported(RECORDED, tmp_path_factory.mktemp("recorded"))


def check(ported: LongPorted, name: str) -> None:
    outcome = judge(ported, [FAULTS[name]])
    assert outcome.located, outcome
    assert outcome.cause, outcome
    assert not outcome.wrong_causes


@pytest.mark.parametrize(
    "name",
    [
        "radius_one_too_large",
        "summaries_averaged",
        "padding_counted_into_a_summary",
        "config_local_radius_127",
    ],
)
def test_a_fault_is_located_and_explained_against_transformers(live: LongPorted, name: str) -> None:
    check(live, name)


@needs_recordings
@pytest.mark.parametrize(
    "name", ["own_block_first", "side_bias_sign", "config_local_attention_alone", "radius_not_looked_at"]
)
def test_a_fault_is_located_and_explained_against_a_recorded_run(recorded: LongPorted, name: str) -> None:
    check(recorded, name)


@pytest.mark.parametrize("change", LONG_REFACTORINGS[:3])
def test_a_right_port_written_otherwise_passes(live: LongPorted, change: object) -> None:
    name = getattr(change, "__name__", "")
    model = Run(name, LIVE, "length 7").build(live)
    assert not judge_right(live, model, name, "length 7").alarms
