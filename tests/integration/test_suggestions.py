"""Suggestions for checkpoints that Mesh TensorFlow made, beside the T5 port's own rules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from porting.checkpoint import open_checkpoint
from porting.convert import convert_checkpoint
from porting.source import plan_original, resolve_config
from porting.suggest import Suggestion, suggest_rules
from porting.suggest.suggest import SURE
from tests.integration.conftest import OLD_NAMES, SMALL, V1_0, V1_1, MakeCheckpoint
from tests.suggest.judge import Judged, judge

VARIANTS = {
    "gated": (V1_1, SMALL),
    "shared, named as in 2019": (V1_0, (*SMALL, *OLD_NAMES)),
}


@pytest.fixture(params=VARIANTS)
def checkpoint(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Path:
    files, overrides = VARIANTS[request.param]
    return make_checkpoint(files, overrides)


def judged_by_the_port(path: Path, suggestion: Suggestion) -> Judged:
    """Against what the port's own rules make of the same checkpoint."""
    checkpoint = open_checkpoint(path)
    port, resolved = resolve_config(checkpoint, None)
    plan = plan_original(port, resolved.config, checkpoint)
    return judge(
        suggestion, {e.target: ("+".join(e.sources), ", ".join(map(str, e.ops))) for e in plan.entries}
    )


def test_names_and_shapes_give_the_port_s_own_rules(checkpoint: Path) -> None:
    suggestion = suggest_rules(checkpoint, "t5")
    judged = judged_by_the_port(checkpoint, suggestion)
    assert suggestion.complete
    assert judged.wrong == []
    assert sum(confidence >= SURE for confidence, *_ in judged.right) > 0.9 * len(judged.right)


def test_values_give_them_with_certainty(checkpoint: Path, tmp_path: Path) -> None:
    convert_checkpoint(checkpoint, tmp_path / "model")
    suggestion = suggest_rules(checkpoint, "t5", weights=tmp_path / "model")
    judged = judged_by_the_port(checkpoint, suggestion)
    assert suggestion.complete
    assert judged.wrong == []
    assert all("same values, bit for bit" in rule.reasons[0] for rule in suggestion.rules)
    assert min(rule.confidence for rule in suggestion.rules) >= 0.97


def test_a_directory_that_transformers_wrote_is_matched_by_its_values(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = make_checkpoint(*VARIANTS["shared, named as in 2019"])
    convert_checkpoint(checkpoint, tmp_path / "ours")
    model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    model.save_pretrained(tmp_path / "theirs")
    suggestion = suggest_rules(checkpoint, model, weights=tmp_path / "theirs" / "model.safetensors")
    judged = judged_by_the_port(checkpoint, suggestion)
    assert suggestion.complete
    assert judged.wrong == []
    assert min(rule.confidence for rule in suggestion.rules) >= 0.97


def test_heads_that_are_a_dimension_are_merged(make_checkpoint: MakeCheckpoint) -> None:
    lines = ("SelfAttention.combine_dims = False",)
    checkpoint = make_checkpoint(V1_1, (*SMALL, *lines))
    suggestion = suggest_rules(checkpoint, "t5")
    judged = judged_by_the_port(checkpoint, suggestion)
    assert suggestion.complete
    assert judged.wrong == []
    assert any("merged" in reason for rule in suggestion.rules for reason in rule.reasons)
