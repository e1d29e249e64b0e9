"""The input IDs that the original and the port are run on: read, checked, or made at random."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porting.errors import InputError, Problem

DEFAULT_RANDOM = (3, 160)
_PADDING_ID = 0


@dataclass(frozen=True)
class InputField:
    """One integer array that a model is run on.

    Attributes:
        name: as in files of inputs and in traces.
        dims: names of its axes, "batch" first; axes of one name have one size.
        required: False for what the model makes itself when it is not given.
    """

    name: str
    dims: tuple[str, ...] = ("batch", "length")
    required: bool = True


# A model that reads one text and says another. Its decoder reads `targets`, shifted right from id 0. Sequence
# ids are for packed examples: which example a position belongs to, 0 for padding.
TEXT_TO_TEXT = (
    InputField("inputs"),
    InputField("targets", ("batch", "target_length")),
    InputField("sequence_ids", required=False),
    InputField("decoder_sequence_ids", ("batch", "target_length"), required=False),
)


@dataclass(frozen=True)
class Inputs:
    """Integer arrays by name, as a port's `input_fields` declare them.

    Example:
        Inputs({"inputs": ids, "targets": said})["targets"]     # int32 [batch, target_length]

    Attributes:
        values: int32 arrays, the first axis of each is the batch.
        origin: where they come from, for messages and reports.
    """

    values: Mapping[str, np.ndarray]
    origin: str = "given"

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], origin: str = "given") -> Inputs:
        """Check and take over arrays or nested lists; those that are None are not there.

        Raises:
            InputError: there is nothing, or something is not integral, or has no axis or an empty one. All of
                it at once. Which arrays a model wants, and of what shapes, `check_fields` knows.
        """
        arrays = {name: value for name, value in arrays.items() if value is not None}
        if not arrays:
            raise InputError(f"The inputs ({origin}) hold nothing.")
        problems: list[Problem] = []
        checked = {name: _ids(name, value, problems) for name, value in arrays.items()}
        if problems:
            raise InputError(f"The inputs ({origin}) cannot be used.", problems=problems)
        return cls(checked, origin)

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of that name. Raises KeyError if there is none."""
        return self.values[name]

    def get(self, name: str) -> np.ndarray | None:
        """The array of that name, or None."""
        return self.values.get(name)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, in a dictionary of one's own."""
        return dict(self.values)

    @property
    def batch(self) -> int:
        """Number of rows."""
        return len(next(iter(self.values.values())))

    def having(self, **changed: np.ndarray | None) -> Inputs:
        """The same with other arrays under some names; None takes one away."""
        values = {**self.values, **changed}
        return Inputs({name: value for name, value in values.items() if value is not None}, self.origin)

    def shapes(self) -> str:
        """`inputs 3x160, targets 3x144`, for people."""
        return ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in self.values.items())

    def check_fields(self, fields: Sequence[InputField]) -> None:
        """Raise InputError unless these are what `fields` declare, in shapes that fit each other."""
        known = {field.name: field for field in fields}
        problems = [
            Problem(field.name, f"an int array [{', '.join(field.dims)}]", "none")
            for field in fields
            if field.required and field.name not in self.values
        ]
        problems += [
            Problem(name, f"one of {', '.join(known)}", "another name")
            for name in sorted(self.values.keys() - known.keys())
        ]
        sizes: dict[str, int] = {}
        for field in fields:
            if field.name in self.values:
                shape = self.values[field.name].shape
                wanted = [sizes.get(dim, size) for dim, size in zip(field.dims, shape, strict=False)]
                if len(shape) != len(field.dims):
                    problems.append(
                        Problem(field.name, f"an int array [{', '.join(field.dims)}]", f"{list(shape)}")
                    )
                elif list(shape) != wanted:
                    problems.append(Problem(field.name, f"shape {wanted}", f"{list(shape)}"))
                else:
                    sizes |= dict(zip(field.dims, shape, strict=True))
        if problems:
            raise InputError(
                f"The inputs ({self.origin}) hold {', '.join(sorted(self.values))}.", problems=problems
            )

    def check_range(self, sizes: Mapping[str, int]) -> None:
        """Raise InputError unless the ids of each named array lie in [0, size)."""
        problems = []
        for name, size in sizes.items():
            ids = self.values[name]
            bad = np.argwhere((ids < 0) | (ids >= size))
            if len(bad):
                place = tuple(int(i) for i in bad[0])
                found = f"{ids[place]} at {list(place)}"
                more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
                problems.append(Problem(name, f"ids from 0 to {size - 1}", found + more))
        if problems:
            raise InputError(
                f"Input IDs outside of the model's range ({self.origin}).",
                problems=problems,
                remedy="Tokenize with the vocabulary that the checkpoint was trained with.",
            )


def _ids(name: str, value: Any, problems: list[Problem]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        problems.append(Problem(name, "an int array, batch first", str(error)))
        return np.zeros((1, 1), np.int32)
    if array.dtype.kind not in "iu" or array.ndim == 0 or 0 in array.shape:
        problems.append(Problem(name, "an int array, batch first", f"{array.dtype} {list(array.shape)}"))
        return np.zeros((1, 1), np.int32)
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        problems.append(Problem(name, "ids that fit 32 bits", f"{array.max()}"))
    return array.astype(np.int32)


def read_inputs(path: str | Path) -> Inputs:
    """Read named integer arrays from an .npz or .json file: of T5, `inputs` and `targets`.

    Raises:
        InputError: the file cannot be read or does not hold them.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise InputError(f"{path} must hold an object of integer arrays by name.")
            return Inputs.from_arrays(content, origin=str(path))
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is a single array; give an .npz of them by name.")
        with archive:
            return Inputs.from_arrays(dict(archive.items()), origin=str(path))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"The inputs in {path} cannot be read: {error}",
            remedy="Give an .npz or .json of integer arrays by name, batch first.",
        ) from error


def parse_random(text: str) -> tuple[int, int]:
    """BATCHxLENGTH, as in `--random 4x64`."""
    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text.strip())
    if not match:
        raise InputError(f"--random wants BATCHxLENGTH, such as 3x160, not {text!r}.")
    return int(match[1]), int(match[2])


def random_inputs(
    vocab_size: int, batch: int, length: int, seed: int, *, target_vocab_size: int | None = None
) -> Inputs:
    """Random text-to-text ids that reach what short, full sentences never do.

    The first row is full, so that long inputs pass the last relative-position bucket; the others end in
    padding, each from another position on. Of three rows or more, the second has padded targets and full
    inputs: there the decoder's padding finds nothing in the encoder that it may see. Targets are a little
    shorter than inputs, so that a mix-up of the two lengths shows.
    """
    generator = np.random.default_rng(seed)

    def ids(size: int, columns: int, full_rows: int) -> np.ndarray:
        low = min(2, size - 1)  # 0 is padding, 1 ends a sequence
        array = generator.integers(low, size, size=(batch, columns), dtype=np.int64)
        for row in range(full_rows, batch):
            array[row, int(generator.integers(1, max(2, columns))) :] = _PADDING_ID
        return array.astype(np.int32)

    inputs = ids(vocab_size, length, full_rows=2 if batch > 2 else 1)
    targets = ids(target_vocab_size or vocab_size, max(1, length - length // 10), full_rows=1)
    return Inputs({"inputs": inputs, "targets": targets}, origin=f"random {batch}x{length}, seed {seed}")
