"""T5X's index: which leaf of the tree is an array in a directory beside it, and in which.

Source: `t5x/checkpoints.py` (`VERSION`, `_update_ts_path_from_relative_to_absolute`, `_read_ts`) and
`t5x/checkpoint_importer.py` (`LazyAwaitableArray.from_tensor_store_spec`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porting.checkpoint.flax_msgpack import DTYPES, bad_entry, require_shape
from porting.checkpoint.joined_files import is_plain_name
from porting.checkpoint.zarr_array import Declared

PLACEHOLDER = "PLACEHOLDER://"
"""What Orbax writes for an array that lies beside the index, before the name of its directory."""

# Since version 3, bfloat16 is written as such; before that, as 16-bit integers of the same bits.
FIRST_WITH_BFLOAT16 = 3


def is_spec(leaf: Mapping[str, Any]) -> bool:
    """Whether a map of the tree is tensorstore's description of an array."""
    if isinstance(leaf.get("base"), Mapping) and isinstance(leaf.get("driver"), str):
        return is_spec(leaf["base"])
    return isinstance(leaf.get("driver"), str) and "kvstore" in leaf


def spec_place(name: str, spec: Mapping[str, Any], version: int) -> tuple[str, Declared]:
    """The directory beside the index in which an array lies, and what the index says of it.

    The directory is the last part of the spec's path, whichever kind of storage that was a path of: the
    checkpoint may have been copied from there, and a path that leads elsewhere is not followed.

    Args:
        name: the tensor's.
        spec: its description.
        version: of the checkpoint.

    Raises:
        CheckpointError: it describes something else than a zarr array in such a directory.
    """
    while isinstance(spec.get("base"), Mapping):
        # The driver `cast`, around what is stored.
        spec = spec["base"]
    if spec.get("driver") not in ("zarr", "zarr2"):
        raise bad_entry(name, "an array of the driver zarr", f"{spec.get('driver')!r:.100}")
    kvstore = spec["kvstore"]
    path = kvstore.get("path") if isinstance(kvstore, Mapping) else kvstore
    if path is None:
        # Where tensorstore kept it first.
        path = spec.get("path")
    if not isinstance(path, str):
        raise bad_entry(name, "the path of its directory", f"{path!r:.100}")
    metadata = spec.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    dtype = DTYPES.get(spec["dtype"]) if isinstance(spec.get("dtype"), str) else None
    shape = metadata.get("shape")
    declared = Declared(
        shape=None if shape is None else require_shape(name, shape, dtype.itemsize if dtype else 1),
        dtype=dtype,
        uint16_is_bfloat16=version < FIRST_WITH_BFLOAT16,
    )
    return directory_name(name, path), declared


def directory_name(name: str, path: str) -> str:
    """The last part of a path, as the name of a directory. Raises CheckpointError if it cannot be one."""
    last = path.rstrip("/").rpartition("/")[2]
    if not is_plain_name(last):
        raise bad_entry(name, "the name of a directory beside the index", f"{path[:200]!r}")
    return last
