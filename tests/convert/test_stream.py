"""Tensors into files: every bit of them, in the place that was planned, read back and compared."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import porting.convert.stream as stream
from porting.checkpoint import Checkpoint, LazyTensor, open_checkpoint
from porting.checkpoint.tf_bundle_writer import BundleTensor, bundle_index
from porting.checkpoint.tf_shards import data_file_name
from porting.convert.layout import FileLayout, TensorSpec, safetensors_layout
from porting.convert.stream import Written, matches_layout, write_tensors
from porting.errors import CheckpointError, InputError, OutputError
from porting.mapping import PlanEntry
from porting.ops import Op, Part, Reshape, Transpose

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def torch_bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def bundle(folder: Path, arrays: Mapping[str, np.ndarray]) -> Checkpoint:
    """A bundle on disk that holds these arrays."""
    import google_crc32c

    tensors, content = [], b""
    for name, array in arrays.items():
        data = array.tobytes()
        crc = google_crc32c.value(data)
        tensors.append(BundleTensor(name, array.dtype, array.shape, 0, len(content), len(data), crc))
        content += data
    folder.mkdir(exist_ok=True)
    (folder / "m.index").write_bytes(bundle_index(tensors, 1))
    (folder / data_file_name("m", 0, 1)).write_bytes(content)
    return open_checkpoint(folder / "m")


def entry(source: str, target: str, ops: tuple[Op, ...], checkpoint: Checkpoint) -> PlanEntry:
    shape = before = checkpoint.tensors[source].shape
    for op in ops:
        shape = op.output_shape(shape)
    return PlanEntry((source,), target, ops, (before,), shape)


def layout_of(
    entries: list[PlanEntry], checkpoint: Checkpoint, dtype: Any = None, limit: int = 10**9
) -> list[FileLayout]:
    specs = [
        TensorSpec(e.target, e.target_shape, np.dtype(dtype or checkpoint.tensors[e.sources[0]].dtype))
        for e in entries
    ]
    return safetensors_layout(specs, limit)


def write(
    checkpoint: Checkpoint, entries: list[PlanEntry], folder: Path, dtype: Any = None, **options: Any
) -> dict[str, Written]:
    folder.mkdir(exist_ok=True)
    asked: dict[str, Any] = {"verify": True, "go_on": False, "on_tensor": lambda _name, _nbytes: None}
    layout = layout_of(entries, checkpoint, dtype, options.pop("limit", 10**9))
    return write_tensors(checkpoint, entries, layout, folder, **{**asked, **options})


def random_bits(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Any bit patterns: NaNs with payloads and denormal numbers are among them."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    count = int(np.prod(shape))
    bits = np.random.default_rng(seed).integers(0, 256, (count, kind.itemsize), dtype=np.uint8)
    return bits.view(kind).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_what_other_libraries_read_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    # Larger than a strip and than a piece, and no multiple of a tile.
    arrays = {"m": random_bits((1033, 1500), dtype), "row": random_bits((700_001,), dtype, 1)}
    arrays |= {"scalar": random_bits((), dtype), "none": random_bits((0, 4), dtype)}
    checkpoint = bundle(tmp_path / "c", arrays)
    entries = [
        entry("m", "transposed", (Transpose(),), checkpoint),
        *(entry(name, name, (), checkpoint) for name in ("row", "scalar", "none")),
    ]
    written = write(checkpoint, entries, tmp_path / "out")
    read = load_file(tmp_path / "out" / "model.safetensors")
    expected = {"transposed": arrays["m"].T, **{name: arrays[name] for name in ("row", "scalar", "none")}}
    assert set(read) == set(expected) == set(written)
    for name, array in expected.items():
        assert read[name].dtype == DTYPES[dtype]
        assert tuple(read[name].shape) == array.shape
        assert torch_bits(read[name]) == np.ascontiguousarray(array).tobytes()
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_types_may_be_mixed_in_one_file(tmp_path: Path) -> None:
    kinds = [np.float16, np.float64, ml_dtypes.bfloat16]
    arrays = {f"t{i}": np.ones((2, 3), kind) for i, kind in enumerate(kinds)}
    checkpoint = bundle(tmp_path / "c", arrays)
    write(checkpoint, [entry(name, name, (), checkpoint) for name in arrays], tmp_path / "out")
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert [read[f"t{i}"].dtype for i in range(3)] == [torch.float16, torch.float64, torch.bfloat16]
    assert all(bool((tensor == 1).all()) for tensor in read.values())


def test_values_of_another_shape_are_never_written(tmp_path: Path) -> None:
    """Of a reader that says one thing and gives another."""
    tensor = LazyTensor("a", (2, 3), np.dtype(np.float32), (), lambda: np.zeros((3, 2), np.float32))
    checkpoint = Checkpoint(tmp_path, "memory", {"a": tensor}, ())
    with pytest.raises(AssertionError, match="a: "):
        write(checkpoint, [entry("a", "a", (), checkpoint)], tmp_path / "out")


def test_a_source_of_many_tensors_is_read_once_and_then_forgotten(tmp_path: Path) -> None:
    experts = random_bits((5, 40, 30))
    reads: list[str] = []

    def load() -> np.ndarray:
        reads.append("experts")
        return experts

    tensor = LazyTensor("experts", experts.shape, experts.dtype, (), load)
    checkpoint = Checkpoint(tmp_path, "memory", {"experts": tensor}, ())
    entries = [entry("experts", f"expert_{i}", (Part(i, 5), Transpose()), checkpoint) for i in range(5)]
    write(checkpoint, entries, tmp_path / "out", limit=10_000)
    assert reads == ["experts"]
    read: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "out").iterdir():
        read |= load_file(file)
    assert all(torch_bits(read[f"expert_{i}"]) == experts[i].T.tobytes() for i in range(5))


def test_never_more_is_in_hand_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbytes = 1 << 20
    monkeypatch.setattr(stream, "IN_HAND_BYTES", 3 * nbytes)  # one tensor and what is made of it
    at_a_time, most, lock = 0, 0, threading.Lock()
    original = stream._write_group

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal at_a_time, most
        with lock:
            at_a_time += 1
            most = max(most, at_a_time)
        try:
            return original(*args, **options)
        finally:
            with lock:
                at_a_time -= 1

    monkeypatch.setattr(stream, "_write_group", counted)
    checkpoint = bundle(tmp_path / "c", {f"t{i}": random_bits((512, 512), seed=i) for i in range(6)})
    write(checkpoint, [entry(f"t{i}", f"t{i}", (Transpose(),), checkpoint) for i in range(6)], tmp_path / "o")
    assert most == 1


def test_progress_comes_in_the_order_of_the_files(tmp_path: Path) -> None:
    arrays = {f"t{i}": random_bits((300 * (9 - i), 100)) for i in range(9)}
    checkpoint = bundle(tmp_path / "c", arrays)
    seen: list[tuple[str, int]] = []
    entries = [entry(name, name, (Transpose(),), checkpoint) for name in reversed(arrays)]
    write(checkpoint, entries, tmp_path / "o", on_tensor=lambda name, nbytes: seen.append((name, nbytes)))
    assert seen == [(name, arrays[name].nbytes) for name in reversed(arrays)]


# --- what is wrong is never kept ---


OPS: dict[str, tuple[Op, ...]] = {
    "as it lies": (),
    "transposed": (Transpose(),),
    "reshaped": (Reshape((300, 200), (600, 100)), Transpose()),
}


@pytest.mark.parametrize("ops", OPS.values(), ids=OPS)
@pytest.mark.parametrize("dtype", [None, ml_dtypes.bfloat16])
def test_a_bit_that_the_disk_changes_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ops: tuple[Op, ...], dtype: Any
) -> None:
    values = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    checkpoint = bundle(tmp_path / "c", {"a": values})
    original = os.pwrite

    def flipping(descriptor: int, data: Any, offset: int) -> int:
        content = bytearray(data)
        if len(content) > 10_000:  # not the head
            content[len(content) // 2] ^= 1
        return original(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", flipping)
    entries = [entry("a", "a", ops, checkpoint)]
    with pytest.raises(OutputError, match="a was read back otherwise"):
        write(checkpoint, entries, tmp_path / "out", dtype)
    write(checkpoint, entries, tmp_path / "unverified", dtype, verify=False)


def test_damage_at_the_end_of_a_long_tensor_is_noticed(tmp_path: Path) -> None:
    checkpoint = bundle(tmp_path / "c", {"a": random_bits((2000, 700)), "b": random_bits((10, 10))})
    data = tmp_path / "c" / data_file_name("m", 0, 1)
    content = bytearray(data.read_bytes())
    content[2000 * 700 * 4 - 1] ^= 1
    data.write_bytes(content)
    for ops in ((), (Transpose(),)):
        with pytest.raises(CheckpointError, match=r"a: its values in .* are damaged"):
            write(checkpoint, [entry("a", "a", ops, checkpoint)], tmp_path / "out")


def test_a_value_too_large_for_the_dtype_is_named(tmp_path: Path) -> None:
    values = np.array([[1.0, 7e4], [np.inf, np.nan]], np.float32)
    checkpoint = bundle(tmp_path / "c", {"a": values})
    with pytest.raises(InputError, match="too large for float16") as caught:
        write(checkpoint, [entry("a", "a", (), checkpoint)], tmp_path / "out", np.float16)
    assert caught.value.problems[0].found == "1 larger ones"
    write(checkpoint, [entry("a", "a", (), checkpoint)], tmp_path / "bf16", ml_dtypes.bfloat16)


def test_an_error_stops_the_rest(tmp_path: Path) -> None:
    reads: list[str] = []

    def loader(name: str) -> Callable[[], np.ndarray]:
        def load() -> np.ndarray:
            reads.append(name)
            if name == "t0":
                raise CheckpointError("t0 is damaged")
            return np.zeros((4, 4), np.float32)

        return load

    tensors = {f"t{i}": LazyTensor(f"t{i}", (4, 4), np.dtype("f4"), (), loader(f"t{i}")) for i in range(2000)}
    checkpoint = Checkpoint(tmp_path, "memory", tensors, ())
    with pytest.raises(CheckpointError, match="t0 is damaged"):
        write(checkpoint, [entry(name, name, (), checkpoint) for name in tensors], tmp_path / "out")
    assert len(reads) < 1000


# --- going on after a kill ---


def test_what_is_there_and_right_is_kept_and_the_rest_is_written(tmp_path: Path) -> None:
    arrays = {f"t{i}": random_bits((64, 48), seed=i) for i in range(4)}
    checkpoint = bundle(tmp_path / "c", arrays)
    entries = [entry(name, name, ((Transpose(),), ())[i % 2], checkpoint) for i, name in enumerate(arrays)]
    layout = layout_of(entries, checkpoint)
    write(checkpoint, entries, tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    whole = path.read_bytes()
    content = bytearray(whole)
    at = layout[0].offsets()
    content[at[1] : at[2]] = bytes(at[2] - at[1])  # never written
    content[at[2] + 77] ^= 4  # half written
    path.write_bytes(content)
    assert matches_layout(path, layout[0])

    written = write(checkpoint, entries, tmp_path / "out", go_on=True)
    assert path.read_bytes() == whole
    assert {name: tensor.kept for name, tensor in written.items()} == {
        "t0": True, "t1": False, "t2": False, "t3": True,
    }  # fmt: skip


def test_a_file_of_another_plan_does_not_match(tmp_path: Path) -> None:
    checkpoint = bundle(tmp_path / "c", {"a": random_bits((6, 4)), "b": random_bits((6, 4))})
    write(checkpoint, [entry("a", "a", (), checkpoint)], tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    (same,) = layout_of([entry("a", "a", (), checkpoint)], checkpoint)
    (other,) = layout_of([entry("b", "b", (), checkpoint)], checkpoint)
    assert matches_layout(path, same)
    assert not matches_layout(path, other)
    assert not matches_layout(tmp_path / "none", same)
    with path.open("ab") as file:
        file.write(b"more")
    assert not matches_layout(path, same)
