"""CRC32C of files whose pieces' checksums are known, and SHA-256 of small ones.

CRC32C is what TensorFlow's checkpoints keep of every tensor, and takes a twentieth of the time of SHA-256:
the checksum of a whole file follows from those of its tensors without reading it again.

Source of `joined_crc32c`: zlib's crc32_combine (M. Adler), with the polynomial of RFC 3720, section 12.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import google_crc32c
import numpy as np

from porting.checkpoint.stored import PIECE_BYTES, DataFile

# Castagnoli's polynomial, bits reversed; 1 is the highest bit.
_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_crc32c(path: Path, offset: int = 0, nbytes: int | None = None) -> int:
    """CRC32C of a file, or of `nbytes` of it from `offset` on; of what there is where it ends before.

    Raises:
        CheckpointError: it cannot be read.
    """
    file, buffer, crc = DataFile(path), np.empty(PIECE_BYTES, np.uint8), 0
    end = file.nbytes() if nbytes is None else offset + nbytes
    while offset < end:
        count = file.read_into(buffer[: min(len(buffer), end - offset)], offset)
        if not count:
            break
        crc = google_crc32c.extend(crc, buffer[:count])
        offset += count
    return crc


def joined_crc32c(parts: Iterable[tuple[int, int]]) -> int:
    """CRC32C of bytes that follow each other, from (CRC32C, number of bytes) of each part."""
    joined = 0
    for crc, nbytes in parts:
        joined = _product(_power(nbytes), joined) ^ crc
    return joined


@lru_cache(maxsize=1 << 12)
def _power(nbytes: int) -> int:
    """x ** (8 * nbytes), modulo the polynomial."""
    power, square = _ONE, _ONE >> 8
    while nbytes:
        if nbytes & 1:
            power = _product(square, power)
        square = _product(square, square)
        nbytes >>= 1
    return power


def _product(one: int, other: int) -> int:
    """Product of two polynomials over GF(2), modulo the polynomial."""
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = (other >> 1) ^ (_POLYNOMIAL if other & 1 else 0)
    return product
