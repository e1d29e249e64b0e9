"""Tensors from a checkpoint into files, a few at a time: read, checked, made, written, read back, compared.

Every tensor's place is known beforehand, so that threads work on different ones and a run that goes on
after a kill writes only what is not there yet. Memory is bounded by the tensors in hand: what is copied as
it lies goes through in pieces, anything else whole, as many at a time as fit `IN_HAND_BYTES`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from porting.checkpoint import Checkpoint
from porting.checkpoint.stored import PIECE_BYTES
from porting.convert.blocks import row_major, same_bits, same_bytes, scratch, strips
from porting.convert.dtypes import cast
from porting.convert.layout import FileLayout, TensorSpec
from porting.convert.open_files import allow_open_files
from porting.convert.pacing import Budget, Syncer
from porting.convert.verify import holds_its_sources
from porting.errors import CheckpointError, OutputError, Problem
from porting.mapping import PlanEntry

Array = npt.NDArray[Any]

WORKERS = min(4, os.cpu_count() or 1)
IN_HAND_BYTES = 320 << 20
"""Sources and outputs of the tensors in hand; one that is larger is worked on alone."""


@dataclass(frozen=True)
class Written:
    """What became of one tensor.

    Attributes:
        crc32c: of its bytes in the file.
        kept: whether all of it was in its place already, from a run before.
    """

    crc32c: int
    kept: bool


def write_tensors(
    checkpoint: Checkpoint,
    entries: Sequence[PlanEntry],
    layout: Sequence[FileLayout],
    directory: Path,
    *,
    verify: bool,
    go_on: bool,
    on_tensor: Callable[[str, int], None],
) -> dict[str, Written]:
    """Write the files of `layout` into `directory`.

    Args:
        checkpoint: where values are read; the checksum of each is verified.
        entries: how each tensor is made; one for every tensor of the layout.
        layout: where each tensor lies.
        directory: where the files go.
        verify: read each tensor back and compare it, through the inverse of every op, with its sources.
        go_on: files may be there already, from a run that was killed: what of them is right is kept.
        on_tensor: called with each tensor's name and bytes once it is written, in the order of the layout.

    Returns:
        What became of each tensor, by name.

    Raises:
        CheckpointError: the source is damaged.
        OutputError: what was read back is not what was written.
        InputError: a value is too large for the dtype.
        OSError: the disk is full, or something else is wrong with it.
    """
    specs = {spec.name: spec for file in layout for spec in file.specs}
    allow_open_files(len(layout))
    with ExitStack() as stack:
        files = [stack.enter_context(_open(directory / file.name, file, go_on=go_on)) for file in layout]
        syncer = stack.enter_context(Syncer(files))
        writing = threading.Lock()  # the system lets one thread write at a time, and others spin
        places = {
            spec.name: _Place(descriptor, offset, writing, syncer, go_on)
            for descriptor, file in zip(files, layout, strict=True)
            for spec, offset in zip(file.specs, file.offsets(), strict=True)
        }
        order = {name: number for number, name in enumerate(specs)}
        groups = sorted(_groups(entries), key=lambda group: min(order[entry.target] for entry in group))
        budget = Budget(IN_HAND_BYTES)

        def work(group: list[PlanEntry]) -> dict[str, Written]:
            with budget.taken(_in_hand(group, specs, checkpoint)):
                return _write_group(group, specs, places, checkpoint, verify=verify)

        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="convert")
        # After an error, or Ctrl-C, those that wait do not begin any more.
        stack.callback(pool.shutdown, cancel_futures=True)
        written: dict[str, Written] = {}
        waiting = iter(specs.values())
        spec = next(waiting, None)
        for done in pool.map(work, groups):
            written |= done
            while spec is not None and spec.name in written:
                on_tensor(spec.name, spec.nbytes)
                spec = next(waiting, None)
    return written


def check_copies(checkpoint: Checkpoint, copies: Mapping[str, str]) -> None:
    """Raise CheckpointError unless each tensor holds the very values of the one whose copy it must be."""
    differing = [
        Problem(copy, f"the values of {of}, of which it must be a copy", "others")
        for copy, of in copies.items()
        if not same_bits(checkpoint.tensors[copy].read(), checkpoint.tensors[of].read())
    ]
    if differing:
        raise CheckpointError(
            f"{checkpoint.path} has tensors that its config says are the same, and they are not; nothing was "
            "converted.",
            problems=differing,
            remedy="Is the config the right one? For a T5, see tie_word_embeddings in config.json.",
        )


def matches_layout(path: Path, file: FileLayout) -> bool:
    """Whether a file that a killed run left is the beginning of this one: its head, and its size."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.nbytes:
        return False
    with path.open("rb") as found:
        return found.read(len(file.head)) == file.head


@contextmanager
def _open(path: Path, file: FileLayout, *, go_on: bool) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if go_on else os.O_TRUNC), 0o666)
    try:
        os.truncate(descriptor, file.nbytes)
        _write(descriptor, np.frombuffer(file.head, np.uint8), 0)
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _groups(entries: Sequence[PlanEntry]) -> list[list[PlanEntry]]:
    """Entries that share sources, together: each source is read once."""
    group_of: dict[str, list[PlanEntry]] = {}
    for entry in entries:
        merged = [entry]
        for group in {
            id(group_of[name]): group_of[name] for name in entry.sources if name in group_of
        }.values():
            merged = group + merged
        group_of |= dict.fromkeys((name for member in merged for name in member.sources), merged)
    return list({id(group): group for group in group_of.values()}.values())


def _in_hand(group: Sequence[PlanEntry], specs: Mapping[str, TensorSpec], checkpoint: Checkpoint) -> int:
    """Bytes that a group needs at a time."""
    if len(group) == 1 and _as_it_lies(group[0], checkpoint):
        return 0
    sources = [checkpoint.tensors[name] for name in {name for entry in group for name in entry.sources}]
    largest = max(specs[entry.target].nbytes for entry in group)
    return sum(source.nbytes for source in sources) + max(source.besides for source in sources) + largest


def _as_it_lies(entry: PlanEntry, checkpoint: Checkpoint) -> bool:
    """Whether the parameter's bytes are the source's, but for the dtype."""
    stored = checkpoint.tensors[entry.sources[0]].stored
    return len(entry.sources) == 1 and not entry.ops and stored is not None


class _Place:
    """Where one tensor lies in its file."""

    def __init__(
        self, descriptor: int, offset: int, writing: threading.Lock, syncer: Syncer, go_on: bool
    ) -> None:
        self._descriptor, self._offset = descriptor, offset
        self._writing, self._syncer, self._go_on = writing, syncer, go_on

    def put(self, data: npt.NDArray[np.uint8], at: int) -> bool:
        """Write bytes at a distance from the tensor's first; False if they were there already."""
        if self._go_on and same_bytes(self.get(at, len(data)), data):
            return False
        with self._writing:
            _write(self._descriptor, data, self._offset + at)
        self._syncer.wrote(len(data))
        return True

    def get(self, at: int, count: int) -> npt.NDArray[np.uint8]:
        """Read bytes back, into this thread's scratch memory."""
        data = scratch("read back", (count,), np.dtype(np.uint8))
        done = 0
        while done < count:
            step = os.preadv(self._descriptor, [data[done:].data], self._offset + at + done)
            if not step:
                raise OSError(f"{count - done} bytes are gone that were written before")
            done += step
        return data


def _write(descriptor: int, data: npt.NDArray[np.uint8], offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:].data, offset + done)


def _write_group(
    group: Sequence[PlanEntry],
    specs: Mapping[str, TensorSpec],
    places: Mapping[str, _Place],
    checkpoint: Checkpoint,
    *,
    verify: bool,
) -> dict[str, Written]:
    if len(group) == 1 and _as_it_lies(group[0], checkpoint):
        target = group[0].target
        return {target: _pass_through(group[0], specs[target], places[target], checkpoint, verify=verify)}
    reader = _Reader(checkpoint, group)
    written = {}
    for entry in group:
        spec, place = specs[entry.target], places[entry.target]
        written[entry.target] = _write_made(entry.make(reader.read), spec, place)
        if verify:
            found = place.get(0, spec.nbytes).view(spec.dtype).reshape(spec.shape)
            if not holds_its_sources(entry, reader.read, found):
                raise _not_as_written(spec.name)
        reader.done_with(entry)
    return written


def _pass_through(
    entry: PlanEntry, spec: TensorSpec, place: _Place, checkpoint: Checkpoint, *, verify: bool
) -> Written:
    """Copy values piece by piece."""
    tensor = checkpoint.tensors[entry.sources[0]]
    assert tensor.stored is not None
    buffer = scratch("piece", (PIECE_BYTES,), np.dtype(np.uint8))
    crc, at, kept = 0, 0, True
    for piece in tensor.stored.pieces(buffer):
        data = cast(piece.view(tensor.dtype), spec.dtype, spec.name).view(np.uint8)
        kept &= not place.put(data, at)
        if verify and not same_bytes(place.get(at, len(data)), data):
            raise _not_as_written(spec.name)
        crc = google_crc32c.extend(crc, data)
        at += len(data)
    return Written(crc, kept)


def _write_made(array: Array, spec: TensorSpec, place: _Place) -> Written:
    """Write values with any strides, strip by strip."""
    if array.shape != spec.shape:
        raise AssertionError(f"{spec.name}: {array.shape} is not {spec.shape}")
    values = np.atleast_1d(array)
    crc, at, kept = 0, 0, True
    for part in strips(values):
        data = row_major(cast(values[part], spec.dtype, spec.name), "written")
        kept &= not place.put(data, at)
        crc = google_crc32c.extend(crc, data)
        at += len(data)
    return Written(crc, kept)


def _not_as_written(name: str) -> OutputError:
    return OutputError(
        f"{name} was read back otherwise than it was written; nothing was converted.",
        problems=[Problem(name, "the bits of the source", "others")],
        remedy="Check the disk and the memory of this machine, and convert again.",
    )


class _Reader:
    """Reads each source of a group once, and forgets it after the last entry that needs it."""

    def __init__(self, checkpoint: Checkpoint, group: Sequence[PlanEntry]) -> None:
        self._checkpoint = checkpoint
        self._uses = Counter(name for entry in group for name in entry.sources)
        self._alone = len(self._uses) == 1
        self._held: dict[str, Array] = {}

    def read(self, name: str) -> Array:
        """Verified values."""
        if name not in self._held:
            tensor = self._checkpoint.tensors[name]
            if self._alone and tensor.stored is not None:
                tensor.stored.require_file()
                values = scratch("source", tensor.shape, tensor.dtype)
                tensor.stored.read_into(values.reshape(-1).view(np.uint8))
                self._held[name] = values
            else:
                self._held[name] = tensor.read()
        return self._held[name]

    def done_with(self, entry: PlanEntry) -> None:
        """The entry needs its sources no more."""
        for name in entry.sources:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._held[name]
