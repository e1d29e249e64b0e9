"""LevelDB's sorted string table, written; `leveldb_table` says what it is made of, and reads it.

Sources: `tensorflow/core/lib/io/{table_builder,block_builder,table_options}`: the same entries give the same
bytes as TensorFlow's own writer, which compresses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from porting.checkpoint.leveldb_table import MAGIC, masked_crc32c
from porting.checkpoint.protobuf_wire import encode_varint

BLOCK_BYTES = 262_144
"""A block is closed once it is so long (`Options::block_size`)."""

RESTART_INTERVAL = 16
"""Every so many entries a key is written whole (`Options::block_restart_interval`)."""

_HANDLES_BYTES = 40
_UNCOMPRESSED = b"\x00"


def table_bytes(entries: Mapping[bytes, bytes]) -> bytes:
    """The whole content of a table file.

    Args:
        entries: values by key, in any order.
    """
    out = bytearray()
    handles: list[tuple[bytes, bytes]] = []
    keys = sorted(entries)
    block, last = _Block(), b""
    for key in keys:
        if block.is_full:
            handles.append((_separator(last, key), _append(out, block.contents())))
            block = _Block()
        block.add(key, entries[key])
        last = key
    if keys:
        handles.append((_successor(last), _append(out, block.contents())))
    metaindex = _append(out, block_contents(()))
    index = _append(out, block_contents(handles, restart_interval=1))
    return bytes(out) + footer_bytes(metaindex, index)


def block_contents(entries: Iterable[tuple[bytes, bytes]], restart_interval: int = RESTART_INTERVAL) -> bytes:
    """A block without its trailer: a key says only what differs from the one before it."""
    block = _Block(restart_interval)
    for key, value in entries:
        block.add(key, value)
    return block.contents()


def stored_block(contents: bytes, kind: bytes = _UNCOMPRESSED) -> bytes:
    """A block as it lies in the file: its contents, how they are compressed, the checksum of both."""
    typed = contents + kind
    return typed + masked_crc32c(typed).to_bytes(4, "little")


def handle_bytes(offset: int, size: int) -> bytes:
    """Where a block lies; its trailer does not count."""
    return encode_varint(offset) + encode_varint(size)


def footer_bytes(metaindex: bytes, index: bytes) -> bytes:
    """What a table ends in, from the handles of its metaindex and its index block."""
    return (metaindex + index).ljust(_HANDLES_BYTES, b"\0") + MAGIC


class _Block:
    """Entries in ascending order of their keys, put together."""

    def __init__(self, restart_interval: int = RESTART_INTERVAL) -> None:
        self._interval = restart_interval
        self._buffer = bytearray()
        self._restarts = [0]
        self._since_restart = 0
        self._last = b""

    @property
    def is_full(self) -> bool:
        return len(self._buffer) + 4 * len(self._restarts) + 4 >= BLOCK_BYTES

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._since_restart < self._interval:
            shared = _shared(key, self._last)
        else:
            self._restarts.append(len(self._buffer))
            self._since_restart = 0
        self._buffer += encode_varint(shared) + encode_varint(len(key) - shared) + encode_varint(len(value))
        self._buffer += key[shared:] + value
        self._since_restart += 1
        self._last = key

    def contents(self) -> bytes:
        numbers = (*self._restarts, len(self._restarts))
        return bytes(self._buffer) + b"".join(number.to_bytes(4, "little") for number in numbers)


def _append(out: bytearray, contents: bytes) -> bytes:
    """Write a block, and give its handle."""
    handle = handle_bytes(len(out), len(contents))
    out += stored_block(contents)
    return handle


def _shared(key: bytes, other: bytes) -> int:
    """How many bytes two keys have in common from the front."""
    pairs = enumerate(zip(key, other, strict=False))
    return next((at for at, (byte, also) in pairs if byte != also), min(len(key), len(other)))


def _separator(last: bytes, following: bytes) -> bytes:
    """A short key from `last` up to, but not including, `following` (`FindShortestSeparator`)."""
    at = _shared(last, following)
    # A byte of 255 cannot be raised, and is never below the other key's.
    if at < len(last) and last[at] + 1 < following[at]:
        return last[:at] + bytes([last[at] + 1])
    return last


def _successor(last: bytes) -> bytes:
    """A short key from `last` on (`FindShortSuccessor`)."""
    for at, byte in enumerate(last):
        if byte < 0xFF:
            return last[:at] + bytes([byte + 1])
    return last
