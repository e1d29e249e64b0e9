"""TensorFlow's V2 checkpoints ("tensor bundles"), read without TensorFlow.

Sources: `tensorflow/core/protobuf/tensor_bundle.proto` (header and entries),
`tensorflow/core/framework/{types,tensor_shape,versions}.proto`, and
`tensorflow/core/util/tensor_bundle/{naming,tensor_bundle}.cc`.

`PREFIX.index` is a table (see `leveldb_table`): the key "" holds a BundleHeaderProto, each other key is a
variable's name and holds a BundleEntryProto. `PREFIX.data-SSSSS-of-NNNNN` hold the values as raw
little-endian bytes. A partitioned variable's entry lists slices, and each slice has an entry of its own
(see `tf_slices`).

Listing reads the index alone. A wrong entry is an error then, so that what is listed can be relied on;
missing, short and damaged shards are errors of the tensor that needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from porting.checkpoint.lazy import Checkpoint, LazyTensor
from porting.checkpoint.leveldb_table import read_table, unmasked
from porting.checkpoint.protobuf_wire import Message
from porting.checkpoint.stored import COPY_AGAIN, StoredBytes, read_stored
from porting.checkpoint.tf_shards import Shards
from porting.checkpoint.tf_slices import Slice, box_shape, covers_exactly
from porting.errors import CheckpointError, Problem

FORMAT = "tensorflow-bundle"

# DataType in types.proto. Values are little-endian on disk, whatever this machine is.
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    14: np.dtype(ml_dtypes.bfloat16),
    19: np.dtype("<f2"),
}
_UNREADABLE = np.dtype(object)
_UNREADABLE_NAMES = {
    7: "string",
    8: "complex64",
    11: "qint8",
    12: "quint8",
    13: "qint32",
    15: "qint16",
    16: "quint16",
    17: "uint16",
    18: "complex128",
    20: "resource",
    21: "variant",
    22: "uint32",
    23: "uint64",
}

BUNDLE_VERSION = 1
# Shard numbers have five digits in file names.
MAX_SHARDS = 99_999
# A variable in ten thousand slices takes 200 KB.
_MAX_ENTRY_BYTES = 1 << 18
# NumPy 1's limit on axes; checkpoints of models have four or so.
_MAX_RANK = 32


@dataclass(frozen=True)
class _Entry:
    """A BundleEntryProto, its numbers in range."""

    key: bytes
    dtype_number: int
    shape: tuple[int, ...]
    shard_id: int
    offset: int
    size: int
    masked_crc32c: int
    slices: tuple[Slice, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES.get(self.dtype_number, _UNREADABLE)


def open_bundle(prefix: Path) -> Checkpoint:
    """List the checkpoint `PREFIX.index`; no data file is opened, or needs to be there.

    Args:
        prefix: path without `.index`, such as `dir/model.ckpt-1000`.

    Returns:
        Its variables. Tensors of a dtype that NumPy work has no use for here (strings, quantized, complex)
        are listed with dtype `object`, so that nothing is hidden, and raise when read.

    Raises:
        CheckpointError: the index is missing, unreadable or corrupt; one problem for each bad entry.
    """
    index = index_path(prefix)
    table = read_table(index)
    num_shards = _parse_header(table.pop(b"", b""), index)
    shards = Shards(prefix, num_shards)
    problems: list[Problem] = []
    entries: dict[bytes, _Entry] = {}
    num_slices = 0
    for key, value in table.items():
        try:
            entries[key] = _parse_entry(key, value, num_shards, len(table) - num_slices)
            num_slices += len(entries[key].slices)
        except CheckpointError as error:
            problems.extend(error.problems)
    variables: dict[bytes, list[_Entry]] = {}
    slice_keys: set[bytes] = set()
    # With an entry missing, a variable of which it is a part would be called wrong as well.
    for entry in entries.values() if not problems else ():
        try:
            parts = variables[entry.key] = _find_parts(entry, entries)
            slice_keys.update(part.key for part in parts if part is not entry)
        except CheckpointError as error:
            problems.extend(error.problems)
    if not problems:
        for key in variables.keys() - slice_keys:
            problems.extend(_name_problems(key))
    if problems:
        raise CheckpointError(f"{index}: {len(problems)} of its entries are wrong", problems=problems)
    tensors = [
        _lazy_tensor(entries[key], parts, shards) for key, parts in variables.items() if key not in slice_keys
    ]
    return Checkpoint(
        path=prefix,
        format=FORMAT,
        tensors={tensor.name: tensor for tensor in sorted(tensors, key=lambda tensor: tensor.name)},
        files=(index, *(shards.path(shard_id) for shard_id in range(num_shards))),
    )


def index_path(prefix: Path) -> Path:
    """The index file of a bundle: `PREFIX.index`."""
    return prefix.parent / f"{prefix.name}.index"


def _parse_header(value: bytes, index: Path) -> int:
    """Number of shards, from a BundleHeaderProto that describes a bundle we can read.

    Its fields: 1 num_shards, 2 endianness (0 little), 3 version (1 producer, 2 min_consumer).
    """
    where = str(index)
    header = _parse_message(value, f"{where}, header")
    num_shards, endianness = header.integer(1), header.integer(2)
    min_consumer = header.message(3).integer(2)
    problems = []
    if not 1 <= num_shards <= MAX_SHARDS:
        remedy = "is it the index of a V2 checkpoint, and complete?"
        problems.append(
            Problem(where, f"1 to {MAX_SHARDS} data files in the header", str(num_shards), remedy)
        )
    if endianness != 0:
        remedy = "load it with TensorFlow on the kind of machine that wrote it, and save it on another"
        problems.append(Problem(where, "little-endian values", f"endianness {endianness}", remedy))
    if min_consumer > BUNDLE_VERSION:
        remedy = "the format is newer than this reader"
        problems.append(Problem(where, f"bundle version {BUNDLE_VERSION}", str(min_consumer), remedy))
    if problems:
        raise CheckpointError(f"{where} is not an index that can be read", problems=problems)
    return num_shards


def _parse_entry(key: bytes, value: bytes, num_shards: int, max_slices: int) -> _Entry:
    """Check a BundleEntryProto by itself, without a look at other entries or data files.

    Its fields: 1 dtype, 2 shape (2 dim (1 size), 3 unknown_rank), 3 shard_id, 4 offset, 5 size, 6 crc32c,
    7 slices.
    """
    where = _shown(key)
    message = _parse_message(value, where)
    shape_message = message.message(2)
    if shape_message.count(2) > _MAX_RANK:
        raise _bad_entry(where, f"at most {_MAX_RANK} axes", f"{shape_message.count(2)}")
    # Each slice needs an entry of its own, so there cannot be more of them than entries.
    if message.count(7) > max_slices:
        raise _bad_entry(where, f"at most {max_slices} slices", f"{message.count(7)}")
    shape = tuple(dim.integer(1) for dim in shape_message.messages(2))
    entry = _Entry(
        key=key,
        dtype_number=message.integer(1),
        shape=shape,
        shard_id=message.integer(3),
        offset=message.integer(4),
        size=message.integer(5),
        masked_crc32c=message.fixed32(6),
        slices=tuple(Slice.from_message(part, len(shape)) for part in message.messages(7)),
    )
    if shape_message.integer(3) or min(shape, default=0) < 0:
        raise _bad_entry(where, "a known shape", f"{list(shape)}")
    # Zeros do not make the other axes harmless: NumPy refuses (0, 2**62, 2**62) too.
    if prod(size or 1 for size in shape) * entry.dtype.itemsize >= 1 << 63:
        raise _bad_entry(where, "less than 2**63 bytes", f"shape {list(shape)}")
    if not 0 <= entry.shard_id < num_shards:
        raise _bad_entry(where, f"a data file below {num_shards}", str(entry.shard_id))
    if min(entry.offset, entry.size) < 0:
        raise _bad_entry(where, "offset and size of 0 or more", f"{entry.offset} and {entry.size}")
    nbytes = prod(shape) * entry.dtype.itemsize
    if not entry.slices and entry.dtype != _UNREADABLE and entry.size != nbytes:
        found = f"{entry.size} bytes"
        raise _bad_entry(where, f"{nbytes} bytes for {entry.dtype} of shape {list(shape)}", found)
    return entry


def _parse_message(value: bytes, where: str) -> Message:
    # Taken apart, a message of tiny fields takes fifty times the memory.
    if len(value) > _MAX_ENTRY_BYTES:
        raise _bad_entry(where, f"at most {_MAX_ENTRY_BYTES} bytes", f"{len(value)}")
    return Message.parse(value, where)


def _find_parts(entry: _Entry, entries: dict[bytes, _Entry]) -> list[_Entry]:
    """Entries that hold the values: the entry itself, or those of its slices, in their order."""
    if not entry.slices:
        return [entry]
    where = _shown(entry.key)
    parts = []
    if len(set(entry.slices)) != len(entry.slices):
        raise _bad_entry(where, "slices that are all different", "one that is listed twice")
    for part_slice in entry.slices:
        if not part_slice.fits(entry.shape):
            raise _bad_entry(where, f"slices inside of shape {list(entry.shape)}", str(part_slice))
        part = entries.get(part_slice.key(entry.key))
        if part is None:
            raise _bad_entry(where, f"an entry for {part_slice}", "none")
        shape = box_shape(part_slice.box(entry.shape))
        if part.slices or part.shape != shape or part.dtype_number != entry.dtype_number:
            expected = f"slices of the variable's dtype, here shape {list(shape)}"
            raise _bad_entry(where, expected, f"{part.dtype} of shape {list(part.shape)}")
        parts.append(part)
    return parts


def _lazy_tensor(entry: _Entry, parts: Sequence[_Entry], shards: Shards) -> LazyTensor:
    name = entry.key.decode("utf-8")
    stored = None
    if entry.dtype == _UNREADABLE:
        load = partial(_refuse, name, entry.dtype_number)
    elif entry.slices:
        load = partial(_assemble, name, entry, parts, shards)
    else:
        stored = _stored(name, entry, shards)
        load = partial(read_stored, stored, entry.dtype, entry.shape)
    needed = sorted({part.shard_id for part in parts if part.size})
    files = tuple(shards.path(shard_id) for shard_id in needed)
    return LazyTensor(name, entry.shape, entry.dtype, files, load, stored)


def _refuse(name: str, dtype_number: int) -> npt.NDArray[Any]:
    found = _UNREADABLE_NAMES.get(dtype_number, f"TensorFlow's dtype number {dtype_number}")
    readable = ", ".join(str(dtype) for dtype in DTYPES.values())
    remedy = "leave it out; weights do not have this dtype"
    problem = Problem(name, f"one of {readable}", found, remedy)
    raise CheckpointError(f"{name}: values of dtype {found} cannot be read", problems=[problem])


def _stored(name: str, entry: _Entry, shards: Shards) -> StoredBytes:
    return shards.stored(entry.shard_id, entry.offset, entry.size, unmasked(entry.masked_crc32c), name)


def _assemble(name: str, entry: _Entry, parts: Sequence[_Entry], shards: Shards) -> npt.NDArray[Any]:
    """Verified values of a partitioned variable, put together into a new read-only array."""
    needed = {part.shard_id for part in parts if part.size}
    stored = sum(shards.file(shard_id, name).nbytes() for shard_id in needed)
    nbytes = prod(entry.shape) * entry.dtype.itemsize
    boxes = [part_slice.box(entry.shape) for part_slice in entry.slices]
    # Before anything of the claimed size is allocated: are there files of that size?
    if nbytes > stored:
        raise _bad_entry(name, f"{nbytes} bytes of slices", f"data files of {stored} bytes")
    if not covers_exactly(entry.shape, boxes):
        expected = f"slices that cover shape {list(entry.shape)} exactly once"
        raise _bad_entry(name, expected, f"{len(boxes)} slices that leave gaps or overlap")
    values = np.empty(entry.shape, entry.dtype)
    for box, part in zip(boxes, parts, strict=True):
        values[box] = read_stored(_stored(name, part, shards), part.dtype, part.shape)
    values.flags.writeable = False
    return values


def _name_problems(key: bytes) -> list[Problem]:
    """What keeps `key` from being a variable's name."""
    if key.startswith(b"\0"):
        part = "a part of a partitioned variable that is listed"
        return [Problem(_shown(key), part, "no variable that lists it", COPY_AGAIN)]
    try:
        key.decode("utf-8")
    except UnicodeDecodeError as error:
        return [Problem(_shown(key), "a name in UTF-8", str(error), COPY_AGAIN)]
    return []


def _shown(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace").replace("\0", "\\0")


def _bad_entry(where: str, expected: str, found: str) -> CheckpointError:
    problem = Problem(where, expected, found, COPY_AGAIN)
    return CheckpointError(f"{where}: its entry in the index is wrong", problems=[problem])
