"""Arrays as Flax puts them into a msgpack file: which bytes of it are whose.

Source: `flax/serialization.py`. An array is an extension (code 1, NumPy scalars 3) that holds msgpack again:
[shape, name of the dtype, bytes]; a Python complex number is code 2. Arrays of more than 2^30 bytes lie
there in pieces: {"__msgpack_chunked_array__": true, "shape": {"0": ...}, "chunks": {"0": array, ...}}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from porting.checkpoint.lazy import LazyTensor
from porting.checkpoint.msgpack_walk import Blob, Extension, walk
from porting.checkpoint.stored import COPY_AGAIN, DataFile, StoredBytes, read_stored
from porting.errors import CheckpointError, Problem

ARRAY, COMPLEX, SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"

_NAMES = "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name).newbyteorder("<") for name in _NAMES.split()},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""Dtypes by JAX's names for them."""

UNREADABLE = np.dtype(object)
_MAX_RANK = 32
_MAX_NAME_BYTES = 64


@dataclass(frozen=True)
class _Inline:
    """An array in the file."""

    dtype_name: str
    shape: tuple[int, ...]
    values: Blob

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES.get(self.dtype_name, UNREADABLE)


def is_chunked(tree: Mapping[str, Any]) -> bool:
    """Whether a map is an array in pieces."""
    return _CHUNKED in tree


def inline_tensor(name: str, leaf: object, file: DataFile) -> LazyTensor:
    """The tensor that a leaf of the tree is.

    Args:
        name: for the tensor and for errors.
        leaf: an Extension, a map that `is_chunked`, or anything else that `walk` gives but None.
        file: where it lies.

    Raises:
        CheckpointError: it is no array, and no number.
    """
    if isinstance(leaf, Extension) and leaf.code in (ARRAY, SCALAR):
        array = _array(name, leaf, file)
        return _tensor(name, array.dtype_name, array.shape, [array], file)
    if isinstance(leaf, Mapping):
        return _chunked(name, leaf, file)
    if type(leaf) in (bool, int, float) and not (type(leaf) is int and leaf >= 1 << 63):
        value = np.asarray(leaf, "<f8" if type(leaf) is float else "?" if type(leaf) is bool else "<i8")
        value.flags.writeable = False
        return LazyTensor(name, (), value.dtype, (), lambda: value)
    found = _described(leaf)
    return LazyTensor(name, (), UNREADABLE, (file.path,), partial(_refuse, name, found))


def require_shape(name: str, shape: object, itemsize: int) -> tuple[int, ...]:
    """A shape that NumPy can have. Raises CheckpointError if it is anything else."""
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > _MAX_RANK:
        raise bad_entry(name, f"a shape of at most {_MAX_RANK} axes", f"{str(shape)[:100]}")
    if any(type(size) is not int or size < 0 for size in shape):
        raise bad_entry(name, "a shape of numbers from 0", f"{str(list(shape))[:100]}")
    # Zeros do not make the other axes harmless: NumPy refuses (0, 2**62, 2**62) too.
    if prod(size or 1 for size in shape) * itemsize >= 1 << 63:
        raise bad_entry(name, "less than 2**63 bytes", f"shape {list(shape)}")
    return tuple(shape)


def bad_entry(name: str, expected: str, found: str) -> CheckpointError:
    """An entry of the tree that cannot be what a writer meant."""
    problem = Problem(name, expected, found, COPY_AGAIN)
    return CheckpointError(f"{name}: its entry in the checkpoint is wrong", problems=[problem])


def _array(name: str, leaf: Extension, file: DataFile) -> _Inline:
    content = walk(file, leaf.offset, leaf.nbytes)
    if not isinstance(content, list) or len(content) != 3 or type(content[2]) is not Blob:
        raise bad_entry(name, "[shape, dtype, bytes]", _described(content))
    dtype_name = content[1]
    if type(dtype_name) is Blob and dtype_name.nbytes <= _MAX_NAME_BYTES:
        # As writers did that knew no difference between text and bytes.
        raw = np.empty(dtype_name.nbytes, np.uint8)
        file.read_into(raw, dtype_name.offset)
        dtype_name = raw.tobytes().decode("ascii", "backslashreplace")
    if not isinstance(dtype_name, str):
        raise bad_entry(name, "the name of a dtype", _described(dtype_name))
    dtype = DTYPES.get(dtype_name, UNREADABLE)
    array = _Inline(dtype_name[:_MAX_NAME_BYTES], require_shape(name, content[0], dtype.itemsize), content[2])
    nbytes = prod(array.shape) * dtype.itemsize
    if dtype != UNREADABLE and array.values.nbytes != nbytes:
        expected = f"{nbytes} bytes for {dtype} of shape {list(array.shape)}"
        raise bad_entry(name, expected, f"{array.values.nbytes} bytes")
    return array


def _chunked(name: str, leaf: Mapping[str, Any], file: DataFile) -> LazyTensor:
    shape, chunks = (_numbered(name, leaf.get(key)) for key in ("shape", "chunks"))
    if not chunks or not all(isinstance(chunk, Extension) and chunk.code == ARRAY for chunk in chunks):
        raise bad_entry(name, "pieces of an array", _described(leaf.get("chunks")))
    arrays = [_array(f"{name}, piece {i}", chunk, file) for i, chunk in enumerate(chunks)]
    dtype = arrays[0].dtype
    whole = require_shape(name, shape, dtype.itemsize)
    held = sum(prod(array.shape) for array in arrays)
    if {array.dtype_name for array in arrays} != {arrays[0].dtype_name} or held != prod(whole):
        expected = f"pieces of one dtype, of {prod(whole)} values together"
        raise bad_entry(name, expected, f"{held} values of {arrays[0].dtype_name} and others")
    return _tensor(name, arrays[0].dtype_name, whole, arrays, file)


def _numbered(name: str, parts: object) -> list[Any]:
    """The list that Flax writes as {"0": first, "1": second, ...}, or as itself."""
    if isinstance(parts, list):
        return parts
    if not isinstance(parts, Mapping) or {*parts} != {str(i) for i in range(len(parts))}:
        raise bad_entry(name, "parts that are numbered from 0", _described(parts))
    return [parts[str(i)] for i in range(len(parts))]


def _tensor(
    name: str, dtype_name: str, shape: tuple[int, ...], arrays: Sequence[_Inline], file: DataFile
) -> LazyTensor:
    dtype = arrays[0].dtype
    if dtype == UNREADABLE:
        found = f"values of dtype {dtype_name}"
        return LazyTensor(name, shape, dtype, (file.path,), partial(_refuse, name, found))
    pieces = [StoredBytes(lambda: file, a.values.offset, a.values.nbytes, name) for a in arrays]
    if len(pieces) == 1:
        load = partial(read_stored, pieces[0], dtype, shape)
        return LazyTensor(name, shape, dtype, (file.path,), load, pieces[0])
    return LazyTensor(name, shape, dtype, (file.path,), partial(_joined, pieces, dtype, shape))


def _joined(pieces: Sequence[StoredBytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    for piece in pieces:
        piece.require_file()
    values = np.empty(sum(piece.nbytes for piece in pieces), np.uint8)
    at = 0
    for piece in pieces:
        piece.read_into(values[at : at + piece.nbytes])
        at += piece.nbytes
    values.flags.writeable = False
    return values.view(dtype).reshape(shape)


def _refuse(name: str, found: str) -> npt.NDArray[Any]:
    problem = Problem(name, f"an array of a dtype among {', '.join(DTYPES)}", found)
    raise CheckpointError(f"{name} cannot be read", problems=[problem])


def _described(value: object) -> str:
    if isinstance(value, Extension):
        return "a complex number" if value.code == COMPLEX else f"an extension of type {value.code}"
    if isinstance(value, Blob):
        return f"{value.nbytes} bytes"
    if isinstance(value, Mapping):
        return f"a map of {', '.join(map(repr, list(value)[:5]))}"[:200]
    return f"{value!r:.100}" if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"
