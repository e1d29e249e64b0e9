"""What is written as T5X's files: read again by tensorstore, by the very description in the index."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

ts = pytest.importorskip("tensorstore")
msgpack = pytest.importorskip("msgpack")

from porting.checkpoint import Checkpoint, LazyTensor, open_checkpoint  # noqa: E402
from porting.convert.check import check_directory  # noqa: E402
from porting.convert.layout import TensorSpec  # noqa: E402
from porting.convert.manifest import MANIFEST, other_file_facts, weight_file_facts  # noqa: E402
from porting.convert.open_files import allow_open_files  # noqa: E402
from porting.convert.original_files import OriginalFiles, original_files  # noqa: E402
from porting.convert.stream import Written, write_tensors  # noqa: E402
from porting.convert.unfinished import Unfinished  # noqa: E402
from porting.errors import CheckpointError, InputError, OutputError  # noqa: E402
from porting.mapping import Plan, PlanEntry  # noqa: E402
from porting.ops import Reshape, Transpose  # noqa: E402

STEP = {"state/step": np.asarray(1234, np.int32)}


def parameters(dtype: Any) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    shapes = {"scale": (5,), "wi.0": (7, 5), "wi.1": (7, 5), "wi.2": (7, 5), "table": (6, 3)}
    return {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def model(arrays: Mapping[str, np.ndarray]) -> Checkpoint:
    tensors = {n: LazyTensor(n, a.shape, a.dtype, (), lambda a=a: a) for n, a in arrays.items()}
    return Checkpoint(Path("model.safetensors"), "safetensors", tensors, ())


def planned(checkpoint: Checkpoint) -> OriginalFiles:
    """A vector as it lies, a transposed matrix, and layers stacked on axis 1."""
    stacked = PlanEntry(
        sources=("wi.0", "wi.1", "wi.2"),
        target="target/encoder/encoder/mlp/wi/kernel",
        ops=(Transpose(), Reshape((5, 7), (5, 1, 7))),
        source_shapes=((7, 5),) * 3,
        target_shape=(5, 3, 7),
        join_axis=1,
    )
    plan = Plan(
        (
            stacked,
            PlanEntry(("table",), "target/token_embedder/embedding", (Transpose(),), ((6, 3),), (3, 6)),
            PlanEntry(("scale",), "target/encoder/encoder_norm/scale", (), ((5,),), (5,)),
        )
    )
    specs = {
        entry.target: TensorSpec(entry.target, entry.target_shape, checkpoint.tensors["scale"].dtype)
        for entry in plan.entries
    }
    return original_files("t5x", plan, checkpoint, specs, STEP, 10**9)


def write(form: OriginalFiles, folder: Path, *, go_on: bool = False) -> dict[str, Written]:
    written = write_tensors(
        form.checkpoint,
        form.plan.entries,
        form.layout,
        folder,
        verify=True,
        go_on=go_on,
        on_tensor=lambda _name, _nbytes: None,
    )
    for name, content in form.files(written).items():
        (folder / name).write_bytes(content)
    return written


def expected(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "target/encoder/encoder/mlp/wi/kernel": np.stack([arrays[f"wi.{i}"].T for i in range(3)], axis=1),
        "target/token_embedder/embedding": arrays["table"].T,
        "target/encoder/encoder_norm/scale": arrays["scale"],
    }


DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_tensorstore_opens_what_the_index_describes(tmp_path: Path, dtype: Any) -> None:
    arrays = parameters(dtype)
    write(planned(model(arrays)), tmp_path)
    directory = tmp_path / "checkpoint_1234"
    index = msgpack.unpackb((directory / "checkpoint").read_bytes())
    assert (index["version"], {*index["optimizer"]}) == (3, {"state", "target"})
    for name, array in expected(arrays).items():
        spec = index["optimizer"]
        for part in name.split("/"):
            spec = spec[part]
        # As T5X does: the path is one from the index's directory.
        spec["kvstore"]["path"] = str(directory / spec["kvstore"]["path"])
        spec["fill_missing_data_reads"] = False
        opened = ts.open(spec, open=True).result()
        values = opened.read().result()
        assert values.dtype == array.dtype
        assert values.shape == array.shape
        assert values.tobytes() == array.tobytes(), name
        # Nothing in the header but what tensorstore itself writes there.
        written = json.loads((directory / name.replace("/", ".") / ".zarray").read_text())
        assert written == opened.spec().to_json()["metadata"]
        assert written["fill_value"] is None
    step = index["optimizer"]["state"]["step"]
    assert (step.code, msgpack.unpackb(step.data)) == (1, [[], "int32", np.int32(1234).tobytes()])


def test_it_is_read_again_without_tensorstore(tmp_path: Path) -> None:
    arrays = parameters(np.float32)
    write(planned(model(arrays)), tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert {*checkpoint.tensors} == {*expected(arrays), *STEP}
    for name, array in expected(arrays).items():
        assert checkpoint.tensors[name].stored is not None
        assert checkpoint.tensors[name].read().tobytes() == array.tobytes()
    assert checkpoint.tensors["state/step"].read() == 1234


def test_what_a_killed_run_left_is_kept_and_the_rest_written(tmp_path: Path) -> None:
    arrays = parameters(np.float32)
    form = planned(model(arrays))
    write(form, tmp_path)
    (tmp_path / "UNFINISHED").touch()
    values = tmp_path / "checkpoint_1234" / "target.token_embedder.embedding" / "0.0"
    values.write_bytes(bytes(len(values.read_bytes())))
    (tmp_path / "checkpoint_1").mkdir()
    (tmp_path / "checkpoint_1" / "0.0").touch()
    Unfinished(tmp_path, found=True).keep_only([file.name for file in form.layout])
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"UNFINISHED", *(file.name for file in form.layout)}
    written = write(form, tmp_path, go_on=True)
    kept = {name for name, facts in written.items() if facts.kept}
    assert kept == {*written} - {"target/token_embedder/embedding"}
    assert values.read_bytes() == arrays["table"].T.tobytes()


def test_check_finds_what_was_changed_and_what_was_added(tmp_path: Path) -> None:
    form = planned(model(parameters(np.float32)))
    written = write(form, tmp_path)
    facts = weight_file_facts(form.layout, written) + other_file_facts(tmp_path, [*form.files(written)])
    (tmp_path / MANIFEST).write_text(json.dumps({"schema_version": 1, "files": facts}))
    (tmp_path / "checkpoint_1234" / "notes").mkdir()
    (tmp_path / "logs").mkdir()
    assert check_directory(tmp_path).others == ("checkpoint_1234/notes", "logs")
    values = tmp_path / "checkpoint_1234" / "target.encoder.encoder_norm.scale" / "0"
    values.write_bytes(bytes(20))
    with pytest.raises(InputError, match="target/encoder/encoder_norm/scale in checkpoint_1234/target"):
        check_directory(tmp_path)
    for name in ("../x", "/x", "a//x", "a/../x"):
        facts[0]["name"] = name
        (tmp_path / MANIFEST).write_text(json.dumps({"schema_version": 1, "files": facts}))
        with pytest.raises(InputError, match="outside the directory"):
            check_directory(tmp_path)


def test_without_msgpack_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "msgpack", None)
    with pytest.raises(CheckpointError, match=r"pip install 'porting\[t5x\]'"):
        planned(model(parameters(np.float32)))


def test_more_files_than_a_process_may_open_are_allowed_or_refused() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, limits[1]))
        allow_open_files(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        allow_open_files(500)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 500
        if limits[1] != resource.RLIM_INFINITY:
            with pytest.raises(OutputError, match="ulimit"):
                allow_open_files(limits[1] + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
