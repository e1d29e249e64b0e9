"""What weights are stored in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from porting.errors import InputError, Problem

DTYPES: dict[str, np.dtype[Any] | None] = {
    "keep": None,
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def wanted_dtype(name: str) -> np.dtype[Any] | None:
    """The dtype of that name; None for `keep`. Raises InputError that lists those there are."""
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {name!r}.")
    return DTYPES[name]


def cast(array: npt.NDArray[Any], dtype: np.dtype[Any], name: str) -> npt.NDArray[Any]:
    """The array in `dtype`, rounded to nearest even; a view of itself where it has it already.

    Raises:
        InputError: a value is too large for the dtype; names the parameter.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        values = array.astype(dtype)
    lost = ~np.isfinite(values)
    if lost.any():
        count = int((lost & np.isfinite(array)).sum())
        if count:
            raise InputError(
                f"Some weights are too large for {dtype.name}.",
                problems=[Problem(name, f"values that {dtype.name} holds", f"{count} larger ones")],
                remedy="Use --dtype bfloat16, which has the range of float32.",
            )
    return values
