"""The data files of a TensorFlow bundle: `PREFIX.data-SSSSS-of-NNNNN`, raw values one after another.

Source: `tensorflow/core/util/tensor_bundle/naming.cc` for the names.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from porting.checkpoint.files import named_os_errors
from porting.checkpoint.stored import DataFile, StoredBytes
from porting.errors import CheckpointError, Problem


def data_file_name(prefix_name: str, shard_id: int, num_shards: int) -> str:
    """Name of a data file (`DataFilename` in `tensor_bundle/naming.cc`).

    Example: data_file_name("model.ckpt-7", 0, 2) == "model.ckpt-7.data-00000-of-00002"
    """
    return f"{prefix_name}.data-{shard_id:05d}-of-{num_shards:05d}"


class Shards:
    """The data files of one bundle, each opened when it is first needed."""

    def __init__(self, prefix: Path, num_shards: int) -> None:
        """Take the files of the bundle at `prefix`; nothing is opened yet."""
        self.prefix = prefix
        self.num_shards = num_shards
        self._files: dict[int, DataFile] = {}

    def path(self, shard_id: int) -> Path:
        """Where the data file `shard_id` belongs, whether or not it is there."""
        return self.prefix.parent / data_file_name(self.prefix.name, shard_id, self.num_shards)

    def stored(self, shard_id: int, offset: int, size: int, crc32c: int, needed_by: str) -> StoredBytes:
        """Where values lie.

        Args:
            shard_id: in which file.
            offset: first byte.
            size: number of bytes; if 0, the file is not needed.
            crc32c: of these bytes.
            needed_by: the tensor they belong to, for errors.
        """
        return StoredBytes(partial(self.file, shard_id, needed_by), offset, size, needed_by, crc32c)

    def file(self, shard_id: int, needed_by: str) -> DataFile:
        """The data file `shard_id`.

        Raises:
            CheckpointError: it is missing or unreadable; `needed_by` names the tensor in the message.
        """
        if shard_id not in self._files:
            path = self.path(shard_id)
            with named_os_errors(path):
                if not path.exists():
                    raise self._missing(path, needed_by)
            self._files[shard_id] = DataFile(path)
        return self._files[shard_id]

    def _missing(self, path: Path, needed_by: str) -> CheckpointError:
        beside = sorted(other.name for other in path.parent.iterdir() if ".data-" in other.name)
        present = ", ".join(beside[:5]) or "no data file at all"
        problem = Problem(needed_by, f"its values in {path}", f"no such file; the directory has {present}")
        return CheckpointError(
            f"{needed_by}: data file {path} is missing",
            problems=[problem],
            remedy=f"Copy {path.name} into {path.parent} from where the checkpoint came from (a bucket: "
            f"gsutil cp 'gs://BUCKET/DIR/{self.prefix.name}.*' {path.parent}); "
            "the .index file alone holds names and shapes, no values.",
        )
