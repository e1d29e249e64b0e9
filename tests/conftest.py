"""What the tests of several modules share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from porting.inputs import Inputs
from tests.traces import TraceMaker

REPOSITORY = Path(__file__).resolve().parents[1]
# Real checkpoints and recorded runs; not part of a clone.
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

settings.register_profile("porting", deadline=None, derandomize=True, database=None)
settings.load_profile("porting")

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def mtf_tiny_t5() -> Path:
    """A real Mesh T5: index, config and variable listing; the shard with its weights is missing."""
    folder = SHARED_DATA / "mtf_tiny_t5"
    if not folder.is_dir():
        pytest.skip("the real data mtf_tiny_t5 is not beside this repository")
    return folder


@pytest.fixture
def run_python() -> RunPython:
    """Run a Python of its own: `run_python("-c", code)`; the result's output is text."""

    def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd or REPOSITORY,
            env=environment,
        )

    return run


@pytest.fixture
def small_inputs() -> Inputs:
    return Inputs.from_arrays({"inputs": [[5, 6, 7, 1], [8, 1, 0, 0]], "targets": [[9, 4, 1], [3, 1, 0]]})


@pytest.fixture
def traces(tmp_path: Path) -> TraceMaker:
    """`traces([T(...)])` is a trace; `traces.compare([T(...)], [T(...)])` is a comparison."""
    return TraceMaker(tmp_path / "traces")
