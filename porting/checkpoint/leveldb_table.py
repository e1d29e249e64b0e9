"""LevelDB's sorted string table, the container of a TensorFlow checkpoint's `.index` file.

Sources: leveldb's `doc/table_format.md`, and `tensorflow/core/lib/io/format.cc` and `block.cc`, which
took the format over:

    file    = data block*, metaindex block, index block, footer
    footer  = varint handles of metaindex and index block, padded to 40 bytes, 8-byte magic
    block   = contents, 1 byte compression type (0 none, 1 Snappy), 4 bytes masked CRC32C of both
    contents= entry*, uint32 restart*, uint32 number of restarts
    entry   = varints (shared, non_shared, value size), non_shared key bytes, value bytes

Each entry of the index block is a key and the handle (offset, size) of a data block. Numbers are
little-endian. Google's own tables are Snappy-compressed; those that open-source TensorFlow writes are not.

Nothing here trusts the file: blocks must lie in order and apart, keys must ascend, and the bytes that
come out are bounded by `MAX_EXPANDED_BYTES` and `MAX_ENTRIES` however well the file compresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cramjam
import google_crc32c
import numpy as np
import numpy.typing as npt

from porting.checkpoint.files import lfs_remedy, read_file
from porting.checkpoint.protobuf_wire import read_varint
from porting.errors import CheckpointError, Problem

MAX_FILE_BYTES = 64 << 20
"""Longest table file that is read; `MAX_ENTRIES` of them take less."""

MAX_EXPANDED_BYTES = 128 << 20
"""Most bytes of decompressed blocks and restored keys that one table may yield."""

MAX_ENTRIES = 1 << 18
"""Most entries of a table; a checkpoint of a large model has some thousands."""

MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_NO_COMPRESSION, _SNAPPY = 0, 1
# Snappy's densest element copies 64 bytes and takes 3, so no stream expands more than this.
_SNAPPY_MAX_RATIO = 64 / 3


def masked(crc: int) -> int:
    """A CRC32C as LevelDB stores it: rotated and offset (`util/crc32c.h`)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def unmasked(crc: int) -> int:
    """The CRC32C that LevelDB stores as `crc` (`util/crc32c.h`)."""
    rotated = (crc - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def masked_crc32c(data: bytes | npt.NDArray[np.uint8]) -> int:
    """CRC32C of `data` as LevelDB stores it."""
    return masked(google_crc32c.value(data))


def read_table(path: Path) -> dict[bytes, bytes]:
    """Read all entries of the table file `path`; see `parse_table`.

    Raises:
        CheckpointError: it cannot be read, or is not a sound table.
    """
    return parse_table(read_file(path, MAX_FILE_BYTES), str(path))


def parse_table(data: bytes, where: str) -> dict[bytes, bytes]:
    """Take a table apart.

    Args:
        data: the content of the file.
        where: its name, for errors.

    Returns:
        Values by key, in the table's order, which is that of the keys.

    Raises:
        CheckpointError: it is empty, cut off, corrupt, or no table; the message says which.
    """
    if not has_magic(data):
        found = "an empty file" if not data else f"{len(data)} bytes that end in {data[-8:].hex()}"
        problem = Problem(
            where,
            f"a table that ends in the magic number {MAGIC.hex()}",
            found,
            lfs_remedy(data) or "it is truncated or another kind of file: copy it again",
        )
        raise CheckpointError(f"{where} is not a checkpoint index, or is truncated", problems=[problem])
    footer = data[-_FOOTER_BYTES:]
    body = data[:-_FOOTER_BYTES]
    # The metaindex block holds no entries in checkpoints, so only its handle is stepped over.
    _, _, position = _read_handle(footer, 0, where)
    index_offset, index_size, _ = _read_handle(footer, position, where)
    index = _read_block(body, index_offset, index_size, where)

    entries: dict[bytes, bytes] = {}
    expanded = len(index)
    previous_key: bytes | None = None
    previous_end = 0
    for index_key, handle in _block_entries(index, f"{where}, index block"):
        expanded += len(index_key)
        offset, size, _ = _read_handle(handle, 0, where)
        # Blocks that overlap would let a short file claim any number of entries.
        if offset < previous_end:
            raise _corrupt(where, f"data blocks in order, the next at {previous_end} or later", str(offset))
        previous_end = offset + size + _TRAILER_BYTES
        block = _read_block(body, offset, size, where)
        expanded += len(block)
        for key, value in _block_entries(block, f"{where}, block at byte {offset}"):
            if previous_key is not None and key <= previous_key:
                raise _corrupt(where, f"keys in ascending order after {previous_key!r}", repr(key))
            # Prefix compression repeats a long key for a few bytes, as Snappy does long blocks.
            expanded += len(key)
            if len(entries) == MAX_ENTRIES:
                raise _corrupt(where, f"at most {MAX_ENTRIES} entries", "more")
            _check_expansion(expanded, where)
            entries[key] = value
            previous_key = key
        _check_expansion(expanded, where)
    return entries


def has_magic(data: bytes) -> bool:
    """Whether `data` ends as a table file does."""
    return len(data) >= _FOOTER_BYTES and data.endswith(MAGIC)


def _read_handle(data: bytes, position: int, where: str) -> tuple[int, int, int]:
    offset, position = read_varint(data, position, f"{where}, block handle")
    size, position = read_varint(data, position, f"{where}, block handle")
    return offset, size, position


def _read_block(body: bytes, offset: int, size: int, where: str) -> bytes:
    """Contents of the block of `size` stored bytes at `offset`, its checksum verified, decompressed."""
    end = offset + size
    if end + _TRAILER_BYTES > len(body):
        raise _corrupt(where, f"a block of {size} bytes at byte {offset}", f"{len(body)} bytes of blocks")
    kind = body[end]
    stored_crc = int.from_bytes(body[end + 1 : end + _TRAILER_BYTES], "little")
    crc = masked_crc32c(body[offset : end + 1])
    if crc != stored_crc:
        raise _corrupt(where, f"CRC32C {stored_crc:#010x} of the block at byte {offset}", f"{crc:#010x}")
    contents = body[offset:end]
    if kind == _NO_COMPRESSION:
        return contents
    if kind != _SNAPPY:
        raise _corrupt(where, f"block at byte {offset} plain (0) or Snappy-compressed (1)", f"type {kind}")
    declared, _ = read_varint(contents, 0, f"{where}, Snappy block at byte {offset}", bits=32)
    if declared > len(contents) * _SNAPPY_MAX_RATIO or declared > MAX_EXPANDED_BYTES:
        raise _corrupt(where, f"a Snappy block of {size} bytes at byte {offset}", f"{declared} bytes claimed")
    try:
        return bytes(cramjam.snappy.decompress_raw(contents))
    except cramjam.DecompressionError as error:
        raise _corrupt(where, f"Snappy data in the block at byte {offset}", str(error)) from error


def _block_entries(block: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; read from the front, so the restart points are only stepped over."""
    num_restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * num_restarts
    if end < 0:
        raise _corrupt(where, f"a block with {num_restarts} restart points", f"{len(block)} bytes")
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(block, position, where, bits=32)
        non_shared, position = read_varint(block, position, where, bits=32)
        value_size, position = read_varint(block, position, where, bits=32)
        value_at = position + non_shared
        if shared > len(key) or value_at + value_size > end:
            raise _corrupt(where, "entries that lie inside of the block", f"one that does not, after {key!r}")
        key = key[:shared] + block[position:value_at]
        position = value_at + value_size
        yield key, block[value_at:position]


def _check_expansion(expanded: int, where: str) -> None:
    if expanded > MAX_EXPANDED_BYTES:
        raise _corrupt(where, f"at most {MAX_EXPANDED_BYTES} bytes of names and entries", "more")


def _corrupt(where: str, expected: str, found: str) -> CheckpointError:
    problem = Problem(where, expected, found, "copy the file again from where the checkpoint came from")
    return CheckpointError(f"{where} is corrupt", problems=[problem])
