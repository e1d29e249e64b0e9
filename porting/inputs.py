"""The input IDs that the original and the port are run on: read, checked, or made at random."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porting.errors import InputError, Problem

FIELDS = ("inputs", "targets", "sequence_ids", "decoder_sequence_ids")
DEFAULT_RANDOM = (3, 160)
_PADDING_ID = 0


@dataclass(frozen=True)
class Inputs:
    """Token ids, int32 [batch, length] each; 0 is padding.

    Attributes:
        inputs: what the encoder reads, or the only stack there is.
        targets: what the model is to say; a decoder's own inputs are these shifted right from id 0.
        sequence_ids, decoder_sequence_ids: for packed examples, same shapes: which example each position
            belongs to, 0 for padding. None: `min(ids, 1)`, as Mesh makes them.
        origin: where the ids come from, for messages and reports.
    """

    inputs: np.ndarray
    targets: np.ndarray
    sequence_ids: np.ndarray | None = None
    decoder_sequence_ids: np.ndarray | None = None
    origin: str = "given"

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], origin: str = "given") -> Inputs:
        """Check and take over arrays or nested lists named as the fields.

        Raises:
            InputError: something is missing, not integral, or not [batch, length] with one batch size.
        """
        arrays = {name: value for name, value in arrays.items() if value is not None}
        unknown = sorted(set(arrays) - set(FIELDS))
        missing = [name for name in ("inputs", "targets") if name not in arrays]
        if unknown or missing:
            raise InputError(
                f"The inputs ({origin}) hold {', '.join(sorted(arrays)) or 'nothing'}.",
                problems=[Problem(name, "an int array [batch, length]", "none") for name in missing]
                + [Problem(name, f"one of {', '.join(FIELDS)}", "another name") for name in unknown],
            )
        problems: list[Problem] = []
        checked = {name: _ids(name, value, problems) for name, value in arrays.items()}
        if problems:
            raise InputError(f"The inputs ({origin}) cannot be used.", problems=problems)
        for name, like in (
            ("targets", "inputs"),
            ("sequence_ids", "inputs"),
            ("decoder_sequence_ids", "targets"),
        ):
            wanted = (
                checked[like].shape if name != "targets" else (len(checked["inputs"]), checked[name].shape[1])
            )
            if name in checked and checked[name].shape != wanted:
                problems.append(Problem(name, f"shape {list(wanted)}", f"{list(checked[name].shape)}"))
        if problems:
            raise InputError(f"The inputs ({origin}) do not fit each other.", problems=problems)
        return cls(**checked, origin=origin)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by field name."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    def check_vocabulary(self, vocab_size: int, target_vocab_size: int | None = None) -> None:
        """Raise InputError unless every id lies in [0, vocab_size), of targets in theirs if it is another."""
        problems = []
        sizes = {"inputs": vocab_size, "targets": target_vocab_size or vocab_size}
        for name, vocab_size in sizes.items():
            ids = getattr(self, name)
            bad = np.argwhere((ids < 0) | (ids >= vocab_size))
            if len(bad):
                row, column = (int(i) for i in bad[0])
                found = f"{ids[row, column]} at [{row}, {column}]"
                more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
                problems.append(Problem(name, f"ids from 0 to {vocab_size - 1}", found + more))
        if problems:
            raise InputError(
                f"Input IDs outside the model's vocabulary of {sizes['inputs']} ({self.origin}).",
                problems=problems,
                remedy="Tokenize with the vocabulary that the checkpoint was trained with.",
            )


def _ids(name: str, value: Any, problems: list[Problem]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # a ragged list
        problems.append(Problem(name, "an int array [batch, length]", str(error)))
        return np.zeros((1, 1), np.int32)
    integral = array.dtype.kind in "iu"
    if not integral or array.ndim != 2 or 0 in array.shape:
        problems.append(Problem(name, "an int array [batch, length]", f"{array.dtype} {list(array.shape)}"))
        return np.zeros((1, 1), np.int32)
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        problems.append(Problem(name, "ids that fit 32 bits", f"{array.max()}"))
    return array.astype(np.int32)


def read_inputs(path: str | Path) -> Inputs:
    """Read `inputs` and `targets` (and sequence ids, for packed examples) from an .npz or .json file.

    Raises:
        InputError: the file cannot be read or does not hold them.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise InputError(f"{path} must hold an object with inputs and targets.")
            return Inputs.from_arrays(content, origin=str(path))
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is a single array; give an .npz with inputs and targets.")
        with archive:
            return Inputs.from_arrays(dict(archive.items()), origin=str(path))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"The inputs in {path} cannot be read: {error}",
            remedy="Give an .npz or .json with integer arrays `inputs` and `targets`, [batch, length] each.",
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
    """Random ids that reach what short, full sentences never do.

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
    return Inputs(inputs, targets, origin=f"random {batch}x{length}, seed {seed}")
