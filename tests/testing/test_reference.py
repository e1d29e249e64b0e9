"""What makes the original run again, and what does not. The original here only counts its runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import porting.workbench
from porting.inputs import Inputs
from porting.testing import reference
from porting.testing.cache import ContentCache
from porting.testing.reference import ReferenceTraces
from porting.trace import Trace, TraceWriter
from tests.conftest import REPOSITORY

IDS = {"inputs": [[5, 6, 1]], "targets": [[7, 1]]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return shutil.copytree(REPOSITORY / "demo" / "checkpoint", tmp_path / "checkpoint")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []

    def run(_source: Path, inputs: Inputs, *, save_to: Path, **options: Any) -> Trace:
        made.append(options)
        writer = TraceWriter(save_to, inputs)
        writer.add("logits", np.zeros((1, 2, 3), np.float32), ("batch", "length", "vocab"))
        return writer.close({"port": "t5", "versions": {"numpy": np.__version__, "python": "3"}})

    monkeypatch.setattr(porting.workbench, "run_reference", run)
    monkeypatch.setattr(reference, "_installed_version", lambda name: {"numpy": np.__version__}.get(name))
    return made


def fresh(tmp_path: Path) -> ReferenceTraces:
    """As another run of the tests would have it."""
    return ReferenceTraces(ContentCache(tmp_path / "cache"))


def test_the_original_runs_once(checkpoint: Path, tmp_path: Path, runs: list[Any]) -> None:
    first = fresh(tmp_path)(checkpoint, IDS)
    again = fresh(tmp_path)(str(checkpoint), Inputs.from_arrays(IDS, origin="elsewhere"))
    assert len(runs) == 1
    assert first.path == again.path and again["logits"].shape == (1, 2, 3)


def test_the_place_of_the_checkpoint_does_not_matter(
    checkpoint: Path, tmp_path: Path, runs: list[Any]
) -> None:
    fresh(tmp_path)(checkpoint, IDS)
    fresh(tmp_path)(shutil.copytree(checkpoint, tmp_path / "copy"), IDS)
    assert len(runs) == 1


def weights(checkpoint: Path) -> None:
    data = next(checkpoint.glob("*.data-*"))
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)


def gin(checkpoint: Path) -> None:
    config = checkpoint / "operative_config.gin"
    config.write_text(config.read_text() + "\n# another text\n")


@pytest.mark.parametrize("change", [weights, gin])
def test_a_changed_file_makes_it_run_again(
    change: Callable[[Path], None], checkpoint: Path, tmp_path: Path, runs: list[Any]
) -> None:
    fresh(tmp_path)(checkpoint, IDS)
    change(checkpoint)
    fresh(tmp_path)(checkpoint, IDS)
    assert len(runs) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"inputs": {"inputs": [[5, 6, 2]], "targets": [[7, 1]]}},
        {"inputs": {"inputs": [[5, 6]], "targets": [[7, 1]]}},
        {"inputs": None},
        {"inputs": IDS, "backward": True},
        {"inputs": IDS, "generate": "greedy"},
    ],
    ids=["ids", "shape", "random", "backward", "generate"],
)
def test_other_inputs_and_options_make_it_run_again(
    other: dict[str, Any], checkpoint: Path, tmp_path: Path, runs: list[Any]
) -> None:
    fresh(tmp_path)(checkpoint, IDS)
    fresh(tmp_path)(checkpoint, **other)
    assert len(runs) == 2


def test_edited_code_makes_it_run_again(
    checkpoint: Path, tmp_path: Path, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(tmp_path)(checkpoint, IDS)
    monkeypatch.setattr(reference, "code_digest", lambda *_modules: "edited")
    fresh(tmp_path)(checkpoint, IDS)
    assert len(runs) == 2


def test_another_version_of_the_original_makes_it_run_again_and_both_are_kept(
    checkpoint: Path, tmp_path: Path, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(tmp_path)(checkpoint, IDS)
    with monkeypatch.context() as other:
        other.setattr(reference, "_made_by_what_is_installed", lambda path: path.name != "0000")
        fresh(tmp_path)(checkpoint, IDS)
        assert len(runs) == 2
        fresh(tmp_path)(checkpoint, IDS)
    fresh(tmp_path)(checkpoint, IDS)
    assert len(runs) == 2


def test_versions_are_held_against_what_is_installed(tmp_path: Path) -> None:
    def kept(versions: dict[str, str]) -> bool:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        TraceWriter(path, Inputs.from_arrays(IDS)).close({"versions": versions})
        return reference._made_by_what_is_installed(path)

    assert kept({"numpy": np.__version__})
    assert kept({"a framework that nobody can ask": "1"})
    assert not kept({"numpy": "0.9"})
    assert not kept({"python": "2.7.18"})
    assert not reference._made_by_what_is_installed(tmp_path / "no trace")
