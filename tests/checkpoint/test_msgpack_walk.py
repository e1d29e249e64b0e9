"""The walk over msgpack against the msgpack library, and Flax's arrays in one file."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

msgpack = pytest.importorskip("msgpack")
pytest.importorskip("tensorstore")

from t5x_files import BFLOAT16, packed, random_array, same_bits, write_msgpack  # noqa: E402

from porting.checkpoint import open_checkpoint  # noqa: E402
from porting.checkpoint.msgpack_walk import Blob, Extension, walk  # noqa: E402
from porting.checkpoint.stored import DataFile  # noqa: E402
from porting.errors import CheckpointError  # noqa: E402

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
LEGACY = SHARED / "t5x" / "test_t5_tiny.checkpoint_0"

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, width=32)
    | st.text()
    | st.binary()
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary())
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20)
)


def held(tree: Any, content: bytes) -> Any:
    """The tree with its bytes in place."""
    if isinstance(tree, Blob):
        data = content[tree.offset : tree.offset + tree.nbytes]
        return msgpack.ExtType(tree.code, data) if isinstance(tree, Extension) else data
    if isinstance(tree, dict):
        return {key: held(value, content) for key, value in tree.items()}
    return [held(value, content) for value in tree] if isinstance(tree, list) else tree


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walk") / "tree"


@given(tree=trees, single=st.booleans())
def test_the_tree_is_the_one_that_msgpack_packed(file: Path, tree: Any, single: bool) -> None:
    content = msgpack.packb(tree, use_single_float=single)
    file.write_bytes(content)
    expected = msgpack.unpackb(content, strict_map_key=False)
    assert held(walk(DataFile(file)), content) == expected


@pytest.mark.parametrize("size", [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_sizes_at_which_the_form_changes(file: Path, size: int) -> None:
    tree = {
        "bytes": bytes(size),
        "text": "x" * size,
        "list": [1] * size,
        "map": {str(i): i for i in range(size)},
        "extension": msgpack.ExtType(5, bytes(size)),
    }
    content = msgpack.packb(tree)
    file.write_bytes(content)
    assert held(walk(DataFile(file)), content) == tree


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "1 more bytes"),
        (b"\xc1", "byte 0xc1"),
        (b"\x01\x02", "its end"),
        (b"\xdf\xff\xff\xff\xff\xa1", "1 more bytes"),
        (b"\xdd\xff\xff\xff\xff" + b"\xc0" * 20, "1 more bytes"),
        (b"\xda\xff\xffx", "65535 more bytes"),
        (b"\xdb\xff\xff\xff\xffx", "67108864 bytes of text"),
        (b"\xc6\xff\xff\xff\xffx", "4294967295 more bytes"),
        (b"\x91" * 100_000, "64 deep"),
        (b"\xdd\x00\x20\x00\x00" + b"\xc0" * (1 << 21), "1048576 values"),
        (b"\x82\xa1a\x01\xa1a\x02", "'a' twice"),
        (b"\x82\x01\x01\xa11\x02", "'1' twice"),
        (b"\x81\xc0\x01", "as the key of a map"),
        (b"\x81\x90\x01", "as the key of a map"),
        (b"\x81\xc3\x01", "as the key of a map"),
        (b"\xa2\xff\xfe", "UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_msgpack_of_ours_is_an_error(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        walk(DataFile(file))


@pytest.mark.skipif(not LEGACY.is_file(), reason="shared/data/t5x is not there")
def test_a_real_legacy_checkpoint_is_what_msgpack_unpacks() -> None:
    tree = msgpack.unpackb(LEGACY.read_bytes(), strict_map_key=False)
    checkpoint = open_checkpoint(LEGACY)
    assert (checkpoint.path, len(checkpoint.tensors)) == (LEGACY, 261)
    for name, tensor in checkpoint.tensors.items():
        leaf = tree.get("optimizer", tree)
        for part in name.split("/"):
            leaf = leaf[part]
        shape, dtype, data = msgpack.unpackb(leaf.data)
        values = tensor.read()
        assert (list(values.shape), values.dtype.name, values.tobytes()) == (shape, dtype, data)
        assert tensor.stored is not None


def test_every_kind_of_leaf(tmp_path: Path) -> None:
    arrays = {
        name: random_array(3, 4, dtype=dtype)
        for name, dtype in (
            ("float32", np.float32),
            ("bfloat16", BFLOAT16),
            ("int8", np.int8),
            ("uint16", np.uint16),
            ("bool", bool),
        )
    }
    arrays |= {"empty": np.zeros((0, 4), np.float32), "scalar": random_array(dtype=np.float64)}
    # Without "optimizer", and with names that are numbers, as Flax writes lists.
    tree = {
        **arrays,
        "list": {"0": arrays["int8"], "1": np.float32(2.5)},
        **{"int": 7, "float": 0.5, "none": None},
    }
    path = write_msgpack(tmp_path / "model.msgpack", {"target": tree, "version": 1})
    found = open_checkpoint(path).tensors
    expected = {**arrays, "list/0": arrays["int8"], "list/1": np.asarray(np.float32(2.5))}
    expected |= {"int": np.asarray(7), "float": np.asarray(0.5)}
    assert {*found} == {f"target/{name}" for name in expected}
    for name, array in expected.items():
        assert same_bits(found[f"target/{name}"].read(), array), name


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ([[3, 4], "float32", bytes(47)], "48 bytes"),
        ([[3, -4], "float32", bytes(48)], "numbers from 0"),
        ([[3, 4.0], "float32", bytes(48)], "numbers from 0"),
        ([[float("nan")], "float32", bytes(48)], "numbers from 0"),
        ([[True, 12], "float32", bytes(48)], "numbers from 0"),
        ([[0, 1 << 62, 1 << 62], "float32", b""], "less than 2"),
        ([[1] * 33, "float32", bytes(4)], "at most 32 axes"),
        ([12, "float32", bytes(48)], "a shape"),
        ([[12], 7, bytes(48)], "the name of a dtype"),
        ([[12], "float32"], "shape, dtype, bytes"),
        ("text", "shape, dtype, bytes"),
    ],
)
def test_arrays_that_cannot_be(tmp_path: Path, array: Any, said: str) -> None:
    leaf = msgpack.ExtType(1, msgpack.packb(array))
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(write_msgpack(tmp_path / "m", {"target": {"x": leaf}}))


@pytest.mark.parametrize(
    "broken",
    [
        {"shape": {"0": 4, "2": 3}},
        {"shape": {"0": 5, "1": 3}},
        {"chunks": {}},
        {"chunks": {"0": 1}},
        {"chunks": None},
        {"chunks": {"0": msgpack.ExtType(1, packed(np.zeros(12, np.float64)))}, "shape": {"0": 11}},
    ],
    ids=str,
)
def test_pieces_that_do_not_fit(tmp_path: Path, broken: Any) -> None:
    array = random_array(12)
    chunks = {str(i): msgpack.ExtType(1, packed(array[i * 6 : i * 6 + 6])) for i in range(2)}
    leaf = {"__msgpack_chunked_array__": True, "shape": {"0": 4, "1": 3}, "chunks": chunks}
    found = open_checkpoint(write_msgpack(tmp_path / "m", {"x": leaf}))
    assert same_bits(found.tensors["x"].read(), array.reshape(4, 3))
    with pytest.raises(CheckpointError, match="1 of its entries are wrong"):
        open_checkpoint(write_msgpack(tmp_path / "m", {"x": {**leaf, **broken}}))


def test_names_that_come_twice(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a/b: expected names that are all different"):
        open_checkpoint(write_msgpack(tmp_path / "m", {"a": {"b": 1}, "a/b": 2}))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 2 GiB, most of it a hole, is listed in a process that may take 1 GiB more than it has."""
    head = msgpack.packb({"target": {"x": 0}})[:-1]
    nbytes = 1 << 31
    inner = b"\x93" + msgpack.packb([nbytes // 4]) + msgpack.packb("float32")
    inner += b"\xc6" + nbytes.to_bytes(4, "big")
    size = len(inner) + nbytes
    path = tmp_path / "checkpoint_1"
    with path.open("wb") as file:
        file.write(head + b"\xc9" + size.to_bytes(4, "big") + b"\x01" + inner)
        file.truncate(file.tell() + nbytes)
    code = (
        "import resource, sys; from porting.checkpoint import open_checkpoint;"
        f"resource.setrlimit(resource.RLIMIT_AS, (1 << 30, {resource.RLIM_INFINITY}));"
        "x = open_checkpoint(sys.argv[1]).tensors['target/x']; print(x.shape, x.stored.nbytes)"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert ran.stdout == f"(536870912,) {nbytes}\n", ran.stderr
