from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from porting.errors import InputError, OutputError
from porting.inputs import Inputs
from porting.trace import Trace, TraceWriter, read_trace

# Not in alphabetical order: the order is that of computing.
NAMES = ["encoder.b", "encoder.a", "logits"]


def write(path: Path | None, inputs: Inputs) -> Trace:
    writer = TraceWriter(path, inputs)
    for i, name in enumerate(NAMES):
        values = np.full((2, 3), i, np.float32)
        writer.add(name, values, ("batch", "length"), original_name=f"tf/{name}")
    writer.add("loss", np.array(0.5, np.float32), (), hidden_below=-1e8)
    return writer.close({"deterministic": True, "versions": {"numpy": "2"}})


@pytest.fixture
def trace(tmp_path: Path, small_inputs: Inputs) -> Path:
    write(tmp_path / "trace", small_inputs)
    return tmp_path / "trace"


def edit(trace: Path, **changes: object) -> None:
    """Change fields of the index, or (with `tensor=`) of its first tensor."""
    index = json.loads((trace / "trace.json").read_text())
    index["tensors"][0] |= changes.pop("tensor", {})
    (trace / "trace.json").write_text(json.dumps(index | changes))


def test_what_is_written_is_read_back(trace: Path, small_inputs: Inputs) -> None:
    read = read_trace(trace)
    assert read.names() == [*NAMES, "loss"]
    assert [float(values.flat[0]) for _, values in read.items()] == [0, 1, 2, 0.5]
    first, last = read.tensors[0], read.tensors[-1]
    assert (first.original_name, first.dims, first.hidden_below) == (
        "tf/encoder.b",
        ("batch", "length"),
        None,
    )
    assert (last.original_name, last.dims, last.hidden_below) == ("loss", (), -1e8)
    assert read.metadata == {"deterministic": True, "versions": {"numpy": "2"}}
    assert read["logits"].dtype == np.float32
    for name, array in small_inputs.arrays().items():
        np.testing.assert_array_equal(read.inputs[name], array)
    assert read.inputs.get("sequence_ids") is None


def test_sequence_ids_are_kept(tmp_path: Path) -> None:
    ids = {"inputs": [[5, 6]], "targets": [[7]], "sequence_ids": [[1, 2]], "decoder_sequence_ids": [[1]]}
    write(tmp_path / "packed", Inputs.from_arrays(ids))
    inputs = read_trace(tmp_path / "packed").inputs
    assert {name: array.tolist() for name, array in inputs.arrays().items()} == ids


def test_the_writer_hands_over_what_a_reader_finds(trace: Path, small_inputs: Inputs) -> None:
    assert write(trace, small_inputs).tensors == read_trace(trace).tensors


def test_values_are_mapped_not_loaded(trace: Path) -> None:
    values = read_trace(trace)["logits"]
    assert isinstance(values, np.memmap)
    assert not values.flags.writeable


def test_an_unknown_name_is_a_key_error(trace: Path) -> None:
    with pytest.raises(KeyError, match="nothing"):
        read_trace(trace)["nothing"]


def test_a_temporary_trace_lives_as_long_as_its_object(small_inputs: Inputs) -> None:
    trace = write(None, small_inputs)
    path = trace.path
    assert float(trace["loss"]) == 0.5
    del trace
    assert not path.exists()


def test_half_a_trace_is_no_trace(tmp_path: Path, small_inputs: Inputs) -> None:
    writer = TraceWriter(tmp_path, small_inputs)
    writer.add("logits", np.zeros((1, 1), np.float32), ("batch", "length"))
    with pytest.raises(InputError, match=r"is not a trace: it has no trace\.json"):
        read_trace(tmp_path)


def test_writing_again_takes_the_old_trace_away_first(trace: Path, small_inputs: Inputs) -> None:
    TraceWriter(trace, small_inputs)
    with pytest.raises(InputError, match="is not a trace"):
        read_trace(trace)
    assert list((trace / "tensors").iterdir()) == []


def test_a_tensor_needs_a_name_for_each_axis(tmp_path: Path, small_inputs: Inputs) -> None:
    with pytest.raises(ValueError, match="logits: 2 axes"):
        TraceWriter(tmp_path, small_inputs).add("logits", np.zeros((1, 1)), ("batch",))


def test_where_nothing_can_be_written_is_said_at_once(tmp_path: Path, small_inputs: Inputs) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write a trace in"):
        TraceWriter(tmp_path / "file", small_inputs)


def test_any_program_can_write_one(tmp_path: Path) -> None:
    (tmp_path / "tensors").mkdir()
    (tmp_path / "inputs").mkdir()
    np.save(tmp_path / "tensors/hidden.npy", np.ones((1, 2, 4), np.float32))
    np.save(tmp_path / "inputs/inputs.npy", np.array([[5, 1]]))
    np.save(tmp_path / "inputs/targets.npy", np.array([[6, 1]]))
    index = {
        "schema_version": 1,
        "inputs": {"inputs": "inputs/inputs.npy", "targets": "inputs/targets.npy"},
        "tensors": [{"name": "h", "dims": ["batch", "length", "d_model"], "file": "tensors/hidden.npy"}],
    }
    (tmp_path / "trace.json").write_text(json.dumps(index))
    trace = read_trace(str(tmp_path))
    assert trace["h"].shape == (1, 2, 4)
    assert trace.tensors[0].original_name == "h"
    assert trace.inputs["inputs"].tolist() == [[5, 1]]
    assert trace.metadata == {}


@pytest.mark.parametrize("file", ["../outside.npy", "/etc/hostname", "tensors/../../outside.npy"])
def test_an_index_cannot_point_outside_its_trace(trace: Path, file: str) -> None:
    np.save(trace.parent / "outside.npy", np.zeros((2, 3)))
    edit(trace, tensor={"file": file})
    with pytest.raises(InputError, match="lies outside the trace"):
        read_trace(trace)["encoder.b"]
    edit(trace, inputs={"inputs": file, "targets": file})
    with pytest.raises(InputError, match="lies outside the trace"):
        read_trace(trace)


def test_a_link_cannot_lead_outside_its_trace(trace: Path) -> None:
    np.save(trace.parent / "outside.npy", np.zeros((2, 3)))
    (trace / "tensors/link.npy").symlink_to(trace.parent / "outside.npy")
    edit(trace, tensor={"file": "tensors/link.npy"})
    with pytest.raises(InputError, match="lies outside the trace"):
        read_trace(trace)["encoder.b"]


class Bomb:
    """Unpickling this leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def test_pickles_are_never_opened(trace: Path, tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    np.save(trace / "tensors/00000.npy", np.array([[Bomb(mark)] * 3] * 2, object), allow_pickle=True)
    np.save(trace / "inputs/inputs.npy", np.array([[Bomb(mark)]], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"inputs\.npy is not a NumPy array"):
        read_trace(trace)
    edit(trace, inputs={"inputs": "inputs/targets.npy", "targets": "inputs/targets.npy"})
    with pytest.raises(InputError, match=r"00000\.npy is not a NumPy array"):
        read_trace(trace)["encoder.b"]
    assert not mark.exists()


def test_an_object_array_is_not_written(tmp_path: Path, small_inputs: Inputs) -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        TraceWriter(tmp_path, small_inputs).add("x", np.array([object()]), ("batch",))


def test_a_rank_other_than_the_dims_is_refused_by_name(trace: Path) -> None:
    np.save(trace / "tensors/00000.npy", np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match=r"encoder\.b has 3 axes and 2 dims"):
        read_trace(trace)["encoder.b"]


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an array"),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: np.savez(path.open("wb"), x=np.zeros((2, 3))),
        lambda path: np.save(path, np.array([["a", "b", "c"]] * 2)),
        lambda path: np.save(path, np.zeros((2, 3), "V2")),
    ],
    ids=["missing", "empty", "garbage", "cut off", "an archive", "text", "raw bytes"],
)
def test_a_damaged_tensor_is_refused_by_its_file(trace: Path, make) -> None:
    make(trace / "tensors/00000.npy")
    with pytest.raises(InputError, match=r"00000\.npy"):
        read_trace(trace)["encoder.b"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"schema_version": 1}',
        '{"schema_version": 1, "inputs": [], "tensors": []}',
        '{"schema_version": 1, "inputs": {}, "tensors": {}}',
        '{"schema_version": 1, "inputs": {}, "tensors": [3]}',
        '{"schema_version": 1, "inputs": {}, "tensors": [{"name": "x"}]}',
        '{"schema_version": 1, "inputs": {"inputs": 3}, "tensors": []}',
        '{"schema_version": 1, "inputs": {}, "tensors": [{"name": "x", "dims": 3, "file": "x"}]}',
        "\udcff",
    ],
)
def test_what_is_not_an_index_is_refused(trace: Path, content: str) -> None:
    (trace / "trace.json").write_text(content, errors="surrogateescape")
    with pytest.raises(InputError):
        read_trace(trace)


@pytest.mark.parametrize("tensor", [{"file": 3}, {"dims": None}, {"hidden_below": "low"}, {"name": 3}])
def test_entries_of_the_wrong_kind_are_refused(trace: Path, tensor: dict) -> None:
    edit(trace, tensor=tensor)
    with pytest.raises(InputError):
        read_trace(trace)


def test_a_name_that_stands_twice_is_refused(trace: Path) -> None:
    edit(trace, tensor={"name": "logits"})
    with pytest.raises(InputError, match="logits"):
        read_trace(trace)


def test_another_schema_version_is_named(trace: Path) -> None:
    edit(trace, schema_version=2)
    with pytest.raises(InputError, match="has schema version 2; this release reads 1"):
        read_trace(trace)


def test_where_no_trace_is_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_trace(tmp_path / "nowhere")
    assert "--save-traces" in caught.value.remedy
