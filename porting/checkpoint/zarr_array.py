"""The zarr arrays of a checkpoint, listed by their headers.

To zarr a chunk that is not there is one that was never written and means the fill value; of a checkpoint,
which was written whole, it was lost on the way, so here that is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from porting.checkpoint.flax_msgpack import UNREADABLE
from porting.checkpoint.lazy import LazyTensor
from porting.checkpoint.stored import COPY_AGAIN, DataFile, StoredBytes, read_stored
from porting.checkpoint.tensorstore_reading import CHUNKS_IN_HAND, read_array
from porting.checkpoint.zarr_header import DTYPES, ZarrHeader, bad_header, parse_header
from porting.checkpoint.zarr_store import Store
from porting.errors import CheckpointError, Problem

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
    """The arrays of one checkpoint."""

    def __init__(self, store: Store) -> None:
        """Take what holds them."""
        self._store = store
        self._num_chunks = 0

    def tensor(self, name: str, array: str, declared: Declared) -> LazyTensor:
        """List an array.

        Its header need not be there if the index says shape and dtype: then it is a file that is missing.

        Args:
            name: what the tensor is called.
            array: the name of its directory.
            declared: what the index says.

        Raises:
            CheckpointError: the header cannot be read, or does not say what the index says.
        """
        found = self._store.header(array)
        if found is None:
            return self._missing(name, array, declared)
        where, content = found
        header = parse_header(content, where)
        _require_as_declared(name, header, declared)
        self._num_chunks += prod(header.chunk_counts)
        if self._num_chunks > MAX_CHUNKS:
            raise bad_header(where, f"at most {MAX_CHUNKS} chunks", f"{self._num_chunks} up to here")
        files = self._store.files(array, header)
        if header.dtype == UNREADABLE:
            return LazyTensor(name, header.shape, UNREADABLE, files, partial(_refuse, name, header))
        dtype = _BFLOAT16 if _is_bits(header.dtype, declared) else header.dtype
        path = self._store.values_file(array, header)
        if path is None:
            load = partial(_read, name, array, header, self._store, dtype)
            chunks = min(CHUNKS_IN_HAND, prod(header.chunk_counts)) * header.chunk_bytes
            # Files are read faster than they are decompressed: all of them may wait, compressed.
            waiting = prod(header.shape) * dtype.itemsize
            return LazyTensor(name, header.shape, dtype, files, load, besides=chunks + waiting)
        file = partial(_exactly, DataFile(path), header.chunk_bytes, name)
        stored = StoredBytes(file, 0, header.chunk_bytes, name)
        load = partial(read_stored, stored, dtype, header.shape)
        return LazyTensor(name, header.shape, dtype, files, load, stored)

    def _missing(self, name: str, array: str, declared: Declared) -> LazyTensor:
        path = self._store.missing_header(array)
        if declared.shape is None or declared.dtype is None:
            raise bad_header(f"{path}", f"the header of {name}", "none")
        dtype = _BFLOAT16 if _is_bits(declared.dtype, declared) else declared.dtype
        problem = Problem(name, f"a zarr array {path.parent}", "none", COPY_AGAIN)
        load = partial(_raise, f"{name}: its values are missing", problem)
        return LazyTensor(name, declared.shape, dtype, (path,), load)


def _read(name: str, array: str, header: ZarrHeader, store: Store, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    store.require_chunks(name, array, header)
    return read_array(name, header, store.kvstore(array), dtype)


def _exactly(file: DataFile, nbytes: int, name: str) -> DataFile:
    """The file, which holds so many bytes and no more. A shorter one is an error of who reads it."""
    if file.nbytes() > nbytes:
        problem = Problem(name, f"{file.path} of {nbytes} bytes", f"{file.nbytes()} bytes", COPY_AGAIN)
        raise CheckpointError(f"{name}: its values are damaged", problems=[problem])
    return file


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
            f"{header.dtype} of shape {list(header.shape)} in its {header.file}",
            COPY_AGAIN,
        )
        raise CheckpointError(
            f"{name}: its array is not the one that the index describes", problems=[problem]
        )


def _refuse(name: str, header: ZarrHeader) -> npt.NDArray[Any]:
    found = "values that went through other codecs" if header.filtered else f"dtype {header.code}"
    problem = Problem(name, f"a dtype among {', '.join(map(str, DTYPES.values()))}", found)
    return _raise(f"{name} cannot be read", problem)


def _raise(message: str, problem: Problem) -> npt.NDArray[Any]:
    raise CheckpointError(message, problems=[problem])
