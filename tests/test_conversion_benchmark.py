"""The benchmark of conversions, on a small model: what it measures, and what it leaves behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from benchmarks import convert as benchmark
from benchmarks.conversion.bundle import bundle_bytes, slots, write_bundle
from benchmarks.conversion.process import run
from porting.checkpoint import open_checkpoint
from porting.convert import convert_checkpoint

ROOT = Path(__file__).parents[1]
TINY = benchmark.SIZES["tiny"]


def test_checkpoints_are_whole_and_only_their_weights_are_planned_to_be_read(tmp_path: Path) -> None:
    bundle = write_bundle(TINY, tmp_path, momentum=True)
    checkpoint = open_checkpoint(tmp_path)
    for tensor in checkpoint.tensors.values():
        tensor.read()
    assert bundle_bytes(TINY, momentum=True) == (bundle.weight_bytes, bundle.data_bytes)
    assert bundle.data.stat().st_size == bundle.data_bytes > 2 * bundle.weight_bytes
    planned = convert_checkpoint(tmp_path, tmp_path / "out", dry_run=True)
    assert planned.bytes_read == bundle.weight_bytes
    assert "operative_config.gin" in planned.resolved.origin
    assert sum(planned.bytes_ignored.values()) == bundle.data_bytes - bundle.weight_bytes


def test_slots_are_those_of_adafactor() -> None:
    """`AdafactorOptimizer.apply_grad` in mesh_tensorflow/optimize.py: `vr` lacks the longest axis."""
    assert dict(slots("wi", (256, 1024), momentum=False)) == {"wi_slot_vc": (1024,), "wi_slot_vr": (256,)}
    assert dict(slots("bias", (12, 32), momentum=False)) == {"bias_slot_v": (12, 32)}
    assert dict(slots("scale", (256,), momentum=True)) == {"scale_slot_v": (256,), "scale_slot_m": (256,)}


def test_it_measures_every_command_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, report = tmp_path / "work", tmp_path / "figures.json"
    work.mkdir()
    benchmark.main(["--sizes", "tiny", "--repeat", "1", "--directory", str(work), "--json", str(report)])
    assert not [*work.iterdir()]
    (result,) = json.loads(report.read_text())["results"]
    assert set(result["cases"]) == {"cp", "cp, sync", "convert-checkpoint", "--no-verify"}
    for name in ("convert-checkpoint", "--no-verify"):
        case = result["cases"][name]
        assert 0 < case["seconds_without_startup"] < case["seconds"]
        assert 20e6 < case["peak_bytes"] < 2e9
    printed = capsys.readouterr().out
    assert "| convert-checkpoint |" in printed
    benchmark.main(["--show", str(report)])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_removes_its_files_when_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks.convert", "--sizes", "tiny", "--repeat", "100"]
    process = subprocess.Popen(
        [*command, "--directory", str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "round 2" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.3)
    assert [*tmp_path.iterdir()]
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode
    assert not [*tmp_path.iterdir()]


def test_it_writes_nothing_where_there_is_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(22_000_000_000))
    monkeypatch.setattr(benchmark, "write_bundle", pytest.fail)
    with pytest.raises(SystemExit, match=r"24\.0 GB of free disk space are needed, 22\.0 GB are there"):
        benchmark.main(["--sizes", "base,3b", "--directory", str(tmp_path)])


def test_an_environment_that_lacks_the_loader_is_told_how_to_make_one(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'tensorflow'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(SystemExit, match=r"(?s)No module named 'tensorflow'.*pip install"):
        benchmark.main(["--sizes", "tiny", "--transformers", str(python), "--directory", str(tmp_path)])


def test_peak_memory_is_that_of_the_process_and_not_of_who_started_it() -> None:
    held = bytearray(300 << 20)
    small = run([sys.executable, "-c", "import time; time.sleep(0.1)"])
    large = run([sys.executable, "-c", "import time; b = bytes(range(256)) * (1 << 20); time.sleep(0.1)"])
    assert len(held) > small.peak > 1 << 20
    assert 256 << 20 < large.peak < 300 << 20
    assert large.anonymous > 256 << 20 and large.mapped < 50 << 20


def test_cpu_seconds_are_those_of_the_one_process() -> None:
    run(
        [
            sys.executable,
            "-c",
            "import time; t = time.process_time()\nwhile time.process_time() < t + 1: pass",
        ]
    )
    idle = run([sys.executable, "-c", "import time; time.sleep(0.5)"])
    assert idle.cpu < 0.5 < idle.seconds


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(SystemExit, match="no such thing"):
        run([sys.executable, "-c", "import sys; sys.exit('no such thing')"])
