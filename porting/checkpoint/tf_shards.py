"""The data files of a TensorFlow bundle: `PREFIX.data-SSSSS-of-NNNNN`, raw values one after another.

Source: `tensorflow/core/util/tensor_bundle/naming.cc` for the names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from porting.checkpoint.files import lfs_remedy, map_file, named_os_errors
from porting.checkpoint.leveldb_table import masked_crc32c
from porting.errors import CheckpointError, Problem

COPY_AGAIN = "copy the checkpoint's files again from where they came from"


class Shards:
    """The data files of one bundle, each mapped into memory when it is first needed."""

    def __init__(self, prefix: Path, num_shards: int) -> None:
        """Take the files of the bundle at `prefix`; nothing is opened yet."""
        self.prefix = prefix
        self.num_shards = num_shards
        self._mapped: dict[int, npt.NDArray[np.uint8]] = {}

    def path(self, shard_id: int) -> Path:
        """Where the data file `shard_id` belongs, whether or not it is there."""
        name = f"{self.prefix.name}.data-{shard_id:05d}-of-{self.num_shards:05d}"
        return self.prefix.parent / name

    def nbytes(self, shard_id: int, needed_by: str) -> int:
        """Size of a data file.

        Raises:
            CheckpointError: it is missing or unreadable; `needed_by` names the tensor in the message.
        """
        return len(self._map(shard_id, needed_by))

    def verified_bytes(
        self, shard_id: int, offset: int, size: int, expected_crc: int, needed_by: str
    ) -> npt.NDArray[np.uint8]:
        """Bytes of a data file, once their checksum is known to be right.

        Args:
            shard_id: which file.
            offset: first byte.
            size: number of bytes; if 0, the file is not needed.
            expected_crc: their masked CRC32C.
            needed_by: the tensor they belong to, for errors.

        Returns:
            A read-only view of the mapped file, shape [size], uint8.

        Raises:
            CheckpointError: the file is missing, unreadable, too short, or the checksum does not match.
        """
        path = self.path(shard_id)
        end = offset + size
        values = np.frombuffer(b"", np.uint8)
        if size:
            data = self._map(shard_id, needed_by)
            if end > len(data):
                remedy = lfs_remedy(data[:64].tobytes()) or COPY_AGAIN
                problem = Problem(needed_by, f"{path} of at least {end} bytes", f"{len(data)} bytes", remedy)
                raise CheckpointError(f"{needed_by}: data file {path} is truncated", problems=[problem])
            values = data[offset:end]
        crc = masked_crc32c(values)
        if crc != expected_crc:
            expected = f"CRC32C {expected_crc:#010x} of bytes {offset} to {end} of {path}"
            problem = Problem(needed_by, expected, f"{crc:#010x}", COPY_AGAIN)
            raise CheckpointError(f"{needed_by}: its values in {path} are damaged", problems=[problem])
        return values

    def _map(self, shard_id: int, needed_by: str) -> npt.NDArray[np.uint8]:
        if shard_id not in self._mapped:
            path = self.path(shard_id)
            with named_os_errors(path):
                if not path.exists():
                    raise self._missing(path, needed_by)
            self._mapped[shard_id] = map_file(path)
        return self._mapped[shard_id]

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
