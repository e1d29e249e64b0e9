"""A trace: ordered, named, dimension-labelled tensors on disk.

The comparison meets the original and the port only here, so a trace can be compared again without running
either, and any program that can write NumPy files can make one. A trace is a directory:

    trace.json             what is there, in the order in which it was computed
    tensors/00000.npy ...  one NumPy file for each tensor, as trace.json names them
    inputs/inputs.npy ...  the integer arrays that went in
    masks/inputs.npy ...   where tensors mean anything, bool; only where an original says so
    gradients/             a trace of the gradients, where they were asked for; see gradients/traces.py

trace.json:

    {"schema_version": 1,
     "inputs": {"inputs": "inputs/inputs.npy", "targets": "inputs/targets.npy"},
     "inputs_origin": "random 3x160, seed 0",
     "tensors": [{"name": "encoder.final_layer_norm", "original_name": "encoder/rms_norm",
                  "dims": ["batch", "length", "d_model"], "file": "tensors/00000.npy",
                  "hidden_below": null, "where": [["masks/inputs.npy", ["batch", "length"]]]}],
     "metadata": {...}}
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from porting.config_file import parse_json
from porting.errors import InputError, OutputError
from porting.inputs import Inputs

SCHEMA_VERSION = 1
_INDEX = "trace.json"
GRADIENTS = "gradients"


class Where(NamedTuple):
    """A mask over some of a tensor's axes, true where the tensor means anything.

    Attributes:
        file: of the mask, bool, one axis for each of `dims`.
        dims: names of the tensor's axes that the mask is for.
    """

    file: str
    dims: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the mask: `inputs` for `masks/inputs.npy`."""
        return Path(self.file).stem


@dataclass(frozen=True)
class TracedTensor:
    """One entry of a trace: what it is called, how its axes are called, and where its values lie.

    Attributes:
        name, original_name: the port's module path, and the original's own name.
        dims: a name for each axis.
        file: of the values.
        hidden_below: values at or below this are attention masks; None where there are none.
        where: masks that all have to be true where values mean anything; none: they do everywhere.
    """

    name: str
    original_name: str
    dims: tuple[str, ...]
    file: str
    hidden_below: float | None = None
    where: tuple[Where, ...] = ()


@dataclass(frozen=True)
class Trace:
    """A trace on disk, its tensors read when asked for.

    Attributes:
        path: the trace's directory.
        tensors: entries in the order in which they were computed.
        inputs: the token ids (and sequence ids) that went in.
        metadata: versions, checkpoint, config: whatever the maker wrote down.
    """

    path: Path
    tensors: tuple[TracedTensor, ...]
    inputs: Inputs
    metadata: Mapping[str, Any] = field(default_factory=dict)
    _keep: object = field(default=None, repr=False, compare=False)

    def names(self) -> list[str]:
        """Names in the order in which the tensors were computed."""
        return [tensor.name for tensor in self.tensors]

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of the tensor called `name`, memory-mapped."""
        for tensor in self.tensors:
            if tensor.name == name:
                return self.read(tensor)
        raise KeyError(name)

    def read(self, tensor: TracedTensor) -> np.ndarray:
        """The values of one entry, memory-mapped.

        Raises:
            InputError: the file is missing, is not a NumPy array, or its rank is not that of its dims.
        """
        array = _load_npy(self.path, tensor.file)
        if array.ndim != len(tensor.dims):
            raise InputError(
                f"{self.path}: {tensor.name} has {array.ndim} axes and {len(tensor.dims)} dims {tensor.dims}."
            )
        return array

    def meaningful(self, tensor: TracedTensor) -> np.ndarray | None:
        """Where the values of one entry mean anything; None: everywhere.

        Returns:
            bool, an axis for each of the tensor's dims in their order; size 1 where no mask is for the axis.

        Raises:
            InputError: a mask is missing, is no array of bool, or does not fit the tensor.
        """
        if not tensor.where:
            return None
        sizes = dict(zip(tensor.dims, self.read(tensor).shape, strict=True))
        found: np.ndarray = np.ones((1,) * len(tensor.dims), bool)
        for each in tensor.where:
            mask = self.mask(each)
            expected = tuple(sizes[dim] for dim in each.dims)
            if mask.shape != expected:
                raise InputError(
                    f"{self.path}: {tensor.name} has {list(expected)} positions ({' '.join(each.dims)}), and"
                    f" the mask {each.file} says something of {list(mask.shape)}."
                )
            order = sorted(range(len(each.dims)), key=lambda axis: tensor.dims.index(each.dims[axis]))
            shape = [size if dim in each.dims else 1 for dim, size in sizes.items()]
            found = found & mask.transpose(order).reshape(shape)
        return found

    def mask(self, where: Where) -> np.ndarray:
        """A mask, bool, an axis for each of its dims. Raises InputError if it is not one."""
        mask = _load_npy(self.path, where.file)
        if mask.dtype != np.bool_ or mask.ndim != len(where.dims):
            raise InputError(
                f"{self.path}: the mask {where.file} is {mask.dtype} with {mask.ndim} axes; it must be bool"
                f" with {len(where.dims)} ({' '.join(where.dims)})."
            )
        return mask

    def items(self) -> Iterator[tuple[TracedTensor, np.ndarray]]:
        """Entries with their values, one at a time."""
        for tensor in self.tensors:
            yield tensor, self.read(tensor)


class TraceWriter:
    """Writes a trace tensor by tensor; the index comes last, so that half a trace is never taken for one.

    Example:
        writer = TraceWriter(directory, inputs)
        writer.add("encoder.final_layer_norm", array, ("batch", "length", "d_model"))
        trace = writer.close(metadata={"torch": "2.13.0"})
    """

    def __init__(self, path: Path | None, inputs: Inputs) -> None:
        """Start a trace in `path`, or in a temporary directory that lives as long as the trace."""
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if path is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="porting-trace-")
            path = Path(self._temporary.name)
        self.path = path
        self._inputs = inputs
        self._tensors: list[TracedTensor] = []
        try:
            (path / "tensors").mkdir(parents=True, exist_ok=True)
            (path / "inputs").mkdir(exist_ok=True)
            (path / _INDEX).unlink(missing_ok=True)
            (path / GRADIENTS / _INDEX).unlink(missing_ok=True)  # of what was traced here before
            for stale in (*(path / "tensors").glob("*.npy"), *(path / "masks").glob("*.npy")):
                stale.unlink()
        except OSError as error:
            raise OutputError(f"Cannot write a trace in {path}: {error}") from error

    def add(
        self,
        name: str,
        values: np.ndarray,
        dims: tuple[str, ...],
        *,
        original_name: str = "",
        hidden_below: float | None = None,
        where: Sequence[Where] = (),
    ) -> None:
        """Write one tensor.

        Args:
            name: the port's.
            values: one axis for each of `dims`.
            dims: names of the axes.
            original_name, hidden_below, where: as in `TracedTensor`; `mask` writes masks.
        """
        if values.ndim != len(dims):
            raise ValueError(f"{name}: {values.ndim} axes and dims {dims}")
        for each in where:
            if not {*each.dims} <= {*dims}:
                raise ValueError(f"{name} has dims {dims}, and the mask {each.file} is for {each.dims}")
        file = f"tensors/{len(self._tensors):05d}.npy"
        np.save(self.path / file, values, allow_pickle=False)
        self._tensors.append(
            TracedTensor(name, original_name or name, tuple(dims), file, hidden_below, tuple(where))
        )

    def mask(self, name: str, mask: np.ndarray) -> str:
        """Write a mask, bool, and return its file, for the `where` of tensors."""
        file = f"masks/{name}.npy"
        (self.path / "masks").mkdir(exist_ok=True)
        np.save(self.path / file, np.asarray(mask, bool), allow_pickle=False)
        return file

    def close(self, metadata: Mapping[str, Any]) -> Trace:
        """Write the index and hand over the finished trace."""
        files = {}
        for name, array in self._inputs.arrays().items():
            files[name] = f"inputs/{name}.npy"
            np.save(self.path / files[name], array, allow_pickle=False)
        index = {
            "schema_version": SCHEMA_VERSION,
            "inputs": files,
            "inputs_origin": self._inputs.origin,
            "tensors": [asdict(tensor) for tensor in self._tensors],
            "metadata": dict(metadata),
        }
        partial = self.path / (_INDEX + ".partial")
        partial.write_text(json.dumps(index, indent=1), encoding="utf-8")
        partial.replace(self.path / _INDEX)
        return Trace(self.path, tuple(self._tensors), self._inputs, metadata, self._temporary)


def read_trace(path: str | Path) -> Trace:
    """Open a trace directory.

    Raises:
        InputError: there is no trace there, or it does not hold what its index says.
    """
    path = Path(path)
    try:
        index = parse_json((path / _INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is not a trace: it has no {_INDEX}.",
            remedy="Write one with: compare-outputs SOURCE MODEL_DIR --save-traces DIR"
            " (the original's is in DIR/reference).",
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path / _INDEX} cannot be read: {error}") from error
    try:
        if index["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {index['schema_version']}; this release reads {SCHEMA_VERSION}."
            )
        tensors = tuple(_entry(entry) for entry in index["tensors"])
        arrays = {name: _load_npy(path, file) for name, file in index["inputs"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / _INDEX} is not the index of a trace: {error!r}") from error
    repeated = [name for name, times in Counter(tensor.name for tensor in tensors).items() if times > 1]
    if repeated:
        raise InputError(f"{path / _INDEX} names tensors more than once: {', '.join(repeated)}.")
    inputs = Inputs.from_arrays(arrays, origin=str(index.get("inputs_origin", path)))
    trace = Trace(path, tensors, inputs, index.get("metadata", {}))
    for where in dict.fromkeys(each for tensor in tensors for each in tensor.where):
        trace.mask(where)  # fails here rather than behind a run of the port
    return trace


def _entry(entry: Mapping[str, Any]) -> TracedTensor:
    """One item of the index. Raises KeyError, TypeError or AttributeError if it is not one."""
    hidden_below = entry.get("hidden_below")
    texts = (entry["name"], entry["file"], *entry["dims"])
    if not all(isinstance(text, str) for text in texts) or not isinstance(hidden_below, float | int | None):
        raise TypeError(f"{dict(entry)}")
    return TracedTensor(
        name=entry["name"],
        original_name=str(entry.get("original_name", entry["name"])),
        dims=tuple(entry["dims"]),
        file=entry["file"],
        hidden_below=hidden_below,
        where=tuple(_where(each, entry) for each in entry.get("where") or ()),
    )


def _where(item: Any, entry: Mapping[str, Any]) -> Where:
    """One mask of an item of the index. Raises TypeError if it is not one."""
    fits = (
        isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], list)
    )
    if not fits or not all(isinstance(dim, str) and dim in entry["dims"] for dim in item[1]):
        raise TypeError(f"where {item!r} of {entry['name']}: [file, names of its dims] is expected")
    if len({*item[1]}) < len(item[1]):
        raise TypeError(f"where {item!r} of {entry['name']} names a dimension twice")
    return Where(item[0], tuple(item[1]))


def _load_npy(root: Path, file: str) -> np.ndarray:
    target = root / file
    if not target.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{root}: the index names {file}, which lies outside the trace.")
    try:
        array = np.load(target, mmap_mode="r", allow_pickle=False)
    # A broken file brings many kinds of errors out of NumPy: of the tokenizer, of zip files, of memory.
    except Exception as error:
        raise InputError(f"{target} is not a NumPy array that can be read: {error}") from error
    # No numbers to compare: archives of arrays, text, and bfloat16 (raw bytes in a NumPy file).
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise InputError(f"{target} is not a NumPy array of numbers; save it as float32.")
    return array
