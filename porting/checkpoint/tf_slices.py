"""Partitioned variables of TensorFlow checkpoints: where the parts lie, and whether they make a whole.

Sources: `tensorflow/core/util/saved_tensor_slice_util.cc` (`EncodeTensorNameSlice`),
`tensorflow/core/lib/strings/ordered_code.cc`, and `tensorflow/core/framework/tensor_slice.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from porting.checkpoint.protobuf_wire import Message
from porting.errors import CheckpointError, Problem

# TensorSlice::kFullExtent: the length written for an axis that is not cut.
_FULL_EXTENT = -1
_ESCAPES = {b"\x00": b"\x00\xff", b"\xff": b"\xff\x00"}
_EXTENT_FIELD, _START_FIELD, _LENGTH_FIELD = 1, 1, 2


@dataclass(frozen=True)
class Slice:
    """A box cut out of a tensor.

    Attributes:
        starts: first index on each axis.
        lengths: extent on each axis; None where the axis is whole, which has an encoding of its own.
    """

    starts: tuple[int, ...]
    lengths: tuple[int | None, ...]

    @classmethod
    def from_message(cls, message: Message, rank: int) -> Slice:
        """Read a TensorSliceProto of a tensor with `rank` axes.

        Raises:
            CheckpointError: it is malformed, or of another rank.
        """
        if message.count(_EXTENT_FIELD) != rank:
            found = f"one of {message.count(_EXTENT_FIELD)}"
            problem = Problem(message.where, f"slices of {rank} axes", found)
            raise CheckpointError(f"{message.where} is corrupt", problems=[problem])
        extents = message.messages(_EXTENT_FIELD)
        return cls(
            tuple(extent.integer(_START_FIELD) for extent in extents),
            tuple(
                extent.integer(_LENGTH_FIELD) if extent.count(_LENGTH_FIELD) else None for extent in extents
            ),
        )

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the box lies inside of a tensor of `shape`, which has its rank."""
        return all(
            # A whole axis begins at 0; TensorFlow ignores any other start, we refuse it.
            start == 0 if length is None else min(start, length) >= 0 and start + length <= size
            for start, length, size in zip(self.starts, self.lengths, shape, strict=True)
        )

    def box(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Index of the box in a tensor of `shape`, which it must fit."""
        return tuple(
            slice(0, size) if length is None else slice(start, start + length)
            for start, length, size in zip(self.starts, self.lengths, shape, strict=True)
        )

    def key(self, name: bytes) -> bytes:
        """Key under which the index holds this part of the variable `name` (`EncodeTensorNameSlice`).

        Such keys begin with a null byte, which no variable's name does.
        """
        numbers = (
            number
            for start, length in zip(self.starts, self.lengths, strict=True)
            for number in (start, _FULL_EXTENT if length is None else length)
        )
        return b"".join(
            [
                _ordered_unsigned(0),
                _ordered_string(name),
                _ordered_unsigned(len(self.starts)),
                *map(_ordered_signed, numbers),
            ]
        )


def box_shape(box: Sequence[slice]) -> tuple[int, ...]:
    """Shape of what the index `box` selects."""
    return tuple(axis.stop - axis.start for axis in box)


def covers_exactly(shape: tuple[int, ...], boxes: Sequence[tuple[slice, ...]]) -> bool:
    """Whether `boxes`, each inside of `shape`, cover every element of it once.

    Takes at most one byte for each element of `shape`, and in practice one for each box.
    """
    boxes = [box for box in boxes if prod(box_shape(box))]
    if sum(prod(box_shape(box)) for box in boxes) != prod(shape):
        return False
    # Equal volumes without overlap leave no gap. Cut every axis at all the edges of boxes: then a box is
    # a block of whole cells, and there are few cells.
    edges = [
        sorted({0, size}.union(*({box[axis].start, box[axis].stop} for box in boxes)))
        for axis, size in enumerate(shape)
    ]
    cell_of = [{edge: cell for cell, edge in enumerate(axis_edges)} for axis_edges in edges]
    taken = np.zeros([len(axis_edges) - 1 for axis_edges in edges], dtype=bool)
    for box in boxes:
        cells = tuple(
            slice(cells_of_axis[axis.start], cells_of_axis[axis.stop])
            for axis, cells_of_axis in zip(box, cell_of, strict=True)
        )
        if taken[cells].any():
            return False
        taken[cells] = True
    return True


def _ordered_unsigned(value: int) -> bytes:
    """OrderedCode::WriteNumIncreasing: the number of bytes, then the bytes, big-endian."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _ordered_string(value: bytes) -> bytes:
    """OrderedCode::WriteString: 00 and FF are escaped so that 00 01 can end the string."""
    return re.sub(rb"[\x00\xff]", lambda found: _ESCAPES[found[0]], value) + b"\x00\x01"


def _ordered_signed(value: int) -> bytes:
    """OrderedCode::WriteSignedNumIncreasing: n bytes hold 7n - 1 bits under a header of n one bits.

    The two's complement number of n bytes has its top n + 1 bits equal to its sign; the upper n are
    flipped to tell the length, which leaves one for the sign.
    """
    bits = (value if value >= 0 else ~value).bit_length()
    size = bits // 7 + 1
    header = ((1 << size) - 1) << (8 * size - size)
    return ((value & ((1 << 8 * size) - 1)) ^ header).to_bytes(size, "big")
