from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np
import pytest
from bundle_writer import block_ranges
from hypothesis import given
from hypothesis import strategies as st

from porting.checkpoint import open_checkpoint
from porting.checkpoint.leveldb_table import parse_table
from porting.checkpoint.leveldb_writer import RESTART_INTERVAL, block_contents, table_bytes
from porting.checkpoint.tf_bundle import DTYPES
from porting.checkpoint.tf_bundle_writer import BundleTensor, bundle_index, checkpoint_state
from porting.checkpoint.tf_shards import data_file_name
from porting.errors import OutputError

RNG = np.random.default_rng(0)
SHAPES = [(), (1,), (3, 5), (2, 3, 4), (0,), (4, 0, 2), (300, 70)]
SCALAR = BundleTensor("step", np.dtype("i8"), (), 0, 0, 8, 0)


def random_values(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    raw = RNG.integers(0, 2 if dtype == np.bool_ else 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def every_dtype_and_shape() -> dict[str, np.ndarray]:
    return {
        f"scope/{dtype.name}/{'x'.join(map(str, shape))}": random_values(dtype, shape)
        for dtype in DTYPES.values()
        for shape in SHAPES
    }


def write(prefix: Path, tensors: Mapping[str, np.ndarray], num_shards: int = 1) -> None:
    """Each tensor into the next data file, in the order of the names, as TensorFlow's Saver does with one."""
    data = [bytearray() for _ in range(num_shards)]
    entries = []
    for number, name in enumerate(sorted(tensors, key=str.encode)):
        raw = tensors[name].tobytes()
        shard = number % num_shards
        entries.append(
            BundleTensor(
                *(name, tensors[name].dtype, tensors[name].shape),
                *(shard, len(data[shard]), len(raw), google_crc32c.value(raw)),
            )
        )
        data[shard] += raw
    for shard, content in enumerate(data):
        (prefix.parent / data_file_name(prefix.name, shard, num_shards)).write_bytes(content)
    # The order in which they come does not matter.
    Path(f"{prefix}.index").write_bytes(bundle_index(entries[::-1], num_shards))
    (prefix.parent / "checkpoint").write_text(checkpoint_state(prefix.name))


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


def save_v2(tf: Any, prefix: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """What TensorFlow's Saver runs; it writes values in the order in which they are given."""
    names = sorted(tensors, key=str.encode)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )


def assert_both_read(tf: Any, prefix: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """TensorFlow from the directory, by its file `checkpoint`; the reader here likewise."""
    reader = tf.train.load_checkpoint(str(prefix.parent))
    checkpoint = open_checkpoint(prefix.parent)
    assert reader.get_variable_to_shape_map() == {name: [*array.shape] for name, array in tensors.items()}
    assert list(checkpoint.tensors) == sorted(tensors)
    for name, values in tensors.items():
        assert_same(np.asarray(reader.get_tensor(name)), values)
        assert_same(checkpoint.tensors[name].read(), values)


# --- Held against TensorFlow -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_shards", [1, 3])
def test_tensorflow_reads_every_dtype_and_shape(tf: Any, tmp_path: Path, num_shards: int) -> None:
    tensors = every_dtype_and_shape()
    write(tmp_path / "model.ckpt-7", tensors, num_shards)
    assert_both_read(tf, tmp_path / "model.ckpt-7", tensors)


def test_names_in_any_script(tf: Any, tmp_path: Path) -> None:
    names = ["a", "a/b", "a0", "ä/ö", "重み/カーネル", "z\U0001f600", "a\0b", "\x01", "\U0010ffff"]
    tensors = {name: np.float32(number) for number, name in enumerate(names)}
    write(tmp_path / "m", tensors)
    assert_both_read(tf, tmp_path / "m", tensors)


def test_files_are_those_of_tensorflow_to_the_byte(tf: Any, tmp_path: Path) -> None:
    tensors = {**every_dtype_and_shape(), "重み": np.float32(1), "global_step": np.int64(7)}
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    write(tmp_path / "ours" / "model.ckpt-7", tensors)
    save_v2(tf, tmp_path / "theirs" / "model.ckpt-7", tensors)
    for name in ("model.ckpt-7.index", data_file_name("model.ckpt-7", 0, 1)):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name


def test_index_of_many_blocks_is_that_of_tensorflow_to_the_byte(tf: Any, tmp_path: Path) -> None:
    names = [f"a_scope_that_makes_the_entries_longer/{i * 7919 % 10007}/kernel" for i in range(10_000)]
    tensors = {name: np.float32(i) for i, name in enumerate(names)}
    (tmp_path / "ours").mkdir()
    write(tmp_path / "ours" / "m", tensors)
    save_v2(tf, tmp_path / "m", tensors)
    index = (tmp_path / "ours" / "m.index").read_bytes()
    assert len(block_ranges(index)) > 2
    assert index == (tmp_path / "m.index").read_bytes()
    assert_both_read(tf, tmp_path / "ours" / "m", tensors)


def test_several_data_files_are_indexed_as_tensorflow_does(tf: Any, tmp_path: Path) -> None:
    parts = [{f"b_{i}/kernel": random_values("f4", (4, 3)), f"a_{i}": np.int64(i)} for i in range(3)]
    for i, part in enumerate(parts):
        save_v2(tf, tmp_path / f"part{i}", part)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(tmp_path / f"part{i}") for i in range(3)],
        destination_prefix=str(tmp_path / "all"),
        delete_old_dirs=False,
    )
    tensors = [
        BundleTensor(name, values.dtype, values.shape, i, offset, values.nbytes, google_crc32c.value(values))
        for i, part in enumerate(parts)
        for (name, values), offset in zip(sorted(part.items()), (0, 8), strict=True)
    ]
    assert bundle_index(tensors, 3) == (tmp_path / "all.index").read_bytes()
    assert (tmp_path / data_file_name("all", 2, 3)).exists()


@pytest.mark.parametrize("name", ["model.ckpt-7", "mo\"d'el\\", "tab\tline\n", "模型-7", "a b\x7f"])
@pytest.mark.usefixtures("tf")
def test_tensorflow_parses_the_state_file(name: str) -> None:
    from google.protobuf import text_format
    from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

    state = CheckpointState(model_checkpoint_path=name, all_model_checkpoint_paths=[name])
    assert text_format.Parse(checkpoint_state(name), CheckpointState()) == state
    # How other scripts are spelt changed with Protocol Buffers' versions.
    if name.isascii():
        assert checkpoint_state(name) == text_format.MessageToString(state)


# --- Without TensorFlow ----------------------------------------------------------------------------------


def test_our_reader_reads_what_is_written(tmp_path: Path) -> None:
    tensors = every_dtype_and_shape()
    write(tmp_path / "m", tensors, num_shards=2)
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == sorted(tensors)
    assert len(checkpoint.files) == 3
    for name, values in tensors.items():
        assert_same(checkpoint.tensors[name].read(), values)


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=30), max_size=60))
def test_any_table_comes_back_in_the_order_of_its_keys(entries: dict[bytes, bytes]) -> None:
    assert list(parse_table(table_bytes(entries), "table").items()) == sorted(entries.items())


@given(st.lists(st.binary(min_size=1, max_size=3), min_size=2, max_size=40, unique=True), st.data())
def test_index_keys_part_the_blocks(keys: list[bytes], data: st.DataObject) -> None:
    """A reader that seeks, as TensorFlow's does, looks into the first block whose index key is not less."""
    # Values so large that each block holds one or two keys.
    entries = dict.fromkeys(keys, bytes(200_000))
    table = table_bytes(entries)
    key = data.draw(st.sampled_from(sorted(keys)))
    index_offset, index_size = block_ranges(table)[0]
    index = table[index_offset : index_offset + index_size]
    parts = [*parse_table_block(index)]
    number = next(i for i, (separator, _) in enumerate(parts) if separator >= key)
    offset, size = block_ranges(table)[1:][number]
    assert key in dict(parse_table_block(table[offset : offset + size]))


def parse_table_block(contents: bytes) -> list[tuple[bytes, bytes]]:
    from porting.checkpoint.leveldb_table import _block_entries

    return [*_block_entries(contents, "block")]


def test_keys_at_restart_points_are_whole() -> None:
    keys = [b"a/long/prefix/%03d" % i for i in range(2 * RESTART_INTERVAL + 1)]
    contents = block_contents((key, b"") for key in keys)
    assert int.from_bytes(contents[-4:], "little") == 3
    for number in range(3):
        at = int.from_bytes(contents[-16 + 4 * number :][:4], "little")
        key = keys[number * RESTART_INTERVAL]
        assert contents[at] == 0
        assert contents[at + 3 :].startswith(key)


def changed(**values: Any) -> BundleTensor:
    return BundleTensor(**{**vars(SCALAR), **values})


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([SCALAR, SCALAR], "step: expected one tensor of that name, found 2"),
        ([changed(name="")], "begins with another character"),
        ([changed(name="\0step")], "begins with another character"),
        ([changed(name="\ud800")], "a name that UTF-8 can say"),
        ([changed(dtype=np.dtype(object))], "step: expected one of float32"),
        ([changed(dtype=np.dtype(">i8"))], "little-endian"),
        ([changed(dtype=np.dtype(np.complex64))], "step: expected one of float32"),
        ([changed(nbytes=4)], "the bytes of int64 of shape []"),
        ([changed(shape=(-1, -1))], "the bytes of int64"),
        ([changed(shard_id=1)], "a data file from 0 to 0, found 1"),
        ([changed(offset=-1)], "an offset of 0 or more"),
        ([changed(crc32c=1 << 32)], "a CRC32C of 32 bits"),
    ],
)
def test_what_no_bundle_holds_is_refused(tensors: list[BundleTensor], said: str) -> None:
    with pytest.raises(OutputError) as raised:
        bundle_index(tensors, 1)
    assert said in str(raised.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(OutputError) as raised:
        bundle_index([changed(offset=-1), changed(name="b", nbytes=1), changed(name=ml_dtypes.__name__)], 0)
    # Each tensor's data file is out of range as well, and no data file is no bundle.
    assert [problem.key for problem in raised.value.problems] == [
        *("step", "step", "b", "b", "ml_dtypes"),
        "data files",
    ]
