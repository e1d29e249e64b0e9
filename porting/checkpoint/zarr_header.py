"""The header of a zarr array of version 2: `.zarray`, which says how its chunks are to be read.

Source: the zarr v2 specification, https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html, and tensorstore's
`driver/zarr`, which adds the dtype bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from porting.checkpoint.flax_msgpack import UNREADABLE, require_shape
from porting.checkpoint.stored import COPY_AGAIN
from porting.config_file import parse_json
from porting.errors import CheckpointError, Problem

HEADER = ".zarray"
DTYPES: dict[str, np.dtype[Any]] = {
    **{code: np.dtype(code) for code in ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1")},
    **{code: np.dtype(code) for code in ("<u8", "<u4", "<u2", "|u1", "|b1")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""Dtypes by zarr's names for them; the last is tensorstore's own."""

MAX_RATIO = {"gzip": 1100, "zlib": 1100, "blosc": 1 << 16, "zstd": 1 << 16, "bz2": 1 << 21}
"""Codecs that are read, and how many bytes one byte can at most become: a small file is no large array."""


@dataclass(frozen=True)
class ZarrHeader:
    """What `.zarray` says.

    Attributes:
        shape, chunks: of the array and of each chunk.
        code: zarr's name of the dtype.
        compressor: its name; None for values as they are.
        row_major: whether each chunk is.
        separator: between the numbers of a chunk's name.
        filtered: whether values went through something else before they were compressed.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    code: str
    compressor: str | None
    row_major: bool
    separator: str
    filtered: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """UNREADABLE for what is not read here."""
        return UNREADABLE if self.filtered else DTYPES.get(self.code, UNREADABLE)

    @property
    def chunk_counts(self) -> tuple[int, ...]:
        """How many chunks lie along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    def chunk_names(self) -> Iterator[str]:
        """Names of the chunks' files; that of a scalar is 0."""
        for numbers in product(*map(range, self.chunk_counts)):
            yield self.separator.join(map(str, numbers)) or "0"

    @property
    def as_it_lies(self) -> bool:
        """Whether one file holds nothing but the values in row-major order."""
        plain = self.compressor is None and not self.filtered
        # Order is nothing to arrays of one axis. An array without elements has no chunk.
        ordered = self.row_major or len(self.shape) <= 1
        return plain and ordered and self.chunks == self.shape and prod(self.shape) > 0


def parse_header(content: bytes, where: str) -> ZarrHeader:
    """Read the content of a `.zarray`.

    Args:
        content: the file's.
        where: for errors.

    Raises:
        CheckpointError: it is no header of zarr's version 2, or one of an array that NumPy cannot have.
    """
    try:
        header = parse_json(content)
    except ValueError as error:
        raise bad_header(where, "JSON", str(error)) from error
    if not isinstance(header, dict) or header.get("zarr_format") != 2:
        raise bad_header(where, "a header with zarr_format 2", f"{str(header)[:100]}")
    code, compressor = header.get("dtype"), header.get("compressor")
    name = compressor.get("id") if isinstance(compressor, dict) else compressor
    separator, order = header.get("dimension_separator", "."), header.get("order")
    if name is not None and (not isinstance(name, str) or name not in MAX_RATIO):
        raise bad_header(where, f"a compressor among {', '.join(MAX_RATIO)}", f"{name!r:.100}")
    if separator not in (".", "/") or order not in ("C", "F"):
        raise bad_header(where, "a separator . or / and an order C or F", f"{separator!r:.40}, {order!r:.40}")
    # A dtype of fields is a list.
    dtype_name = code if isinstance(code, str) else "fields"
    dtype = DTYPES.get(dtype_name, UNREADABLE)
    shape = require_shape(where, header.get("shape"), dtype.itemsize)
    chunks = require_shape(where, header.get("chunks"), dtype.itemsize)
    if len(chunks) != len(shape) or 0 in chunks:
        raise bad_header(where, f"chunks of {len(shape)} axes from 1", f"{list(chunks)}")
    filtered = header.get("filters") not in (None, [])
    return ZarrHeader(shape, chunks, dtype_name[:40], name, order == "C", separator, filtered)


def bad_header(where: str, expected: str, found: str) -> CheckpointError:
    """A header that cannot be read, or is not there."""
    problem = Problem(where, expected, found, COPY_AGAIN)
    return CheckpointError(f"{where} is not a zarr header that can be read", problems=[problem])
