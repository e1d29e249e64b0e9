from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bundle_writer import (
    HEADER,
    block_ranges,
    entries_and_data,
    entry,
    field,
    masked_crc,
    table,
    write_bundle,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.checkpoint.leveldb_table import parse_table, read_table
from porting.checkpoint.tf_slices import Slice, covers_exactly
from porting.errors import CheckpointError

REPOSITORY = Path(__file__).parents[2]
MTF_TINY = REPOSITORY.parent / "shared" / "data" / "mtf_tiny_t5"
needs_mtf_tiny = pytest.mark.skipif(not MTF_TINY.is_dir(), reason="shared/data/mtf_tiny_t5 is not there")

RNG = np.random.default_rng(0)
DTYPES = [
    *("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    ml_dtypes.bfloat16,
]
SHAPES = [(), (1,), (3, 5), (2, 3, 4), (0,), (4, 0, 2)]


def random_values(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    raw = RNG.integers(0, 2 if dtype == "bool" else 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


def save_v2(
    tf: Any, prefix: Path, tensors: Mapping[str, Any], slices: Mapping[str, str] | None = None
) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[(slices or {}).get(name, "") for name in tensors],
        tensors=[tf.constant(values) for values in tensors.values()],
    )


def assert_reads_as_tensorflow_does(tf: Any, prefix: Path) -> Checkpoint:
    reader = tf.train.load_checkpoint(str(prefix))
    shapes = reader.get_variable_to_shape_map()
    checkpoint = open_checkpoint(prefix)
    assert list(checkpoint.tensors) == sorted(shapes)
    checkpoint.require_files()
    for name, tensor in checkpoint.tensors.items():
        assert list(tensor.shape) == shapes[name]
        assert tensor.name == name
        if tensor.readable:
            values = tensor.read()
            assert tensor.nbytes == values.nbytes
            assert values.flags.aligned and values.flags.c_contiguous and not values.flags.writeable
            assert_same_bits(values, reader.get_tensor(name))
    return checkpoint


# --- Bundles that TensorFlow writes ----------------------------------------------------------------------


def test_every_dtype_and_shape_comes_back_bit_for_bit(tf: Any, tmp_path: Path) -> None:
    tensors = {
        f"scope/{np.dtype(dtype)}_{'x'.join(map(str, shape))}": random_values(dtype, shape)
        for dtype in DTYPES
        for shape in SHAPES
    }
    save_v2(tf, tmp_path / "model.ckpt-1", tensors)
    checkpoint = assert_reads_as_tensorflow_does(tf, tmp_path / "model.ckpt-1")
    assert checkpoint.format == "tensorflow-bundle"
    assert checkpoint.path == tmp_path / "model.ckpt-1"
    for name, values in tensors.items():
        assert_same_bits(checkpoint.tensors[name].read(), values)


def test_values_outlive_their_file_which_is_not_mapped(tf: Any, tmp_path: Path) -> None:
    save_v2(tf, tmp_path / "m", {"a": random_values("float32", (64,)), "b": random_values("int32", (64,))})
    tensors = open_checkpoint(tmp_path / "m").tensors
    values = tensors["a"].read()
    before = values.copy()
    with (tmp_path / "m.data-00000-of-00001").open("r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(values, before)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1
    with pytest.raises(CheckpointError, match="truncated"):
        tensors["b"].read()


def test_values_come_in_pieces_and_the_checksum_after_the_last(tf: Any, tmp_path: Path) -> None:
    values = random_values("float32", (1000,))
    save_v2(tf, tmp_path / "m", {"a": values})
    stored = open_checkpoint(tmp_path / "m").tensors["a"].stored
    assert stored is not None
    pieces = [piece.tobytes() for piece in stored.pieces(np.empty(1024, np.uint8))]
    assert [len(piece) for piece in pieces] == [1024, 1024, 1024, 928]
    assert b"".join(pieces) == values.tobytes()
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(flip(3999)(data.read_bytes()))
    pieces_seen = 0
    with pytest.raises(CheckpointError, match="damaged"):
        for _ in stored.pieces(np.empty(1024, np.uint8)):
            pieces_seen += 1
    assert pieces_seen == 4


def test_thousands_of_variables_in_many_blocks_are_listed_quickly(tf: Any, tmp_path: Path) -> None:
    # More than the 256 KiB that TensorFlow puts into one block.
    names = [f"a_scope_that_makes_the_entries_longer/{i * 7919 % 10007}/kernel" for i in range(10_000)]
    save_v2(tf, tmp_path / "m", {name: np.float32(i) for i, name in enumerate(names)})
    assert len(block_ranges((tmp_path / "m.index").read_bytes())) > 2
    begin = time.perf_counter()
    checkpoint = open_checkpoint(tmp_path / "m")
    assert time.perf_counter() - begin < 3
    assert list(checkpoint.tensors) == sorted(names)
    assert checkpoint.tensors[names[1234]].read() == 1234


def test_several_data_shards(tf: Any, tmp_path: Path) -> None:
    parts = [tmp_path / f"part{i}" for i in range(3)]
    for i, part in enumerate(parts):
        save_v2(tf, part, {f"layer_{i}/kernel": random_values("float32", (4, 3)), f"step_{i}": np.int64(i)})
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(part) for part in parts],
        destination_prefix=str(tmp_path / "all"),
        delete_old_dirs=False,
    )
    checkpoint = assert_reads_as_tensorflow_does(tf, tmp_path / "all")
    assert [path.name for path in checkpoint.files] == [
        "all.index",
        *(f"all.data-0000{i}-of-00003" for i in range(3)),
    ]
    assert checkpoint.tensors["layer_1/kernel"].files == (checkpoint.files[2],)


def test_sharded_saver_of_a_graph(tf: Any, tmp_path: Path) -> None:
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session(config=tf1.ConfigProto(device_count={"CPU": 2})) as session:
        for device in range(2):
            with tf.device(f"/cpu:{device}"):
                tf1.get_variable(f"layer_{device}/scale", [5], dtype=tf.bfloat16)
        tf1.train.get_or_create_global_step()
        session.run(tf1.global_variables_initializer())
        saver = tf1.train.Saver(sharded=True)
        saver.save(session, str(tmp_path / "model.ckpt"), global_step=7)
    checkpoint = assert_reads_as_tensorflow_does(tf, tmp_path / "model.ckpt-7")
    # The directory's `checkpoint` file leads to the same one.
    assert open_checkpoint(tmp_path).path == checkpoint.path
    assert checkpoint.tensors["layer_0/scale"].dtype == ml_dtypes.bfloat16
    assert checkpoint.tensors["global_step"].dtype == np.int64


@pytest.mark.parametrize("partitions", [[3, 1], [1, 4], [1, 1]])
def test_partitioned_variables_of_a_graph_are_put_together(
    tf: Any, tmp_path: Path, partitions: list[int]
) -> None:
    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        partitioner = tf1.fixed_size_partitioner(max(partitions), axis=int(np.argmax(partitions)))
        tf1.get_variable("embedding", [200, 70], partitioner=partitioner, use_resource=False)
        tf1.get_variable("other", [3])
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(session, str(tmp_path / "m"))
    checkpoint = assert_reads_as_tensorflow_does(tf, tmp_path / "m")
    assert list(checkpoint.tensors) == ["embedding", "other"]


def test_slices_on_two_axes_with_large_offsets_in_several_shards(tf: Any, tmp_path: Path) -> None:
    # Offsets of one, two and three bytes in the ordered encoding; a name that it must escape nothing of.
    whole = random_values("int16", (3, 20_000))
    cuts = [(0, 63), (63, 1), (64, 8000), (8064, 128), (8192, 11_808)]
    for shard, (row, rows) in enumerate([(0, 1), (1, 2)]):
        save_many = {
            f"part{column}": (
                f"3 20000 {row},{rows}:{column},{columns}",
                whole[row : row + rows, column : column + columns],
            )
            for column, columns in cuts
        }
        tf.raw_ops.SaveV2(
            prefix=str(tmp_path / f"shard{shard}"),
            tensor_names=["scope/table"] * len(cuts),
            shape_and_slices=[spec for spec, _ in save_many.values()],
            tensors=[tf.constant(values) for _, values in save_many.values()],
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(tmp_path / "shard0"), str(tmp_path / "shard1")],
        destination_prefix=str(tmp_path / "m"),
    )
    checkpoint = assert_reads_as_tensorflow_does(tf, tmp_path / "m")
    assert_same_bits(checkpoint.tensors["scope/table"].read(), whole)
    assert len(checkpoint.tensors["scope/table"].files) == 2


def test_strings_are_listed_and_refused_when_read(tf: Any, tmp_path: Path) -> None:
    module = tf.Module()
    module.weight = tf.Variable([1.0, 2.0])
    prefix = tf.train.Checkpoint(module=module).write(str(tmp_path / "object_based"))
    checkpoint = assert_reads_as_tensorflow_does(tf, Path(prefix))
    graph = checkpoint.tensors["_CHECKPOINTABLE_OBJECT_GRAPH"]
    assert not graph.readable and graph.dtype == np.dtype(object) and graph.nbytes == 0
    with pytest.raises(CheckpointError, match="values of dtype string cannot be read") as caught:
        graph.read()
    assert caught.value.problems[0].key == "_CHECKPOINTABLE_OBJECT_GRAPH"
    assert "bfloat16" in str(caught.value)


@pytest.mark.parametrize("dtype", ["complex64", "uint16", "uint64"])
def test_dtypes_that_weights_do_not_have_are_named(tf: Any, tmp_path: Path, dtype: str) -> None:
    save_v2(tf, tmp_path / "m", {"odd": np.zeros(3, dtype)})
    with pytest.raises(CheckpointError, match=f"values of dtype {dtype} cannot be read"):
        open_checkpoint(tmp_path / "m").tensors["odd"].read()


# --- A checkpoint of Google's ----------------------------------------------------------------------------


@needs_mtf_tiny
def test_lists_the_whole_of_a_snappy_compressed_index_without_its_data() -> None:
    checkpoint = open_checkpoint(MTF_TINY)
    expected: dict[str, tuple[tuple[int, ...], Any]] = {"global_step": ((), np.int64)}
    listing = (MTF_TINY / "model-info.txt").read_text()
    for name, dims in re.findall(r"^Variable (\S+) .*Shape\[(.*?)\]", listing, re.MULTILINE):
        shape = tuple(int(dim.split("=")[1]) for dim in dims.split(", "))
        expected[name] = (shape, ml_dtypes.bfloat16)
        # Adafactor's statistics: one per row and column for large matrices, else one per element.
        slots = {key for key in checkpoint.tensors if key.startswith(f"{name}_slot_")}
        assert slots
        for slot in slots:
            full = slot.endswith("_slot_v")
            expected[slot] = (shape if full else checkpoint.tensors[slot].shape, np.float32)
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in checkpoint.tensors.items()}
    assert found == expected
    assert len(found) == 105
    assert [path.name[13:] for path in checkpoint.files[1:]] == ["data-00000-of-00002", "data-00001-of-00002"]


@needs_mtf_tiny
def test_reads_what_lies_in_the_shard_that_is_there() -> None:
    step = open_checkpoint(MTF_TINY).tensors["global_step"]
    assert_same_bits(step.read(), np.array(0, np.int64))


@needs_mtf_tiny
def test_missing_shard_is_named_with_what_to_do() -> None:
    checkpoint = open_checkpoint(MTF_TINY)
    missing = MTF_TINY / "model.ckpt-0.data-00001-of-00002"
    with pytest.raises(CheckpointError) as caught:
        checkpoint.tensors["shared/embedding"].read()
    message = str(caught.value)
    assert f"shared/embedding: data file {missing} is missing" in message
    assert f"Copy {missing.name} into {MTF_TINY}" in message
    assert "the directory has model.ckpt-0.data-00000-of-00002" in message
    with pytest.raises(CheckpointError, match="1 data file") as early:
        checkpoint.require_files()
    assert [problem.key for problem in early.value.problems] == [str(missing)]
    checkpoint.require_files(["global_step"])


def test_listing_needs_neither_data_nor_a_framework(tmp_path: Path) -> None:
    entries, _ = entries_and_data({"a": np.ones(3, np.float32)})
    write_bundle(tmp_path / "m", entries, None)
    script = (
        "import sys\n"
        "from porting.checkpoint import open_checkpoint\n"
        f"assert list(open_checkpoint({str(tmp_path)!r}).tensors) == ['a']\n"
        "print([m for m in ('tensorflow', 'torch', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


# --- Damaged files ---------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sound bundle of two tensors, in its directory alone."""
    tensors = {"first": np.arange(6, dtype=np.float32).reshape(2, 3), "second": np.arange(4, dtype=np.int64)}
    entries, data = entries_and_data(tensors)
    write_bundle(tmp_path / "m", entries, data)
    assert_same_bits(open_checkpoint(tmp_path / "m").tensors["second"].read(), tensors["second"])
    return tmp_path / "m"


def change(path: str, edit: Callable[[bytes], bytes]) -> None:
    Path(path).write_bytes(edit(Path(path).read_bytes()))


def flip(at: int) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]

    return edit


def test_flipped_bit_in_the_data_names_tensor_and_file(bundle: Path) -> None:
    change(f"{bundle}.data-00000-of-00001", flip(30))
    tensors = open_checkpoint(bundle).tensors
    tensors["first"].read()
    with pytest.raises(CheckpointError, match=r"second: its values in .*m.data-00000-of-00001 are damaged"):
        tensors["second"].read()


def test_truncated_data_file_is_recognized(bundle: Path) -> None:
    change(f"{bundle}.data-00000-of-00001", lambda data: data[:-1])
    tensors = open_checkpoint(bundle).tensors
    tensors["first"].read()
    with pytest.raises(CheckpointError, match="is truncated") as caught:
        tensors["second"].read()
    assert "at least 56 bytes, found 55 bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "found 0 bytes"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")],
)
def test_empty_data_file_and_lfs_pointer(bundle: Path, content: bytes, message: str) -> None:
    Path(f"{bundle}.data-00000-of-00001").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(bundle).tensors["second"].read()


def test_data_file_that_is_a_directory(bundle: Path) -> None:
    Path(f"{bundle}.data-00000-of-00001").unlink()
    Path(f"{bundle}.data-00000-of-00001").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read: it is a directory"):
        open_checkpoint(bundle).tensors["second"].read()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (flip(20), "m.index is corrupt\n.*expected CRC32C"),
        (flip(-70), "m.index is corrupt\n.*expected CRC32C"),
        (lambda data: data[:-10], "m.index is not a checkpoint index, or is truncated"),
        (lambda data: data[40:], "m.index is corrupt"),
        (lambda _: b"", "m.index is not a checkpoint index.*\n.*an empty file"),
    ],
    ids=["data block", "index block", "end cut off", "beginning cut off", "empty"],
)
def test_damaged_index_is_named(bundle: Path, edit: Callable[[bytes], bytes], message: str) -> None:
    change(f"{bundle}.index", edit)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(bundle)


# --- Indexes that are sound as tables and say impossible things --------------------------------------------

FLOAT32 = 1


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "1 to 99999 data files in the header, found 0"),
        (field(1, -1), "found -1"),
        (field(1, 1 << 40), "found 1099511627776"),
        (HEADER + field(2, 1), "little-endian values, found endianness 1"),
        (field(1, 1) + field(3, field(2, 9)), "bundle version 1, found 9"),
        (b"\xff", "header is corrupt"),
    ],
)
def test_impossible_headers(tmp_path: Path, header: bytes, message: str) -> None:
    write_bundle(tmp_path / "m", {b"": header}, b"")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (entry(FLOAT32, [2], size=9), r"8 bytes for float32 of shape \[2\], found 9 bytes"),
        (entry(FLOAT32, [-2], size=8), "a known shape"),
        (entry(FLOAT32, [2], size=8, shard=1), "a data file below 1, found 1"),
        (entry(FLOAT32, [2], size=8, shard=-1), "a data file below 1, found -1"),
        (entry(FLOAT32, [2], size=8, offset=-8), "offset and size of 0 or more"),
        (entry(FLOAT32, [1 << 62, 1 << 62], size=8), "less than 2\\*\\*63 bytes"),
        (entry(FLOAT32, [0, 1 << 62, 1 << 62]), "less than 2\\*\\*63 bytes"),
        (entry(FLOAT32, [1] * 33, size=4), "at most 32 axes"),
        (entry(FLOAT32, [], size=4) + field(2, field(3, 1)), "a known shape"),
        (entry(FLOAT32, [2], size=8) + b"\x0a\x00", "field 1 as a varint, found bytes"),
        (entry(FLOAT32, [], slices=[[]] * 3), "at most 2 slices, found 3"),
        (b"\xff\xff", "varint"),
        (field(9, bytes(1 << 18)), "at most 262144 bytes"),
    ],
)
def test_impossible_entries_are_named(tmp_path: Path, value: bytes, message: str) -> None:
    write_bundle(tmp_path / "m", {b"": HEADER, b"bad/one": value, b"good": entry(FLOAT32, [0])}, b"")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path / "m")
    assert [problem.key for problem in caught.value.problems] == ["bad/one"]
    assert "m.index: 1 of its entries are wrong" in str(caught.value)


def test_all_bad_entries_are_reported_together(tmp_path: Path) -> None:
    bad = entry(FLOAT32, [2], size=9)
    write_bundle(tmp_path / "m", {b"": HEADER, b"a": bad, b"b": bad, b"c": entry(FLOAT32, [0])}, b"")
    with pytest.raises(CheckpointError, match="2 of its entries are wrong") as caught:
        open_checkpoint(tmp_path / "m")
    assert [problem.key for problem in caught.value.problems] == ["a", "b"]


def test_offsets_beyond_the_file_are_truncation(tmp_path: Path) -> None:
    value = entry(FLOAT32, [1 << 60], size=1 << 62, offset=(1 << 63) - 1)
    write_bundle(tmp_path / "m", {b"": HEADER, b"huge": value}, bytes(10))
    with pytest.raises(CheckpointError, match="is truncated"):
        open_checkpoint(tmp_path / "m").tensors["huge"].read()


def test_tensors_without_values_to_read_need_no_data_file(tmp_path: Path) -> None:
    entries = {b"": HEADER, b"empty": entry(FLOAT32, [3, 0]), b"text": entry(7, [], size=20)}
    write_bundle(tmp_path / "m", entries, None)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.tensors["empty"].files == ()
    assert_same_bits(checkpoint.tensors["empty"].read(), np.zeros((3, 0), np.float32))
    checkpoint.require_files()


def test_names_that_are_not_utf8_are_errors(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", {b"": HEADER, b"caf\xe9": entry(FLOAT32, [0])}, b"")
    with pytest.raises(CheckpointError, match="a name in UTF-8"):
        open_checkpoint(tmp_path / "m")


def sliced(
    tmp_path: Path, whole: list[int], parts: list[Any], *, drop: int = 0, **changed: Any
) -> Checkpoint:
    """A bundle of one partitioned variable `v`, parts given as (start, length or None) for each axis."""
    entries = {b"": HEADER, b"v": entry(FLOAT32, whole, slices=parts)}
    data = b""
    for part in parts[drop:]:
        key = Slice(*zip(*part, strict=True)).key(b"v")
        lengths = [size if length is None else length for (_, length), size in zip(part, whole, strict=False)]
        raw = np.full(np.abs(lengths), len(data), np.float32).tobytes()
        values = {"shape": lengths, "offset": len(data), "size": len(raw), "crc": masked_crc(raw), **changed}
        entries[key] = entry(FLOAT32, **values)
        data += raw
    write_bundle(tmp_path / "m", entries, data)
    return open_checkpoint(tmp_path / "m")


def test_slices_that_fill_the_variable_are_read(tmp_path: Path) -> None:
    values = sliced(tmp_path, [2, 3], [[(0, 1), (0, None)], [(1, 1), (0, 2)], [(1, 1), (2, 1)]]).tensors
    assert list(values) == ["v"]
    assert values["v"].read().tolist() == [[0, 0, 0], [12, 12, 20]]


@pytest.mark.parametrize(
    "parts",
    [
        [[(0, 1), (0, None)]],
        [[(0, 1), (0, None)], [(0, 1), (0, 3)]],
        [[(0, 2), (0, 2)], [(1, 1), (1, 2)]],
    ],
    ids=["gap", "same box in two encodings", "overlap with the right volume"],
)
def test_slices_that_leave_gaps_or_overlap_are_refused(tmp_path: Path, parts: list[Any]) -> None:
    with pytest.raises(CheckpointError, match=r"cover shape \[2, 3\] exactly once|bytes of slices"):
        sliced(tmp_path, [2, 3], parts).tensors["v"].read()


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([[(0, 3), (0, None)]], {}, r"slices inside of shape \[2, 3\]"),
        ([[(-1, 2), (0, None)]], {"shape": [2, 3], "size": 24}, r"slices inside of shape \[2, 3\]"),
        ([[(0, 2), (0, None)]] * 2, {}, "slices that are all different"),
        ([[(0, 1), (0, None)], [(1, 1), (0, None)]], {"drop": 1}, "expected an entry for Slice"),
        ([[(0, 2)]], {"shape": [2], "size": 8}, "slices of 2 axes, found one of 1"),
        ([[(0, 2), (0, None)]], {"shape": [3, 2]}, r"here shape \[2, 3\], found float32 of shape \[3, 2\]"),
    ],
    ids=["too long", "negative", "listed twice", "absent", "other rank", "other shape"],
)
def test_impossible_slices_are_refused_at_once(
    tmp_path: Path, parts: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        sliced(tmp_path, [2, 3], parts, **options)


def test_part_that_is_partitioned_itself_is_refused(tmp_path: Path) -> None:
    # Its size goes unchecked as that of a whole variable does, so it must not be read as values.
    with pytest.raises(CheckpointError, match="slices of the variable's dtype"):
        sliced(tmp_path, [2], [[(0, 2)]], slices=[[(0, 1)]], size=7)


def test_part_without_its_variable_is_refused(tmp_path: Path) -> None:
    key = Slice((0,), (1,)).key(b"v")
    write_bundle(tmp_path / "m", {b"": HEADER, key: entry(FLOAT32, [0])}, b"")
    with pytest.raises(CheckpointError, match="no variable that lists it"):
        open_checkpoint(tmp_path / "m")


def test_damaged_slice_names_the_variable(tmp_path: Path) -> None:
    checkpoint = sliced(tmp_path, [2], [[(0, 1)], [(1, 1)]])
    change(f"{tmp_path}/m.data-00000-of-00001", flip(6))
    with pytest.raises(CheckpointError, match=r"v: its values in .* are damaged"):
        checkpoint.tensors["v"].read()


def test_claimed_size_beyond_the_files_is_refused_before_allocating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = 1 << 20
    parts = [[(0, 1 << 19), (0, None)], [(1 << 19, 1 << 19), (0, None)]]
    entries = {b"": HEADER, b"v": entry(FLOAT32, [side, side], slices=parts)}
    for part in parts:
        key = Slice(*zip(*part, strict=True)).key(b"v")
        entries[key] = entry(FLOAT32, [1 << 19, side], size=4 << 39)
    write_bundle(tmp_path / "m", entries, bytes(100))
    tensor = open_checkpoint(tmp_path / "m").tensors["v"]
    monkeypatch.setattr(np, "empty", None)
    with pytest.raises(CheckpointError, match="bytes of slices, found data files of 100 bytes"):
        tensor.read()


# What TensorFlow 2.21's SaveV2 wrote for the slice "start,5" of a vector, without the name.
START_ENCODINGS = {
    0: "80",
    63: "bf",
    64: "c040",
    8191: "dfff",
    8192: "e02000",
    1 << 20: "f0100000",
    1 << 34: "fc0400000000",
    (1 << 62) - 1: "ffbfffffffffffffff",
    1 << 62: "ffc04000000000000000",
}
NAME_ENCODINGS = {b"plain": "706c61696e", b"\xff\xff": "ff00ff00", b"a\0b": "6100ff62", b"\xff\x80": "ff0080"}


@pytest.mark.parametrize("start", START_ENCODINGS)
@pytest.mark.parametrize("name", NAME_ENCODINGS, ids=repr)
def test_slice_keys_are_those_that_tensorflow_wrote(name: bytes, start: int) -> None:
    expected = f"00{NAME_ENCODINGS[name]}00010101{START_ENCODINGS[start]}85"
    assert Slice((start,), (5,)).key(name).hex() == expected


@pytest.mark.parametrize("start", START_ENCODINGS)
def test_slice_keys_are_those_that_tensorflow_writes(tf: Any, tmp_path: Path, start: int) -> None:
    name = b"\xff\0/\0\0\xff"
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "m"),
        tensor_names=[name],
        shape_and_slices=[f"{(1 << 62) + 9} 1 {start},5:-"],
        tensors=[tf.zeros([5, 1])],
    )
    assert list(read_table(tmp_path / "m.index")) == [b"", Slice((start, 0), (5, None)).key(name), name]


boxes_2d = st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=5)


@given(boxes_2d)
def test_exact_cover_agrees_with_counting(corners: list[tuple[int, int, int, int]]) -> None:
    shape = (3, 3)
    boxes = [(slice(min(a, b), max(a, b)), slice(min(c, d), max(c, d))) for a, b, c, d in corners]
    counts = np.zeros(shape, int)
    for box in boxes:
        counts[box] += 1
    assert covers_exactly(shape, boxes) == bool((counts == 1).all())


# --- Hostile indexes ---------------------------------------------------------------------------------------


def hostile_bases() -> list[bytes]:
    tensors = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(5, dtype=np.int64)}
    entries, data = entries_and_data(tensors)
    part = [(0, 3)]
    entries[b"v"] = entry(FLOAT32, [6], slices=[part, [(3, 3)]])
    for start in (0, 3):
        raw = data[start * 4 : start * 4 + 12]
        key = Slice((start,), (3,)).key(b"v")
        entries[key] = entry(FLOAT32, [3], offset=start * 4, size=12, crc=masked_crc(raw))
    entries = dict(sorted(entries.items()))
    bases = [table(entries), table(entries, snappy=True, per_block=3)]
    if MTF_TINY.is_dir():
        bases.append((MTF_TINY / "model.ckpt-0.index").read_bytes())
    return bases


HOSTILE_DATA = np.arange(6, dtype=np.float32).tobytes() + np.arange(5, dtype=np.int64).tobytes()
HOSTILE_BASES = hostile_bases()
edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "insert", "delete", "cut"]),
        st.integers(0, 1 << 16),
        st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])),
    ),
    max_size=4,
)


def mutate(data: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(data)
    for kind, where, value in changes:
        at = where % (len(out) + 1)
        if kind == "insert":
            out.insert(at, value)
        elif kind == "cut":
            del out[at:]
        elif at < len(out):
            if kind == "delete":
                del out[at]
            else:
                out[at] = value if kind == "set" else out[at] ^ (1 << value % 8)
    return bytes(out)


def open_and_read_everything(index: bytes, directory: Path) -> None:
    """Whatever the index says, either it works or it is a CheckpointError."""
    (directory / "m.index").write_bytes(index)
    try:
        tensors = open_checkpoint(directory / "m").tensors
    except CheckpointError:
        return
    for tensor in tensors.values():
        try:
            values = tensor.read()
        except CheckpointError:
            continue
        assert (values.shape, values.dtype) == (tensor.shape, tensor.dtype)


@pytest.fixture(scope="module")
def hostile_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "m.data-00000-of-00001").write_bytes(HOSTILE_DATA)
    return directory


def test_hostile_bases_are_sound(hostile_directory: Path) -> None:
    for base in HOSTILE_BASES:
        (hostile_directory / "m.index").write_bytes(base)
        assert len(open_checkpoint(hostile_directory / "m").tensors) in (3, 105)
    (hostile_directory / "m.index").write_bytes(HOSTILE_BASES[0])
    sliced_variable = open_checkpoint(hostile_directory / "m").tensors["v"]
    assert sliced_variable.read().tolist() == [0, 1, 2, 3, 4, 5]


@settings(max_examples=400, deadline=None)
@given(base=st.sampled_from(HOSTILE_BASES), changes=edits)
def test_any_change_of_an_index_is_at_worst_a_checkpoint_error(
    hostile_directory: Path, base: bytes, changes: list[tuple[str, int, int]]
) -> None:
    open_and_read_everything(mutate(base, changes), hostile_directory)


@settings(max_examples=500, deadline=None)
@given(base=st.sampled_from(HOSTILE_BASES), data=st.data(), changes=edits)
def test_changes_under_right_checksums_are_at_worst_a_checkpoint_error(
    hostile_directory: Path, base: bytes, data: st.DataObject, changes: list[tuple[str, int, int]]
) -> None:
    offset, size = data.draw(st.sampled_from(block_ranges(base)))
    # The trailer's type byte is part of what may change; the block keeps its size.
    typed = mutate(base[offset : offset + size + 1], changes)[: size + 1].ljust(size + 1, b"\0")
    index = base[:offset] + typed + masked_crc(typed) + base[offset + size + 5 :]
    open_and_read_everything(index, hostile_directory)


@settings(max_examples=500, deadline=None)
@given(data=st.data(), changes=edits)
def test_changed_messages_in_a_sound_table_are_at_worst_a_checkpoint_error(
    hostile_directory: Path, data: st.DataObject, changes: list[tuple[str, int, int]]
) -> None:
    entries = parse_table(data.draw(st.sampled_from(HOSTILE_BASES)), "base")
    key = data.draw(st.sampled_from(list(entries)))
    entries[key] = mutate(entries[key], changes)
    open_and_read_everything(table(entries), hostile_directory)
