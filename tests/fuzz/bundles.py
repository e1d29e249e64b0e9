"""Fuzz targets of TensorFlow's bundles: tables, blocks, messages, slices and the file `checkpoint`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.checkpoint.leveldb_table import parse_table
from porting.checkpoint.locate import find_prefix
from porting.checkpoint.tf_slices import Slice
from porting.errors import CheckpointError
from tests.checkpoint.bundle_writer import (
    DTYPE_NUMBERS,
    HEADER,
    block_ranges,
    entries_and_data,
    entry,
    masked_crc,
    table,
    table_of_blocks,
    write_bundle,
)
from tests.fuzz.harness import DEMO, MTF_TINY, Choices, Finding, Target, check_shown, guarded, sandbox

DATA = np.arange(64, dtype=np.float32).tobytes()
_FLOAT32 = DTYPE_NUMBERS["float32"]


@cache
def indexes() -> tuple[bytes, ...]:
    """Sound indexes: written here, plain and with Snappy, by TensorFlow, and by Google."""
    entries = _entries()
    own = (table(entries), table(entries, snappy=True, per_block=3))
    real = [DEMO / "model.ckpt-1500.index", MTF_TINY / "model.ckpt-0.index"]
    return (*own, *(path.read_bytes() for path in real if path.is_file()))


def _entries() -> dict[bytes, bytes]:
    tensors = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(5, dtype=np.int64)}
    entries, _ = entries_and_data(tensors)
    entries[b"a/kernel"] = entry(_FLOAT32, [2, 3], size=24, crc=masked_crc(DATA[:24]))
    entries[b"b"] = entry(DTYPE_NUMBERS["int64"], [5], offset=24, size=40, crc=masked_crc(DATA[24:64]))
    entries[b"v"] = entry(_FLOAT32, [6], slices=[[(0, 3)], [(3, 3)]])
    for start in (0, 3):
        raw = DATA[start * 4 : start * 4 + 12]
        key = Slice((start,), (3,)).key(b"v")
        entries[key] = entry(_FLOAT32, [3], offset=start * 4, size=12, crc=masked_crc(raw))
    return dict(sorted(entries.items()))


def with_right_checksums(index: bytes) -> bytes:
    """The same table with every block's checksum mended, as far as its blocks can be found."""
    out = bytearray(index)
    # The index block's own checksum goes last: nothing is found through it that it does not hold now.
    try:
        ranges = block_ranges(index)
    except Exception:
        return index
    for offset, size in ranges[:1000]:
        end = offset + size + 1
        if end + 4 <= len(out):
            out[end : end + 4] = masked_crc(bytes(out[offset:end]))
    return bytes(out)


def read_everything(checkpoint: Checkpoint) -> None:
    """Each value is what the listing says, or a CheckpointError."""
    for tensor in checkpoint.tensors.values():
        try:
            values = tensor.read()
        except CheckpointError as error:
            check_shown(error)
            continue
        if (values.shape, values.dtype) != (tensor.shape, tensor.dtype):
            raise Finding(f"{tensor}: {values.dtype}{values.shape}")


def run_table(data: bytes) -> None:
    with guarded():
        parse_table(with_right_checksums(data), "fuzzed.index")


def block_seeds() -> list[bytes]:
    """Contents of blocks, and the byte that says how they are stored."""
    seeds = []
    for index in indexes():
        for offset, size in block_ranges(index)[:3]:
            seeds.append(index[offset : offset + size + 1])
    return seeds


def run_block(data: bytes) -> None:
    stored = data + masked_crc(data)
    with guarded():
        parse_table(table_of_blocks([(b"\xff" * 9, stored)]), "fuzzed.index")


def messages(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Keys and values, each behind its length in two bytes."""
    return b"".join(len(part).to_bytes(2, "little") + part for record in records for part in record)


def _records(data: bytes) -> list[bytes]:
    parts, position = [], 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 2], "little")
        parts.append(data[position + 2 : position + 2 + size])
        position += 2 + size
    return parts


def _with_right_crc(value: bytes) -> bytes:
    """A BundleEntryProto with the checksum that its bytes of DATA have, if it can be read."""
    from porting.checkpoint.protobuf_wire import Message

    try:
        message = Message.parse(value, "")
        offset, size, crc = message.integer(4), message.integer(5), message.fixed32(6)
    except CheckpointError:
        return value
    right = masked_crc(DATA[offset : offset + size] if size > 0 <= offset else b"")
    return value.replace(b"\x35" + crc.to_bytes(4, "little"), b"\x35" + right)


def message_seeds() -> list[bytes]:
    tables = [parse_table(index, "seed") for index in indexes()]
    return [messages(list(entries.items())[:12]) for entries in tables]


def run_messages(data: bytes) -> None:
    parts = _records(data)
    entries = dict(zip(parts[::2], map(_with_right_crc, parts[1::2]), strict=False))
    with guarded():
        # Shards are found by the prefix's name, never by what the index says.
        read_everything(_bundle(entries))


def _bundle(entries: dict[bytes, bytes]) -> Checkpoint:
    prefix = sandbox() / "m"
    write_bundle(prefix, entries, DATA)
    return open_checkpoint(prefix)


_SIZES = (0, 1, 2, 3, 4, 5, 1 << 62)


def run_slices(data: bytes) -> None:
    """Partitioned variables whose parts are all there: read right exactly if they cover each element once."""
    choices = Choices(data)
    shape = tuple(choices.of(_SIZES[1:]) for _ in range(1 + choices.below(3)))
    boxes = []
    for _ in range(1 + choices.below(5)):
        axes = [choices.of([None, (0, 1), (1, 1), (0, 2), (2, 3), (1, 2), (3, 2), (0, 0)]) for _ in shape]
        boxes.append(tuple((0, None) if axis is None else axis for axis in axes))
    entries = {b"": HEADER, b"v": entry(_FLOAT32, shape, slices=boxes)}
    for box in boxes:
        lengths = [size if axis[1] is None else axis[1] for axis, size in zip(box, shape, strict=True)]
        nbytes = 4 * prod(lengths)
        key = Slice(tuple(start for start, _ in box), tuple(length for _, length in box)).key(b"v")
        crc = masked_crc(DATA[:nbytes]) if nbytes <= len(DATA) else b"1234"
        entries[key] = entry(_FLOAT32, lengths, size=nbytes, crc=crc)
    right = None
    if 4 * prod(shape) <= len(DATA):
        counts = np.zeros(shape, int)
        for box in boxes:
            counts[tuple(slice(s, None if n is None else s + n) for s, n in box)] += 1
        inside = all(
            n is None or s + n <= size for box in boxes for (s, n), size in zip(box, shape, strict=True)
        )
        right = inside and bool((counts == 1).all()) and len(set(boxes)) == len(boxes)
    with guarded():
        found = SimpleNamespace(values=None)
        try:
            found.values = _bundle(entries).tensors["v"].read()
        finally:
            if right is not None and (found.values is not None) != right:
                raise Finding(f"{shape} {boxes}: {found.values}")


def state_seeds() -> list[bytes]:
    return [
        b'model_checkpoint_path: "model.ckpt-1000"\nall_model_checkpoint_paths: "model.ckpt-1000"\n',
        b'model_checkpoint_path: "model.ckpt-\\0611000"\n',
        b'model_checkpoint_path: "../outside"\n',
        b'model_checkpoint_path: "a/../../outside"\n',
        b'model_checkpoint_path: "\\057etc\\057x"\nmodel_checkpoint_path: "b"',
    ]


@cache
def _state_folder() -> Path:
    folder = sandbox() / "state"
    folder.mkdir()
    (folder / "model.ckpt-1000.index").write_bytes(indexes()[0])
    (sandbox() / "outside.index").write_bytes(indexes()[0])
    (sandbox().parent / "outside.index").write_bytes(indexes()[0])
    return folder


def run_state(data: bytes) -> None:
    """A directory leads to a checkpoint in itself, unless its file names another by its whole path."""
    folder = _state_folder()
    (folder / "checkpoint").write_bytes(data)
    with guarded():
        prefix = find_prefix(folder)
        if not prefix.resolve().is_relative_to(folder) and b'"/' not in data and b'"\\' not in data:
            raise Finding(f"{data!r} leads to {prefix}")


def _slice_seeds() -> list[bytes]:
    return [b"\0\2\0\0", b"\0\2\1\1\5", *(bytes([0, 5, 1, *pair]) for pair in pairwise(range(8)))]


TARGETS = [
    Target("table", run_table, lambda: list(indexes())),
    Target("block", run_block, block_seeds),
    Target("messages", run_messages, message_seeds),
    Target("slices", run_slices, _slice_seeds),
    Target("state", run_state, state_seeds),
]
