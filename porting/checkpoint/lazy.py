"""What every checkpoint format is read as: names with shapes and dtypes now, values when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from porting.checkpoint.files import named_os_errors
from porting.checkpoint.stored import StoredBytes
from porting.errors import CheckpointError, Problem


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a checkpoint whose values are read only by `read`.

    Example:
        >>> tensor = open_checkpoint("model.ckpt-1000").tensors["shared/embedding"]
        >>> tensor.shape, tensor.dtype
        ((32128, 512), dtype('float32'))
        >>> values = tensor.read()

    Attributes:
        name: the variable's name as the checkpoint spells it.
        shape: its shape; `()` for a scalar.
        dtype: its dtype; `ml_dtypes.bfloat16` for bfloat16. `np.dtype(object)` marks a tensor that is
            listed but cannot be read (strings, such as TensorFlow 2's `_CHECKPOINTABLE_OBJECT_GRAPH`).
        files: the data files that `read` needs, whether or not they are there; empty when it needs none.
        load: does the work of `read`.
        stored: where the values lie, if they lie in one piece; for who reads them piece by piece.
        besides: bytes of memory that `load` takes besides the values, such as for what is decompressed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    files: tuple[Path, ...] = field(repr=False)
    load: Callable[[], npt.NDArray[Any]] = field(repr=False, compare=False)
    stored: StoredBytes | None = field(default=None, repr=False, compare=False)
    besides: int = field(default=0, repr=False, compare=False)

    @property
    def readable(self) -> bool:
        """Whether the dtype is one that `read` decodes."""
        return self.dtype != np.dtype(object)

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes; 0 where they cannot be read, because then it is not known."""
        return prod(self.shape) * self.dtype.itemsize if self.readable else 0

    def read(self) -> npt.NDArray[Any]:
        """Read the values, with their checksum verified.

        Returns:
            A new read-only array of `shape` and `dtype`.

        Raises:
            CheckpointError: the dtype is not readable, a data file is missing, unreadable or too short,
                or the checksum does not match.
        """
        return self.load()


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its tensors by name, none of them read yet.

    Attributes:
        path: what identifies it on disk; for TensorFlow bundles the prefix, such as `dir/model.ckpt-1000`.
        format: the name of the format, such as `tensorflow-bundle`.
        tensors: every tensor by name, in the order of the names.
        files: every file that a complete copy has, whether or not it is there.
        contents: the files whose hashes identify the values; by default the first of `files`, an index with
            every tensor's checksum.
    """

    path: Path
    format: str
    tensors: Mapping[str, LazyTensor]
    files: tuple[Path, ...]
    contents: tuple[Path, ...] = ()

    def identifying_files(self) -> tuple[Path, ...]:
        """The files to hash where a report says which checkpoint it rests on."""
        return self.contents or self.files[:1]

    def file_name(self, path: Path) -> str:
        """What a report calls a file: its way from `path` where that is a directory, else its name."""
        return path.relative_to(self.path).as_posix() if self.path in path.parents else path.name

    def require_files(self, names: Iterable[str] | None = None) -> None:
        """Fail now, not after half of the work, if a data file that these tensors need is missing.

        Args:
            names: the tensors that will be read; all of the readable ones if None.

        Raises:
            CheckpointError: files are missing; one problem for each of them.
        """
        chosen = self.tensors.values() if names is None else [self.tensors[name] for name in names]
        waiting: dict[Path, list[str]] = {}
        for tensor in chosen:
            for path in tensor.files if tensor.readable else ():
                waiting.setdefault(path, []).append(tensor.name)
        problems = []
        for path, tensors in sorted(waiting.items()):
            with named_os_errors(path):
                if not path.exists():
                    problems.append(
                        Problem(str(path), f"the file that holds {_some(tensors)}", "no such file")
                    )
        if problems:
            raise CheckpointError(
                f"{self.path}: {len(problems)} data file(s) of the checkpoint are missing",
                problems=problems,
                remedy=f"Copy them to {self.path.parent} from where the checkpoint came from; "
                "a checkpoint is all of its files.",
            )


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more tensor(s)"
