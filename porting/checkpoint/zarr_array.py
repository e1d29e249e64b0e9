"""The zarr arrays of a checkpoint: listed by their headers, their compressed chunks read by tensorstore.

A directory holds `.zarray`, a JSON header, and a file for each chunk, called by its number on
each axis. To zarr a chunk that is not there is one that was never written and means the fill value; of a
checkpoint, which was written whole, it was lost on the way, so here that is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from porting.checkpoint.files import named_os_errors, read_file
from porting.checkpoint.flax_msgpack import UNREADABLE
from porting.checkpoint.lazy import LazyTensor
from porting.checkpoint.stored import COPY_AGAIN, DataFile, StoredBytes, read_stored
from porting.checkpoint.zarr_header import (
    DTYPES,
    HEADER,
    MAX_RATIO,
    ZarrHeader,
    bad_header,
    parse_header,
)
from porting.errors import CheckpointError, Problem

_MAX_HEADER_BYTES = 1 << 20
MAX_CHUNKS = 1 << 18
"""Of a whole checkpoint; T5X writes chunks of some 64 MB."""

_UINT16, _BFLOAT16 = np.dtype("<u2"), np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Declared:
    """What an index says of an array, as far as it says anything.

    Attributes:
        shape: None if not said.
        dtype: None if not said.
        uint16_is_bfloat16: whether 16-bit integers are the bits of bfloat16.
    """

    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None
    uint16_is_bfloat16: bool = False


class ZarrArrays:
    """The arrays of one checkpoint, each a directory of its own."""

    def __init__(self) -> None:
        """None are known yet."""
        self._num_chunks = 0

    def tensor(self, name: str, directory: Path, declared: Declared) -> LazyTensor:
        """List the array in `directory`.

        Its header need not be there if the index says shape and dtype: then it is a file that is missing.

        Raises:
            CheckpointError: the header cannot be read, or does not say what the index says.
        """
        path = directory / HEADER
        with named_os_errors(path):
            there = path.exists()
        if not there and (declared.shape is None or declared.dtype is None):
            raise bad_header(str(path), f"the header of {name}", "no such file")
        if not there:
            assert declared.shape is not None and declared.dtype is not None
            dtype = _BFLOAT16 if _is_bits(declared.dtype, declared) else declared.dtype
            return LazyTensor(name, declared.shape, dtype, (path,), partial(_refuse_missing, name, path))
        header = parse_header(read_file(path, _MAX_HEADER_BYTES), str(path))
        _require_as_declared(name, header, declared)
        self._num_chunks += prod(header.chunk_counts)
        if self._num_chunks > MAX_CHUNKS:
            raise bad_header(str(path), f"at most {MAX_CHUNKS} chunks", f"{self._num_chunks} up to here")
        chunks = [directory / chunk for chunk in header.chunk_names()]
        return _lazy_tensor(name, directory, header, chunks, declared)


def _lazy_tensor(
    name: str, directory: Path, header: ZarrHeader, chunks: Sequence[Path], declared: Declared
) -> LazyTensor:
    files = (directory / HEADER, *chunks)
    if header.dtype == UNREADABLE:
        return LazyTensor(name, header.shape, UNREADABLE, files, partial(_refuse, name, header))
    dtype = _BFLOAT16 if _is_bits(header.dtype, declared) else header.dtype
    nbytes = prod(header.shape) * dtype.itemsize
    if header.as_it_lies:
        file = DataFile(chunks[0])
        stored = StoredBytes(lambda: file, 0, nbytes, name)
        return LazyTensor(
            name, header.shape, dtype, files, partial(read_stored, stored, dtype, header.shape), stored
        )
    return LazyTensor(
        name, header.shape, dtype, files, partial(_read, name, header, chunks, directory, dtype)
    )


def _read(
    name: str, header: ZarrHeader, chunks: Sequence[Path], directory: Path, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """All values, as a new read-only array."""
    require_chunks(name, header, chunks)
    kvstore = {"driver": "file", "path": f"{directory.absolute()}/"}
    return read_array(name, header, kvstore, dtype)


def read_array(
    name: str, header: ZarrHeader, kvstore: Mapping[str, Any], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Read with tensorstore.

    Args:
        name: for errors.
        header: what the array was when it was listed; it must still be that.
        kvstore: tensorstore's word for where it lies.
        dtype: `header.dtype`, or one of its size.

    Returns:
        A new read-only array.

    Raises:
        CheckpointError: a chunk is missing or damaged, the header is another one, there is no memory, or
            tensorstore is not installed.
    """
    ts = require_tensorstore()
    metadata = {"shape": list(header.shape), "chunks": list(header.chunks), "dtype": header.code}
    spec = {
        "driver": "zarr",
        "kvstore": dict(kvstore),
        "metadata": metadata,
        "fill_missing_data_reads": False,
    }
    try:
        array = ts.open(spec, open=True, context=_context()).result()
        values: npt.NDArray[Any] = array.read(order="C").result()
    # Its own errors are ValueErrors; those of Python (no memory, a path that is no text) come through.
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        problem = Problem(name, "an array that tensorstore reads", f"{error}"[:500], COPY_AGAIN)
        raise CheckpointError(f"{name}: its values cannot be read", problems=[problem]) from error
    if values.shape != header.shape or values.dtype != header.dtype:
        expected = f"{header.dtype} of shape {list(header.shape)}"
        problem = Problem(name, expected, f"{values.dtype} of shape {list(values.shape)}")
        raise CheckpointError(f"{name}: its values are not what was listed", problems=[problem])
    values = values.view(dtype)
    values.flags.writeable = False
    return values


def require_chunks(name: str, header: ZarrHeader, chunks: Sequence[Path]) -> None:
    """Raise CheckpointError unless every chunk is there, and could hold what the header claims.

    That is asked before memory is taken for the array.
    """
    sizes = {}
    for path in chunks:
        with named_os_errors(path):
            if not path.exists():
                problem = Problem(name, f"the chunk {path}", "no such file", COPY_AGAIN)
                raise CheckpointError(f"{name}: a part of its values is missing", problems=[problem])
            sizes[path] = path.stat().st_size
    chunk_bytes = prod(header.chunks) * header.dtype.itemsize
    for path, size in sizes.items():
        if header.compressor is None:
            fits, expected = size == chunk_bytes, f"{chunk_bytes} bytes"
        else:
            ratio = MAX_RATIO[header.compressor]
            fits, expected = chunk_bytes <= size * ratio, f"{chunk_bytes} bytes, compressed"
        if not fits:
            problem = Problem(name, f"{path} of {expected}", f"{size} bytes", COPY_AGAIN)
            raise CheckpointError(f"{name}: a part of its values is damaged", problems=[problem])


def require_tensorstore() -> Any:
    """The module `tensorstore`. Raises CheckpointError that says how to install it."""
    try:
        import tensorstore
    except ImportError as error:
        raise CheckpointError(
            "This checkpoint's arrays are read with tensorstore, which is not installed.",
            remedy="Install it with: pip install 'porting[t5x]'",
        ) from error
    return tensorstore


def _context() -> Any:
    """No chunk is kept once it was copied out, and few are in hand at a time."""
    ts = require_tensorstore()
    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "data_copy_concurrency": {"limit": 2},
            "file_io_concurrency": {"limit": 2},
        }
    )


def _is_bits(dtype: np.dtype[Any], declared: Declared) -> bool:
    return dtype == _UINT16 and (declared.uint16_is_bfloat16 or declared.dtype == _BFLOAT16)


def _require_as_declared(name: str, header: ZarrHeader, declared: Declared) -> None:
    expected = []
    if declared.shape is not None and declared.shape != header.shape:
        expected.append(f"shape {list(declared.shape)}")
    known = declared.dtype is None or header.dtype == UNREADABLE or declared.dtype == header.dtype
    if not known and not _is_bits(header.dtype, declared):
        expected.append(f"{declared.dtype}")
    if expected:
        problem = Problem(
            name,
            f"{' and '.join(expected)}, as the index says",
            f"{header.dtype} of shape {list(header.shape)} in its {HEADER}",
            COPY_AGAIN,
        )
        raise CheckpointError(
            f"{name}: its array is not the one that the index describes", problems=[problem]
        )


def _refuse(name: str, header: ZarrHeader) -> npt.NDArray[Any]:
    found = "filtered values" if header.filtered else f"dtype {header.code}"
    problem = Problem(name, f"a dtype among {', '.join(map(str, DTYPES.values()))}, unfiltered", found)
    raise CheckpointError(f"{name} cannot be read", problems=[problem])


def _refuse_missing(name: str, path: Path) -> npt.NDArray[Any]:
    problem = Problem(name, f"a file {path}", "no such file", COPY_AGAIN)
    raise CheckpointError(f"{name}: its values are missing", problems=[problem])
