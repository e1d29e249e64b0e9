"""Values of zarr arrays, read with tensorstore, which is imported when the first is read."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from porting.checkpoint.stored import COPY_AGAIN
from porting.checkpoint.zarr_header import ZarrHeader
from porting.errors import CheckpointError, Problem

CHUNKS_IN_HAND = 2
"""Chunks that are decompressed at a time, of one array."""

# Of glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
_GIVEN_BACK_BYTES = 1 << 20

# Its own errors are ValueErrors; those of Python (no memory, a path that is no text) come through it.
ERRORS = (ValueError, OSError, MemoryError, RuntimeError)
"""What it raises."""


def read_array(
    name: str, header: ZarrHeader, kvstore: Mapping[str, Any], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """All values of an array.

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
    spec = {**header.to_tensorstore(), "kvstore": dict(kvstore), "fill_missing_data_reads": False}
    try:
        array = ts.open(spec, open=True, context=context()).result()
        values: npt.NDArray[Any] = array.read(order="C").result()
    except ERRORS as error:
        problem = Problem(name, "an array that tensorstore reads", f"{error}"[:500], COPY_AGAIN)
        raise CheckpointError(f"{name}: its values cannot be read", problems=[problem]) from error
    if values.shape != header.shape or values.dtype != header.dtype:
        expected = f"{header.dtype} of shape {list(header.shape)}"
        problem = Problem(name, expected, f"{values.dtype} of shape {list(values.shape)}")
        raise CheckpointError(f"{name}: its values are not what was listed", problems=[problem])
    values = values.view(dtype)
    values.flags.writeable = False
    return values


def require_tensorstore() -> Any:
    """The module `tensorstore`. Raises CheckpointError that says how to install it."""
    try:
        import tensorstore
    except ImportError as error:
        raise CheckpointError(
            "This checkpoint's arrays are read with tensorstore, which is not installed.",
            remedy="Install it with: pip install 'porting[t5x]'",
        ) from error
    _give_memory_back()
    return tensorstore


@cache
def _give_memory_back() -> None:
    """Have chunks given back to the system when they are freed, in this process from now on.

    glibc keeps what was freed for the next who asks, in a heap of each thread, up to 32 MB a piece: of
    tensorstore's many threads that was 400 MB of T5-base. From this size on it asks the system each time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # another C library than glibc has none
        mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_BYTES)


def context() -> Any:
    """A tensorstore.Context: no chunk is kept once it was copied out, and few are in hand at a time."""
    limits = {f"{work}_concurrency": {"limit": CHUNKS_IN_HAND} for work in ("data_copy", "file_io")}
    return require_tensorstore().Context({"cache_pool": {"total_bytes_limit": 0}, **limits})
