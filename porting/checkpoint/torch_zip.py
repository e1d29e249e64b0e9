"""The zip file that `torch.save` writes: where its records lie, and their values, checked and read from disk.

Sources: `caffe2/serialize/inline_container.h` (records `data.pkl` and `data/N`, stored uncompressed), and
PKWARE's APPNOTE.TXT, section 4.3.7, for where a record's bytes begin.
"""

from __future__ import annotations

import mmap
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from porting.checkpoint.files import named_os_errors
from porting.errors import CheckpointError, Problem

if TYPE_CHECKING:
    import torch

ZIP_MAGIC = b"PK\x03\x04"
COPY_AGAIN = "copy it again from where it came from"
_LOCAL_HEADER_BYTES = 30
# The pickle names tensors, some hundred bytes each; their values lie in records of their own.
_MAX_PICKLE_BYTES = 64 << 20
_MAX_RECORDS = 1 << 18
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Record:
    """Bytes of the file under one name of the zip: where they are, and their CRC32, 0 where none was kept."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Region:
    """A tensor's place in a record: first byte, and shape and strides in elements."""

    record: Record | None
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    @cached_property
    def span(self) -> int:
        """Bytes from the first element to the end of the last."""
        if not prod(self.shape):
            return 0
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize


class Archive:
    """The zip file: its records, and where in memory PyTorch has mapped it."""

    def __init__(self, path: Path, records: list[Record]) -> None:
        self.path = path
        self._records = {record.offset: record for record in records}
        self._base = 0
        self._verified: set[str] = set()

    def place(self, tensors: Iterable[torch.Tensor]) -> None:
        """Find out which record is which tensor's: all storages are records of one mapped file.

        Raises:
            CheckpointError: they are not.
        """
        found = [tensor.untyped_storage() for tensor in tensors]
        storages = {storage.data_ptr(): storage.nbytes() for storage in found if storage.nbytes()}
        if not storages:
            return
        pointer, size = next(iter(storages.items()))
        for record in self._records.values():
            base = pointer - record.offset
            if record.size == size and base % mmap.PAGESIZE == 0 and self._fits(base, storages):
                self._base = base
                return
        raise damaged(self.path, "tensors that do not lie in its records")

    def _fits(self, base: int, storages: Mapping[int, int]) -> bool:
        found = ((self._records.get(pointer - base), size) for pointer, size in storages.items())
        return all(record is not None and record.size == size for record, size in found)

    def region(self, tensor: torch.Tensor, dtype: np.dtype[Any]) -> Region:
        """Where a tensor lies."""
        storage = tensor.untyped_storage()
        shape, strides = tuple(tensor.shape), tuple(tensor.stride())
        record = self._records[storage.data_ptr() - self._base] if storage.nbytes() else None
        return Region(record, int(tensor.storage_offset()) * dtype.itemsize, shape, strides, dtype)

    def read(self, name: str, region: Region) -> npt.NDArray[Any]:
        """Verified values: a new array, read-only."""
        record = region.record
        if record is None or not prod(region.shape):
            values = np.empty(region.shape, region.dtype)
        else:
            values = self._values(name, region, record)
        values.flags.writeable = False
        return values

    def _values(self, name: str, region: Region, record: Record) -> npt.NDArray[Any]:
        with named_os_errors(self.path), self.path.open("rb") as file:
            stored = np.empty(region.span, np.uint8)
            _read_into(file, record.offset + region.start, stored, self.path, name)
            if record.name not in self._verified:
                whole = region.span == record.size
                crc = zlib.crc32(stored.data) if whole else _crc_of(file, record)
                # torch.serialization.set_crc32_options(False) leaves them out.
                if record.crc and crc != record.crc:
                    expected = f"CRC32 {record.crc:#010x} of record {record.name}"
                    problem = Problem(name, expected, f"{crc:#010x}", COPY_AGAIN)
                    raise CheckpointError(
                        f"{name}: its values in {self.path} are damaged", problems=[problem]
                    )
                self._verified.add(record.name)
        elements = stored.view(region.dtype)
        strides = [stride * region.dtype.itemsize for stride in region.strides]
        strided = np.lib.stride_tricks.as_strided(elements, region.shape, strides)
        return np.ascontiguousarray(strided).reshape(region.shape)


def read_records(path: Path) -> list[Record]:
    """The records of a zip file that PyTorch wrote.

    Raises:
        CheckpointError: it is damaged, or not as PyTorch writes it: compressed, encrypted, overlapping.
    """
    try:
        with named_os_errors(path), zipfile.ZipFile(path) as archive, path.open("rb") as file:
            size = file.seek(0, 2)
            infos = archive.infolist()
            if len(infos) > _MAX_RECORDS:
                raise damaged(path, f"{len(infos)} records")
            records = [_record(path, file, info, size) for info in infos]
    except CheckpointError:
        raise
    # What zipfile says of files that are damaged, in its several ways.
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        raise damaged(path, f"a zip file that cannot be read ({error})") from error
    except Exception as error:
        raise damaged(path, f"a zip file that cannot be read ({type(error).__name__})") from error
    if len({record.name for record in records}) < len(records):
        raise damaged(path, "two records of one name")
    end = 0
    for record in sorted(records, key=lambda record: record.offset):
        if record.offset < end:
            raise damaged(path, f"record {record.name} inside of another")
        end = record.offset + record.size
    return [record for record in records if record.size]


def _record(path: Path, file: BinaryIO, info: zipfile.ZipInfo, file_size: int) -> Record:
    name = ascii(info.filename)[1:-1]
    # Compressed ones could unfold to any size; PyTorch never writes them.
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise damaged(path, f"a record {name} that is compressed or encrypted, which PyTorch's are not")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    if len(header) < _LOCAL_HEADER_BYTES or not header.startswith(ZIP_MAGIC):
        raise damaged(path, f"no record {name} where its directory says")
    lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    offset = info.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)
    if offset + info.file_size > file_size:
        raise damaged(path, f"record {name} cut off")
    if name.endswith(".pkl") and info.file_size > _MAX_PICKLE_BYTES:
        raise damaged(path, f"{info.file_size} bytes of names in {name}")
    return Record(name, offset, info.file_size, info.CRC)


def _read_into(file: BinaryIO, offset: int, out: npt.NDArray[np.uint8], path: Path, name: str) -> None:
    """Fill `out` with bytes of a file. Raises CheckpointError if there are not so many."""
    file.seek(offset)
    done = 0
    while done < len(out):
        step = file.readinto(out[done : done + _CHUNK].data)  # type: ignore[attr-defined]
        if not step:
            problem = Problem(
                name, f"{path} of at least {offset + len(out)} bytes", f"{offset + done}", COPY_AGAIN
            )
            raise CheckpointError(f"{name}: {path} is truncated", problems=[problem])
        done += step


def _crc_of(file: BinaryIO, record: Record) -> int:
    file.seek(record.offset)
    crc, left = 0, record.size
    while left and (chunk := file.read(min(left, _CHUNK))):
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
    return crc


def damaged(path: Path, found: str, remedy: str = COPY_AGAIN) -> CheckpointError:
    """An error on a file that is not what torch.save writes: what was found in it."""
    problem = Problem(str(path), "a state dict as torch.save writes it, whole", found, remedy)
    return CheckpointError(f"{path} is damaged, or not a file of PyTorch's tensors", problems=[problem])
