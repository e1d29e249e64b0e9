"""A recorded run of an original -> a trace: `recorded.npz`, made where the original could be run.

The archive holds, by name,

    inputs, targets, ...            what went in, as the port's `input_fields` name them
    tensor:PATH/__call__:N          what the N-th call of the module at PATH returned
    logits                          further outputs, under names that the port knows
    param:PATH                      the weights that it was computed with (may be left out)

Which of these names is which tap of the port, where they mean anything, and which are copies of others is the
port's to say (`Port.recorded`). Nothing is skipped: a name that the port does not know is an error, and a tap
without a recorded name is missing from the trace, and so makes a comparison incomplete, unless the port says
that no recording has it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from porting.checkpoint import Checkpoint
from porting.compare import WHY_LEFT_OUT
from porting.convert.checksums import file_sha256
from porting.errors import InputError, Problem
from porting.inputs import Inputs
from porting.references.original_tap import OriginalTap, written_masks
from porting.trace import Trace, TraceWriter, read_trace

if TYPE_CHECKING:
    from porting.port import Port

RECORDING = "recorded.npz"
_TENSOR, _PARAMETER = "tensor:", "param:"


@dataclass(frozen=True)
class RecordedNames:
    """What a port knows of the names in a recorded run.

    Attributes:
        taps: which of them is which tap of the port, in the order of computation; `original` is the name
            without `tensor:`.
        left_out: further names that a recording may have -> why they are not compared.
        unheard: taps of the port that no recording has.
        masks: of the inputs: bool arrays by the names that taps' `where` have.
        why_masked: why masked positions mean nothing, in words.
        variable: from a recorded parameter's path to the checkpoint's name of it.
        implementation: what made such recordings, for reports.
    """

    taps: Sequence[OriginalTap]
    left_out: Mapping[str, str] = field(default_factory=dict)
    unheard: Sequence[str] = ()
    masks: Callable[[Inputs], Mapping[str, np.ndarray]] = field(default=lambda _inputs: {})
    why_masked: str = WHY_LEFT_OUT
    variable: Callable[[str], str] = field(default=lambda path: path)
    implementation: str = "the original"


def find_recording(path: str | Path) -> Path | None:
    """The recording that a path means: an .npz file, or a directory that holds `recorded.npz`; else None."""
    path = Path(path)
    if path.suffix == ".npz":
        return path
    inside = path / RECORDING
    return inside if inside.is_file() else None


def recording_beside(checkpoint: Checkpoint) -> Path | None:
    """`recorded.npz` in the checkpoint's directory, or in the one that holds it; None where there is none."""
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    candidates = (folder / RECORDING, folder.parent / RECORDING)
    return next((path for path in candidates if path.is_file()), None)


def read_recording(
    path: Path,
    port: Port,
    config: Any,
    *,
    checkpoint: Checkpoint | None = None,
    metadata: Mapping[str, Any] | None = None,
    save_to: Path | None = None,
) -> Trace:
    """A recorded run as a trace.

    Args:
        path: the archive.
        port, config: of the model that was recorded.
        checkpoint: if it is at hand: the recorded parameters must be the checkpoint's, to the last bit.
        metadata: written along.
        save_to: where to write the trace; by default a temporary directory that lives as long as it.

    Raises:
        InputError: the archive cannot be read, holds names that the port does not know or tensors of other
            axes, or was recorded with other weights.
    """
    if port.recorded is None:
        raise InputError(
            f"The port {port.name} does not say what the names in a recorded run are: {path}",
            remedy="Give a trace (docs/traces.md), or let the original run.",
        )
    with _Archive(path) as archive:
        inputs = Inputs.from_arrays(
            {each.name: archive[each.name] for each in port.input_fields if each.name in archive.names},
            origin=f"recorded in {path.name}",
        )
        port.check_inputs(config, inputs)
        recorded = [name.removeprefix(_TENSOR) for name in archive.names if not _is_other(name, port)]
        names = port.recorded(config, recorded)
        _check_names(path, names, recorded)
        if checkpoint is not None:
            _check_weights(archive, names, checkpoint)
        labelled = _labelled(archive, [tap for tap in names.taps if tap.original in set(recorded)])
    writer, masks = TraceWriter(save_to, inputs), names.masks(inputs)
    for tap, dims, values in labelled:
        writer.add(
            tap.name,
            values,
            dims,
            original_name=tap.original,
            hidden_below=tap.hidden_below,
            where=written_masks(writer, tap.where, masks),
        )
    tapped = {tap.original for tap, _, _ in labelled}
    left_out = [name for name in recorded if name in names.left_out and name not in tapped]
    trace = writer.close(
        {
            "port": port.name,
            "config": port.config_to_json(config),
            **(metadata or {}),
            "implementation": names.implementation,
            "compute_dtype": "float32",
            "recorded": {
                "file": path.name,
                "sha256": file_sha256(path),
                "not_compared": {name: names.left_out[name] for name in left_out},
            },
            "unheard": list(names.unheard),
            "left_out": names.why_masked,
        }
    )
    for tensor in trace.tensors:
        trace.meaningful(tensor)  # a tensor of another length than the ids is said here
    return trace if save_to is None else read_trace(save_to)


class _Archive:
    """The arrays of an .npz, read when they are asked for; every failure is an InputError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            held = np.load(path, allow_pickle=False)
        except Exception as error:  # of zip files, of the tokenizer, of the system
            raise self._unreadable(error) from error
        if not isinstance(held, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is a single array, and no recorded run (an .npz of arrays by name).")
        self._held = held
        self.names = list(held.files)

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            array = self._held[name]
        except Exception as error:
            raise self._unreadable(error, name) from error
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise InputError(
                f"{self.path}: {name} is no array of numbers.",
                remedy="Save it as float32; NumPy has no bfloat16 of its own.",
            )
        return array

    def _unreadable(self, error: Exception, name: str = "") -> InputError:
        what = f"{self.path}: {name}" if name else f"The recorded run {self.path}"
        return InputError(
            f"{what} cannot be read: {error}",
            remedy="A recorded run is an .npz of arrays of numbers by name: docs/references.md.",
        )

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


def _is_other(name: str, port: Port) -> bool:
    """Whether a name of an archive is that of a parameter or an input."""
    return name.startswith(_PARAMETER) or any(name == each.name for each in port.input_fields)


def _check_names(path: Path, names: RecordedNames, recorded: Sequence[str]) -> None:
    """Every recorded name is known, and every known one is there but for what a comparison will say."""
    known = {tap.original for tap in names.taps} | {*names.left_out}
    problems = []
    for name in recorded:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"the nearest known is {near[0]}" if near else ""
            problems.append(Problem(name, "a name that the port knows", "another", remedy))
    if problems:
        raise InputError(
            f"{path} holds {len(problems)} tensors that the port does not know.",
            problems=problems,
            remedy="Is it a recording of this model (the same architecture, and as many layers)?",
        )
    if not any(tap.original in set(recorded) for tap in names.taps):
        raise InputError(f"{path} holds no tensor of the model, and so no recorded run of it.")


def _check_weights(archive: _Archive, names: RecordedNames, checkpoint: Checkpoint) -> None:
    """The run was recorded with the weights of the checkpoint, where it says with which."""
    problems = []
    for name in archive.names:
        if not name.startswith(_PARAMETER):
            continue
        variable = names.variable(name.removeprefix(_PARAMETER))
        tensor = checkpoint.tensors.get(variable)
        if tensor is None:
            problems.append(Problem(variable, "a variable of the checkpoint", "none"))
            continue
        expected, found = archive[name], tensor.read()
        if expected.shape != found.shape:
            problems.append(Problem(variable, f"shape {list(expected.shape)}", f"{list(found.shape)}"))
        elif not np.array_equal(expected.astype(np.float32), found.astype(np.float32), equal_nan=True):
            apart = np.abs(expected.astype(np.float64) - found.astype(np.float64)).max()
            problems.append(Problem(variable, "the recorded values", f"others, {apart:.3g} apart"))
    if problems:
        raise InputError(
            f"{archive.path} was recorded with other weights than those of {checkpoint.path}.",
            problems=problems,
            remedy="Give the recording of this checkpoint: --reference-trace PATH.",
        )


def _labelled(
    archive: _Archive, taps: Sequence[OriginalTap]
) -> list[tuple[OriginalTap, tuple[str, ...], np.ndarray]]:
    """Every tensor with the names of its dimensions; all that do not fit are named at once."""
    labelled, problems = [], []
    for tap in taps:
        key = _TENSOR + tap.original if _TENSOR + tap.original in archive.names else tap.original
        values = archive[key]
        try:
            dims, array = tap.labelled(values)
        except ValueError as error:
            found = str(error).removeprefix(f"{tap.name}: ")
            problems.append(Problem(tap.original, f"dims '{tap.dims}'", f"shape {list(values.shape)}", found))
            continue
        labelled.append((tap, dims, array))
    if problems:
        raise InputError(
            f"{archive.path} holds {len(problems)} tensors of other axes than the port's.", problems=problems
        )
    return labelled
