"""The progress view of a real comparison: the original, the port, and the analysis of a fault in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from porting.convert import convert_checkpoint
from tests.integration.conftest import SMALL, V1_1, MakeCheckpoint
from tests.terminal import Ran, run_in_terminal

COMPARE = "from porting.cli import compare_outputs_command as c; c()"
COLUMNS = 60
FAULTY = "encoder.block.1.layer.1.DenseReluDense.wo"


@pytest.fixture(scope="module")
def arguments(make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    checkpoint, folder = make_checkpoint(V1_1, SMALL), tmp_path_factory.mktemp("live")
    convert_checkpoint(checkpoint, folder / "model")
    file = folder / "model" / "model.safetensors"
    weights = load_file(file)
    weights[f"{FAULTY}.weight"] = weights[f"{FAULTY}.weight"] * 1.5
    save_file(weights, file, {"format": "pt"})
    options = ["--random", "2x20", "--report-dir", str(folder / "reports"), "--save-traces", str(folder)]
    return ["-c", COMPARE, str(checkpoint), str(folder / "model"), *options]


@pytest.fixture(scope="module")
def ran(arguments: list[str]) -> Ran:
    return run_in_terminal(arguments, COLUMNS)


@pytest.mark.parametrize(
    "words",
    [
        ("running the original", "0:01"),
        ("running the port",),
        ("comparing",),
        ("isolating each tensor", "worst so far: "),
        ("measuring the noise floor", " of 492: ", "worst so far: "),
        ("looking for causes", "worst so far: "),
    ],
)
def test_every_stage_is_seen(ran: Ran, words: tuple[str, ...]) -> None:
    assert any(all(word in frame for word in words) for frame in ran.screen.frames), words


def test_nothing_is_left_and_the_result_is_on_stdout(ran: Ran) -> None:
    assert ran.returncode == 1
    assert ran.stdout.startswith("DIVERGED: ")
    assert ran.screen.text == ""
    assert ran.screen.widest <= COLUMNS


def test_a_pipe_gets_the_result_and_nothing_else(arguments: list[str]) -> None:
    trace = str(Path(arguments[-1]) / "reference")
    ran = subprocess.run(
        [sys.executable, *arguments[:-2], "--reference-trace", trace],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stdout.startswith("DIVERGED: ")
    assert ran.stderr == ""
