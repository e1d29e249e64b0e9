"""Disks that are full or read-only, sources that change or are damaged: one clear error, and nothing left."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porting.checkpoint import open_checkpoint
from porting.convert import convert_checkpoint
from porting.errors import CheckpointError, OutputError
from tests.convert.test_stream import bundle
from tests.ports.t5.mesh_variables import SMALL, mesh_shapes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    arrays = {
        n: generator.standard_normal(s).astype(np.float32) for n, s in mesh_shapes(SMALL, slots=True).items()
    }
    arrays["global_step"] = np.array(7, np.int64)
    bundle(tmp_path / "source", arrays)
    return tmp_path / "source" / "m"


def nothing_left(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


# --- disks ---


def failing(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int, at: int, wrapped: Callable[..., Any]
) -> None:
    count = 0

    def call(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(number, os.strerror(number))
        return wrapped(*args)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("name", ["pwrite", "fsync", "truncate"])
def test_a_disk_that_is_full_is_said_and_what_was_written_removed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    failing(monkeypatch, name, errno.ENOSPC, 1 if name == "truncate" else 3, getattr(os, name))
    with pytest.raises(OutputError, match=r"cannot be written: no space is left .* has been removed"):
        convert_checkpoint(source, tmp_path / "out" / "model")
    assert not (tmp_path / "out").exists()


def test_an_error_of_the_disk_is_said(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "pwrite", errno.EIO, 5, os.pwrite)
    with pytest.raises(OutputError, match="Input/output error"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a filesystem in memory, with these options."""
    places: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"mount{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_real_disk_that_is_too_small_is_seen_before_any_work(
    source: Path, mounted: Callable[[str], Path]
) -> None:
    place = mounted("size=64k")
    with pytest.raises(OutputError, match=r"needs [\d,]+ bytes, and [\d,]+ are free there"):
        convert_checkpoint(source, place / "model", on_start=lambda _: pytest.fail("too late"))
    assert nothing_left(place)


def test_a_real_disk_that_fills_up_meanwhile(
    source: Path, mounted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = mounted("size=64k")
    monkeypatch.setattr("porting.convert.conversion.check_free", lambda *_args, **_options: None)
    with pytest.raises(OutputError, match="no space is left"):
        convert_checkpoint(source, place / "model")
    assert nothing_left(place)


def test_a_real_read_only_disk(source: Path, mounted: Callable[[str], Path]) -> None:
    place = mounted("ro,size=64k")
    with pytest.raises(OutputError, match=r"no permission|Read-only"):
        convert_checkpoint(source, place / "model")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(source: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="no permission"):
        convert_checkpoint(source, tmp_path / "locked" / "model")


def test_permission_is_asked_of_the_nearest_directory_there_is(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(os, "access", lambda path, _mode: asked.append(path))
    with pytest.raises(OutputError, match="no permission"):
        convert_checkpoint(source, tmp_path / "a" / "b" / "model")
    assert asked == [tmp_path]


# --- sources ---


def test_a_source_that_is_truncated_meanwhile_is_an_error_and_no_crash(source: Path, tmp_path: Path) -> None:
    """A mapped file would end the process with SIGBUS."""
    data = source.parent / "m.data-00000-of-00001"
    with pytest.raises(CheckpointError, match="is truncated"):
        convert_checkpoint(source, tmp_path / "out", on_start=lambda _: os.truncate(data, 100))
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_written_meanwhile_is_noticed(source: Path, tmp_path: Path) -> None:
    data = source.parent / "m.data-00000-of-00001"

    def touch(_name: str, _nbytes: int) -> None:
        os.utime(data, ns=(1, 1))

    with pytest.raises(CheckpointError, match="changed while it was converted") as caught:
        convert_checkpoint(source, tmp_path / "out", on_tensor=touch)
    assert caught.value.problems[0].key == str(data)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_replaced_meanwhile_is_noticed(source: Path, tmp_path: Path) -> None:
    """A training run that saves: first other values, then another index."""
    index = source.parent / "m.index"

    def replace(_nbytes: int) -> None:
        copy = index.with_suffix(".new")
        shutil.copy2(index, copy)
        copy.replace(index)

    with pytest.raises(CheckpointError, match="changed while it was converted"):
        convert_checkpoint(source, tmp_path / "out", on_start=replace)


def test_values_that_change_meanwhile_do_not_pass_their_checksum(source: Path, tmp_path: Path) -> None:
    data = source.parent / "m.data-00000-of-00001"

    def overwrite(_nbytes: int) -> None:
        with data.open("r+b") as file:
            file.write(b"other values")

    with pytest.raises(CheckpointError, match="are damaged"):
        convert_checkpoint(source, tmp_path / "out", on_start=overwrite)


def test_every_variable_that_is_converted_is_checked_and_no_other(source: Path, tmp_path: Path) -> None:
    """Each tensor damaged by itself; slots are not even read, the step is."""
    data = source.parent / "m.data-00000-of-00001"
    whole = data.read_bytes()
    checkpoint = open_checkpoint(source)
    for name, tensor in checkpoint.tensors.items():
        assert tensor.stored is not None
        content = bytearray(whole)
        content[tensor.stored.offset + tensor.nbytes // 2] ^= 1
        data.write_bytes(content)
        if "_slot_" in name:
            convert_checkpoint(source, tmp_path / "out", force=True)
        else:
            with pytest.raises(CheckpointError, match="damaged") as caught:
                convert_checkpoint(source, tmp_path / "broken")
            assert caught.value.problems[0].key == name
    assert not (tmp_path / "broken").exists()


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Ten times the layers, of which none is large: the peak stays where the first ones put it."""

    def peak(layers: int) -> int:
        from dataclasses import replace

        config = replace(SMALL, d_model=256, d_ff=1024, num_layers=layers, num_decoder_layers=1)
        folder = tmp_path / str(layers)
        generator = np.random.default_rng(0)
        arrays = {n: generator.random(s, dtype=np.float32) for n, s in mesh_shapes(config).items()}
        bundle(folder, arrays)
        # Not ru_maxrss, which begins with what the process that starts this one has.
        script = (
            "import re, sys; from porting.convert import convert_checkpoint;"
            "convert_checkpoint(sys.argv[1], sys.argv[2]);"
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
        )
        command = [sys.executable, "-c", script, str(folder / "m"), str(folder / "out")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) << 10

    few, many = peak(2), peak(40)
    assert (tmp_path / "40/out/model.safetensors").stat().st_size > 80_000_000
    assert many - few < 30 << 20
