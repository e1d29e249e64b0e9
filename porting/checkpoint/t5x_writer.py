"""Writing T5X's checkpoints of version 3: the index, and the headers of the arrays beside it.

An array is written as one chunk without compression, so that its file is its values, row by row, and nothing
else: T5X and tensorstore read what the header says, however it was compressed when T5X wrote it.

Source: `t5x/checkpoints.py` (`_get_spec`, `Checkpointer._write_state_to_tensorstore`),
`flax/serialization.py`, and what tensorstore writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from porting.checkpoint.flax_msgpack import ARRAY
from porting.checkpoint.zarr_header import DTYPES, HEADER
from porting.errors import CheckpointError

VERSION = 3
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class T5XArray:
    """An array that lies beside the index.

    Attributes:
        name: its way through the tree, such as `target/encoder/encoder_norm/scale`.
        shape, dtype: of its values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def directory(self) -> str:
        """Its directory beside the index, as T5X calls it."""
        return self.name.replace("/", ".")

    @property
    def header_file(self) -> str:
        """Path of its header from the index's directory."""
        return f"{self.directory}/{HEADER}"

    @property
    def values_file(self) -> str:
        """Path of its values from the index's directory."""
        return f"{self.directory}/{'.'.join('0' * len(self.shape)) or '0'}"

    def header(self) -> bytes:
        """Content of `.zarray`."""
        content = {
            "chunks": list(self.shape),
            "compressor": None,
            "dimension_separator": ".",
            "dtype": _CODES[self.dtype],
            # Not 0: to readers, a chunk that is missing would be one of zeros.
            "fill_value": None,
            "filters": None,
            "order": "C",
            "shape": list(self.shape),
            "zarr_format": 2,
        }
        return json.dumps(content, separators=(",", ":")).encode("ascii")

    def spec(self) -> dict[str, Any]:
        """What the index says of it."""
        return {
            "driver": "zarr",
            "dtype": self.dtype.name,
            "kvstore": {"driver": "file", "path": f"{self.directory}/"},
            "metadata": {"chunks": list(self.shape), "compressor": None, "shape": list(self.shape)},
        }


def t5x_index(arrays: Mapping[str, T5XArray], inline: Mapping[str, np.ndarray]) -> bytes:
    """Content of the file `checkpoint`.

    Args:
        arrays: what lies beside it, by name.
        inline: small things that lie in it, such as `state/step`, by name.

    Raises:
        CheckpointError: msgpack is not installed.
    """
    try:
        import msgpack
    except ImportError as error:
        raise CheckpointError(
            "T5X's index is written with msgpack, which is not installed.",
            remedy="Install it with: pip install 'porting[t5x]'",
        ) from error
    tree: dict[str, Any] = {}
    leaves: dict[str, Any] = {name: array.spec() for name, array in arrays.items()}
    for name, value in inline.items():
        content = (value.shape, value.dtype.name, value.tobytes())
        leaves[name] = msgpack.ExtType(ARRAY, msgpack.packb(content, use_bin_type=True))
    for name, leaf in sorted(leaves.items()):
        *branches, last = name.split("/")
        at = tree
        for branch in branches:
            at = at.setdefault(branch, {})
        at[last] = leaf
    packed: bytes = msgpack.packb({"version": VERSION, "optimizer": tree}, use_bin_type=True)
    return packed
