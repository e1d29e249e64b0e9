"""Where the zarr arrays of a checkpoint lie: each in a directory, or all in tensorstore's database OCDBT.

Source: tensorstore's `kvstore/ocdbt`. Its files are `manifest.ocdbt` and what lies in folders `d`: trees of
keys and values, of which only tensorstore knows what is where.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from porting.checkpoint.files import named_os_errors, read_file
from porting.checkpoint.stored import COPY_AGAIN
from porting.checkpoint.tensorstore_reading import ERRORS, context, require_tensorstore
from porting.checkpoint.zarr_header import HEADER, HEADER_3, MAX_RATIO, ZarrHeader
from porting.errors import CheckpointError, Problem

MANIFEST = "manifest.ocdbt"
_MAX_HEADER_BYTES = 1 << 20
_MAX_FILES = 1 << 18
_MAX_SHARD_RATIO = 1 << 16


class Store(Protocol):
    """Something that holds arrays by the names of their directories."""

    def header(self, array: str) -> tuple[str, bytes] | None:
        """What to call an array's header in errors, and its content; None where there is none."""
        ...

    def files(self, array: str, header: ZarrHeader) -> tuple[Path, ...]:
        """The files that its values need."""
        ...

    def missing_header(self, array: str) -> Path:
        """The file that holds the header of an array, or would."""
        ...

    def require_chunks(self, name: str, array: str, header: ZarrHeader) -> None:
        """Raise CheckpointError unless all chunks are there, and could hold what the header claims.

        That is asked before memory is taken for the array. `name` is the tensor's.
        """
        ...

    def kvstore(self, array: str) -> Mapping[str, Any]:
        """Tensorstore's word for where it lies."""
        ...

    def values_file(self, array: str, header: ZarrHeader) -> Path | None:
        """The file that holds nothing but the values, if there is one."""
        ...


class Folder:
    """A directory for each array, in one folder."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder

    def header(self, array: str) -> tuple[str, bytes] | None:
        """Of version 2 if there is one, else of version 3."""
        for file in (HEADER, HEADER_3):
            path = self._folder / array / file
            with named_os_errors(path):
                there = path.exists()
            if there:
                return str(path), read_file(path, _MAX_HEADER_BYTES)
        return None

    def files(self, array: str, header: ZarrHeader) -> tuple[Path, ...]:
        """The header and a file for each chunk."""
        folder = self._folder / array
        return (folder / header.file, *(folder / chunk for chunk in header.chunk_names()))

    def missing_header(self, array: str) -> Path:
        """`.zarray`."""
        return self._folder / array / HEADER

    def require_chunks(self, name: str, array: str, header: ZarrHeader) -> None:
        """By the names and sizes of the files."""
        chunks = self.files(array, header)[1:]
        for path in chunks:
            with named_os_errors(path):
                if not path.exists():
                    problem = Problem(name, f"the chunk {path}", "no such file", COPY_AGAIN)
                    raise CheckpointError(f"{name}: a part of its values is missing", problems=[problem])
                size = path.stat().st_size
            _require_size(name, str(path), size, header, exact=header.as_values)

    def kvstore(self, array: str) -> Mapping[str, Any]:
        """The driver `file`."""
        return {"driver": "file", "path": f"{(self._folder / array).absolute()}/"}

    def values_file(self, array: str, header: ZarrHeader) -> Path | None:
        """That of the only chunk."""
        return self.files(array, header)[1] if header.as_it_lies else None


class Database:
    """All arrays of a folder in one OCDBT."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of `manifest.ocdbt`, and list what is in it.

        Raises:
            CheckpointError: it is damaged, a file of it is missing, or tensorstore is not installed.
        """
        self._folder = folder
        base = {"driver": "file", "path": f"{folder.absolute()}/"}
        self._where = {"driver": "ocdbt", "base": base}
        ts = require_tensorstore()
        try:
            self._store = ts.KvStore.open(self._where, context=context()).result()
            self._keys = {*self._store.list().result()}
        except ERRORS as error:
            raise _unreadable(folder / MANIFEST, error) from error
        with named_os_errors(folder):
            found = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_ocdbt(path)]
            self._nbytes = sum(path.stat().st_size for path in found)
        if len(found) > _MAX_FILES:
            problem = Problem(str(folder), f"at most {_MAX_FILES} files", f"{len(found)}")
            raise CheckpointError(f"{folder} holds too many files", problems=[problem])
        self.everything = (folder / MANIFEST, *(path for path in found if path != folder / MANIFEST))

    def header(self, array: str) -> tuple[str, bytes] | None:
        """Of version 2 if there is one, else of version 3."""
        for file in (HEADER, HEADER_3):
            key = f"{array}/{file}"
            if key.encode("utf-8") in self._keys:
                try:
                    return f"{self._folder}:{key}", bytes(self._store.read(key).result().value)
                except ERRORS as error:
                    raise _unreadable(self._folder / MANIFEST, error) from error
        return None

    def files(self, array: str, header: ZarrHeader) -> tuple[Path, ...]:  # noqa: ARG002
        """Every file of the database: nobody but tensorstore knows which ones."""
        return self.everything

    def missing_header(self, array: str) -> Path:  # noqa: ARG002
        """The database's own file."""
        return self._folder / MANIFEST

    def require_chunks(self, name: str, array: str, header: ZarrHeader) -> None:
        """By the keys, and the size of the whole database."""
        for chunk in header.chunk_names():
            if f"{array}/{chunk}".encode() not in self._keys:
                problem = Problem(name, f"the chunk {array}/{chunk}", "no such key", COPY_AGAIN)
                raise CheckpointError(f"{name}: a part of its values is missing", problems=[problem])
        _require_size(name, str(self._folder), self._nbytes, header, exact=False)

    def kvstore(self, array: str) -> Mapping[str, Any]:
        """The driver `ocdbt`."""
        return {**self._where, "path": f"{array}/"}

    def values_file(self, array: str, header: ZarrHeader) -> Path | None:  # noqa: ARG002
        """None."""
        return None


def open_store(folder: Path) -> Store:
    """The store that a folder is. Raises CheckpointError if it is a database that cannot be read."""
    with named_os_errors(folder):
        database = (folder / MANIFEST).is_file()
    return Database(folder) if database else Folder(folder)


def _is_ocdbt(path: Path) -> bool:
    return path.name == MANIFEST or path.parent.name == "d"


def _require_size(name: str, where: str, size: int, header: ZarrHeader, *, exact: bool) -> None:
    """Raise CheckpointError if `size` bytes cannot hold a chunk, or, if `exact`, are not those of one."""
    claimed = header.chunk_bytes
    # Shards leave out what lies outside of the array.
    known = 1 if header.version == 2 else _MAX_SHARD_RATIO
    ratio = MAX_RATIO[header.compressor] if header.compressor else known
    if size == claimed if exact else claimed <= size * ratio:
        return
    expected = f"{where} of {claimed} bytes" if exact else f"{where} of {claimed} bytes, compressed"
    problem = Problem(name, expected, f"{size} bytes", COPY_AGAIN)
    raise CheckpointError(f"{name}: a part of its values is damaged", problems=[problem])


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    problem = Problem(str(path), "a database that tensorstore reads", f"{error}"[:500], COPY_AGAIN)
    return CheckpointError(f"{path} cannot be read", problems=[problem])
