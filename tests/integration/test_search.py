"""Faults that short random ids do not show: the search finds them, and cuts the input down to the least."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from porting import Inputs, compare_outputs, convert_checkpoint, load_model, run_reference
from porting.cli import compare_outputs_command
from porting.inputs import random_inputs
from porting.original import Original
from porting.ports.t5.relative_positions import RelativeAttentionBias, relative_position_bucket
from porting.search.beside import search_port
from porting.search.search import SearchResult, differs
from tests.integration.conftest import SMALL, V1_1, MakeCheckpoint

# One block each: what a trial costs is building the original's graph for its shape.
SHALLOW = (*SMALL, "encoder/make_layer_stack.num_layers = 1", "decoder/make_layer_stack.num_layers = 1")
BIAS = "block.0.layer.0.SelfAttention.position_bias"


@dataclass(frozen=True)
class Ported:
    checkpoint: Path
    model_dir: Path
    original: Original


@pytest.fixture(scope="module")
def ported(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ported]:
    checkpoint = make_checkpoint(files=V1_1, overrides=SHALLOW)
    model_dir = tmp_path_factory.mktemp("search") / "model"
    convert_checkpoint(checkpoint, model_dir)
    with Original(checkpoint) as original:
        yield Ported(checkpoint, model_dir, original)


def far_positions_are_wrong(model: nn.Module) -> None:
    """From a distance of 128 on."""
    for module in model.modules():
        if isinstance(module, RelativeAttentionBias):
            right = module.forward

            def forward(distance: torch.Tensor, right: Callable = right) -> torch.Tensor:
                return right(distance) + (distance.abs() >= 128)

            module.forward = forward


def last_id_is_wrong(model: nn.Module) -> None:
    """One row of the embedding."""
    with torch.no_grad():
        model.shared.weight[model.config.vocab_size - 1] += 0.5


def padding_goes_on_to_the_end(model: nn.Module) -> None:
    """Behind the first padding all is taken for padding."""
    right = model.encode

    def encode(ids: torch.Tensor, sequence_ids: torch.Tensor, *rest: object) -> object:
        return right(ids, sequence_ids * sequence_ids.clamp(max=1).cumprod(1), *rest)

    model.encode = encode


def packing_is_ignored(model: nn.Module) -> None:
    right = model.forward

    def forward(**arguments: torch.Tensor) -> object:
        return right(**{k: v for k, v in arguments.items() if "sequence_ids" not in k})

    model.forward = forward


def is_far(smallest: Inputs) -> bool:
    lengths = {smallest["inputs"].shape[1], smallest["targets"].shape[1]}
    return lengths == {1, 129} and not smallest["inputs"].any() and not smallest["targets"].any()


def is_last_id(smallest: Inputs) -> bool:
    # A decoder's last id only counts where it is read: one position further.
    return sorted([*smallest["inputs"].ravel(), *smallest["targets"].ravel()])[-1] == 127 and (
        [smallest["inputs"].shape[1], smallest["targets"].shape[1]] == [1, 1]
    )


def is_padding_first(smallest: Inputs) -> bool:
    return smallest["inputs"].tolist() == [[0, 1]] and smallest["targets"].tolist() == [[0]]


def is_packed(smallest: Inputs) -> bool:
    return len(smallest.arrays()) == 4 and smallest["inputs"].shape[1] + smallest["targets"].shape[1] <= 3


FAULTS: dict[Callable[[nn.Module], None], Callable[[Inputs], bool]] = {
    far_positions_are_wrong: is_far,
    last_id_is_wrong: is_last_id,
    padding_goes_on_to_the_end: is_padding_first,
    packing_is_ignored: is_packed,
}


def searched(ported: Ported, model: nn.Module, count: int = 4) -> SearchResult:
    # Ids below the last: what `--random 2x16` would draw of a vocabulary of 32128.
    first = random_inputs(100, 2, 16, 0)
    comparison = compare_outputs(ported.original.run(first), model)
    assert comparison.status == "match", "these ids were to show nothing"
    return search_port(
        ported.original,
        model.config,
        model,
        comparison,
        first,
        count=count,
        budget=170.0,
        failing=differs,
        on_stage=lambda _text: None,
    )


# Each takes a quarter of a minute: two of them with every change, all of them with `make test-slow`.
SLOW = (far_positions_are_wrong, padding_goes_on_to_the_end)


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=pytest.mark.slow) if fault in SLOW else fault for fault in FAULTS],
    ids=lambda fault: fault.__name__,
)
def test_a_fault_that_random_ids_do_not_show_is_found_and_shrunk(
    ported: Ported, fault: Callable[[nn.Module], None]
) -> None:
    model = load_model(ported.model_dir)
    fault(model)
    result = searched(ported, model)
    assert result.failing and result.shrunk and result.ended == "all tried"
    smallest = result.shrunk.failure.inputs
    assert smallest.batch == 1
    assert FAULTS[fault](smallest), smallest
    # As seen again in a process of its own.
    assert compare_outputs(ported.original.run(smallest), model).status == "diverged"


def test_the_right_port_passes_all_that_is_tried(ported: Ported) -> None:
    result = searched(ported, load_model(ported.model_dir), count=14)
    assert (result.tried, result.failing, result.shrunk) == (14, (), None), result.to_json()
    assert result.refused == ()


def test_a_kept_graph_gives_what_a_new_process_gives(ported: Ported) -> None:
    one, other = random_inputs(100, 2, 16, 1), random_inputs(100, 2, 16, 2)
    ported.original.run(one)
    kept = ported.original.run(other)
    new = run_reference(ported.checkpoint, other)
    assert kept.tensors == new.tensors
    assert kept.metadata == new.metadata
    for name in new.names():
        np.testing.assert_array_equal(kept[name], new[name], err_msg=name)


def run_pytest(path: Path, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_the_command_writes_a_test_that_fails_until_the_port_is_right(
    ported: Ported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """max_distance 120 in place of 128: the buckets of short sentences are the same."""
    shutil.copytree(ported.checkpoint, tmp_path / "original")
    shutil.copytree(ported.model_dir, tmp_path / "wrong")
    config = tmp_path / "wrong" / "config.json"
    config.write_text(re.sub(r'(max_distance": )128', r"\g<1>120", config.read_text()))
    monkeypatch.chdir(tmp_path)
    arguments = ["original", "wrong", "--random", "2x16", "--search", "2", "--format", "json"]
    result = CliRunner().invoke(compare_outputs_command, arguments)
    assert result.exit_code == 1, result.output
    verdict = json.loads(result.stdout)
    assert (verdict["status"], verdict["first_divergence"]) == ("diverged", None)
    shrunk = verdict["search"]["shrunk"]
    assert shrunk["first_divergence"].endswith(BIAS)
    side = "inputs" if shrunk["first_divergence"].startswith("encoder") else "targets"
    expected = {"inputs": [[0]], "targets": [[0]], side: [[0] * first_difference(side == "inputs")]}
    assert shrunk["inputs"] == expected

    test = Path(shrunk["test_file"])
    assert test == Path("reports/wrong_reproduce_test.py")
    assert "SOURCE\", 'original'" in test.read_text()
    wrong = run_pytest(test, tmp_path)
    assert wrong.returncode == 1 and BIAS in wrong.stdout, wrong.stdout + wrong.stderr
    right = run_pytest(test, tmp_path, PORTING_MODEL_DIR=str(ported.model_dir))
    assert right.returncode == 0, right.stdout + right.stderr


def first_difference(bidirectional: bool) -> int:
    """The shortest sequence in which max_distance 120 gives another bucket than 128."""
    one, other = (
        relative_position_bucket(
            -torch.arange(200), bidirectional=bidirectional, num_buckets=32, max_distance=far
        )
        for far in (120, 128)
    )
    return 1 + int((one != other).nonzero()[0])
