"""Values that lie in a file just as they are, read piece by piece with their checksum verified.

Files are read, not mapped: when somebody truncates a mapped file, the next look at its values ends the
process (SIGBUS), and its pages count as resident memory of whoever maps it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from porting.checkpoint.files import lfs_remedy, named_os_errors, open_regular
from porting.errors import CheckpointError, Problem

COPY_AGAIN = "copy the checkpoint's files again from where they came from"
PIECE_BYTES = 1 << 20
"""A piece is worked on while it is in the processor's cache."""

Bytes = npt.NDArray[np.uint8]


class DataFile:
    """A file of values, opened when it is first needed, closed when nobody has the object any more."""

    def __init__(self, path: Path) -> None:
        """Take the file's name; it need not be there yet."""
        self.path = path
        self._descriptor: int | None = None

    def nbytes(self) -> int:
        """Its size now. Raises CheckpointError if it cannot be opened."""
        descriptor = self._open()
        with named_os_errors(self.path):
            return os.fstat(descriptor).st_size

    def read_into(self, buffer: Bytes, offset: int) -> int:
        """Fill `buffer` with what lies from byte `offset` on; returns how many bytes there were.

        Raises:
            CheckpointError: it cannot be opened or read.
        """
        descriptor = self._open()
        done = 0
        with named_os_errors(self.path):
            while done < len(buffer):
                count = os.preadv(descriptor, [buffer[done:].data], offset + done)
                if not count:
                    break
                done += count
        return done

    def _open(self) -> int:
        if self._descriptor is None:
            with named_os_errors(self.path):
                file = open_regular(self.path)
            weakref.finalize(self, file.close)
            self._descriptor = file.fileno()
        return self._descriptor


@dataclass(frozen=True)
class StoredBytes:
    """Where a tensor's values lie, little-endian and in row-major order.

    Attributes:
        file: gives the file; raises CheckpointError if it is not there.
        offset, nbytes: which bytes of it.
        needed_by: the tensor's name, for errors.
        crc32c: their CRC32C; None where the format keeps none.
    """

    file: Callable[[], DataFile]
    offset: int
    nbytes: int
    needed_by: str
    crc32c: int | None = None

    def pieces(self, buffer: Bytes) -> Iterator[Bytes]:
        """The bytes in order, each piece at the beginning of `buffer` until the next is asked for.

        Raises:
            CheckpointError: the file is missing, unreadable or too short; after the last piece: the checksum
                is not theirs.
        """
        crc = 0
        for start in range(0, self.nbytes, len(buffer)):
            piece = buffer[: min(len(buffer), self.nbytes - start)]
            self._fill(piece, start)
            crc = google_crc32c.extend(crc, piece)
            yield piece
        self._verify(crc)

    def read_into(self, values: Bytes) -> None:
        """All of the bytes into `values`, shape [nbytes]. Raises CheckpointError as `pieces` does."""
        crc = 0
        for start in range(0, self.nbytes, PIECE_BYTES):
            piece = values[start : start + PIECE_BYTES]
            self._fill(piece, start)
            crc = google_crc32c.extend(crc, piece)
        self._verify(crc)

    def require_file(self) -> None:
        """Raise CheckpointError unless the file has so many bytes: before memory is taken for them."""
        if self.nbytes and self.offset + self.nbytes > self.file().nbytes():
            raise _truncated(self.file(), self.offset + self.nbytes, self.needed_by)

    def _fill(self, piece: Bytes, start: int) -> None:
        file = self.file()
        count = file.read_into(piece, self.offset + start)
        if count < len(piece):
            raise _truncated(file, self.offset + self.nbytes, self.needed_by)

    def _verify(self, crc: int) -> None:
        if self.crc32c is None or crc == self.crc32c:
            return
        path = self.file().path if self.nbytes else "no file"
        expected = (
            f"CRC32C {self.crc32c:#010x} of bytes {self.offset} to {self.offset + self.nbytes} of {path}"
        )
        problem = Problem(self.needed_by, expected, f"{crc:#010x}", COPY_AGAIN)
        raise CheckpointError(f"{self.needed_by}: its values in {path} are damaged", problems=[problem])


def read_stored(stored: StoredBytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The values as a new read-only array.

    Raises:
        CheckpointError: as `StoredBytes.pieces` does.
    """
    stored.require_file()
    values = np.empty(stored.nbytes, np.uint8)
    stored.read_into(values)
    values.flags.writeable = False
    return values.view(dtype).reshape(shape)


def _truncated(file: DataFile, end: int, needed_by: str) -> CheckpointError:
    start = np.zeros(64, np.uint8)
    file.read_into(start, 0)
    remedy = lfs_remedy(start.tobytes()) or COPY_AGAIN
    problem = Problem(needed_by, f"{file.path} of at least {end} bytes", f"{file.nbytes()} bytes", remedy)
    return CheckpointError(f"{needed_by}: data file {file.path} is truncated", problems=[problem])
