"""The header of a zarr array, `.zarray` of version 2, `zarr.json` of version 3: how its chunks are read.

Sources: the zarr specifications, https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html and
https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html, and tensorstore's `driver/zarr` and
`driver/zarr3`, which add the dtype bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from porting.checkpoint.flax_msgpack import DTYPES as NAMED_DTYPES
from porting.checkpoint.flax_msgpack import UNREADABLE, require_shape
from porting.checkpoint.stored import COPY_AGAIN
from porting.config_file import parse_json
from porting.errors import CheckpointError, Problem

HEADER, HEADER_3 = ".zarray", "zarr.json"
DTYPES: dict[str, np.dtype[Any]] = {
    **{code: np.dtype(code) for code in ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1")},
    **{code: np.dtype(code) for code in ("<u8", "<u4", "<u2", "|u1", "|b1")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""Dtypes by the names that version 2 has for them; the last is tensorstore's own."""

MAX_RATIO = {"gzip": 1100, "zlib": 1100, "blosc": 1 << 16, "zstd": 1 << 16, "bz2": 1 << 21}
"""Codecs that are read, and how many bytes one byte can at most become: a small file is no large array."""

# Of version 3: what only turns values over, and what adds checksums or an index.
_OTHER_CODECS = ("bytes", "transpose", "crc32c", "sharding_indexed")


@dataclass(frozen=True)
class ZarrHeader:
    """What a header says.

    Attributes:
        version: 2 or 3.
        shape, chunks: of the array and of each chunk, which may itself be a shard of smaller ones.
        code: zarr's name of the dtype.
        compressor: its name; None for values as they are.
        as_values: whether a chunk is nothing but its values, row by row, little-endian.
        beginning: of a chunk's name, before its numbers.
        separator: between the parts of a chunk's name.
        filtered: whether values went through something that is not read here.
    """

    version: int
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    code: str
    compressor: str | None
    as_values: bool
    beginning: tuple[str, ...]
    separator: str
    filtered: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """UNREADABLE for what is not read here."""
        known = DTYPES if self.version == 2 else NAMED_DTYPES
        return UNREADABLE if self.filtered else known.get(self.code, UNREADABLE)

    @property
    def file(self) -> str:
        """The name of the header's file."""
        return HEADER if self.version == 2 else HEADER_3

    @property
    def chunk_counts(self) -> tuple[int, ...]:
        """How many chunks lie along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """Size of a chunk that is not compressed."""
        return prod(self.chunks) * self.dtype.itemsize

    def chunk_names(self) -> Iterator[str]:
        """Names of the chunks' files."""
        for numbers in product(*map(range, self.chunk_counts)):
            yield self.separator.join((*self.beginning, *map(str, numbers))) or "0"

    @property
    def as_it_lies(self) -> bool:
        """Whether one file holds nothing but the array's values, row by row."""
        # An array without elements has no chunk.
        return self.as_values and self.chunks == self.shape and prod(self.shape) > 0

    def to_tensorstore(self) -> dict[str, Any]:
        """What an array must be for tensorstore to take it for this one."""
        if self.version == 2:
            metadata = {"shape": [*self.shape], "chunks": [*self.chunks], "dtype": self.code}
            return {"driver": "zarr", "metadata": metadata}
        grid: dict[str, Any] = {"name": "regular", "configuration": {"chunk_shape": [*self.chunks]}}
        metadata_3 = {"shape": [*self.shape], "chunk_grid": grid, "data_type": self.code}
        return {"driver": "zarr3", "metadata": metadata_3}


def parse_header(content: bytes, where: str) -> ZarrHeader:
    """Read the content of a `.zarray` or a `zarr.json`.

    Args:
        content: the file's.
        where: for errors.

    Raises:
        CheckpointError: it is no header of an array, or one of an array that NumPy cannot have.
    """
    try:
        header = parse_json(content)
    except ValueError as error:
        raise bad_header(where, "JSON", str(error)) from error
    version = header.get("zarr_format") if isinstance(header, dict) else None
    if type(version) is not int or version not in (2, 3):
        raise bad_header(where, "an array with zarr_format 2 or 3", f"{str(header)[:100]}")
    found = _version_2(header, where) if version == 2 else _version_3(header, where)
    if len(found.chunks) != len(found.shape) or 0 in found.chunks:
        raise bad_header(where, f"chunks of {len(found.shape)} axes from 1", f"{list(found.chunks)}")
    return found


def bad_header(where: str, expected: str, found: str) -> CheckpointError:
    """A header that cannot be read, or is not there."""
    problem = Problem(where, expected, found, COPY_AGAIN)
    return CheckpointError(f"{where} is not a zarr header that can be read", problems=[problem])


def _version_2(header: Mapping[str, Any], where: str) -> ZarrHeader:
    compressor, order = header.get("compressor"), header.get("order")
    name = compressor.get("id") if isinstance(compressor, dict) else compressor
    separator = header.get("dimension_separator", ".")
    if name is not None and (not isinstance(name, str) or name not in MAX_RATIO):
        raise bad_header(where, f"a compressor among {', '.join(MAX_RATIO)}", f"{name!r:.100}")
    if separator not in (".", "/") or order not in ("C", "F"):
        found = f"{separator!r:.40}, {order!r:.40}"
        raise bad_header(where, "a separator . or / and an order C or F", found)
    # A dtype of fields is a list.
    code = header.get("dtype") if isinstance(header.get("dtype"), str) else "fields"
    assert isinstance(code, str)
    itemsize = DTYPES.get(code, UNREADABLE).itemsize
    shape = require_shape(where, header.get("shape"), itemsize)
    filtered = header.get("filters") not in (None, [])
    return ZarrHeader(
        version=2,
        shape=shape,
        chunks=require_shape(where, header.get("chunks"), itemsize),
        code=code[:40],
        compressor=name,
        # Order is nothing to arrays of one axis.
        as_values=name is None and not filtered and (order == "C" or len(shape) <= 1),
        beginning=(),
        separator=separator,
        filtered=filtered,
    )


def _version_3(header: Mapping[str, Any], where: str) -> ZarrHeader:
    try:
        chunk_shape = header["chunk_grid"]["configuration"]["chunk_shape"]
        regular = header["chunk_grid"]["name"] == "regular"
        encoding = header["chunk_key_encoding"]["name"]
        separator = header["chunk_key_encoding"].get("configuration", {}).get("separator")
        names = list(_codec_names(header["codecs"], 0))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise bad_header(where, "a grid, an encoding and codecs of version 3", repr(error)[:100]) from error
    code = header.get("data_type") if isinstance(header.get("data_type"), str) else "fields"
    assert isinstance(code, str)
    default = {"default": "/", "v2": "."}
    separator = default.get(str(encoding)) if separator is None else separator
    if header.get("node_type") != "array" or not regular or separator not in (".", "/"):
        raise bad_header(where, "a regular array", f"{str(dict(header))[:200]}")
    itemsize = NAMED_DTYPES.get(code, UNREADABLE).itemsize
    compressors = [name for name in names if name in MAX_RATIO]
    return ZarrHeader(
        version=3,
        shape=require_shape(where, header.get("shape"), itemsize),
        chunks=require_shape(where, chunk_shape, itemsize),
        code=code[:40],
        compressor=max(compressors, key=lambda name: MAX_RATIO[name], default=None),
        as_values=False,
        beginning=("c",) if encoding == "default" else (),
        separator=separator,
        filtered=any(name not in (*MAX_RATIO, *_OTHER_CODECS) for name in names)
        or bool(header.get("storage_transformers")),
    )


def _codec_names(codecs: Any, depth: int) -> Iterator[str]:
    """Of all codecs, those within shards too."""
    if not isinstance(codecs, list) or depth > 3:
        raise ValueError("codecs")
    for codec in codecs:
        yield str(codec["name"])
        inner = codec.get("configuration", {}).get("codecs")
        if inner is not None:
            yield from _codec_names(inner, depth + 1)
