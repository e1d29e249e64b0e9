"""Writes tables and tensor bundles as TensorFlow does not: compressed, partitioned, in small blocks, broken.

The sound parts are written by the project's own writer, which tests hold against TensorFlow's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import cramjam
import google_crc32c
import numpy as np

from porting.checkpoint.leveldb_writer import block_contents, footer_bytes, handle_bytes
from porting.checkpoint.leveldb_writer import stored_block as sound_block
from porting.checkpoint.protobuf_wire import encode_field as field
from porting.checkpoint.protobuf_wire import encode_varint as varint

__all__ = ["block_contents", "field", "varint"]

HEADER = b"\x08\x01\x1a\x02\x08\x01"  # num_shards 1, version.producer 1
DTYPE_NUMBERS = {"float32": 1, "int32": 3, "int64": 9, "bool": 10, "bfloat16": 14}


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
    return ((rotated + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[position] & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if data[position - 1] < 0x80:
            return value, position


def stored_block(contents: bytes, snappy: bool = False) -> bytes:
    """A block as it lies in the file: compressed, with its type and a right checksum."""
    if snappy:
        contents = bytes(cramjam.snappy.compress_raw(contents))
    return sound_block(contents, bytes([snappy]))


def footer(index_offset: int, index_size: int) -> bytes:
    return footer_bytes(handle_bytes(0, 0), handle_bytes(index_offset, index_size))


def table_of_blocks(blocks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A table from (index key, stored block) pairs."""
    out, index = bytearray(), []
    for last_key, block in blocks:
        index.append((last_key, handle_bytes(len(out), len(block) - 5)))
        out += block
    index_block = stored_block(block_contents(index, restart_interval=1))
    return bytes(out) + index_block + footer(len(out), len(index_block) - 5)


def table(entries: Mapping[bytes, bytes], *, snappy: bool = False, per_block: int = 16) -> bytes:
    items = list(entries.items())
    chunks = [items[start : start + per_block] for start in range(0, len(items), per_block)]
    return table_of_blocks((chunk[-1][0], stored_block(block_contents(chunk), snappy)) for chunk in chunks)


def block_ranges(index: bytes) -> list[tuple[int, int]]:
    """(offset, size without trailer) of the index block and then of the data blocks of a sound table."""
    position = len(index) - 48
    handle = []
    for _ in range(4):
        number, position = read_varint(index, position)
        handle.append(number)
    ranges = [(handle[2], handle[3])]
    contents = index[handle[2] : handle[2] + handle[3]]
    if index[handle[2] + handle[3]] == 1:
        contents = bytes(cramjam.snappy.decompress_raw(contents))
    end = len(contents) - 4 - 4 * int.from_bytes(contents[-4:], "little")
    position = 0
    while position < end:
        _, position = read_varint(contents, position)
        non_shared, position = read_varint(contents, position)
        size, position = read_varint(contents, position)
        position += non_shared
        offset, at = read_varint(contents, position)
        ranges.append((offset, read_varint(contents, at)[0]))
        position += size
    return ranges


def entry(
    dtype: int,
    shape: Iterable[int],
    *,
    shard: int = 0,
    offset: int = 0,
    size: int = 0,
    crc: bytes = masked_crc(b""),
    slices: Iterable[Iterable[tuple[int, int | None]]] = (),
) -> bytes:
    """A BundleEntryProto; a slice is a (start, length or None) pair for each axis."""
    dims = b"".join(field(2, field(1, dim)) for dim in shape)
    out = field(1, dtype) + field(2, dims) + field(3, shard) + field(4, offset) + field(5, size)
    out += field(6, int.from_bytes(crc, "little"), fixed32=True)
    for extents in slices:
        encoded = [
            field(1, field(1, start) + (b"" if length is None else field(2, length)))
            for start, length in extents
        ]
        out += field(7, b"".join(encoded))
    return out


def entries_and_data(tensors: Mapping[str, np.ndarray]) -> tuple[dict[bytes, bytes], bytes]:
    entries, data = {b"": HEADER}, b""
    for name, values in sorted(tensors.items()):
        raw = values.tobytes()
        number = DTYPE_NUMBERS[str(values.dtype)]
        entries[name.encode()] = entry(
            number, values.shape, offset=len(data), size=len(raw), crc=masked_crc(raw)
        )
        data += raw
    return entries, data


def write_bundle(prefix: Path, entries: Mapping[bytes, bytes], data: bytes | None, **options: bool) -> None:
    """`PREFIX.index` from entries, sorted here, and the only shard from data."""
    Path(f"{prefix}.index").write_bytes(table(dict(sorted(entries.items())), **options))
    if data is not None:
        Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
