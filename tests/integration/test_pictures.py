"""What the pictures show of a port with one wrong bucket of its position bias, and of a right port."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from porting import Comparison, compare_outputs, convert_checkpoint, load_model, run_reference
from porting.trace import Trace, read_trace
from tests.integration.conftest import V1_1, MakeCheckpoint

BUCKET, HEAD = 20, 1
BIAS = "encoder.block.0.layer.0.SelfAttention.position_bias"


@dataclass(frozen=True)
class Ported:
    checkpoint: Path
    model_dir: Path
    reference: Trace


@pytest.fixture(scope="module")
def ported(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Ported:
    checkpoint = make_checkpoint(files=V1_1)
    folder = tmp_path_factory.mktemp("pictures")
    convert_checkpoint(checkpoint, folder / "model")
    return Ported(checkpoint, folder / "model", run_reference(checkpoint, save_to=folder / "reference"))


def compare(ported: Ported, folder: Path, *, wrong: bool) -> Comparison:
    model = load_model(ported.model_dir)
    if wrong:
        model.get_parameter(BIAS.replace("position_bias", "relative_attention_bias.weight")).data[
            BUCKET, HEAD
        ] += 0.5
    return compare_outputs(
        ported.reference,
        model,
        checkpoint=ported.checkpoint,
        report_dir=folder / "reports",
        save_traces=folder / "traces",
        command="compare-outputs checkpoint model",
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def comparison(ported: Ported, kept: Path) -> Comparison:
    return compare(ported, kept, wrong=True)


def test_a_wrong_bucket_is_the_only_one_that_is_not_zero(comparison: Comparison) -> None:
    assert comparison.first_divergence is not None and comparison.first_divergence.name == BIAS
    content = json.loads(Path(comparison.reports["json"]).read_text())
    pictures, buckets = content["pictures"], content["pictures"]["buckets"]
    assert (pictures["tensor"], pictures["why"]) == (BIAS, "first divergence")
    hot = [
        (head, bucket["number"])
        for head, line in enumerate(buckets["values"])
        for bucket, value in zip(buckets["buckets"], line, strict=True)
        if value > content["atol"]
    ]
    assert hot == [(HEAD, BUCKET)]
    (shown,) = [bucket for bucket in buckets["buckets"] if bucket["number"] == BUCKET]
    assert (shown["from"], shown["to"]) == (4, 4), "bucket 20 of 32 in both directions is the fourth ahead"
    assert pictures["beyond"] == shown["pairs"]
    page = Path(comparison.reports["html"]).read_text()
    assert f"bucket {BUCKET} (offset +4" in page
    assert re.search(r'class="badge match">verified</span> <strong>encoder\.', page)


def test_the_window_holds_what_both_traces_hold_there(
    ported: Ported, comparison: Comparison, kept: Path
) -> None:
    pictures = comparison.to_json()["pictures"]
    found = read_trace(kept / "traces" / "port")
    (tensor,) = [tensor for tensor in found.tensors if tensor.name == BIAS]
    order = [tensor.dims.index(dim) for dim in pictures["dims"]]
    sides = {"reference": ported.reference[BIAS], "port": found[BIAS].transpose(order)}
    for window in (pictures["largest"], pictures["first"]):
        if window is None:
            continue
        for axis, strip in enumerate(window["along"]):
            assert strip["dim"] == pictures["dims"][axis]
            for side, values in sides.items():
                at = list(window["index"])
                for i, value in enumerate(strip[side]):
                    at[axis] = strip["start"] + i
                    assert value == float(values[tuple(at)])


def test_a_right_port_shows_the_tensor_that_differs_most(ported: Ported, tmp_path: Path) -> None:
    comparison = compare(ported, tmp_path, wrong=False)
    assert comparison.status == "match" and comparison.worst is not None
    pictures = comparison.to_json()["pictures"]
    assert (pictures["tensor"], pictures["why"]) == (comparison.worst.name, "largest difference")
    largest = max(value for shown in pictures["maps"] for line in shown["values"] for value in line)
    assert np.isclose(largest, comparison.worst.max_abs_diff, rtol=5e-3)
    page = Path(comparison.reports["html"]).read_text()
    assert "No tensor is wrong by itself" in page and "compare-outputs checkpoint model" in page
