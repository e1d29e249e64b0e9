"""A msgpack file as the tree it is, without the values in it: of these, where they lie.

Checkpoints of Flax are one msgpack file with every array inside; such a file may have many gigabytes, and a
library that unpacks it holds all of them. This walks over the file: maps, lists, numbers and names are
read, byte strings and extension types are stepped over, and their places noted.

Source: the msgpack specification, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from porting.checkpoint.stored import COPY_AGAIN, DataFile
from porting.errors import CheckpointError, Problem

# Trees of checkpoints are some fifteen deep and have some ten thousand leaves of a dozen entries each.
_MAX_DEPTH = 64
_MAX_ENTRIES = 1 << 20
_MAX_TEXT_BYTES = 64 << 20
_WINDOW_BYTES = 8 << 10


@dataclass(frozen=True)
class Blob:
    """A byte string that was stepped over.

    Attributes:
        offset, nbytes: which bytes of the file.
    """

    offset: int
    nbytes: int


@dataclass(frozen=True)
class Extension(Blob):
    """A value of an application's own type, `code` from -128 to 127, that was stepped over."""

    code: int


def walk(file: DataFile, start: int = 0, nbytes: int | None = None) -> Any:
    """The tree that `nbytes` bytes from `start` on hold; by default the whole file.

    Returns:
        None, bool, int, float, str, Blob, Extension, a list, or a dict by str of such.

    Raises:
        CheckpointError: the file cannot be opened; or it is no msgpack, is cut off, goes on after its end,
            or is deeper or has more entries than any checkpoint.
    """
    end = file.nbytes() if nbytes is None else start + nbytes
    walker = _Walker(file, start, end)
    tree = walker.value(0)
    if walker.at != end:
        raise walker.broken("its end", f"{end - walker.at} more bytes")
    return tree


class _Walker:
    def __init__(self, file: DataFile, start: int, end: int) -> None:
        self.at = start
        self._file, self._end = file, end
        self._window, self._window_at = b"", start
        self._entries = 0
        self._text_bytes = 0

    def broken(self, expected: str, found: str) -> CheckpointError:
        problem = Problem(f"{self._file.path}, byte {self.at}", expected, found, COPY_AGAIN)
        return CheckpointError(
            f"{self._file.path} is not a msgpack file that can be read", problems=[problem]
        )

    def value(self, depth: int) -> Any:
        """The value that begins here; `at` is behind it afterwards."""
        self._entries += 1
        if self._entries > _MAX_ENTRIES or depth > _MAX_DEPTH:
            raise self.broken(f"at most {_MAX_ENTRIES} values, {_MAX_DEPTH} deep", "more")
        first = self._take(1)[0]
        if first <= 0x7F:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first <= 0x8F:
            return self._map(first & 0x0F, depth)
        if first <= 0x9F:
            return self._list(first & 0x0F, depth)
        if first <= 0xBF:
            return self._text(first & 0x1F)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            (number,) = struct.unpack(_NUMBERS[first], self._take(struct.calcsize(_NUMBERS[first])))
            return number
        if first in _FIXED_EXTENSIONS:
            return self._extension(_FIXED_EXTENSIONS[first])
        if first not in _SIZED:
            raise self.broken("a value", f"byte {first:#04x}")
        kind, size_bytes = _SIZED[first]
        size = int.from_bytes(self._take(size_bytes), "big")
        if kind == "map":
            return self._map(size, depth)
        if kind == "list":
            return self._list(size, depth)
        if kind == "text":
            return self._text(size)
        return self._extension(size) if kind == "extension" else self._blob(size)

    def _map(self, size: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            # Flax names the elements of lists by their numbers, some writers as numbers.
            name = str(key) if type(key) is int else key
            if not isinstance(name, str):
                raise self.broken("a name", f"a {type(key).__name__} as the key of a map")
            if name in found:
                raise self.broken("names that are all different", f"{name[:100]!r} twice")
            found[name] = self.value(depth + 1)
        return found

    def _list(self, size: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(size)]

    def _text(self, size: int) -> str:
        self._text_bytes += size
        if self._text_bytes > _MAX_TEXT_BYTES:
            raise self.broken(f"at most {_MAX_TEXT_BYTES} bytes of text", "more")
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.broken("text in UTF-8", str(error.reason)) from error

    def _extension(self, size: int) -> Extension:
        (code,) = struct.unpack("b", self._take(1))
        blob = self._blob(size)
        return Extension(blob.offset, blob.nbytes, code)

    def _blob(self, size: int) -> Blob:
        blob = Blob(self.at, size)
        self._require(size)
        self.at += size
        return blob

    def _take(self, size: int) -> bytes:
        """The next bytes."""
        self._require(size)
        begin = self.at - self._window_at
        if begin < 0 or begin + size > len(self._window):
            window = np.empty(min(max(size, _WINDOW_BYTES), self._end - self.at), np.uint8)
            count = self._file.read_into(window, self.at)
            self._window, self._window_at, begin = window[:count].tobytes(), self.at, 0
            if count < size:
                raise self.broken(f"{size} more bytes", f"{count}")
        self.at += size
        return self._window[begin : begin + size]

    def _require(self, size: int) -> None:
        if size > self._end - self.at:
            raise self.broken(f"{size} more bytes", f"{self._end - self.at}, then it ends")


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_SIZED = {
    0xC4: ("blob", 1),
    0xC5: ("blob", 2),
    0xC6: ("blob", 4),
    0xC7: ("extension", 1),
    0xC8: ("extension", 2),
    0xC9: ("extension", 4),
    0xD9: ("text", 1),
    0xDA: ("text", 2),
    0xDB: ("text", 4),
    0xDC: ("list", 2),
    0xDD: ("list", 4),
    0xDE: ("map", 2),
    0xDF: ("map", 4),
}
